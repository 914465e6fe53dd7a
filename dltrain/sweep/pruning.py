"""Jobs that are not worth going on with, as a pruner of Optuna's sees it. Imports Optuna when a sweep has a pruner.

Only the process of the sweep knows the study: it is told every epoch of every job, and answers whether to stop there.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dltrain.config.nodes import settled
from dltrain.errors import ConfigError
from dltrain.report.metrics import lower_is_better
from dltrain.sweep.ledger import Job, Ledger, key_of, setting
from dltrain.system.structure import flat

FILE = "pruning.log"  # the study of a sweep whose jobs nobody searches for


def make_pruner(config: DictConfig) -> Any:
    """Optuna's pruner that ``config.pruner`` names, ``None`` for ``none``.

    Raises:
        ConfigError: Optuna refuses its keys.
    """
    if config.pruner._target_ is None:
        return None
    try:
        return instantiate(settled(config, "pruner"), _convert_="all")
    except InstantiationException as error:
        raise ConfigError([f"pruner: {error.__cause__ or error}"]) from error


def monitor(config: DictConfig) -> str:
    """The metric that makes an epoch the best, where there is a validation part."""
    return str(config.trainer.checkpoint.monitor or "val/loss")


class Judge:
    """The pruner of ``study`` over its ``trials``, each of which has its job's overrides as an attribute.

    ``metric`` is the one that jobs are compared by, empty for the one that they monitor.
    """

    def __init__(self, study: Any, metric: str = "", trials: Mapping[tuple[str, ...], Any] | None = None):
        self.study = study
        self.metric = metric
        self.trials = dict(trials or {})

    @property
    def name(self) -> str:
        return type(self.study.pruner).__name__

    def begin(self, job: Job) -> None:
        """A job starts, or goes on."""

    def end(self, job: Job) -> None:
        """A job has ended."""

    def prunes(self, job: Job, epoch: int, value: float, asks: bool) -> bool:
        """Take down the ``value`` of an epoch; whether the job is to end there, if it ``asks``.

        A job that goes on from a checkpoint tells of epochs again: the first word on each stands.
        """
        trial = self.trials[key_of(job.overrides)]
        before = self._frozen(trial)
        if epoch not in before.intermediate_values:
            trial.report(value, epoch)
        latest = self._frozen(trial)
        if not asks or epoch < latest.last_step:
            return False
        pruned = latest.user_attrs.get("pruned") == epoch or bool(self.study.pruner.prune(self._others(latest), latest))
        if pruned:  # successive halving would not say so twice
            trial.set_user_attr("pruned", epoch)
        return pruned

    def _frozen(self, trial: Any) -> Any:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _others(self, trial: Any) -> Any:
        """The study without jobs that differ from this one in their seed alone: they repeat it, and rival others."""
        import optuna

        same = setting(trial.user_attrs["overrides"])
        repeats = {
            one.number
            for one in self.study.get_trials(deepcopy=False)
            if one.number != trial.number and setting(one.user_attrs.get("overrides", ())) == same
        }
        if not repeats:
            return self.study
        storage: Any = _Without(self.study._storage, repeats)
        return optuna.Study(self.study.study_name, storage, pruner=self.study.pruner)


class GridJudge(Judge):
    """For jobs that nobody searches for: asks for their trials itself and tells what came of them.

    The study is a file in the sweep's folder, and outlasts the sweep.
    """

    def __init__(self, ledger: Ledger, pruner: Any, metric: str):
        import optuna

        from dltrain.sweep.storage import readable

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction: Any = "minimize" if lower_is_better(metric) else "maximize"
        with readable(f"'{ledger.folder / FILE}'"):
            storage = _journal(ledger.folder / FILE)
            study = optuna.create_study(
                storage=storage, study_name="dltrain", pruner=pruner, direction=direction, load_if_exists=True
            )
        before = study.user_attrs.get("metric", metric)
        if before != metric:
            problem = f"the jobs of this sweep were compared by {before}, and cannot be by {metric}"
            raise ConfigError([f"pruner: {problem}: name another hydra.sweep.dir=..."])
        study.set_user_attr("metric", metric)
        super().__init__(study)
        for job in ledger:  # what a sweep that was killed had no time to tell
            if job.status == "done" and self._open(job):
                self.begin(job)
                self.end(job)

    def begin(self, job: Job) -> None:
        import optuna

        found = self._open(job)
        if found and found.state == optuna.trial.TrialState.RUNNING:
            self.trials[key_of(job.overrides)] = optuna.trial.Trial(self.study, found._trial_id)
            return
        if not found:
            self.study.enqueue_trial({}, user_attrs={"overrides": list(job.overrides)})
        self.trials[key_of(job.overrides)] = self.study.ask()

    def end(self, job: Job) -> None:
        from optuna.trial import TrialState

        trial = self.trials[key_of(job.overrides)]
        if job.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif job.status == "done" and job.monitor in job.metrics:
            self.study.tell(trial, job.metrics[job.monitor])
        elif job.status == "failed":
            self.study.tell(trial, state=TrialState.FAIL)

    def _open(self, job: Job) -> Any:
        """The trial of a job that has not ended, if there is one."""
        found = (one for one in self.study.get_trials(deepcopy=False) if not one.state.is_finished())
        return next((one for one in found if one.user_attrs.get("overrides") == list(job.overrides)), None)


def judge_of(ledger: Ledger, configs: Sequence[DictConfig]) -> Judge | None:
    """What prunes jobs with these configurations, of which there is one at least; ``None`` where nothing does.

    Raises:
        ConfigError: the pruner or the metric is not the same for all.
    """
    _require_same(flat({"pruner": OmegaConf.to_container(config.pruner, resolve=True)}) for config in configs)
    pruner = make_pruner(configs[0])
    if pruner is None:
        return None
    _require_same({"trainer.checkpoint.monitor": monitor(config)} for config in configs)
    return GridJudge(ledger, pruner, monitor(configs[0]))


def _require_same(values: Iterable[Mapping[str, Any]]) -> None:
    first, *others = values
    for other in others:
        if name := next((name for name in {**first, **other} if first.get(name) != other.get(name)), None):
            raise ConfigError(
                [f"{name} is {first.get(name)} and {other.get(name)}: a pruner compares jobs, so it is one for all"]
            )


def _journal(path: Path) -> Any:
    """A storage that appends to one file, which is whole however a sweep ends."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    no_lock: Any = _NoLock()
    return JournalStorage(JournalFileBackend(str(path), no_lock))


class _NoLock:
    """The folder of a sweep is locked already, and a lock in a file would outlast a sweep that is killed."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class _Without:
    """A storage without some of its trials."""

    def __init__(self, storage: Any, hidden: set[int]):
        self._storage = storage
        self._hidden = hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [one for one in self._storage.get_all_trials(*args, **kwargs) if one.number not in self._hidden]
