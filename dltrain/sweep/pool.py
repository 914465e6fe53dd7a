"""Runs the jobs of a sweep and shows them, whatever their engine: processes of this machine, a queue of a cluster, Ray.

Imports no torch.
"""

import contextlib
import csv
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.types import HydraContext
from omegaconf import DictConfig

from dltrain.report.figures import short
from dltrain.sweep.ledger import Job, Ledger
from dltrain.sweep.study import Study
from dltrain.system import process
from dltrain.system.answer import is_reported, report
from dltrain.system.log import can_redraw
from dltrain.system.machine import shorten_spin
from dltrain.trained.launch.job import SweepTask
from dltrain.training.monitor import Pruning

log = logging.getLogger(__name__)

_POLL = 0.5  # seconds between two looks at the running jobs
_TAIL = 4096  # bytes that hold the last row of metrics.csv, and more


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


class Board:
    """Lines for each of ``count`` jobs; ``live``: several jobs run at once, and none of them writes to the screen."""

    def __init__(self, count: int, live: bool):
        self.count = count
        self.live = live
        self._screen: Any = None
        self._ended = 0
        self._began: dict[int, float] = {}

    def __enter__(self) -> "Board":
        if self.live and can_redraw():
            from rich.live import Live

            from dltrain.system.console import Console

            self._screen = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen is not None:
            self._screen.stop()

    def begins(self, job: Job, again: bool) -> None:
        """A job starts, or goes on."""
        self._began[job.number] = time.monotonic()
        if not self.live:
            log.info("job %d%s: %s", job.number, " again" if again else "", " ".join(job.overrides))

    def ends(self, job: Job, again: bool) -> None:
        """A job has ended, and is to run again or not."""
        seconds = time.monotonic() - self._began[job.number]
        outcome = job.cause or job.pruned
        if not outcome and job.monitor in job.metrics:
            outcome = f"{job.monitor} {short(job.metrics[job.monitor])}"
        self._ended += not again
        of = f" ({self._ended} of {self.count})" if self.count > 1 else ""
        line = f"job {job.number} {job.status} in {seconds:.1f} s{of}: {outcome}"
        if self.live:
            line += f" [{' '.join(job.overrides)}]"
        if job.status == "failed":
            log.warning("%s%s", line, "; it is tried again" if again else "")
        else:
            log.info("%s", line)

    def show(self, running: Sequence[Job]) -> None:
        """Bring the live view up to date."""
        if self._screen is None:
            return
        from rich.table import Table

        from dltrain.errors import in_one_line

        table = Table(box=None, pad_edge=False)
        for name in ("job", "seconds", "epoch", "", ""):
            table.add_column(name, justify="right" if name else "left")
        for job in running:
            epoch, metrics = _latest(job.folder / "metrics.csv")
            seconds = f"{time.monotonic() - self._began[job.number]:.0f}"
            table.add_row(str(job.number), seconds, epoch, metrics, in_one_line(" ".join(job.overrides)))
        self._screen.update(table, refresh=True)


def _latest(path: Path) -> tuple[str, str]:
    """The epoch and the losses in the last row of ``metrics.csv``, as far as there is one; only its end is read."""
    with contextlib.suppress(OSError, IndexError, KeyError, ValueError):
        with open(path, "rb") as file:
            header = file.readline()
            file.seek(max(len(header), path.stat().st_size - _TAIL))
            last = file.read().splitlines()[-1]
        names, row = csv.reader([header.decode(), last.decode()])
        values = dict(zip(names, row, strict=True))
        losses = [f"{name} {short(float(values[name]))}" for name in ("train/loss", "val/loss") if values.get(name)]
        return values["epoch"], "  ".join(losses)
    return "", ""
