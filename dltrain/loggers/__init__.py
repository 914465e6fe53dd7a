"""Where each epoch's metrics go: each option of the ``logger`` group is a small class here.

A logger is made with ``folder`` (of the run), ``config`` (the run's configuration, plain types), ``history`` (rows of
the epochs before, where a run goes on) and its keys. A logger that shows more than numbers may have a method
``watch(model, images)``, which is called before the first epoch: with the network whose weights are evaluated, and with
a function that takes a number and returns so many images of the training part, (n, channels, height, width) float32 in
[0, 1], or ``None`` for data without images.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dltrain.errors import UserError, cause_of
from dltrain.system.files import flat

if TYPE_CHECKING:  # loggers are checked, and many work, without torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)

History = Sequence[Mapping[str, float]]
Images = Callable[[int], "Tensor | None"]


class Logger(Protocol):
    """What the trainer calls."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take an epoch's row: ``epoch``, ``step``, ``lr`` and the metrics, always the same names."""
        ...

    def close(self, result: Mapping[str, float]) -> None:
        """Finish; ``result`` holds the test metrics as ``test/...``, and is empty when the run did not get there."""
        ...


class Loggers:
    """Several loggers as one. A logger that fails is left out from then on, with a warning; the run goes on."""

    def __init__(self, makers: Mapping[str, Callable[[History], Logger]] | None = None, history: History = ()):
        """Make the loggers, by name, to go on after the rows of ``history``.

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
            except Exception as error:  # of a server that cannot be reached, or of a library
                self._leave_out(name, error)

    def watch(self, model: "nn.Module", images: Images) -> None:
        """Show ``model`` and ``images`` to each logger that has ``watch``, also after :meth:`rewind`."""
        self._watched = model, images
        self._each(lambda logger: getattr(logger, "watch", lambda *_: None)(model, images))

    def log(self, row: Mapping[str, float]) -> None:
        """Pass an epoch's row on to each."""
        self._rows += 1
        self._each(lambda logger: logger.log(row))

    def rewind(self, history: History) -> None:
        """Go on after ``history``, also where later rows have been logged already."""
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
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._loggers.pop(name, None)
        del self._makers[name]
        log.warning("logger %s failed and is left out from here on: %s", name, cause_of(error))


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """``{"optim": {"lr": 1}}`` as ``{"optim.lr": 1}``; lists become text, and empty mappings are left out."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(config).items()
        if not isinstance(value, Mapping)
    }
