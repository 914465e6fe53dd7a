"""Runs the jobs of a sweep, whatever their engine is: processes of this machine, the queue of a cluster, Ray.

Imports no torch.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import Any, Protocol

from hydra.types import HydraContext
from omegaconf import DictConfig

from dltrain.sweep.board import Board
from dltrain.sweep.ledger import Job, Ledger
from dltrain.sweep.study import Study
from dltrain.system import process
from dltrain.system.answer import is_reported, report
from dltrain.system.machine import shorten_spin
from dltrain.trained.launch.job import SweepTask
from dltrain.training.monitor import Pruning

_POLL = 0.5  # seconds between two looks at the running jobs


@dataclass
class Planned:
    """A job that is to run, with its configuration."""

    job: Job
    config: DictConfig
    tries: int = 0
    value: float | None = None  # what training returned


@dataclass
class Answer:
    """How the process of a job ended: with the exit code of the same run alone, and why."""

    code: int = 0
    cause: str = ""
    value: float | None = None
    is_lost: bool = False  # it was killed, or gave no answer: ``cause`` says what is known


def perform(context: HydraContext, task: SweepTask, config: DictConfig, pruning: Pruning | None = None) -> Answer:
    """Run a job in this process, which does nothing else: the result goes into the job's folder, not to stdout."""
    shorten_spin()  # a machine of a cluster need not have the environment of the command
    answer = Answer()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            answer.value = task.run(context, config, pruning)
        except BaseException as error:
            answer.code = report(error)
            if not is_reported(error):  # else result.json says why
                answer.cause = " ".join(str(error).split()) or type(error).__name__
    return answer


class Started(Protocol):
    """A job that has been handed to its engine."""

    planned: Planned
    slot: int

    def answer(self) -> Answer:
        """How the job ended, once it has."""

    def end(self) -> None:
        """Let it save its state and end."""

    def kill(self) -> None:
        """End it at once."""


class Engine(Protocol):
    """What runs jobs."""

    shows: bool  # whether what a job writes is seen on this terminal

    def start(self, planned: Planned, slot: int) -> Started:
        """Start a job; ``slot`` is a number below that of the jobs at once, which no other running job has."""

    def ended(self, running: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Those of the ``running`` jobs that have ended; waits at most so many ``seconds`` for the first."""


class Pool:
    """Runs ``missing``, ``at_once`` at a time, and keeps the ledger of them.

    ``engine`` is made if there is a job; what it leaves on the stack is undone at the end. The jobs are trials
    of the ``study``, if there is one.
    """

    def __init__(
        self,
        engine: Callable[[ExitStack], Engine],
        at_once: int,
        ledger: Ledger,
        missing: Sequence[Planned],
        study: Study | None = None,
    ):
        self.make_engine = engine
        self.study = study
        self.ledger = ledger
        self.waiting = deque(missing)
        self.slots = list(range(at_once))
        self.running: list[Started] = []
        self.has_stopped = False  # at a failure
        self.stops_at_failure = any(entry.config.sweep.on_failure == "stop" for entry in missing)
        self.retries = max((int(entry.config.sweep.retries) for entry in missing), default=0)

    def run(self) -> None:
        if not self.waiting:
            self.ledger.write()
            return
        with ExitStack() as stack:
            self.engine = self.make_engine(stack)
            self._run_all()

    def _run_all(self) -> None:
        self.board = Board(len(self.waiting), live=not self.engine.shows)
        with process.signals_handled() as stop, stop.deferred(), self.board:
            try:
                while (self.waiting and not stop.requested) or self.running:
                    while self.waiting and self.slots and not stop.requested:
                        self._start(self.waiting.popleft())
                    if stop.requested:  # where Ctrl-C has reached the jobs already, this changes nothing
                        for started in self.running:
                            started.end()
                    for started in self.engine.ended(self.running, _POLL):
                        self.running.remove(started)
                        self._finish(started, is_stopping=stop.requested)
                    self.board.show([started.planned.job for started in self.running])
                stop.check()
            finally:
                for started in self.running:
                    started.kill()
                    started.planned.job.refresh()
                self.ledger.write()

    def _start(self, planned: Planned) -> None:
        job = planned.job
        planned.tries += 1
        job.begun, job.cause, job.result = True, "", {}
        resumes = (job.folder / "checkpoints").is_dir()
        if resumes and planned.config.resume == "off":
            planned.config.resume = "auto"
        self.ledger.write()
        self.board.begins(job, again=resumes or planned.tries > 1)
        if self.study:
            self.study.begin(job)
        self.running.append(self.engine.start(planned, self.slots.pop(0)))

    def _finish(self, started: Started, is_stopping: bool) -> None:
        planned, job = started.planned, started.planned.job
        answer = started.answer()
        planned.value = answer.value
        self.slots.append(started.slot)
        job.refresh()
        job.cause = _cause(job, answer, is_stopping)
        job.begun = bool(job.result) or not (is_stopping and answer.is_lost)  # else it still waited in a queue
        self.ledger.write()
        again = answer.code != 2 and job.status == "failed" and planned.tries <= self.retries and not is_stopping
        if job.begun:
            self.board.ends(job, again)
        if again:
            self.waiting.appendleft(planned)
            return
        if self.study:
            self.study.end(job)
        if job.status == "failed" and self.stops_at_failure:
            self.has_stopped = True
            self.waiting.clear()


def _cause(job: Job, answer: Answer, is_stopping: bool) -> str:
    """Why a job that has ended failed, in one line; empty where it is done, or was interrupted with the sweep."""
    status = job.result.get("status")
    if status == "done":  # whatever has ended its process since
        return ""
    if is_stopping and (status == "interrupted" or (answer.is_lost and status != "running")):
        return ""
    if answer.is_lost:
        return answer.cause
    if status == "interrupted":
        return "a signal has ended it"
    known = answer.cause or job.cause or job.result.get("error")
    return str(known or f"it ended without a result (exit code {answer.code})")
