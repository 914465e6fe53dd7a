"""What a report contains, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Mistake:
    """An image (channels, height, width) uint8, white at 255, that was taken for another class."""

    image: np.ndarray
    true: str
    predicted: str
    confidence: float
    name: str = ""  # of its file, if any


@dataclass(frozen=True)
class TestPart:
    """The network on as much of the test part as there was time for: ``seen`` of ``samples``, drawn at random, or the
    first windows of a series.

    ``truth`` and ``predicted`` are in the target's units: of a table a value for each sample, of a series the steps of
    consecutive windows.
    """

    seen: int
    samples: int
    mistakes: Sequence[Mistake] = ()
    wrong: int = 0
    truth: Sequence[float] = ()
    predicted: Sequence[float] = ()
    errors_by_step: Sequence[float] = ()


@dataclass(frozen=True)
class Content:
    """A run."""

    name: str  # of the data set
    model: str
    kind: str  # image | table | series
    target: str
    result: dict[str, Any]  # result.json
    environment: dict[str, Any]  # environment.json
    history: Rows  # a row for each epoch
    config: dict[str, Any]  # flat: key -> value
    changed: dict[str, Any] | None  # key or group -> its default, where they differ; None: not known
    choices: dict[str, Any] = field(default_factory=dict)  # the option of each group
    class_names: Sequence[str] = ()
    classes: Sequence[dict[str, Any]] = ()  # name, precision, recall, f1, support
    test: TestPart | None = None
    notes: list[str] = field(default_factory=list)  # what is left out, and why
