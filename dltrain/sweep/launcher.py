"""Hydra's launcher of ours: which jobs a sweep has, which of them are missing, and who runs them. Imports no torch."""

import importlib
import logging
import math
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
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

from dltrain.config import check
from dltrain.config.rules import shown
from dltrain.config.translate import is_composition_error, translated
from dltrain.errors import ConfigError, UserError
from dltrain.extras import require_extras
from dltrain.record import flat
from dltrain.run import RunFolder
from dltrain.sweep.combinations import Combinations
from dltrain.sweep.forked import Forked, jobs_at_once
from dltrain.sweep.ledger import OURS, Job, Ledger, naming
from dltrain.sweep.pool import Engine, Planned, Pool
from dltrain.sweep.pruning import Judge, judge_of
from dltrain.sweep.search import Search

log = logging.getLogger(__name__)

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
    ledger: Ledger | None = None  # once jobs have been launched

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

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run what is missing or has failed, and say of every job what came of it."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        lock = RunFolder(folder, "")
        lock.lock()
        try:
            # A search launches its jobs a few at a time; those of before need not be read again.
            ledger = self.ledger = self.ledger or Ledger(folder, self.command)
            planned = self._planned(ledger, [tuple(map(str, one)) for one in job_overrides])
            names = [naming(map(str, one)) for one in job_overrides]
            missing = [one for one in planned.values() if one.job.status != "done"]
            if done := len(planned) - len(missing):
                log.info("%d of %d jobs are done already", done, len(set(names)))
            if self.config.sweep.on_failure == "stop" and len(planned) < len(set(names)):
                missing = []
            at_once = jobs_at_once(self.n_jobs, len(missing))
            judge = None
            if self.engine == "fork" and missing:  # jobs elsewhere could not ask it
                judge = self.judge or judge_of(ledger, [one.config for one in planned.values()])
            Pool(partial(self._engine, at_once, judge), at_once, ledger, missing, judge).run()
        finally:
            lock.release()
        values = {name: one.value for name, one in planned.items()}
        return [_answer(ledger.jobs[name], values.get(name)) for name in names]

    def _engine(self, at_once: int, judge: Judge | None, stack: ExitStack) -> Engine:
        if self.engine == "ray":
            from dltrain.sweep.on_ray import OnRay

            return OnRay(stack, self.context, self.task, self.options)
        if self.engine == "fork":
            return Forked(self.context, self.task, at_once, judge)
        from dltrain.sweep.submitted import Submitted  # of systems with signals for users alone

        return Submitted(self.engine, self.context, self.task, at_once, self.options)

    def _planned(self, ledger: Ledger, job_overrides: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Planned]:
        """Every job that can run, with its configuration; the others have failed already, which is told.

        The configurations are composed now: files that change later change no job. A value that is given twice makes
        one job.

        Raises:
            ConfigError: the configuration of a job that has run already has changed since.
        """
        found: dict[tuple[str, ...], Planned] = {}
        problems = []
        for overrides in job_overrides:
            named = naming(overrides)
            number = ledger.number_of(named)
            known = ledger.jobs.get(named)
            try:
                config = self._composed(overrides)
            except ConfigError as error:
                if known and known.status == "done":
                    problems += [f"job {number}: {one}" for one in error.problems]
                else:
                    job = known or ledger.plan(number, named, ledger.folder / str(number))
                    job.begun, job.cause, job.result = True, "; ".join(error.problems), {}
                    log.warning("job %d failed before it began: %s [%s]", number, job.cause, " ".join(named))
                continue
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            job = known or ledger.plan(number, named, _folder_of(config))
            if known:
                problems += [f"job {number}: {one}" for one in _changes(job, config)]
            with read_write(config.hydra):  # of now, wherever and whenever the job will run
                config.hydra.sweep.dir = str(ledger.folder)
                config.hydra.sweep.subdir = str(job.folder.relative_to(ledger.folder))
            found[named] = Planned(named, config, job)
        if problems:
            raise ConfigError(
                [*problems, "the configuration has changed since this sweep began: name another hydra.sweep.dir=..."]
            )
        return found

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job.

        Raises:
            ConfigError: it cannot be composed, or is wrong.
        """
        try:
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        except Exception as error:
            if not is_composition_error(error):
                raise
            raise ConfigError(translated(error)) from error
        check(config)
        return config


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
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).absolute()
    finally:
        HydraConfig.instance().cfg = before


def _changes(job: Job, config: DictConfig) -> list[str]:
    """How the configuration of a job differs from the one that it ran with."""
    file = job.folder / ".hydra" / "config.yaml"
    if not file.is_file():
        return []
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    before, now = (flat(_plain(one)) for one in (OmegaConf.load(file), kept))
    steering = ("resume", OURS)
    return [
        f"{key} was {shown(before.get(key))}, is {shown(now.get(key))}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and not key.startswith(steering)
    ]


def _plain(config: Any) -> dict[str, Any]:
    content = OmegaConf.to_container(config)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


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
