"""Runs the jobs of a sweep, each in a process of its own, forked from one that has imported everything already.

A forked job starts within milliseconds, shares no state with the jobs before it, and takes nothing with it when it
is killed. Imports no torch before the first job.
"""

import contextlib
import ctypes
import glob
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig

from dltrain import signals
from dltrain.machine import available_memory, core_count
from dltrain.monitor import Pruning
from dltrain.sweep.board import Board
from dltrain.sweep.ledger import Job, Ledger
from dltrain.sweep.pruning import Judge

_JOB_MEMORY = 1.5 * 2**30  # bytes that a job with torch and a small data set takes
_POLL = 0.5  # seconds between two looks at the running jobs
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


@dataclass
class Planned:
    """A job that is to run, with its configuration."""

    overrides: tuple[str, ...]
    config: DictConfig
    job: Job
    tries: int = 0
    value: float | None = None  # what training returned


@dataclass
class _Started:
    planned: Planned
    process: BaseProcess
    answer: Connection
    questions: Connection | None  # of a job that may be pruned
    slot: int


@dataclass
class Task:
    """What a job does, as Hydra has handed it over."""

    function: Callable[..., Any]
    context: HydraContext


class Run:
    """The jobs that are to run, from the first to the last, ``at_once`` of them beside one another."""

    def __init__(self, task: Task, at_once: int, ledger: Ledger, missing: Sequence[Planned], judge: Judge | None):
        self.task = task
        self.ledger = ledger
        self.judge = judge
        self.waiting = deque(missing)
        self.at_once = at_once
        self.slots = list(range(at_once))
        self.running: dict[int, _Started] = {}  # by what wait() says of its process
        self.stops_at_failure = any(one.config.sweep.on_failure == "stop" for one in missing)
        self.retries = max((int(one.config.sweep.retries) for one in missing), default=0)
        self.board = Board(len(missing), live=at_once > 1)

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
                    self._serve()
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

    def _start(self, planned: Planned) -> None:
        job, slot = planned.job, self.slots.pop(0)
        planned.tries += 1
        job.begun, job.cause, job.result = True, "", {}
        resumes = (job.folder / "checkpoints").is_dir()
        if resumes and planned.config.resume == "off":
            planned.config.resume = "auto"
        self.ledger.write()
        self.board.begins(job, again=resumes or planned.tries > 1)
        if self.judge:
            self.judge.begin(job)
        ours, theirs = multiprocessing.Pipe(duplex=False)
        questions, asked = multiprocessing.Pipe() if self.judge else (None, None)
        pruning = Pruning(partial(_ask, asked), self.judge.name, self.judge.metric) if self.judge and asked else None
        share = (slot, self.at_once) if self.at_once > 1 else None
        arguments = (self.task, planned.config, theirs, [one for one in (ours, questions) if one], pruning, share)
        process = multiprocessing.get_context("fork").Process(target=_child, args=arguments, name=f"job {job.number}")
        process.start()
        theirs.close()
        if asked:
            asked.close()
        self.running[process.sentinel] = _Started(planned, process, ours, questions, slot)

    def _serve(self) -> None:
        """Wait until a job asks something or ends, for a while at most, and see to it."""
        asking = {one.questions: one for one in self.running.values() if one.questions}
        for ready in wait([*asking, *self.running], _POLL):
            if isinstance(ready, Connection):
                self._reply(asking[ready])
            else:
                self._finish(self.running.pop(ready))  # type: ignore[arg-type]

    def _reply(self, started: _Started) -> None:
        assert started.questions and self.judge
        try:
            question = started.questions.recv()
        except (EOFError, ConnectionError):  # the job is no more, and wait() says so next
            started.questions.close()
            started.questions = None
            return
        answer = self.judge.prunes(started.planned.job, *question)
        with contextlib.suppress(ConnectionError):
            started.questions.send(answer)

    def _finish(self, started: _Started) -> None:
        planned, job = started.planned, started.planned.job
        told: dict[str, Any] = {}
        with contextlib.suppress(EOFError):  # it was killed
            told = started.answer.recv()
        started.answer.close()
        if started.questions:
            started.questions.close()
        started.process.join()
        self.slots.append(started.slot)
        job.refresh()
        code = started.process.exitcode
        if code and code < 0:
            job.cause = f"killed by signal {-code} ({signal.Signals(-code).name})"
        elif code and job.status != "interrupted":
            job.cause = str(told.get("cause") or job.result.get("error") or f"exit code {code}")
        self.ledger.write()
        if self.judge:
            self.judge.end(job)
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


def _ask(asked: Connection, epoch: int, value: float, asks: bool) -> bool:
    """In a job's process: tell of an epoch, and hear whether to stop there."""
    asked.send((epoch, value, asks))
    return bool(asked.recv())


def _child(
    task: Task,
    config: DictConfig,
    answer: Connection,
    others: Sequence[Connection],
    pruning: Pruning | None,
    share: tuple[int, int] | None,
) -> None:
    """One job, in the process that is its own; ``others`` are the ends that its parent keeps."""
    for connection in others:
        connection.close()
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
                hydra_context=task.context,
                task_function=partial(task.function, pruning=pruning),
                config=config,
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


def jobs_at_once(n_jobs: int | str, jobs: int) -> int:
    """How many of ``jobs`` run at once; ``auto`` as many as cores, memory and GPUs allow."""
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
