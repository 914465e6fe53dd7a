"""Hydra's launcher of ours: which jobs a sweep has, which of them are missing, and who runs them. Imports no torch."""

import importlib
import logging
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dltrain.config.rules import shown
from dltrain.distributed.launch import quoted
from dltrain.errors import ConfigError, Interrupted, UserError
from dltrain.extras import require_extras
from dltrain.record import flat
from dltrain.run import RunFolder, finite
from dltrain.sweep.combinations import Combinations
from dltrain.sweep.composer import Composer
from dltrain.sweep.forked import Forked, jobs_at_once
from dltrain.sweep.ledger import STEERING, Job, Key, Ledger, key_of, naming
from dltrain.sweep.pool import Engine, Planned, Pool
from dltrain.sweep.pruning import Judge, judge_of
from dltrain.sweep.search import Search

log = logging.getLogger(__name__)

_LOOKED_AT = 20  # jobs of before that are looked at for changed files, where new ones alone are asked for
_NEEDED = {  # modules, the extra that has them, and what needs them
    "local": (["submitit"], "slurm", "hydra/launcher=submitit_local"),
    "slurm": (["submitit"], "slurm", "hydra/launcher=submitit_slurm"),
    "ray": (["ray"], "ray", "hydra/launcher=ray"),
}


class Jobs(Launcher):
    """``n_jobs`` at once; ``auto``: as many as cores, memory and GPUs of this machine allow.

    ``engine``: ``fork`` (processes here), ``local`` or ``slurm`` (submitit) or ``ray``, with its own ``options``.
    """

    command = ""
    judge: Judge | None = None  # of a search, which has a study of its own
    objectives: Sequence[tuple[str, str]] = ()  # of a search: its metrics, and whether to minimize or maximize each
    ledger: Ledger | None = None  # once jobs have been launched
    has_stopped = False  # at a job that failed, as sweep.on_failure=stop asks for
    _is_locked = False

    def __init__(self, n_jobs: int | str = 1, engine: str = "fork", **options: Any):
        self.n_jobs = n_jobs
        self.engine = engine
        self.options = {
            key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for key, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over. A wrong ``n_jobs`` is refused here: Hydra hides what a constructor says."""
        is_number = isinstance(self.n_jobs, int) and self.n_jobs >= 1
        auto = "" if self.engine in ("slurm", "ray") else "auto or "  # what this machine has does not count there
        if not is_number and not (auto and self.n_jobs == "auto"):
            problem = f"hydra.launcher.n_jobs must be {auto}a whole number from 1 on, not {shown(self.n_jobs)}"
            raise ConfigError([problem])
        if self.engine not in ("fork", *_NEEDED):
            raise ConfigError([f"hydra.launcher.engine must be fork, local, slurm or ray, not {shown(self.engine)}"])
        if self.engine in _NEEDED:
            require_extras(*_NEEDED[self.engine])
        if self.engine == "slurm" and shutil.which("srun") is None:
            raise UserError("hydra/launcher=submitit_slurm: there is no SLURM here, srun is not on the PATH")
        self.context = hydra_context
        self.task = task_function
        self.config = config

    @property
    def width(self) -> int:
        """How many jobs run at once."""
        return jobs_at_once(self.n_jobs, sys.maxsize)

    @contextmanager
    def locked(self) -> Iterator[Path]:
        """Within, the folder of the sweep is this process's own; may be nested."""
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        if self._is_locked:
            yield folder
            return
        folder.mkdir(parents=True, exist_ok=True)
        lock = RunFolder(folder, "")
        lock.lock()
        self._is_locked = True
        try:
            yield folder
        finally:
            self._is_locked = False
            lock.release()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run what is missing or has failed, and say of every job what came of it.

        Once a job has failed, with ``sweep.on_failure=stop``, nothing runs any more.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        given = [tuple(map(str, one)) for one in job_overrides]
        with self.locked() as folder:
            if self.ledger is None:
                log.info("sweep in %s", folder)
                self.ledger = Ledger(folder, self.command)
                self.ledger.objectives = list(self.objectives)
            # A search launches its jobs a few at a time; those of before need not be read again.
            planned = self._planned(self.ledger, given)
            self._run(self.ledger, list(planned.values()), len({key_of(one) for one in given}))
        answers = []
        for overrides in given:
            job, own = self.ledger.find(overrides), planned.get(key_of(overrides))
            assert job is not None
            answers.append(_answer(job, own.value if own else None))
        return answers

    def _run(self, ledger: Ledger, planned: Sequence[Planned], count: int) -> None:
        """Run those of the ``planned`` jobs that are not done; ``count`` with those that cannot run."""
        missing = [one for one in planned if one.job.status != "done"]
        if len(missing) < len(planned):
            log.info("%d of %d jobs are done already", len(planned) - len(missing), count)
        self.has_stopped |= len(planned) < count and self.config.sweep.on_failure == "stop"
        if self.has_stopped:
            missing = []
        at_once = jobs_at_once(self.n_jobs, len(missing))
        judge = None
        if self.engine == "fork" and missing:  # jobs elsewhere could not ask it
            judge = self.judge or judge_of(ledger, [one.config for one in planned])
        draws = any(one.config.report for one in missing)
        pool = Pool(partial(self._engine, at_once, judge, draws), at_once, ledger, missing, judge)
        try:
            pool.run()
        except Interrupted:
            from dltrain.commands.sweep import finish_sweep

            finish_sweep(ledger.folder)
            log.warning("to go on: the same command with hydra.sweep.dir=%s", quoted(ledger.folder))
            raise
        self.has_stopped |= pool.has_stopped

    def _engine(self, at_once: int, judge: Judge | None, draws: bool, stack: ExitStack) -> Engine:
        if self.engine == "ray":
            from dltrain.sweep.on_ray import OnRay

            return OnRay(stack, self.context, self.task, self.options)
        if self.engine == "fork":
            return Forked(self.context, self.task, at_once, judge, draws)
        from dltrain.sweep.submitted import Submitted  # of systems with signals for users alone

        return Submitted(self.engine, self.context, self.task, at_once, self.options)

    def _planned(self, ledger: Ledger, job_overrides: Sequence[tuple[str, ...]]) -> dict[Key, Planned]:
        """Every job that can run, with its configuration; the others have failed already, which is told.

        The configurations are composed now: files that change later change no job. A value that is given twice makes
        one job.

        Raises:
            ConfigError: files have changed since jobs of this sweep ran, or two jobs would have the same folder.
        """
        _require_one_way(job_overrides)
        compose = Composer(self.context, self.config)
        found: dict[Key, Planned] = {}
        changed: list[str] = []
        shared: list[str] = []
        for overrides in job_overrides:
            if key_of(overrides) in found:
                continue
            number, known = ledger.number_of(overrides), ledger.find(overrides)
            try:
                config = compose(overrides)
            except ConfigError as error:
                if known and known.status == "done":
                    changed += [f"job {number}: {one}" for one in error.problems]
                else:
                    job = known or ledger.plan(number, overrides, ledger.folder / str(number))
                    job.begun, job.cause, job.result = True, "; ".join(error.problems), {}
                    log.warning("job %d failed before it began: %s [%s]", number, job.cause, " ".join(job.overrides))
                continue
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            values = _values(config)
            job = known or ledger.plan(number, overrides, _folder_of(config))
            changed += _changes(job, values)
            shared += _shared_folder(job, ledger)
            job.config = values
            with read_write(config.hydra):  # of now, wherever and whenever the job will run
                config.hydra.sweep.dir = str(ledger.folder)
                config.hydra.sweep.subdir = str(job.folder.relative_to(ledger.folder))
            found[key_of(overrides)] = Planned(job.overrides, config, job)
        others = [job for job in ledger if key_of(job.overrides) not in found][:_LOOKED_AT]
        for job in others:  # their results will stand beside the new ones
            with suppress(ConfigError):
                changed += _changes(job, _values(compose(job.overrides)))
        if changed:
            changed.append("the configuration has changed since this sweep began: name another hydra.sweep.dir=...")
        if problems := [*changed, *shared]:
            raise ConfigError(problems)
        return found


def register(command: str) -> None:
    """Make our plugins known to Hydra, which takes them from the package ``hydra_plugins`` only.

    ``command`` is what was typed.
    """
    try:
        package = importlib.import_module("hydra_plugins")  # there if another plugin is installed
    except ImportError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    module = sys.modules["hydra_plugins.dltrain"] = ModuleType("hydra_plugins.dltrain")
    vars(package)["dltrain"] = module
    for plugin in (Jobs, Combinations, Search):
        vars(module)[plugin.__name__] = plugin
        plugin.__module__ = module.__name__
        Plugins.instance().register(plugin)
    Jobs.command = command


def _folder_of(config: DictConfig) -> Path:
    """Where a job will run, as Hydra itself will find it."""
    hydra: Any = HydraConfig.instance()
    before = hydra.cfg
    hydra.cfg = config  # its own method would copy it
    try:
        return Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).absolute()
    finally:
        hydra.cfg = before


