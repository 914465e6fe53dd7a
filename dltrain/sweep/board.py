"""What a sweep shows on stderr: a line as a job starts and ends, and on a terminal those that run at once."""

import contextlib
import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dltrain.report.figures import short
from dltrain.sweep.ledger import Job
from dltrain.system.log import can_redraw

log = logging.getLogger(__name__)

_TAIL = 4096  # bytes that hold the last row of metrics.csv, and more


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

        from dltrain.system.log import in_one_line

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
