"""Where each epoch's metrics go: each option of the ``logger`` group is one small class here.

A logger is made with ``folder`` (of the run) and ``config`` (the run's configuration, plain types) and its own keys.
"""

from collections.abc import Mapping
from typing import Protocol


class Logger(Protocol):
    """What the trainer asks of a logger."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take one epoch's row: ``epoch``, ``step``, ``lr`` and the metrics, always the same names."""
        ...

    def close(self, result: Mapping[str, float]) -> None:
        """Finish; ``result`` holds the test metrics as ``test/...``, and is empty when the run did not get there."""
        ...