def _require_one_way(job_overrides: Sequence[Sequence[str]]) -> None:
    """What steers the sweep is no part of what a job is, so jobs cannot differ in it."""
    steering = [set(overrides) - set(naming(overrides)) for overrides in job_overrides]
    every = set[str]().union(*steering)
    if differing := sorted(every - every.intersection(*steering)):
        raise ConfigError([f"{' and '.join(differing)}: it steers the sweep, so it is one for all jobs"])


def _values(config: DictConfig) -> dict[str, Any]:
    """The values of a job by their full keys, as JSON holds them, without those that may change between two tries."""
    nodes: dict[str, Any] = {str(key): config._get_node(key) for key in config if key not in (*STEERING, "resume")}
    content = {
        key: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value() for key, node in nodes.items()
    }
    values: dict[str, Any] = finite(flat(content))
    return values


def _changes(job: Job, now: Mapping[str, Any]) -> list[str]:
    """How the values of a job differ from those that it was planned with before, if it was."""
    return [
        f"job {job.number}: {key} was {shown(job.config.get(key))}, is {shown(now.get(key))}"
        for key in dict.fromkeys([*job.config, *now])
        if job.config and job.config.get(key) != now.get(key)
    ]


def _shared_folder(job: Job, ledger: Ledger) -> list[str]:
    """Two jobs in one folder would take each other's results for their own."""
    other = next((one for one in ledger.jobs.values() if one is not job and one.folder == job.folder), None)
    if other is None:
        return []
    return [
        f"jobs {other.number} and {job.number} would share the folder {job.folder}:"
        " let hydra.sweep.subdir tell them apart, as ${hydra.job.num} does"
    ]


def _answer(job: Job, value: float | None) -> JobReturn:
    """What a sweeper is told of a job: the best value of the monitored metric, NaN where there is none.

    ``value``: what training returned, where the job ran now.
    """
    if value is None:
        value = job.metrics.get(job.monitor or "", math.nan) if job.status == "done" else math.nan
    answer = JobReturn()
    answer.overrides = list(job.overrides)
    answer.return_value = value
    answer.status = JobStatus.COMPLETED
    return answer
