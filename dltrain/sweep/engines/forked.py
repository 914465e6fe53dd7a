"""Jobs as processes of this machine, each forked from one that has imported everything already.

A forked job starts within milliseconds, shares no state with the jobs before it, and takes nothing with it when it
is killed. Imports no torch before the first job.
"""

import contextlib
import glob
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from hydra.types import HydraContext

from dltrain.errors import UserError
from dltrain.sweep.pool import Answer, Planned, perform
from dltrain.sweep.pruning import Judge
from dltrain.system.machine import available_memory, core_count, die_with_parent
from dltrain.system.signals import HANDLED
from dltrain.trained.launch.job import SweepTask
from dltrain.training.monitor import Pruning

_JOB_MEMORY = 1.5 * 2**30  # bytes that a job with torch and a small data set takes


@dataclass
class _Process:
    planned: Planned
    slot: int
    process: BaseProcess
    pipe: Connection
    questions: Connection | None  # of a job that may be pruned

    def answer(self) -> Answer:
        found = None
        with contextlib.suppress(EOFError):  # it was killed
            found = self.pipe.recv()
        for end in (self.pipe, self.questions):
            if end:
                end.close()
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            return Answer(code, f"killed by signal {-code} ({signal.Signals(-code).name})", is_lost=True)
        return found or Answer(code)

    def end(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Forked:
    """``at_once`` jobs share the threads and the GPUs of this machine; ``judge`` answers those that may be pruned.

    ``draws``: whether jobs draw their curves.

    Raises:
        UserError: this system has no fork.
    """

    def __init__(self, context: HydraContext, task: SweepTask, at_once: int, judge: Judge | None, draws: bool):
        if not hasattr(os, "fork"):
            raise UserError("this system cannot fork processes: use hydra/launcher=basic")
        self.context = context
        self.task = task
        self.at_once = at_once
        self.judge = judge
        self.shows = at_once == 1
        self.pid = os.getpid()
        _import_once(draws)

    def start(self, planned: Planned, slot: int) -> _Process:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        questions, asked = multiprocessing.Pipe() if self.judge else (None, None)
        process = multiprocessing.get_context("fork").Process(
            target=self._child,
            args=(planned, theirs, asked, [one for one in (ours, questions) if one], slot),
            name=f"job {planned.job.number}",
        )
        process.start()
        theirs.close()
        if asked:
            asked.close()
        return _Process(planned, slot, process, ours, questions)

    def ended(self, running: Sequence[_Process], seconds: float) -> list[_Process]:
        asking = {one.questions: one for one in running if one.questions}
        ready = wait([*asking, *(one.process.sentinel for one in running)], seconds)
        for question in ready:
            if isinstance(question, Connection):
                self._reply(asking[question])
        return [one for one in running if one.process.sentinel in ready]

    def _reply(self, asking: _Process) -> None:
        assert asking.questions and self.judge
        try:
            question = asking.questions.recv()
        except (EOFError, ConnectionError):  # the job is no more, and wait() says so next
            asking.questions.close()
            asking.questions = None
            return
        answer = self.judge.prunes(asking.planned.job, *question)
        with contextlib.suppress(ConnectionError):
            asking.questions.send(answer)

    def _child(
        self, planned: Planned, pipe: Connection, asked: Connection | None, others: Sequence[Connection], slot: int
    ) -> None:
        """One job, in the process that is its own; ``others`` are the ends that its parent keeps."""
        for connection in others:
            connection.close()
        for number in HANDLED:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, signal.SIG_DFL)
        # A job must not go on alone: started again, the sweep would find its folder taken.
        die_with_parent(signal.SIGKILL, self.pid)
        pruning = None
        if self.judge and asked:
            pruning = Pruning(partial(_ask, asked), self.judge.name, self.judge.metric)
        # Also for processes that the job starts. train.log has what the others say.
        _silence(1)
        if not self.shows:
            _silence(2)
        with contextlib.ExitStack() as stack:
            if not self.shows:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
                take_share(slot, self.at_once)
            answer = perform(self.context, self.task, planned.config, pruning)
        pipe.send(answer)
        pipe.close()
        os._exit(answer.code)  # what the parent has opened is the parent's to close


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _ask(asked: Connection, epoch: int, value: float, asks: bool) -> bool:
    """In a job's process: tell of an epoch, and hear whether to stop there."""
    asked.send((epoch, value, asks))
    return bool(asked.recv())


def take_share(slot: int, slots: int) -> None:
    """The threads and the GPU of one of ``slots`` jobs that run at once."""
    import torch

    if gpus := _gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, core_count() // slots)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def _import_once(draws: bool) -> None:
    """Import what every job needs, before the first of them is forked; nothing here starts a thread."""
    from dltrain.system.startup import defer_compiler

    defer_compiler()
    import dltrain.trained.train  # noqa: F401

    if draws:  # matplotlib takes a third of a second, as long as a short job
        import matplotlib.backends.backend_agg  # noqa: F401


def jobs_at_once(n_jobs: int | str, jobs: int) -> int:
    """``n_jobs``, or for ``auto`` as many as cores, memory and GPUs allow; at most as many as there are ``jobs``."""
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
