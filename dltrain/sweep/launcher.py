"""Runs the jobs of a sweep, each in a process of its own, forked from one that has imported everything already.

A forked job starts within milliseconds, shares no state with the jobs before it, and takes nothing with it when it
is killed. Imports no torch before the first job.
"""

import contextlib
import ctypes
import glob
import importlib
import logging
import math
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from dltrain import signals
from dltrain.config.rules import shown
from dltrain.errors import ConfigError, UserError
from dltrain.machine import available_memory, core_count
from dltrain.record import flat
from dltrain.run import RunFolder
from dltrain.sweep.board import Board
from dltrain.sweep.ledger import Job, Ledger
from dltrain.sweep.search import Search

log = logging.getLogger(__name__)

_JOB_MEMORY = 1.5 * 2**30  # bytes that a job with torch and a small data set takes
_POLL = 0.5  # seconds between two looks at the running jobs
_OURS = "sweep."  # keys that steer the sweep, and name no job
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


@dataclass
class _Planned:
    """A job that is to run, with its configuration."""

    overrides: tuple[str, ...]
    config: DictConfig
    job: Job
    tries: int = 0
    value: float | None = None  # what training returned


@dataclass
class _Started:
    planned: _Planned
    process: BaseProcess
    answer: Connection
    slot: int


