"""Where each epoch's metrics go: each option of the ``logger`` group is one small class here.

A logger is made with ``folder`` (of the run), ``config`` (the run's configuration, plain types), ``history`` (rows of
the epochs before, where a run goes on) and its own keys. One that shows more than numbers may have a method
``watch(model, images)``, which is called before the first epoch: with the network whose weights are evaluated, and with
a function that takes a number and returns so many images of the training part, (n, channels, height, width) float32 in
[0, 1], or ``None`` where the data are none.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dltrain.errors import UserError

if TYPE_CHECKING:  # loggers are checked, and many work, without torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)

History = Sequence[Mapping[str, float]]
Images = Callable[[int], "Tensor | None"]


class Logger(Protocol):
    """What the trainer asks of a logger."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take one epoch's row: ``epoch``, ``step``, ``lr`` and the metrics, always the same names."""
        ...

    def close(self, result: Mapping[str, float]) -> None:
        """Finish; ``result`` holds the test metrics as ``test/...``, and is empty when the run did not get there."""
        ...


class Loggers:
    """Several loggers as one. One that fails costs a warning and is left out from then on, never the run."""

    def __init__(self, makers: Mapping[str, Callable[[History], Logger]] | None = None, history: History = ()):
        """Make the loggers, by name, to go on behind the rows of ``history``.

        Raises:
            UserError: as a logger raises it, for a missing library or a wrong key.
        """
        self._makers = dict(makers or {})
        self._watched: tuple[nn.Module, Images] | None = None
        self._start(history)

    def _start(self, history: History) -> None:
        self._rows = len(history)
        self._loggers: dict[str, Logger] = {}
        for name, make in list(self._makers.items()):
            try:
                self._loggers[name] = make(history)
            except UserError:
                self.close({})
                raise
            except Exception as error:  # a server that is not there, a library in a mood
                self._warn(name, error)

    def watch(self, model: "nn.Module", images: Images) -> None:
        """Show ``model`` and ``images`` to each that asks for them, and to those made anew by :meth:`rewind`."""
        self._watched = model, images
        self._each(lambda logger: getattr(logger, "watch", _ignore)(model, images))

    def log(self, row: Mapping[str, float]) -> None:
        """Pass an epoch's row on to each."""
        self._rows += 1
        self._each(lambda logger: logger.log(row))

    def rewind(self, history: History) -> None:
        """Go on behind ``history``, also where rows behind it have been logged already."""
        if len(history) < self._rows:
            self._each(lambda logger: logger.close({}))
            self._start(history)
            if self._watched:
                self.watch(*self._watched)

    def close(self, result: Mapping[str, float]) -> None:
        """Close each, with the test metrics."""
        self._each(lambda logger: logger.close(result))
        self._loggers = {}
        self._makers = {}

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:
                self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        self._loggers.pop(name, None)
        del self._makers[name]
        first = (str(error) or type(error).__name__).splitlines()[0]
        log.warning("logger %s failed and is left out from here on: %s", name, first)


def _ignore(model: "nn.Module", images: Images) -> None:
    """What a logger that shows numbers alone makes of the rest."""
