"""The Optuna study of a search or of a grid with a pruner: where it is kept, its trials, and which jobs are pruned.

A trial is a job. Only the process of the sweep knows the study: jobs report the metric of each epoch to it, and it
answers whether to stop there. Imports Optuna when a study is opened.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dltrain.config.nodes import settled
from dltrain.errors import ConfigError, DltrainError, UserError
from dltrain.report.metrics import lower_is_better
from dltrain.sweep.ledger import Job, Key, Ledger, key_of, setting
from dltrain.system.extras import install_line
from dltrain.system.files import flat

FILE = "pruning.log"  # the study of a grid


class Study:
    """The jobs of a sweep as trials of an Optuna ``study``.

    ``pruner`` is Optuna's, ``None`` to let all jobs run to their end. Trials have the values of ``metrics``; empty: of
    the metric that their jobs monitor.
    """

    def __init__(self, study: Any, pruner: Any = None, metrics: Sequence[str] = ()):
        self.study = study
        self.pruner = pruner
        self.metrics = metrics
        self.trials: dict[Key, list[Any]] = {}  # that have not ended, of each job: Optuna may propose it twice

    @property
    def pruner_name(self) -> str:
        return type(self.pruner).__name__

    @property
    def metric(self) -> str:
        """What jobs are compared by; empty: the metric that they monitor."""
        return next(iter(self.metrics), "")

    def begin(self, job: Job) -> None:
        """Give a job that starts or goes on its trial, unless it has one, as those of a search do."""
        if key_of(job.overrides) not in self.trials:
            self.study.enqueue_trial({}, user_attrs={"overrides": list(job.overrides)})
            self.add(self.study.ask(), job.overrides)

    def add(self, trial: Any, overrides: Iterable[str]) -> None:
        """Let the job with these ``overrides`` be a trial that has not ended."""
        self.trials.setdefault(key_of(overrides), []).append(trial)

    def end(self, job: Job) -> None:
        """Tell Optuna the outcome of a job; the trial of one that was interrupted stays open."""
        if job.status in ("done", "failed"):
            for trial in self.trials.pop(key_of(job.overrides), ()):
                self._tell(trial, job)

    def _tell(self, trial: Any, job: Job) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr("run", str(job.folder))
        if job.reason:
            trial.set_user_attr("cause", job.reason)
        values = [job.metrics.get(name) for name in self.metrics or [job.monitor or ""]]
        if job.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif job.status == "done" and all(isinstance(value, float) and math.isfinite(value) for value in values):
            self.study.tell(trial, values)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def prunes(self, job: Job, epoch: int, value: float, asks: bool) -> bool:
        """Record the ``value`` of an epoch; whether the job is to end there, if it ``asks``.

        A job that goes on from a checkpoint reports epochs again: the first value of each stands.
        """
        trial = self.trials[key_of(job.overrides)][0]
        if epoch not in self._frozen(trial).intermediate_values:
            trial.report(value, epoch)
        latest = self._frozen(trial)
        if not asks or epoch < latest.last_step:
            return False
        pruned = latest.user_attrs.get("pruned") == epoch or bool(self.pruner.prune(self._rivals(latest), latest))
        if pruned:  # successive halving would not say so twice
            trial.set_user_attr("pruned", epoch)
        return pruned

    def _frozen(self, trial: Any) -> Any:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _rivals(self, trial: Any) -> Any:
        """The study without the trials that differ from this one in their seed alone, which are no rivals of it."""
        import optuna

        same = setting(trial.user_attrs["overrides"])
        repeats = {
            other.number
            for other in self.study.get_trials(deepcopy=False)
            if other.number != trial.number and setting(other.user_attrs.get("overrides", ())) == same
        }
        if not repeats:
            return self.study
        storage: Any = _StorageView(self.study._storage, repeats)
        return optuna.Study(self.study.study_name, storage, pruner=self.pruner)


class _StorageView:
    """A storage without some of its trials. Hyperband reads the storage itself, so that no view of a study would do."""

    def __init__(self, storage: Any, hidden: set[int]):
        self._storage = storage
        self._hidden = hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[Any]:
        trials = self._storage.get_all_trials(*args, **kwargs)
        return [trial for trial in trials if trial.number not in self._hidden]


def open_study(place: str, storage: Callable[[], Any], **settings: Any) -> Any:
    """Optuna's study in what ``storage`` returns, all of it read once; it is made if there is none.

    ``place`` names the storage in messages, ``settings`` are arguments of ``create_study``.

    Raises:
        UserError: the storage cannot be used, or holds something else.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(storage=storage(), load_if_exists=True, **settings)
        study.get_trials(deepcopy=False)
    except DltrainError:
        raise
    except Exception as error:  # SQLAlchemy's, those of each driver, and what a file raises that is no journal
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{place} holds no study that can be used: {message}") from error
    return study


