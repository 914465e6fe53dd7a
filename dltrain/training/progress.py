"""Shows the progress of a run: a live view on a terminal, a plain line per epoch elsewhere."""

import logging
import time
from collections.abc import Mapping
from typing import Self

import torch
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from dltrain.errors import in_one_line
from dltrain.report.figures import figure, short
from dltrain.report.metrics import labelled
from dltrain.system.console import Console
from dltrain.system.log import EPOCHS, can_redraw
from dltrain.training.metrics import MeanLoss
from dltrain.training.monitor import Best

_SECONDS_BETWEEN_UPDATES = 0.1
_ROWS = 8  # epochs that stay visible
_log = logging.getLogger(EPOCHS)


class View:
    """Writes a line per epoch to the log."""

    def __init__(self, epochs: int, samples: int):
        self.epochs = epochs
        self.samples = samples
        self._epoch_began = time.perf_counter()

    def __enter__(self) -> Self:
        self._epoch_began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def begin_epoch(self, epoch: int, batch: int) -> None:
        """Before the first step of an epoch (from 0), or the first after ``batch`` batches of it."""

    def step(self, total: MeanLoss) -> None:
        """After each optimizer step; ``total`` is the epoch's loss so far, on the device."""

    def epoch(self, row: Mapping[str, float], best: Best) -> None:
        """After each epoch, with its row of metrics."""
        now = time.perf_counter()
        seconds, self._epoch_began = now - self._epoch_began, now
        figures = "  ".join(f"{name} {short(value)}" for name, value in row.items() if name not in ("epoch", "step"))
        mark = "  *" if best.epoch == row["epoch"] else ""
        width = len(str(self.epochs))
        _log.info("epoch %*d/%d  %s  %.2f s%s", width, int(row["epoch"]), self.epochs, figures, seconds, mark)


class LiveView(View):
    """A bar for the run, a bar for the epoch and the last epochs' metrics, redrawn at most ten times a second."""

    def __init__(self, epochs: int, samples: int, batches: int, headline: str):
        super().__init__(epochs, samples)
        self.batches = batches
        self.headline = in_one_line(headline)
        self.progress = Progress(
            TextColumn("{task.description:>5}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            expand=True,
        )
        self._run = self.progress.add_task("run", total=epochs * batches, note="")
        self._epoch = self.progress.add_task("epoch", total=epochs, note="")
        self._rows: list[Mapping[str, float]] = []
        self._best: Best | None = None
        self._step = self._first_step = 0
        self._drawn = 0.0
        # Drawn when asked, from the training loop: rich's own refresh thread would compete with it.
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._loss = _AsyncLoss()

    def __enter__(self) -> Self:
        super().__enter__()
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._draw()
        self._live.stop()

    def begin_epoch(self, epoch: int, batch: int) -> None:
        # Where a run goes on, or has been rolled back, that is not where the view was.
        self._step = self._first_step = epoch * self.batches + batch
        self.progress.update(self._run, completed=self._step)
        self.progress.update(self._epoch, completed=epoch)

    def step(self, total: MeanLoss) -> None:
        self._step += 1
        if time.perf_counter() - self._drawn >= _SECONDS_BETWEEN_UPDATES:
            loss = self._loss.read(total)
            seen = (self._step - self._first_step) * self.samples / self.batches
            speed = seen / max(time.perf_counter() - self._epoch_began, 1e-9)
            self.progress.update(self._run, completed=self._step, note=f"loss {short(loss)}  {speed:,.0f} samples/s")
            self._draw()

    def epoch(self, row: Mapping[str, float], best: Best) -> None:
        super().epoch(row, best)
        self._rows = [*self._rows[1 - _ROWS :], row]
        self._best = best
        self._step = int(row["epoch"]) * self.batches
        note = f"best {best.monitor} {short(best.value)} in epoch {best.epoch}"
        self.progress.update(self._run, completed=self._step)
        self.progress.update(self._epoch, completed=int(row["epoch"]), note=note)
        if time.perf_counter() - self._drawn >= _SECONDS_BETWEEN_UPDATES:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.perf_counter()
        parts = (self.headline, self._table(), self.progress) if self._rows else (self.headline, self.progress)
        self._live.update(Group(*parts), refresh=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in self._rows[-1]:
            table.add_column(name, justify="right")
        for row in self._rows:
            best = self._best is not None and row["epoch"] == self._best.epoch
            figures = (f"{value:,.0f}" if name in ("epoch", "step") else short(value) for name, value in row.items())
            table.add_row(*figures, style="bold green" if best else "")
        return table


class _AsyncLoss:
    """Reads a running mean from the device without waiting: a GPU's answer is shown at the next look."""

    def __init__(self) -> None:
        self._answer: tuple[Tensor, Tensor] | None = None

    def read(self, total: MeanLoss) -> float:
        if total.total.device.type == "cpu":
            return total.compute()
        before = self._answer
        count = torch.as_tensor(total.count)
        self._answer = total.total.to("cpu", non_blocking=True), count.to("cpu", non_blocking=True)
        return float(before[0] / before[1]) if before else float("nan")


def make_view(epochs: int, samples: int, batches: int, headline: str) -> View:
    """The view that suits stderr."""
    return LiveView(epochs, samples, batches, headline) if can_redraw() else View(epochs, samples)


def result_table(test: Mapping[str, float], val: Mapping[str, float]) -> Table:
    """The final table: a metric a row, the best epoch's validation and the test part side by side."""
    table = Table(header_style="bold", title_justify="left")
    table.add_column("metric")
    for title, metrics in (("validation", val), ("test", test)):
        if metrics:
            table.add_column(title, justify="right")
    for name in dict.fromkeys([*val, *test]):
        cells = [figure(metrics[name]) if name in metrics else "" for metrics in (val, test) if metrics]
        table.add_row(in_one_line(labelled(name)), *cells)
    return table
