"""The launcher of dltrain: composes the jobs of a sweep that are missing, and starts their engine. Imports no torch."""

import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dltrain.config.compose import Composer
from dltrain.config.rules import shown
from dltrain.config.session import output_folder
from dltrain.errors import ConfigError, Interrupted, UserError, to_type
from dltrain.sweep.engines.forked import Forked, jobs_at_once
from dltrain.sweep.ledger import STEERING, Job, Key, Ledger, key_of, naming
from dltrain.sweep.pool import Engine, Planned, Pool
from dltrain.sweep.result import finish_sweep
from dltrain.sweep.study import Study, grid_study
from dltrain.system.extras import require_extras
from dltrain.system.files import finite, flat

log = logging.getLogger(__name__)

_NEEDED = {  # modules, the extra that has them, and what needs them
    "local": (["submitit"], "slurm", "hydra/launcher=submitit_local"),
    "slurm": (["submitit"], "slurm", "hydra/launcher=submitit_slurm"),
    "ray": (["ray"], "ray", "hydra/launcher=ray"),
}
_LOOKED_AT = 20  # jobs that ran before, and are none of those that are asked for now


class Jobs(Launcher):
    """``n_jobs`` at once; ``auto``: as many as cores, memory and GPUs of this machine allow.

    ``engine``: ``fork`` (processes here), ``local`` or ``slurm`` (submitit) or ``ray``, which take the ``options``.
    """

    composer: Composer
    command = ""
    study: Study | None = None  # of a search
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
        """Keep what Hydra passes, and refuse wrong keys here: Hydra would hide the message of a constructor."""
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
        """Run what is missing or has failed, and return the outcome of every job.

        Once a job has failed, with ``sweep.on_failure=stop``, nothing runs any more.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [tuple(map(str, overrides)) for overrides in job_overrides]
        is_first = self.ledger is None  # a search launches its jobs a few at a time
        if self.ledger is None:
            folder = Path(str(self.config.hydra.sweep.dir)).absolute()
            log.info("sweep in %s", folder)
            self.ledger = Ledger(folder, self.command)
            self.ledger.objectives = list(self.objectives)
        planned = plan_jobs(self.composer.job, self.ledger, jobs, looks_back=is_first)
        self._run(self.ledger, list(planned.values()), len({key_of(overrides) for overrides in jobs}))
        return [_answer(self.ledger.jobs[key_of(overrides)], planned.get(key_of(overrides))) for overrides in jobs]

    def _run(self, ledger: Ledger, planned: Sequence[Planned], count: int) -> None:
        """Run those of the ``planned`` jobs that are not done; ``count`` with those that cannot run."""
        missing = [entry for entry in planned if entry.job.status != "done"]
        if len(missing) < len(planned):
            log.info("%d of %d jobs are done already", len(planned) - len(missing), count)
        self.has_stopped |= len(planned) < count and self.config.sweep.on_failure == "stop"
        if self.has_stopped:
            missing = []
        study = self.study
        if study is None and self.engine == "fork" and missing:  # other engines' jobs could not ask it
            study = grid_study(ledger, [entry.config for entry in planned])
        if study:
            for job in ledger:
                if job.status == "done":  # a sweep that was killed had no time to tell the study
                    study.end(job)
        at_once = jobs_at_once(self.n_jobs, len(missing))
        draws = any(entry.config.report for entry in missing)
        pool = Pool(partial(self._engine, at_once, study, draws), at_once, ledger, missing, study)
        try:
            pool.run()
        except Interrupted:
            finish_sweep(ledger.folder)
            log.warning("to go on: the same command with %s", to_type("hydra.sweep.dir", ledger.folder))
            raise
        self.has_stopped |= pool.has_stopped

    def _engine(self, at_once: int, study: Study | None, draws: bool, stack: ExitStack) -> Engine:
        if self.engine == "ray":
            from dltrain.sweep.engines.on_ray import OnRay

            return OnRay(stack, self.context, self.task, self.options)
        if self.engine == "fork":
            return Forked(self.context, self.task, at_once, study if study and study.pruner else None, draws)
        from dltrain.sweep.engines.submitted import Submitted  # only for systems with SIGUSR1

        return Submitted(self.engine, self.context, self.task, at_once, self.options)


def _answer(job: Job, planned: Planned | None) -> JobReturn:
    """The result of a job for a sweeper: the best value of the monitored metric, NaN where there is none."""
    value = planned.value if planned else None  # what training returned, where the job ran now
    if value is None:
        value = job.metrics.get(job.monitor or "", math.nan) if job.status == "done" else math.nan
    answer = JobReturn()
    answer.overrides = list(job.overrides)
    answer.return_value = value
    answer.status = JobStatus.COMPLETED
    return answer


def plan_jobs(
    compose: Callable[[Sequence[str]], DictConfig],
    ledger: Ledger,
    job_overrides: Sequence[tuple[str, ...]],
    looks_back: bool,
) -> dict[Key, Planned]:
    """Every job that can run, with its configuration; the others have failed already, with a warning.

    The configurations are composed now: files that change later change no job. A value that is given twice makes
    one job. With ``looks_back`` the configurations of jobs that ran before, at most 20 of them, are looked at too.

    Raises:
        ConfigError: files have changed since jobs of this sweep ran, or two jobs would have the same folder.
    """
    _require_one_way(job_overrides)
    planned: dict[Key, Planned] = {}
    changed: list[str] = []
    shared: list[str] = []
    places = {job.folder: job for job in ledger.jobs.values()}
    for overrides in job_overrides:
        if key_of(overrides) in planned:
            continue
        number, known = ledger.number_of(overrides), ledger.find(overrides)
        try:
            config = compose(overrides)
        except ConfigError as error:
            if known and known.status == "done":
                changed += [f"job {number}: {problem}" for problem in error.problems]
            else:
                job = known or ledger.plan(number, overrides, ledger.folder / str(number))
                job.begun, job.cause, job.result = True, "; ".join(error.problems), {}
                log.warning("job %d failed before it began: %s [%s]", number, job.cause, " ".join(job.overrides))
            continue
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        values = _values(config)
        job = known or ledger.plan(number, overrides, output_folder(config))
        changed += _changes(job, values)
        shared += _misplaced(job, ledger.folder, places)
        job.config = values
        with read_write(config.hydra):  # the job may run later, in another directory
            config.hydra.sweep.dir = str(ledger.folder)
            config.hydra.sweep.subdir = os.path.relpath(job.folder, ledger.folder)
        planned[key_of(overrides)] = Planned(job, config)
    others = [job for job in ledger if key_of(job.overrides) not in planned and _is_plain(job)]
    for job in others[:_LOOKED_AT] if looks_back else ():  # their results will stand beside the new ones
        with suppress(ConfigError, RecursionError):
            changed += _changes(job, _values(compose(job.overrides)))
    if changed:
        changed.append("the configuration has changed since this sweep began: name another hydra.sweep.dir=...")
    if problems := [*changed, *shared]:
        raise ConfigError(problems)
    return planned


def _misplaced(job: Job, sweep: Path, places: dict[Path, Job]) -> Iterator[str]:
    """What is wrong with the folder of a job; ``places`` has the folders of the others."""
    if not _is_within(job.folder, sweep):
        yield (
            f"job {job.number} would run in {job.folder}, which is no folder within the sweep's:"
            " let hydra.sweep.subdir name one, as ${hydra.job.num} does"
        )
    elif job.status != "done" and not _is_within(job.folder.resolve(), sweep.resolve()):
        yield (
            f"job {job.number} would run in {job.folder.resolve()}, outside of the sweep, where the link {job.folder}"
            " leads: put the folder itself in the place of the link"
        )
    elif (other := places.setdefault(job.folder, job)) is not job:  # each would take the other's result for its own
        yield (
            f"jobs {other.number} and {job.number} would share the folder {job.folder}:"
            " let hydra.sweep.subdir tell them apart, as ${hydra.job.num} does"
        )


def _is_within(inner: Path, outer: Path) -> bool:
    return os.path.relpath(inner, outer).partition(os.sep)[0] not in (os.curdir, os.pardir)


def _is_plain(job: Job) -> bool:
    """Whether a job of the ledger, which somebody else may have written, can be composed without running its code."""
    return not any("${" in text or "_target_" in text for text in job.overrides)


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
        if job.config and _none_if_empty(job.config.get(key)) != _none_if_empty(now.get(key))
    ]


def _none_if_empty(value: Any) -> Any:
    """A group without an option is as good as none, which is what the sweep of an earlier version has in its place."""
    return None if value == {} else value
