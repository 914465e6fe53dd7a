"""Jobs as processes of this machine, forked from that of the sweep, which has imported everything already.

A forked job starts within milliseconds, shares no state with the jobs before it, and harms no other when it is killed.
Imports no torch before the first job.
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
from dltrain.sweep.study import Study
from dltrain.system.machine import available_memory, core_count, die_with_parent
from dltrain.system.process import HANDLED_SIGNALS
from dltrain.trained.launch.job import SweepTask
from dltrain.training.monitor import Pruning

_JOB_MEMORY = 1.5 * 2**30  # bytes that a job with torch and a small data set takes


@dataclass
class _Process:
    planned: Planned
    slot: int
    process: BaseProcess
    pipe: Connection  # a job sends what it asks its study, and in the end its answer
    result: Answer | None = None

    def answer(self) -> Answer:
        with contextlib.suppress(EOFError, OSError):  # it was killed
            while self.result is None and self.pipe.poll():
                self.receive()
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            return Answer(code, f"killed by signal {-code} ({signal.Signals(-code).name})", is_lost=True)
        return self.result or Answer(code)

    def receive(self) -> tuple[int, float, bool] | None:
        """What the job asks; ``None`` for its answer, which is kept."""
        message = self.pipe.recv()
        if isinstance(message, Answer):
            self.result = message
            return None
        question: tuple[int, float, bool] = message
        return question

    def end(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Forked:
    """``at_once`` jobs share the threads and the GPUs of this machine; ``study`` prunes jobs, if there is one.

    ``draws``: whether jobs draw their curves.

    Raises:
        UserError: this system has no fork.
    """

    def __init__(self, context: HydraContext, task: SweepTask, at_once: int, study: Study | None, draws: bool):
        if not hasattr(os, "fork"):
            raise UserError("this system cannot fork processes: use hydra/launcher=basic")
        self.context = context
        self.task = task
        self.at_once = at_once
        self.study = study
        self.shows = at_once == 1
        self.pid = os.getpid()
        _import_once(draws)

    def start(self, planned: Planned, slot: int) -> _Process:
        parent, child = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=self._child, args=(planned, child, slot), name=f"job {planned.job.number}"
        )
        process.start()
        child.close()
        return _Process(planned, slot, process, parent)

    def ended(self, running: Sequence[_Process], seconds: float) -> list[_Process]:
        pipes = {job.pipe: job for job in running if not job.pipe.closed}
        ready = wait([*pipes, *(job.process.sentinel for job in running)], seconds)
        for pipe in ready:
            if isinstance(pipe, Connection):
                self._reply(pipes[pipe])
        return [job for job in running if job.process.sentinel in ready]

    def _reply(self, job: _Process) -> None:
        try:
            question = job.receive()
            if question and self.study:
                job.pipe.send(self.study.prunes(job.planned.job, *question))
        except (EOFError, ConnectionError):  # the job has ended, and wait() says so next
            job.pipe.close()

    def _child(self, planned: Planned, pipe: Connection, slot: int) -> None:
        """Run a job in its process."""
        for number in HANDLED_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, signal.SIG_DFL)
        # A job must not go on alone: started again, the sweep would find its folder taken.
        die_with_parent(signal.SIGKILL, self.pid)
        pruning = None
        if self.study:
            pruning = Pruning(partial(_ask, pipe), self.study.pruner_name, self.study.metric)
        # Also for processes that the job starts. What jobs that run at once would show is in train.log.
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


def _ask(pipe: Connection, epoch: int, value: float, asks: bool) -> bool:
    """In a job's process: report an epoch, and return whether to stop there."""
    pipe.send((epoch, value, asks))
    return bool(pipe.recv())


def take_share(slot: int, slots: int) -> None:
    """Use the threads and the GPU that are for the job in ``slot``, with as many ``slots`` as jobs at once."""
    import torch

    if gpus := _gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, core_count() // slots)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def _import_once(draws: bool) -> None:
    """Import what every job needs, before the first of them is forked; nothing here starts a thread."""
    from dltrain.system.device import defer_compiler

    defer_compiler()
    import dltrain.trained.train  # noqa: F401

    if draws:  # matplotlib takes a third of a second, as long as a short job
        import matplotlib.backends.backend_agg  # noqa: F401


def jobs_at_once(n_jobs: int | str, jobs: int) -> int:
    """``n_jobs``, or for ``auto`` as many as cores, memory and GPUs allow; at most as many as there are ``jobs``."""
    if isinstance(n_jobs, int):
        return min(n_jobs, max(jobs, 1))
    fitting = int(available_memory() // _JOB_MEMORY)
    return max(1, min(len(_gpus()) or core_count(), fitting, jobs))


def _gpus() -> list[str]:
    """The GPUs that CUDA may use, by number, without starting CUDA, which no fork survives."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    return [str(number) for number in range(len(glob.glob("/dev/nvidia[0-9]*")))]
