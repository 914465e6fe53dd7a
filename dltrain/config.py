"""The closed part of the configuration: which keys there are, and what they may hold. Imports no torch.

Nodes with a ``_target_`` are open: their keys are the arguments of that class or function.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dltrain.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Number:
    """A number of at least ``low``, below ``below`` where given; ``whole`` excludes fractions."""

    low: float
    below: float = math.inf
    whole: bool = False
    optional: bool = False
    open_low: bool = False

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return (self.low < value if self.open_low else self.low <= value) and value < self.below

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.open_low else 'of at least'} {self.low:g}"
        below = "" if self.below == math.inf else f" and below {self.below:g}"
        return f"{kind} {low}{below}{', or null' if self.optional else ''}"


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def allows(self, value: Any) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Of:
    """A value of one type."""

    type: type
    name: str
    optional: bool = False

    def allows(self, value: Any) -> bool:
        return isinstance(value, self.type) or (self.optional and value is None)

    def __str__(self) -> str:
        return f"{self.name}{', or null' if self.optional else ''}"


_FLAG = Of(bool, "true or false")
_METRIC = Of(str, "the name of a metric such as val/loss", optional=True)

# Units and meaning of each key stand in the YAML files under conf/.
CLOSED: dict[str, Any] = {
    "seed": Number(0, 2**32, whole=True),
    "device": Of(str, "auto, cpu, cuda, cuda:N or mps"),
    "deterministic": _FLAG,
    "report": _FLAG,
    "penalty.l1": Number(0),
    "penalty.l2": Number(0),
    "trainer.epochs": Number(1, whole=True),
    "trainer.precision": Choice(("auto", "fp32", "bf16", "fp16")),
    "trainer.accumulate": Number(1, whole=True),
    "trainer.clip_norm": Number(0, optional=True, open_low=True),
    "trainer.clip_value": Number(0, optional=True, open_low=True),
    "trainer.ema_decay": Number(0, 1, optional=True),
    "trainer.compile": _FLAG,
    "trainer.early_stopping.monitor": _METRIC,
    "trainer.early_stopping.patience": Number(1, whole=True, optional=True),
    "trainer.early_stopping.min_delta": Number(0),
    "trainer.checkpoint.monitor": _METRIC,
    "trainer.checkpoint.every_n_epochs": Number(1, whole=True),
}
# Keys of open nodes that dltrain reads itself.
SHARED: dict[str, Any] = {
    "dataset.batch_size": Number(1, whole=True),
    "dataset.val_fraction": Number(0, 1),
    "dataset.test_fraction": Number(0, 1),
    "dataset.limit": Number(1, whole=True, optional=True),
    "dataset.split_seed": Number(0, whole=True),
    "scheduler.interval": Choice(("epoch", "step")),
    "scheduler.pct_start": Number(0, 1),  # torch takes 1 and divides by zero behind the last step
    "optim.lr": Number(0),
}
_OPEN = ("dataset", "model", "loss", "optim", "scheduler", "logger", "data")


def check(cfg: DictConfig) -> None:
    """Raise :class:`ConfigError` with every problem of the composed configuration that shows without the data."""
    problems = [*_missing(cfg), *_unknown(cfg, ""), *_values(cfg)]
    if problems:
        raise ConfigError(problems)


def _missing(cfg: DictConfig) -> Iterator[str]:
    for key in sorted(OmegaConf.missing_keys(cfg)):
        yield f"{key} has no default: add {key}=... to the command"


def _unknown(cfg: DictConfig, prefix: str) -> Iterator[str]:
    known = {key.removeprefix(prefix).split(".")[0] for key in CLOSED if key.startswith(prefix)}
    known |= set(_OPEN) if not prefix else set()
    for name in cfg:
        key = str(name)
        full = prefix + key
        if key not in known:
            hint = did_you_mean(key, known)
            yield f"{full} is no key of dltrain{hint or '; the keys here are ' + ', '.join(sorted(known))}"
        elif full in _OPEN:
            continue
        elif full not in CLOSED:
            node = cfg[key]
            if isinstance(node, DictConfig):
                yield from _unknown(node, f"{full}.")
            else:
                yield f"{full} must hold further keys, not {node!r}"


def _values(cfg: DictConfig) -> Iterator[str]:
    missing = OmegaConf.missing_keys(cfg)
    for key, rule in (CLOSED | SHARED).items():
        parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
        name = key.rpartition(".")[2]
        if not isinstance(parent, DictConfig) or name not in parent or key in missing:
            if key in CLOSED and isinstance(parent, DictConfig):
                yield f"{key} is missing; it must be {rule}"
            continue
        value = parent[name]
        if not rule.allows(value):
            yield f"{key}={value!r} is not allowed: it must be {rule}"
