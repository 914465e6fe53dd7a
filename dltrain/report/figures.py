"""Numbers as people read them in tables, lines and pages, as ``page.js`` writes them too; plots in a terminal."""

import math
from collections.abc import Sequence
from typing import Any

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bits of a character, by column and row from the top
_BLANK = 0x2800


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


def plot(values: Sequence[float], width: int = 60, height: int = 8) -> list[str]:
    """Lines of text that show ``values`` from left to right, on an axis from 0 to the largest."""
    top = max(values) or 1.0
    columns, rows = width * 2, height * 4
    places = [values[index * (len(values) - 1) // max(columns - 1, 1)] for index in range(columns)]
    levels = [rows - 1 - round(max(value, 0.0) / top * (rows - 1)) for value in places]
    cells = [[_BLANK] * width for _ in range(height)]
    for column, (before, level) in enumerate(zip([levels[0], *levels], levels, strict=False)):
        # From the level before, so that a step is a line and not a gap.
        step = 1 if level >= before else -1
        for row in range(before + step if level != before else level, level + step, step):
            cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
    labels = {height - 1: "0", 0: f"{top:.3g}"}
    return [f"{labels.get(row, ''):>9} {''.join(map(chr, cells[row]))}" for row in range(height)]