def storage_of(name: str | None, folder: Path) -> Any:
    """Optuna's storage for ``hydra.sweeper.storage``: a database by its URL, or a journal by its path.

    Without a name it is ``study.db`` in the sweep's ``folder``. Processes on several machines may share a database, or
    a journal on a file system that all of them see, NFS included.

    Raises:
        UserError: the database's driver is not installed, or the journal's folder does not exist.
    """
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    if name is not None and "://" not in name:
        path = Path(os.path.expanduser(name)).absolute()
        if not path.parent.is_dir():
            raise UserError(f"hydra.sweeper.storage={name}: there is no folder {path.parent}")
        return JournalStorage(JournalFileBackend(str(path)))
    try:
        return get_storage(name or f"sqlite:///{folder / 'study.db'}")
    except ImportError as error:
        if name is None:
            raise UserError(f"{error}: {install_line('optuna')}") from error
        raise UserError(f"hydra.sweeper.storage={name}: {error}; install the database's driver") from error


def open_grid(folder: Path, pruner: Any, metric: str) -> Study:
    """The study of a grid of jobs in ``folder``, with the trials that have not ended.

    Raises:
        UserError: its file holds something else.
        ConfigError: the jobs were compared by another metric.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import Trial, TrialState

    path = str(folder / FILE)
    Path(f"{path}.lock").unlink(missing_ok=True)  # of a sweep that was killed; this sweep alone uses the folder
    study = open_study(
        f"'{path}'",
        lambda: JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path))),
        study_name="dltrain",
        pruner=pruner,
        direction="minimize" if lower_is_better(metric) else "maximize",
    )
    before = study.user_attrs.get("metric", metric)
    if before != metric:
        problem = f"the jobs of this sweep were compared by {before}, and cannot be by {metric}"
        raise ConfigError([f"pruner: {problem}: name another hydra.sweep.dir=..."])
    study.set_user_attr("metric", metric)
    grid = Study(study, pruner)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            is_waiting = trial.state == TrialState.WAITING
            unfinished = study.ask() if is_waiting else Trial(study, trial._trial_id)
            grid.add(unfinished, trial.user_attrs.get("overrides", ()))
    return grid


def grid_study(ledger: Ledger, configs: Sequence[DictConfig]) -> Study | None:
    """The study of a grid of jobs with these configurations, at least one; ``None`` where they have no pruner.

    Raises:
        ConfigError: the pruner or the metric is not the same for all, or see :func:`open_grid`.
    """
    _require_same(flat({"pruner": OmegaConf.to_container(config.pruner, resolve=True)}) for config in configs)
    pruner = make_pruner(configs[0])
    if pruner is None:
        return None
    _require_same({"trainer.checkpoint.monitor": monitor(config)} for config in configs)
    return open_grid(ledger.folder, pruner, monitor(configs[0]))


def _require_same(values: Iterable[Mapping[str, Any]]) -> None:
    first, *others = values
    for other in others:
        if name := next((name for name in {**first, **other} if first.get(name) != other.get(name)), None):
            raise ConfigError(
                [f"{name} is {first.get(name)} and {other.get(name)}: a pruner compares jobs, so it is one for all"]
            )


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
