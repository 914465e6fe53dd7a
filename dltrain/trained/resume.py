"""Finds the state that a run goes on from, and refuses to go on where the result would be that of another run."""

import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dltrain.config.earlier import of_checkpoint, plain
from dltrain.data.folders import same_files
from dltrain.errors import CheckpointError, UserError
from dltrain.runs import checkpoint
from dltrain.runs.find import path_of, require_one_run
from dltrain.runs.record import read_or_warn, read_result
from dltrain.system import yaml_text
from dltrain.training.trainer import Trainer

log = logging.getLogger(__name__)

# Keys that may differ: they change neither the weights nor the metrics of an epoch.
_FREE = (
    *("device", "report", "resume", "trust", "out", "logger", "pruner", "sweep", "dataset.root", "dataset.path"),
    *("dataset.cache", "dataset.download", "trainer.epochs", "trainer.early_stopping"),
    *(f"trainer.checkpoint.{name}" for name in ("every_n_epochs", "every_n_steps", "every_n_minutes", "keep")),
    *("trainer.on_nonfinite", "trainer.on_oom", "trainer.profile", "trainer.compile"),
    *("trainer.devices", "trainer.strategy", "trainer.threads"),
    *("data.name", "data.schedule_length", "scheduler.tried_over"),
)

_LENGTHS = ("T_max", "total_steps", "total", "total_iters", "epochs", "steps_per_epoch")  # of schedules

_KERNELS = ("fused", "foreach")  # options of torch's optimizers


@dataclass(frozen=True)
class Resumable:
    """A checkpoint with the state of a trainer.

    ``run_id`` is the same in all files of its run, ``None`` where they are of a version that wrote none.
    """

    path: Path
    state: dict[str, Any]
    config: dict[str, Any]  # parsed from the state
    run_id: str | None

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return self.path.resolve().parent.parent

    @cached_property
    def composed(self) -> Any:
        """Its configuration as OmegaConf has it, before the data filled in their facts.

        Raises:
            CheckpointError: it is no configuration.
        """
        return of_checkpoint(self.path, self.state["config"], self.state["composed"])

    @property
    def threads(self) -> int | str:
        """Threads of its run, ``auto`` where its version did not record them."""
        recorded = self.config["trainer"].get("threads", "auto")
        return recorded if isinstance(recorded, int) else "auto"

    def result(self) -> dict[str, Any]:
        """The result of its run, as far as there is any."""
        return read_or_warn(read_result, self.run)


def find_resumable(resume: str, folder: Path) -> Resumable | None:
    """Find what ``resume`` (``off``, ``auto`` for ``folder`` itself, or a run folder or checkpoint) goes on from.

    In place of a damaged checkpoint the previous checkpoint is used, with a warning.

    Raises:
        CheckpointError: no checkpoint can be used, unless ``auto`` finds none at all.
        UserError: the checkpoint is of another run than its folder.
    """
    if resume == "off":
        return None
    place = folder if resume == "auto" else path_of(resume)
    if place.is_file():
        return _read(place)
    paths = _checkpoints(place)
    if not paths and resume == "auto":
        return None
    if not paths:
        raise CheckpointError(f"'{place}' holds no checkpoint to go on from; a run folder has checkpoints/last.pt")
    for path in paths:
        try:
            resumable = _read(path)
        except CheckpointError as error:
            log.warning("%s", error)
            continue
        if path != paths[0]:
            log.warning("going on from the checkpoint before it, %s", path)
        return resumable
    raise CheckpointError(f"none of the checkpoints in '{place / 'checkpoints'}' can be used")


def how_to_go_on(run: Path) -> str:
    """The end of a sentence that says how to resume the ``run``; empty where it has no checkpoint yet."""
    return f"; to go on: dltrain resume {shlex.quote(str(run))}" if _checkpoints(run) else ""


def _checkpoints(run: Path) -> list[Path]:
    """The files with the state of a run, the newest first."""
    folder = run / "checkpoints"
    return [path for path in (folder / "last.pt", *checkpoint.previous(folder)) if path.exists()]


def _read(path: Path) -> Resumable:
    state = checkpoint.load(path)
    if "trainer" not in state:
        raise CheckpointError(f"'{path}' holds weights alone; a run goes on from its last.pt")
    checkpoint.require(path, state, checkpoint.STATE, "the state of a run")
    try:
        config = yaml_text.load(state["config"])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"'{path}' holds no configuration of a run: {reason}") from error
    checkpoint.require(path, {"config": config}, {"config!": {"trainer!": dict}}, "the state of a run")
    place = path.resolve().parent
    is_copy = place.name != "checkpoints"
    run_id = None if is_copy else require_one_run(place.parent, path, state.get("run_id"))
    return Resumable(path, state, config, run_id)


