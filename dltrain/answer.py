"""stdout is for the answer of a command alone: what a user's own classes print meanwhile goes to stderr."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_kept: list[TextIO] = []  # stdout as it was before what lies within


@contextmanager
def stdout_kept() -> Iterator[None]:
    """Within, ``print`` writes to stderr, and :func:`stdout` is where an answer goes."""
    _kept.append(stdout())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def stdout() -> TextIO:
    """Where the answer of a command goes."""
    return _kept[-1] if _kept else sys.stdout
