"""Hyper-parameter search: a Hydra sweeper over Optuna's ask and tell. Imports Optuna when a search begins."""

import itertools
import logging
import math
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dltrain.config import sweeps
from dltrain.errors import ConfigError, UserError, did_you_mean
from dltrain.report.metrics import about_test, all_names, lower_is_better
from dltrain.sweep.ledger import Job, key_of
from dltrain.sweep.study import Study, make_pruner, monitor, open_study, storage_of
from dltrain.system.extras import install_line

log = logging.getLogger(__name__)

SAMPLERS = ("tpe", "random", "cmaes", "grid")
_DIRECTIONS = ("minimize", "maximize")


class Search(Sweeper):
    """``n_trials`` jobs, each proposed by Optuna from the results so far; keys as in ``conf/hydra/sweeper``."""

    config: DictConfig
    context: HydraContext
    folder: Path
    space: dict[str, Any]  # the distribution of each key that has a range or a choice, by its name in the study
    template: list[tuple[str, str]]  # of a job: overrides, each with an empty name, and keys with their names in space

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

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra passes, and refuse wrong keys here: Hydra would hide the message of a constructor."""
        self._check()
        self.config = config
        self.context = hydra_context
        self.folder = Path(str(config.hydra.sweep.dir)).absolute()
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
            import optuna  # noqa: F401
        except ImportError as error:
            raise UserError(f"hydra/sweeper=optuna needs Optuna: {install_line('optuna')}") from error
        self._read_space(arguments)
        study = self._open_study()
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        self.launcher.study = study
        has_begun = False
        for trials in self._batches(study.study):
            has_begun = True
            jobs = [self._overrides(trial.params) for trial in trials]
            for trial, overrides in zip(trials, jobs, strict=True):
                trial.set_user_attr("overrides", overrides)
                trial.set_user_attr("sweep", str(self.folder))
                study.add(trial, overrides)
            answers = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
            for trial, overrides, answer in zip(trials, jobs, answers, strict=True):
                study.end(self._job(trial.number, overrides, answer))
            if getattr(self.launcher, "has_stopped", False):
                return
        if not has_begun:
            log.info("the study '%s' has its %d trials already", self.study_name, self.n_trials)

    def _overrides(self, params: Mapping[str, Any]) -> list[str]:
        return [f"{text}={typed(params[name])}" if name else text for text, name in self.template]

    def _job(self, number: int, overrides: Sequence[str], answer: Any) -> Job:
        if ledger := getattr(self.launcher, "ledger", None):
            return ledger.jobs[key_of(overrides)]  # type: ignore[no-any-return]
        folder = Path(answer.hydra_cfg.hydra.runtime.output_dir)  # of a launcher without a ledger
        job = Job(number, tuple(overrides), folder)
        job.refresh()
        return job

    def _batches(self, study: Any) -> Iterator[list[Any]]:
        """Trials to run at once: those that this search had begun when it was killed or interrupted, then new ones."""
        if begun := self._begun(study):
            yield begun
        width = int(getattr(self.launcher, "width", 1))
        wanted = self.n_trials
        if self.sampler == "grid":
            # With ask and tell, Optuna's own sampler of grids could not end.
            points = list(itertools.product(*map(grid_values, self.space.values())))
            wanted = min(wanted, len(points))
            for point in points:
                study.enqueue_trial(dict(zip(self.space, point, strict=True)), skip_if_exists=True)
        while (left := wanted - _count(study)) > 0:
            # A sampler that began anew with the same seed would propose the same again. With a seed for each batch, a
            # search goes on after a break as it would have without; with a seed for each machine, machines on the same
            # study differ.
            place = f"{platform.node()}:{self.folder}" if self.storage else ""
            study.sampler = self._sampler(Random(f"{self.seed} {wanted - left} {place}").getrandbits(31))
            yield [study.ask(self.space) for _ in range(min(width, left))]

    def _begun(self, study: Any) -> list[Any]:
        from optuna.trial import Trial, TrialState

        begun = []
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if self.storage is not None and trial.user_attrs.get("sweep") != str(self.folder):
                continue  # another machine is at work on it
            if trial.params.keys() == self.space.keys():
                begun.append(Trial(study, trial._trial_id))
            else:
                study.tell(trial.number, state=TrialState.FAIL)
        return begun

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

    def _read_space(self, arguments: Sequence[str]) -> None:
        """Set ``space`` and ``template`` as the keys and the command line say."""
        texts = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        self.space, self.template = {}, []
        parsed = OverridesParser.create(self.context.config_loader).parse_overrides(texts)
        for number in sweeps.in_force(
            [list(itertools.islice(sweeps.values(override), sweeps.TRIED)) for override in parsed]
        ):
            override = parsed[number]
            key = override.get_key_element()
            if not override.is_sweep_override():
                self.template.append((next(sweeps.values(override)), ""))
                continue
            name = key if key not in self.space else f"{key} {number}"  # of several dictionaries
            try:
                self.space[name] = distribution(override)
            except ValueError as error:
                raise ConfigError([f"{override.input_line}: {error}"]) from error
            self.template.append((key, name))
        if not self.space:
            raise ConfigError(["a search needs a key with a range: 'optim.lr=tag(log, interval(0.001, 0.1))'"])
        if any(key.partition(".")[0] == "pruner" for key in self.space):
            raise ConfigError(["pruner compares the trials of a search, so it is one for all: give it no choice"])
        if self.sampler == "grid" and (open_keys := [key for key in self.space if not grid_values(self.space[key])]):
            raise ConfigError(
                [f"sampler=grid takes choice(...) and range(...): {', '.join(open_keys)} has an interval"]
            )

    def _sampler(self, seed: int) -> Any:
        from optuna import samplers

        if self.sampler in ("random", "grid"):  # every point of a grid waits in the study already
            return samplers.RandomSampler(seed)
        if self.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=self.n_startup_trials)
        return samplers.TPESampler(seed=seed, n_startup_trials=self.n_startup_trials, constant_liar=True)

    def _open_study(self) -> Study:
        import optuna

        config = self._common_config()
        metrics = self.metrics or [monitor(config)]
        for hint in filter(None, map(about_test, metrics)):
            log.warning("hydra.sweeper.metrics: %s", hint)
        directions = self.directions
        if directions == ["auto"]:
            directions = ["minimize" if lower_is_better(name) else "maximize" for name in metrics]
        self.launcher.objectives = list(zip(metrics, directions, strict=False))
        pruner = make_pruner(config)
        if pruner is not None:
            _require_prunable(metrics)
        place = f"'{self.folder / 'study.db'}'" if self.storage is None else f"hydra.sweeper.storage={self.storage}"
        storage = partial(storage_of, self.storage, self.folder)
        study = open_study(place, storage, study_name=self.study_name, directions=directions, pruner=pruner)
        known = (study.metric_names or metrics, [direction.name.lower() for direction in study.directions])
        if known != (metrics, directions):
            goals = " and ".join(f"{goal}s {name}" for name, goal in zip(*known, strict=False))
            raise UserError(
                f"the study '{self.study_name}' {goals}: name another with hydra.sweeper.study_name or storage"
            )
        for trial in study.get_trials(deepcopy=False):
            for key in trial.distributions.keys() & self.space.keys():
                _require_alike(key, trial.distributions[key], self.space[key])
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            study.set_metric_names(metrics)
        return Study(study, pruner, self.metrics)

    def _common_config(self) -> DictConfig:
        """The configuration of all jobs, as far as they have one."""
        fixed = [text for text, name in self.template if not name]
        overrides = [*self.config.hydra.overrides.hydra, *fixed]
        name = self.config.hydra.job.config_name
        return self.context.config_loader.load_configuration(name, overrides, RunMode.MULTIRUN)


def _require_alike(key: str, before: Any, now: Any) -> None:
    """Optuna takes other bounds for the trials to come, but no other choices and no other kind of number."""
    from optuna.distributions import check_distribution_compatibility

    try:
        check_distribution_compatibility(before, now)
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


def _count(study: Any) -> int:
    """Trials that have ended or are at work, without those that wait or that a killed search left half done."""
    from optuna.trial import TrialState

    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    return sum(trial.state != TrialState.FAIL or "run" in trial.user_attrs for trial in trials)


def distribution(override: Override) -> Any:
    """Optuna's distribution of a key with a range or a choice in Hydra's syntax."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if override.is_choice_sweep():
        return CategoricalDistribution([_storable(choice) for choice in override.sweep_iterator()])
    is_log = "log" in value.tags
    if override.is_range_sweep():
        start, step = value.start, value.step
        count = math.ceil((value.stop - start) / step)
        last = start + (count - 1) * step
        if float(start).is_integer() and float(step).is_integer():
            return IntDistribution(int(start), int(last), log=is_log, step=1 if is_log else int(step))
        return FloatDistribution(start, last, step=step)
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=is_log)
    return FloatDistribution(value.start, value.end, log=is_log)


def _storable(value: Any) -> Any:
    """A choice as Optuna can store it: numbers and words as they are, lists as their text."""
    return value if isinstance(value, bool | int | float | str | None) else Override._get_value_element_as_str(value)


def typed(value: Any) -> str:
    """A value as it is written on the command line, as lists, dictionaries and quoted text are already."""
    if isinstance(value, str) and value.startswith(("[", "{", "'", '"')):
        return value
    return "null" if value is None else sweeps.written(value)


def grid_values(distribution: Any) -> list[Any]:
    """Every value of a distribution; none where there is no end of them."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    step = distribution.step
    if step is None or (isinstance(distribution.low, float) and not step):
        return []
    count = round((distribution.high - distribution.low) / step) + 1
    return [distribution.low + number * step for number in range(count)]
