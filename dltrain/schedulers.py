"""Learning-rate schedulers that PyTorch does not have, and when any of them steps."""

import math
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

from dltrain.system.expression import Expression


@dataclass
class Schedule:
    """A scheduler with its interval: steps after each optimizer step, or after each epoch with its metrics."""

    scheduler: LRScheduler
    interval: Literal["epoch", "step"] = "epoch"
    monitor: str | None = None

    def after_step(self) -> None:
        if self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        """``metrics`` holds ``monitor``: its name is checked when the run is built."""
        if self.monitor is not None:
            self.scheduler.step(metrics[self.monitor])  # type: ignore[arg-type]  # plateau takes a metric
        elif self.interval == "epoch":
            self.scheduler.step()

    def catch_up(self, steps: int, history: Iterable[Mapping[str, float]]) -> None:
        """Go from its beginning to after ``steps`` optimizer steps and the epochs of ``history``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch expects optimizer steps in between
            for _ in range(steps):
                self.after_step()
            for metrics in history:
                self.after_epoch(metrics)

    def scale(self, factor: float) -> None:
        """Multiply the learning rates that it starts from by ``factor``; those in the optimizer are not its state."""
        for scheduler in _innermost(self.scheduler):
            for name in {"base_lrs", "max_lrs"} & set(vars(scheduler)):
                setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)


def _innermost(scheduler: Any) -> Iterator[Any]:
    """Yield the scheduler itself, or the parts of torch's SequentialLR and ChainedScheduler."""
    inner = getattr(scheduler, "_schedulers", None)
    if inner is None:
        yield scheduler
    for each in inner or ():
        yield from _innermost(each)


class LambdaLR(torch_schedulers.LambdaLR):
    """:class:`torch.optim.lr_scheduler.LambdaLR` from a string: the initial learning rate times ``lr_lambda``.

    Args:
        lr_lambda: an :class:`Expression` of ``variable``, for example ``(epoch + 1) ** -0.5``.
        variable: ``epoch`` or ``step``, the interval in which the scheduler steps; it counts from 0.
        tried_over: intervals of the whole run, over which the expression is tried beforehand; no rate depends on them.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: str | float, variable: str = "epoch", tried_over: int = 0):
        expression = Expression(str(lr_lambda), variable)
        expression.check(tried_over)
        # A function rather than the object: torch then keeps it out of the state, which stays plain.
        super().__init__(optimizer, lambda value: expression(value))


def linear_warmup_cosine(
    optimizer: Optimizer, total: int, warmup_fraction: float = 0.1, start_factor: float = 0.01, min_factor: float = 0.0
) -> LRScheduler:
    """Rise linearly over the first intervals, then fall along half a cosine to the end of the run.

    With ``w = round(total * warmup_fraction)`` the initial learning rate is multiplied by
    ``start_factor + (1 - start_factor) * t / w`` for ``t < w``, then by
    ``min_factor + (1 - min_factor) * (1 + cos(pi * (t - w) / (total - w))) / 2``.

    Args:
        total: intervals (epochs or optimizer steps) of the whole run.
        warmup_fraction: share of them in which the learning rate rises.
        start_factor, min_factor: multipliers at the first interval and at the end.
    """
    warmup = round(total * warmup_fraction)

    def factor(interval: int) -> float:
        if interval < warmup:
            return start_factor + (1 - start_factor) * interval / warmup
        progress = min((interval - warmup) / max(total - warmup, 1), 1.0)
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * progress)) / 2

    return torch_schedulers.LambdaLR(optimizer, factor)


class RandomLR(LRScheduler):
    """Multiply the learning rate by a new random factor every ``boundary`` intervals.

    Each factor is log-uniform: in ``[factor, 1]`` for ``direction="decay"``, in ``[1, 1 / factor]`` for
    ``"accelerate"``, in ``[factor, 1 / factor]`` for ``"both"``. The factors multiply up, as in
    :class:`torch.optim.lr_scheduler.StepLR`. The ``k``-th one depends on ``seed`` and ``k`` alone, so the schedule
    of a run is fixed beforehand and a resumed run goes on with it. PyTorch has no such class; this docstring
    defines it.

    Args:
        factor: the strongest decay at one boundary, above 0 and at most 1.
        boundary: intervals (epochs or optimizer steps) between two changes.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 0.5,
        boundary: int = 10,
        direction: Literal["decay", "accelerate", "both"] = "decay",
        seed: int = 0,
        last_epoch: int = -1,
    ):
        self.factor = factor
        self.boundary = boundary
        self.direction = direction
        self.seed = seed
        super().__init__(optimizer, last_epoch)

    def multiplier(self, index: int) -> float:
        """The factor drawn at the ``index``-th boundary, from 1."""
        draw = random.Random(f"{self.seed}:{index}").random()
        exponent = {"decay": draw, "accelerate": -draw, "both": 2 * draw - 1}[self.direction]
        return float(self.factor**exponent)

    def get_lr(self) -> list[float | Tensor]:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.last_epoch == 0 or self.last_epoch % self.boundary:
            return rates
        multiplier = self.multiplier(self.last_epoch // self.boundary)
        return [rate * multiplier for rate in rates]