def restore(trainer: Trainer, config_text: str, resumable: Resumable, force: bool = False) -> None:
    """Load the saved state into ``trainer``, if its configuration is that of the saved run.

    With ``force`` changes of the configuration take effect: the optimizer has its new options, the learning rate is
    scaled as the schedule has scaled the previous one, and a changed schedule starts anew. Only where its length alone
    has changed, it goes on at the same step.

    Raises:
        UserError: keys of the configuration differ, unless ``force``.
        CheckpointError: the state is of another network.
    """
    try:
        changed = require_same(resumable.state["config"], config_text, force)
        fresh = [dict(group) for group in trainer.optimizer.param_groups]
        state = trainer.checkpoints.tensors_of(resumable.state, resumable.path.resolve().parent, trainer.model)
        trainer.load_state_dict(state["trainer"], without=_fresh_parts(changed))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise CheckpointError(f"the state in '{resumable.path}' does not fit this run: {error}") from error
    _restore_options(trainer, fresh, changed)
    if trainer.schedule and _changes_schedule(changed):
        _catch_up(trainer, plain(resumable.composed), changed)
    trainer.due.saved(trainer.epoch, trainer.step)


def _fresh_parts(changed: set[str]) -> list[str]:
    """Parts of a trainer whose saved state does not fit once these keys have changed."""
    parts = {
        "optimizer": "optim._target_" in changed,
        "schedule": _changes_schedule(changed),
        "scaler": "trainer.precision" in changed,
        "best": "trainer.checkpoint.monitor" in changed,
        "accumulate": "trainer.accumulate" in changed,
    }
    return [name for name, is_fresh in parts.items() if is_fresh]


def _changes_schedule(changed: set[str]) -> bool:
    return "optim._target_" in changed or any(key.startswith("scheduler.") for key in changed)


def _catch_up(trainer: Trainer, composed: Mapping[str, Any], changed: set[str]) -> None:
    """Step a new schedule to where the run is, if only the length of the schedule has changed.

    Raises:
        UserError: it is shorter than that.
    """
    assert trainer.schedule is not None
    if "optim.lr" not in changed:
        trainer.scale_learning_rate(0.5**trainer.recovery.rollbacks)
    both = (composed, yaml_text.load(trainer.checkpoints.header["composed"]))
    before, now = (_without_lengths(content["scheduler"]) for content in both)
    if before != now or "optim._target_" in changed:
        return
    # Not trainer.step: with batches of another size an epoch has another number of steps.
    steps = trainer.epoch * len(trainer.train) + trainer.batch
    try:
        trainer.schedule.catch_up(steps, trainer.history)
    except (ValueError, LookupError) as error:
        name = type(trainer.schedule.scheduler).__name__
        raise UserError(f"{name} cannot go on over trainer.epochs={trainer.epochs}: {error}") from error


def _without_lengths(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_lengths(value) for key, value in node.items() if key not in _LENGTHS}
    return list(map(_without_lengths, node)) if isinstance(node, list) else node


def _restore_options(trainer: Trainer, fresh: list[dict[str, Any]], changed: set[str]) -> None:
    """Set those options of the optimizer anew that have ``changed``, since loading has replaced all of them.

    The choice of kernels is always the new one: there are no fused kernels for shards.
    """
    groups = trainer.optimizer.param_groups
    before, rate = (group[0].get("initial_lr", group[0]["lr"]) for group in (groups, fresh))
    all_options = _changes_schedule(changed)  # a new schedule has set options there as well
    if "optim.lr" in changed and before and not all_options:
        trainer.scale_learning_rate(rate / before)
    kept = ("params", "lr") if before and not all_options else ("params",)
    for group, new in zip(groups, fresh, strict=True):
        for name in new:
            if name in _KERNELS or (name not in kept and (all_options or f"optim.{name}" in changed)):
                group[name] = new[name]


def require_same(before: str, now: str, force: bool = False) -> set[str]:
    """Require that the configurations ``before`` and ``now``, both YAML, make the same run.

    Returns the keys that differ, as ``force`` allows.

    Raises:
        UserError: keys differ, unless ``force``.
    """
    changed = dict(_differences(yaml_text.load(before), yaml_text.load(now)))
    if changed and not force:
        raise UserError(
            "\n  - ".join(["this would be another run than the one before the break:", *changed.values()])
            + "\nstart a new run for that, or go on all the same with: dltrain resume RUN --force [overrides]"
        )
    for problem in changed.values():
        log.warning("%s (forced)", problem)
    return set(changed)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the keys that differ and change the course of a run, each with a sentence."""
    for key in dict.fromkeys([*before, *now]):
        name = f"{prefix}{key}"
        if any(name == free or name.startswith(f"{free}.") for free in _FREE):
            continue
        old, new = (_by_number(each.get(key)) for each in (before, now))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{name}.")
        elif old != new and not (name == "data.files" and same_files(str(old), str(new))):
            yield name, f"{name} was {_brief(old)} and is now {_brief(new)}"


def _by_number(value: Any) -> Any:
    """Turn a list of nodes, such as the schedulers of a scheduler, into a mapping by position, and {} into None."""
    if value == {}:  # which an earlier version may not have had
        return None
    has_nodes = isinstance(value, list) and any(isinstance(each, dict) for each in value)
    return {str(number): each for number, each in enumerate(value)} if has_nodes else value


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
