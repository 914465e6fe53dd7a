"""Hyper-parameter search: a Hydra sweeper over Optuna's ask and tell. Imports Optuna when a search begins."""

import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dltrain.config import sweeps
from dltrain.errors import ConfigError, UserError, did_you_mean
from dltrain.report.metrics import about_test, all_names, lower_is_better
from dltrain.sweep.ledger import Job, Ledger, key_of
from dltrain.sweep.pruning import Judge, make_pruner, monitor
from dltrain.sweep.space import distribution, grid_values, typed
from dltrain.system.extras import install_line

log = logging.getLogger(__name__)

SAMPLERS = ("tpe", "random", "cmaes", "grid")
_DIRECTIONS = ("minimize", "maximize")


class Search(Sweeper):
    """``n_trials`` jobs, each proposed by Optuna from the results so far; keys as in ``conf/hydra/sweeper``."""

    def __init__(
        self,
        sampler: str = "tpe",
        n_trials: int = 20,
        n_startup_trials: int = 10,
        direction: str | Sequence[str] = "auto",
        metrics: str | Sequence[str] | None = None,
        storage: str | None = None,
        study_name: str = "dltrain",
        seed: int = 1,
        params: Mapping[str, Any] | None = None,
    ):
        self.sampler = sampler
        self.n_trials = n_trials
        self.n_startup_trials = n_startup_trials
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        self.metrics = [metrics] if isinstance(metrics, str) else list(metrics or [])
        self.storage = storage
        self.study_name = study_name
        self.seed = seed
        self.params = dict(params or {})
        self.prunes = False

    config: DictConfig
    context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over, and refuse what cannot be: from a constructor Hydra would hide the message."""
        self._check()
        self.config = config
        self.context = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Ask, run and tell until the study has its trials.

        Raises:
            UserError: Optuna is not installed, or the study cannot be used.
            ConfigError: no key has a range, or one that Optuna cannot draw from.
        """
        try:
            import optuna
        except ImportError as error:
            raise UserError(f"hydra/sweeper=optuna needs Optuna: {install_line('optuna')}") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space, template = self._space(arguments)
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        study = self._study(optuna, folder, self._as_a_whole(template), space)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        self._search(optuna, study, folder, space, template)

    def _as_a_whole(self, template: Sequence[tuple[str, str]]) -> DictConfig:
        """The configuration of all jobs, as far as they have one."""
        fixed = [text for text, name in template if not name]
        overrides = [*self.config.hydra.overrides.hydra, *fixed]
        name = self.config.hydra.job.config_name
        return self.context.config_loader.load_configuration(name, overrides, RunMode.MULTIRUN)

    def _search(
        self, optuna: Any, study: Any, folder: Path, space: Mapping[str, Any], template: Sequence[tuple[str, str]]
    ) -> None:
        has_begun = False
        for trials in self._batches(optuna, study, folder, space):
            has_begun = True
            jobs = [
                [f"{text}={typed(trial.params[name])}" if name else text for text, name in template] for trial in trials
            ]
            for trial, overrides in zip(trials, jobs, strict=True):
                trial.set_user_attr("overrides", overrides)
                trial.set_user_attr("sweep", str(folder))
            if self.prunes:
                self.launcher.judge = Judge(
                    study, next(iter(self.metrics), ""), dict(zip(map(key_of, jobs), trials, strict=True))
                )
            self.launcher.launch(jobs, initial_job_idx=trials[0].number)
            ledger = getattr(self.launcher, "ledger", None) or Ledger(folder)
            found = [ledger.find(overrides) for overrides in jobs]
            for trial, job in zip(trials, found, strict=True):
                self._tell(optuna, study, trial, job)
            if getattr(self.launcher, "has_stopped", False):
                return
        if not has_begun:
            log.info("the study '%s' has its %d trials already", self.study_name, self.n_trials)

    def _batches(self, optuna: Any, study: Any, folder: Path, space: Mapping[str, Any]) -> Iterator[list[Any]]:
        """Trials to run at once: those that this search had begun when it was killed or interrupted, then new ones."""
        from dltrain.sweep.storage import place_of

        if begun := self._begun(optuna, study, folder, space):
            yield begun
        width = int(getattr(self.launcher, "width", 1))
        wanted = self.n_trials
        if self.sampler == "grid":
            # Optuna's own sampler of grids cannot end a study that is asked and told.
            points = list(itertools.product(*map(grid_values, space.values())))
            wanted = min(wanted, len(points))
            for point in points:
                study.enqueue_trial(dict(zip(space, point, strict=True)), skip_if_exists=True)
        while (left := wanted - _counted(optuna, study)) > 0:
            # A sampler that began anew with its seed would propose the same again. With one for each batch, a search
            # goes on after a break as it would have without; with one for each machine, none proposes another's.
            own = f"{self.seed} {wanted - left} {place_of(folder) if self.storage else ''}"
            study.sampler = self._sampler(optuna, Random(own).getrandbits(31))
            yield [study.ask(space) for _ in range(min(width, left))]

    def _begun(self, optuna: Any, study: Any, folder: Path, space: Mapping[str, Any]) -> list[Any]:
        found = []
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            if self.storage is not None and trial.user_attrs.get("sweep") != str(folder):
                continue  # another machine is at work on it
            if trial.params.keys() == space.keys():
                found.append(optuna.trial.Trial(study, trial._trial_id))
            else:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return found

    def _check(self) -> None:
        problems = []
        if self.sampler not in SAMPLERS:
            hint = did_you_mean(self.sampler, SAMPLERS)
            problems.append(f"hydra.sweeper.sampler={self.sampler} is not among {', '.join(SAMPLERS)}{hint}")
        for name in ("n_trials", "n_startup_trials"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                problems.append(f"hydra.sweeper.{name} must be a whole number from 1 on, not {value}")
        known = [f"{part}/{name}" for part in ("val", "test") for name in all_names()]
        for name in self.metrics:
            if name not in ("train/loss", *known):
                problems.append(f"hydra.sweeper.metrics: {name} is no metric{did_you_mean(name, known)}")
        count = max(len(self.metrics), 1)
        if self.directions != ["auto"] and not (
            len(self.directions) == count and set(self.directions) <= set(_DIRECTIONS)
        ):
            problems.append("hydra.sweeper.direction must be auto, or minimize or maximize for each of the metrics")
        if problems:
            raise ConfigError(problems)

    def _space(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """The distribution of each key that has a range or a choice, by its name in the study, and what a job is.

        That is a list of overrides, each with an empty name, and of keys, each with the name of its distribution.
        """
        texts = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        space: dict[str, Any] = {}
        template = []
        parsed = OverridesParser.create(self.context.config_loader).parse_overrides(texts)
        for number in sweeps.in_force([list(itertools.islice(sweeps.values(one), sweeps.TRIED)) for one in parsed]):
            override = parsed[number]
            key = override.get_key_element()
            if not override.is_sweep_override():
                template.append((next(sweeps.values(override)), ""))
                continue
            name = key if key not in space else f"{key} {number}"  # of several dictionaries
            try:
                space[name] = distribution(override)
            except ValueError as error:
                raise ConfigError([f"{override.input_line}: {error}"]) from error
            template.append((key, name))
        if not space:
            raise ConfigError(["a search needs a key with a range: 'optim.lr=tag(log, interval(0.001, 0.1))'"])
        if any(key.partition(".")[0] == "pruner" for key in space):
            raise ConfigError(["pruner compares the trials of a search, so it is one for all: give it no choice"])
        if self.sampler == "grid" and (open_keys := [key for key in space if not grid_values(space[key])]):
            raise ConfigError(
                [f"sampler=grid takes choice(...) and range(...): {', '.join(open_keys)} has an interval"]
            )
        return space, template

    def _sampler(self, optuna: Any, seed: int) -> Any:
        samplers = optuna.samplers
        if self.sampler in ("random", "grid"):  # every point of a grid waits in the study already
            return samplers.RandomSampler(seed)
        if self.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=self.n_startup_trials)
        return samplers.TPESampler(seed=seed, n_startup_trials=self.n_startup_trials, constant_liar=True)

    def _study(self, optuna: Any, folder: Path, config: DictConfig, space: Mapping[str, Any]) -> Any:
        from dltrain.sweep.storage import place_in, readable, storage_of

        metrics = self.metrics or [monitor(config)]
        for told in filter(None, map(about_test, metrics)):
            log.warning("hydra.sweeper.metrics: %s", told)
        directions = self.directions
        if directions == ["auto"]:
            directions = ["minimize" if lower_is_better(name) else "maximize" for name in metrics]
        self.launcher.objectives = list(zip(metrics, directions, strict=False))
        pruner = make_pruner(config)
        self.prunes = pruner is not None
        if self.prunes:
            _require_prunable(metrics)
        try:
            with readable(place_in(self.storage, folder)):
                study = optuna.create_study(
                    storage=storage_of(self.storage, folder),
                    study_name=self.study_name,
                    directions=directions,
                    pruner=pruner,
                    load_if_exists=True,
                )
                trials = study.get_trials(deepcopy=False)
        except ImportError as error:
            raise UserError(f"{error}: {install_line('optuna')}") from error
        known = (study.metric_names or metrics, [direction.name.lower() for direction in study.directions])
        if known != (metrics, directions):
            goals = " and ".join(f"{goal}s {name}" for name, goal in zip(*known, strict=False))
            raise UserError(
                f"the study '{self.study_name}' {goals}: name another with hydra.sweeper.study_name or storage"
            )
        for trial in trials:
            for key in trial.distributions.keys() & space.keys():
                _require_alike(optuna, key, trial.distributions[key], space[key])
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            study.set_metric_names(metrics)
        return study

    def _tell(self, optuna: Any, study: Any, trial: Any, job: Job | None) -> None:
        values = _values(job, self.metrics) if job else None
        if job:
            trial.set_user_attr("run", str(job.folder))
        if job and job.told:
            trial.set_user_attr("cause", job.told)
        if job and job.pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif values is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, values)