class Jobs(Launcher):
    """Hydra's launcher for one machine: ``n_jobs`` at once, ``auto`` as many as cores, memory and GPUs allow."""

    command = ""

    def __init__(self, n_jobs: int | str = 1):
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over. A wrong ``n_jobs`` is refused here: Hydra hides what a constructor says."""
        if self.n_jobs != "auto" and not (isinstance(self.n_jobs, int) and self.n_jobs >= 1):
            problem = f"hydra.launcher.n_jobs must be auto or a whole number from 1 on, not {shown(self.n_jobs)}"
            raise ConfigError([problem])
        self.context = hydra_context
        self.task = task_function
        self.config = config

    @property
    def width(self) -> int:
        """How many jobs run at once."""
        return _jobs_at_once(self.n_jobs, sys.maxsize)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run what is missing or has failed, and say of every job what came of it."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if not hasattr(os, "fork"):
            raise UserError("this system cannot fork processes: use hydra/launcher=basic")
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        lock = RunFolder(folder, "")
        lock.lock()
        try:
            ledger = Ledger(folder, self.command)
            planned = self._planned(ledger, [tuple(map(str, one)) for one in job_overrides])
            once = {one.overrides: one for one in planned}  # a value that is given twice makes one job
            missing = [one for one in once.values() if one.job.status != "done"]
            if len(missing) < len(once):
                log.info("%d of %d jobs are done already", len(once) - len(missing), len(once))
            _Run(self, ledger, missing).all()
        finally:
            lock.release()
        return [_answer(one) for one in planned]

    def _planned(self, ledger: Ledger, job_overrides: Sequence[tuple[str, ...]]) -> list[_Planned]:
        """Every job with its configuration, which is composed now: files that change later change no job.

        Raises:
            ConfigError: the configuration of a job that has run already has changed since.
        """
        found, problems = [], []
        for overrides in job_overrides:
            named = tuple(one for one in filter_overrides(overrides) if not one.lstrip("+").startswith(_OURS))
            number = ledger.number_of(named)
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            known = ledger.jobs.get(named)
            job = known or ledger.plan(number, named, _folder_of(config))
            if known:
                problems += [f"job {number}: {one}" for one in _changes(job, config)]
            found.append(_Planned(named, config, job))
        if problems:
            raise ConfigError(
                [*problems, "the configuration has changed since this sweep began: name another hydra.sweep.dir=..."]
            )
        return found


class _Run:
    """The jobs that are to run, from the first to the last."""

    def __init__(self, launcher: Jobs, ledger: Ledger, missing: Sequence[_Planned]):
        self.launcher = launcher
        self.ledger = ledger
        self.waiting = deque(missing)
        self.at_once = _jobs_at_once(launcher.n_jobs, len(missing))
        self.slots = list(range(self.at_once))
        self.running: dict[int, _Started] = {}  # by what wait() says of its process
        self.stops_at_failure = any(one.config.sweep.on_failure == "stop" for one in missing)
        self.retries = max((int(one.config.sweep.retries) for one in missing), default=0)
        self.board = Board(len(missing), live=self.at_once > 1)

    def all(self) -> None:
        if not self.waiting:
            self.ledger.write()
            return
        _import_once()
        with signals.handled() as stop, stop.deferred(), self.board:
            try:
                while (self.waiting and not stop.requested) or self.running:
                    while self.waiting and self.slots and not stop.requested:
                        self._start(self.waiting.popleft())
                    for sentinel in wait(list(self.running), _POLL):
                        self._finish(self.running.pop(sentinel))  # type: ignore[arg-type]
                    self.board.show([one.planned.job for one in self.running.values()])
                    if stop.requested:
                        self._end_all()
                stop.check()
            finally:
                for started in self.running.values():
                    started.process.kill()
                    started.process.join()
                    started.planned.job.refresh()
                self.ledger.write()

    def _start(self, planned: _Planned) -> None:
        job, slot = planned.job, self.slots.pop(0)
        planned.tries += 1
        job.begun, job.cause, job.result = True, "", {}
        resumes = (job.folder / "checkpoints").is_dir()
        if resumes and planned.config.resume == "off":
            planned.config.resume = "auto"
        self.ledger.write()
        self.board.begins(job, again=resumes or planned.tries > 1)
        ours, theirs = multiprocessing.Pipe(duplex=False)
        share = (slot, self.at_once) if self.at_once > 1 else None
        process = multiprocessing.get_context("fork").Process(
            target=_child, args=(self.launcher, planned, theirs, share), name=f"job {job.number}"
        )
        process.start()
        theirs.close()
        self.running[process.sentinel] = _Started(planned, process, ours, slot)

    def _finish(self, started: _Started) -> None:
        planned, job = started.planned, started.planned.job
        told: dict[str, Any] = {}
        with contextlib.suppress(EOFError):  # it was killed
            told = started.answer.recv()
        started.answer.close()
        started.process.join()
        self.slots.append(started.slot)
        job.refresh()
        code = started.process.exitcode
        if code and code < 0:
            job.cause = f"killed by signal {-code} ({signal.Signals(-code).name})"
        elif code and job.status != "interrupted":
            job.cause = str(told.get("cause") or job.result.get("error") or f"exit code {code}")
        self.ledger.write()
        again = bool(code) and code != 2 and job.status == "failed" and planned.tries <= self.retries
        self.board.ends(job, again)
        planned.value = told.get("value")
        if again:
            self.waiting.appendleft(planned)
        elif job.status == "failed" and self.stops_at_failure:
            self.waiting.clear()

    def _end_all(self) -> None:
        """Have the running jobs save their state and leave; where Ctrl-C has told them so already, this is nothing."""
        for started in self.running.values():
            started.process.terminate()


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
    for plugin in (Jobs, Search):
        vars(module)[plugin.__name__] = plugin
        plugin.__module__ = module.__name__
        Plugins.instance().register(plugin)
    Jobs.command = command


def _child(launcher: Jobs, planned: _Planned, answer: Connection, share: tuple[int, int] | None) -> None:
    """One job, in the process that is its own."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    _die_with_parent()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = nowhere  # the result of a sweep is one line, and not this one's
        if share is not None:
            sys.stderr = nowhere  # train.log has it
            _take_share(*share)
        told: dict[str, Any] = {}
        code = 0
        try:
            done = run_job(
                hydra_context=launcher.context,
                task_function=launcher.task,
                config=planned.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            told["value"] = done.return_value
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
            error = leave.__context__
            told["cause"] = " ".join(str(error or "").split()) or type(error).__name__
        answer.send(told)
        answer.close()
    os._exit(code)  # what the parent has opened is the parent's to close


def _die_with_parent() -> None:
    """A job must not go on alone: started again, the sweep would find its folder taken. Linux can see to that."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it went before this
            os._exit(1)


def _take_share(slot: int, slots: int) -> None:
    """The threads and the GPU of one of ``slots`` jobs that run at once."""
    import torch

    if gpus := _gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, core_count() // slots)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def _import_once() -> None:
    """Import what every job needs, before the first of them is forked; nothing here starts a thread."""
    from dltrain.startup import defer_compiler

    defer_compiler()
    import dltrain.commands.train  # noqa: F401


def _jobs_at_once(n_jobs: int | str, jobs: int) -> int:
    if isinstance(n_jobs, int):
        return min(n_jobs, max(jobs, 1))
    room = max(1, int(available_memory() // _JOB_MEMORY))
    return max(1, min(len(_gpus()) or core_count(), room, jobs))


def _gpus() -> list[str]:
    """The GPUs that CUDA may use, by number, without starting CUDA, which no fork survives."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one for one in visible.split(",") if one.strip() not in ("", "-1")]
    return [str(number) for number in range(len(glob.glob("/dev/nvidia[0-9]*")))]


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
    steering = ("resume", _OURS)
    return [
        f"{key} was {shown(before.get(key))}, is {shown(now.get(key))}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and not key.startswith(steering)
    ]


def _plain(config: Any) -> dict[str, Any]:
    content = OmegaConf.to_container(config)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _answer(planned: _Planned) -> JobReturn:
    """What a sweeper is told of a job: the best value of the monitored metric, NaN where there is none."""
    job, value = planned.job, planned.value
    if value is None:
        value = job.metrics.get(job.monitor or "", math.nan) if job.status == "done" else math.nan
    answer = JobReturn()
    answer.overrides = list(planned.overrides)
    answer.return_value = value
    answer.status = JobStatus.COMPLETED
    return answer
