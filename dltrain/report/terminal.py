"""Curves in a terminal, drawn with Braille dots: two dots wide and four high a character."""

from collections.abc import Sequence

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bits of a character, by column and row from the top
_BLANK = 0x2800


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
