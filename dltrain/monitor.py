"""The best epoch so far, and when to stop because none gets better."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dltrain.metric_names import lower_is_better


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
    """Says stop once ``patience`` epochs in a row did not beat the best one."""

    best: Best
    patience: int
    epoch: int = 0

    def update(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epoch = epoch
        self.best.update(epoch, metrics)

    def __str__(self) -> str:
        return f"{self.best.monitor} has not improved on {self.best.value:.4g} since epoch {self.best.epoch}"

    @property
    def should_stop(self) -> bool:
        return self.epoch - self.best.epoch >= self.patience

    def after(self, history: Sequence[Mapping[str, float]]) -> "EarlyStopping":
        """The same rule once it has seen the epochs of ``history``: all that it knows follows from them."""
        anew = EarlyStopping(Best(self.best.monitor, self.best.min_delta), self.patience)
        for row in history:
            anew.update(int(row["epoch"]), row)
        return anew
