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

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dltrain.config.compose import Composer
from dltrain.config.rules import shown
from dltrain.errors import ConfigError, Interrupted, UserError, to_type
from dltrain.sweep.combinations import Combinations
from dltrain.sweep.engines.forked import Forked, jobs_at_once
from dltrain.sweep.ledger import Job, Ledger, key_of
from dltrain.sweep.planning import plan_jobs
from dltrain.sweep.pool import Engine, Planned, Pool
from dltrain.sweep.pruning import Judge, judge_of
from dltrain.sweep.result import finish_sweep
from dltrain.sweep.search import Search
from dltrain.system.extras import require_extras

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

    composer: Composer
    command = ""
    judge: Judge | None = None  # of a search, which has a study of its own
    objectives: Sequence[tuple[str, str]] = ()  # of a search: its metrics, and whether to minimize or maximize each
    ledger: Ledger | None = None  # once jobs have been launched
    has_stopped = False  # at a job that failed, as sweep.on_failure=stop asks for

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
        self.task: Any = task_function  # a SweepTask
        self.config = config

    @property
    def width(self) -> int:
        """How many jobs run at once."""
        return jobs_at_once(self.n_jobs, sys.maxsize)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run what is missing or has failed, and say of every job what came of it.

        Once a job has failed, with ``sweep.on_failure=stop``, nothing runs any more.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        given = [tuple(map(str, one)) for one in job_overrides]
        begins = self.ledger is None  # a search launches its jobs a few at a time
        if self.ledger is None:
            folder = Path(str(self.config.hydra.sweep.dir)).absolute()
            log.info("sweep in %s", folder)
            self.ledger = Ledger(folder, self.command)
            self.ledger.objectives = list(self.objectives)
        found = plan_jobs(self.composer.job, self.ledger, given, looks_back=begins)
        self._run(self.ledger, list(found.values()), len({key_of(one) for one in given}))
        answers = []
        for overrides in given:
            job, own = self.ledger.find(overrides), found.get(key_of(overrides))
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
            finish_sweep(ledger.folder)
            log.warning("to go on: the same command with %s", to_type("hydra.sweep.dir", ledger.folder))
            raise
        self.has_stopped |= pool.has_stopped

    def _engine(self, at_once: int, judge: Judge | None, draws: bool, stack: ExitStack) -> Engine:
        if self.engine == "ray":
            from dltrain.sweep.engines.on_ray import OnRay

            return OnRay(stack, self.context, self.task, self.options)
        if self.engine == "fork":
            return Forked(self.context, self.task, at_once, judge, draws)
        from dltrain.sweep.engines.submitted import Submitted  # of systems with signals for users alone

        return Submitted(self.engine, self.context, self.task, at_once, self.options)


def register(composer: Composer, command: str) -> None:
    """Make our plugins known to Hydra, which takes them from the package ``hydra_plugins`` only.

    ``composer`` is that of the sweep to come, ``command`` what was typed.
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
    Jobs.composer, Jobs.command = composer, command


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