def _require_alike(optuna: Any, key: str, before: Any, now: Any) -> None:
    """Optuna takes other bounds for the trials to come, but no other choices and no other kind of number."""
    try:
        optuna.distributions.check_distribution_compatibility(before, now)
    except ValueError as error:
        raise UserError(
            f"{key}: the study was begun with {before}, and cannot go on with {now}:"
            " name another with hydra.sweeper.study_name or storage"
        ) from error


def _require_prunable(metrics: Sequence[str]) -> None:
    known_later = [name for name in metrics if name.startswith("test/")]
    if len(metrics) > 1:
        why = "Optuna prunes by one metric alone"
    elif known_later:
        why = f"{known_later[0]} is known once a job has ended, and a pruner needs a metric of every epoch"
    else:
        return
    raise ConfigError([f"pruner: {why}: name one such as val/loss in hydra.sweeper.metrics, or use pruner=none"])


def _values(job: Job, metrics: Sequence[str]) -> list[float] | None:
    """What a job reached; ``None`` where it failed or a metric is no number."""
    names = metrics or [job.monitor or ""]
    values = [job.metrics.get(name, math.nan) for name in names]
    fine = job.status == "done" and all(isinstance(value, float) and math.isfinite(value) for value in values)
    return values if fine else None


def _counted(optuna: Any, study: Any) -> int:
    """Trials that have ended or are at work, without those that wait or that a killed search left half done."""
    states = optuna.trial.TrialState
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != states.WAITING]
    return sum(trial.state != states.FAIL or "run" in trial.user_attrs for trial in trials)
