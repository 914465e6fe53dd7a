"""The best epoch so far, and when to stop: because none gets better, or because other jobs of the sweep are better."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dltrain.errors import UserError
from dltrain.report.figures import short
from dltrain.report.metrics import lower_is_better


@dataclass
class Best:
    """The epoch with the best value of the metric ``monitor``; whether low is good follows from its name."""

    monitor: str
    min_delta: float = 0.0
    epoch: int = 0
    value: float = math.nan

    def update(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether ``metrics[monitor]`` beats the best before it by more than ``min_delta``; NaN never does."""
        value = metrics[self.monitor]
        sign = 1 if lower_is_better(self.monitor) else -1
        if math.isnan(value) or not (math.isnan(self.value) or sign * (self.value - value) > self.min_delta):
            return False
        self.epoch, self.value = epoch, value
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.value = state["epoch"], state["value"]


@dataclass
class EarlyStopping:
    """Stops a run once ``patience`` epochs in a row did not beat the best epoch."""

    best: Best
    patience: int
    epoch: int = 0

    def update(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epoch = epoch
        self.best.update(epoch, metrics)

    def __str__(self) -> str:
        return f"{self.best.monitor} has not improved on {short(self.best.value)} since epoch {self.best.epoch}"

    @property
    def should_stop(self) -> bool:
        return self.epoch - self.best.epoch >= self.patience

    def after(self, history: Sequence[Mapping[str, float]]) -> "EarlyStopping":
        """The same rule after the epochs of ``history``, from which its state follows."""
        rule = EarlyStopping(Best(self.best.monitor, self.best.min_delta), self.patience)
        for row in history:
            rule.update(int(row["epoch"]), row)
        return rule


@dataclass
class Pruning:
    """Stops a job of a sweep where the comparison with its other jobs says so.

    ``ask(epoch, value, asks)`` takes the value of ``metric`` after each epoch, and returns whether to stop there;
    without ``asks`` it only records the value. An empty ``metric`` stands for the monitored metric.
    """

    ask: Callable[[int, float, bool], bool]
    pruner: str
    metric: str = ""
    epoch: int = 0
    value: float = math.nan
    should_stop: bool = False

    def update(self, epoch: int, metrics: Mapping[str, float], asks: bool = True) -> None:
        """Report an epoch; an epoch that was reported before the run was interrupted does not count twice.

        Raises:
            UserError: there is no such metric.
        """
        if self.metric not in metrics:
            names = ", ".join(name for name in metrics if "/" in name)
            raise UserError(f"pruning by {self.metric}, which is no metric of an epoch: there are {names}")
        self.epoch, self.value = epoch, metrics[self.metric]
        self.should_stop = self.ask(epoch, self.value, asks) and asks

    def catch_up(self, history: Sequence[Mapping[str, float]], asks: bool) -> None:
        """Report the epochs of a run that goes on; it can have stopped at the last of them only."""
        for number, row in enumerate(history, 1):
            self.update(int(row["epoch"]), row, asks and number == len(history))

    def __str__(self) -> str:
        return f"pruned at epoch {self.epoch}: {self.pruner} ended it at {self.metric} {short(self.value)}"
