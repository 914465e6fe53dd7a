"""Numbers as people read them in tables, lines and pages; ``page.js`` formats those of the charts alike."""

import math
from collections.abc import Sequence
from typing import Any


def figure(value: Any) -> str:
    """A number in a table: ``12,345``, ``12,345.7``, ``45.1234``, ``1.235e-05``; a dash where there is none.

    Anything but a number stays as it is.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    size = abs(value)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    if size >= 1e15 or size < 1e-3:
        return f"{value:.4g}"
    return f"{value:,.0f}" if size >= 1e5 else f"{value:,.1f}" if size >= 1000 else f"{value:.4f}"


def short(value: float, digits: int = 4) -> str:
    """A number in a line, with its significant digits: ``12,346``, ``45.12``, ``0.05``, ``1.235e-05``."""
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e15 else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """``2.50 s``, ``3 min 20 s``, ``1 h 5 min``; a dash where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def confusions(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> list[tuple[int, str, str]]:
    """Which classes are taken for which others, the most frequent first: how often, true class, predicted class."""
    pairs = [
        (count, names[true], names[predicted])
        for true, counts in enumerate(matrix)
        for predicted, count in enumerate(counts)
        if count and true != predicted
    ]
    return sorted(pairs, reverse=True)
