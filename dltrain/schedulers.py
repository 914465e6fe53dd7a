"""Learning-rate schedulers that PyTorch does not have, and when any of them steps."""

import ast
import math
import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dltrain.errors import ConfigError, did_you_mean

_FUNCTIONS = {
    "abs": abs,
    "min": min,
    "max": max,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "floor": math.floor,
    "ceil": math.ceil,
}
_PROBES = 1000  # points of the run at which a schedule's expression is tried before training


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

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)


class Expression:
    """An arithmetic expression of one variable, safe to take from a stranger: simpleeval runs it, never ``eval``.

    It knows numbers, ``+ - * / // % **``, comparisons, ``and or not``, ``x if condition else y``, ``pi`` and the
    functions ``abs min max exp log sqrt sin cos floor ceil``. Whatever else it holds is refused at once.
    """

    def __init__(self, text: str, variable: str):
        # simpleeval is small, but only runs with scheduler=lambda need it.
        from simpleeval import SimpleEval

        self.text = text
        self.variable = variable
        self._names = {"pi": math.pi, variable: 0}
        self._evaluator = SimpleEval(operators=_OPERATORS, functions=_FUNCTIONS, names=self._names)
        try:
            self._parsed = ast.parse(text.strip(), mode="eval").body
        except Exception as error:  # the text is the user's: whatever is wrong with it is wrong with the key
            raise self._problem(str(error) or type(error).__name__) from error
        for node in ast.walk(self._parsed):
            self._require_known(node)

    def __call__(self, value: int) -> float:
        """The expression at ``value``; raises :class:`ConfigError` unless it is a finite number, zero or above."""
        self._names[self.variable] = value
        try:
            result = self._evaluator.eval(self.text, previously_parsed=self._parsed)
            usable = isinstance(result, int | float) and math.isfinite(result) and result >= 0
        except Exception as error:  # simpleeval raises many kinds, the functions ValueError and OverflowError
            # Python's own words for 0 ** -0.5 speak of a power.
            by_zero = isinstance(error, ZeroDivisionError)
            cause = "it divides by zero" if by_zero else error.args[-1] if error.args else type(error).__name__
            at_start = value == 0 and isinstance(error, ZeroDivisionError | ValueError)
            hint = f"; {self.variable} starts at 0, so perhaps ({self.variable} + 1) is meant" if at_start else ""
            raise self._problem(f"at {self.variable} {value}: {cause}{hint}") from error
        if not usable:
            raise self._problem(f"at {self.variable} {value} it is {result!r}, not a finite number of at least 0")
        return float(result)

    def check(self, length: int) -> None:
        """Try the expression over a run of ``length`` intervals: all of a short one, evenly spaced ones of a long."""
        for value in sorted({*range(0, length, max(length // _PROBES, 1)), *range(min(length, 100)), length}):
            self(value)

    def _require_known(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            known = [*self._names, *_FUNCTIONS]
            if node.id not in known:
                hint = did_you_mean(node.id, known)
                raise self._problem(f"'{node.id}' is no name here, the variable is {self.variable}{hint}")
        elif isinstance(node, ast.BitXor):
            raise self._problem("a power is **, not ^")
        elif not isinstance(node, _SYNTAX) or (isinstance(node, ast.Constant) and not _is_number(node.value)):
            raise self._problem(f"there is {type(node).__name__} in it, but it takes numbers and arithmetic only")

    def _problem(self, cause: str) -> ConfigError:
        return ConfigError([f"scheduler.lr_lambda='{self.text}': {cause}"])


def _power(base: float, exponent: float) -> Any:
    # In floating point: whole numbers would grow until 9**9**9 had eaten the memory.
    return float(base) ** exponent


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SYNTAX = (
    *(ast.Constant, ast.Load, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.boolop, ast.Compare, ast.IfExp, ast.Call),
    *_OPERATORS,
)


class LambdaLR(torch_schedulers.LambdaLR):
    """:class:`torch.optim.lr_scheduler.LambdaLR` from a string: the initial learning rate times ``lr_lambda``.

    Args:
        lr_lambda: an :class:`Expression` of ``variable``, for example ``(epoch + 1) ** -0.5``.
        variable: ``epoch`` or ``step``, the interval in which the scheduler steps; it counts from 0.
        total: intervals of the whole run, over which the expression is tried beforehand.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: str, variable: str = "epoch", total: int = 0):
        expression = Expression(str(lr_lambda), variable)
        expression.check(total)
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
    if not 0 <= warmup_fraction <= 1:
        raise ConfigError([f"scheduler.warmup_fraction must be between 0 and 1, not {warmup_fraction}"])
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
        if not 0 < factor <= 1:
            raise ConfigError([f"scheduler.factor must be above 0 and at most 1, not {factor}"])
        if boundary < 1:
            raise ConfigError([f"scheduler.boundary must be at least 1, not {boundary}"])
        if direction not in ("decay", "accelerate", "both"):
            raise ConfigError([f"scheduler.direction must be decay, accelerate or both, not '{direction}'"])
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


def is_plateau(scheduler: LRScheduler) -> bool:
    """Whether the scheduler wants a metric when it steps."""
    return isinstance(scheduler, ReduceLROnPlateau)
