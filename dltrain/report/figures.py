"""Numbers as people read them, in tables, lines and pages; ``figure`` in ``page.js`` does the same for the charts."""

import math
from typing import Any


def figure(value: Any) -> str:
    """A number with the digits that tell and with separators of thousands; a dash where there is none.

    ``12,345``, ``12,345.7``, ``45.1234``, ``0.9812``, ``0.01235``, ``1.235e-05``; what is no number stays as it is.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    size = abs(value)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    if size >= 1e15 or size < 0.1:
        return f"{value:.4g}"
    return f"{value:,.0f}" if size >= 1e5 else f"{value:,.1f}" if size >= 1000 else f"{value:.4f}"


def rounded(value: float, digits: int) -> str:
    """A number of which so many digits tell, such as a deviation: ``1,200``, ``0.0012``."""
    value = float(f"{value:.{digits}g}")
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e15 else f"{value:g}"
