"""What a report tells, as plain values: whoever has a run fills it in, and the page needs to know nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Mistake:
    """An image (channels, height, width) uint8, white at 255, that was taken for another class.

    ``name`` is that of its file, where it has one.
    """

    image: np.ndarray
    true: str
    predicted: str
    confidence: float
    name: str = ""


@dataclass(frozen=True)
class Test:
    """The network on the test part, or on as much of it as there was time for: ``seen`` of ``samples``, drawn from all
    of it, or the first windows of a series.

    ``truth`` and ``predicted`` are in the target's units: of a table one value a sample, of a series the steps of
    windows that follow one another.
    """

    seen: int
    samples: int
    mistakes: Sequence[Mistake] = ()
    wrong: int = 0
    truth: Sequence[float] = ()
    predicted: Sequence[float] = ()
    errors_by_step: Sequence[float] = ()


@dataclass(frozen=True)
class Story:
    """One run."""

    name: str  # of the data set
    model: str
    kind: str  # image | table | series
    target: str
    result: dict[str, Any]  # result.json
    environment: dict[str, Any]  # environment.json
    history: Rows  # a row an epoch
    config: dict[str, Any]  # flat: key -> value
    changed: dict[str, Any] | None  # key or group -> its default, where that is another; None: not known
    choices: dict[str, Any] = field(default_factory=dict)  # the option of each group
    class_names: Sequence[str] = ()
    classes: Sequence[dict[str, Any]] = ()  # name, precision, recall, f1, support
    test: Test | None = None
    notes: list[str] = field(default_factory=list)  # what could not be told, and why
