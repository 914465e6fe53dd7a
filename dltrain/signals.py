"""Signals ask a run to stop at its next step, where its state can be saved; a second Ctrl-C ends it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dltrain.errors import Interrupted

# Batch systems send SIGUSR1 ahead of a time limit; Windows has none.
HANDLED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Notes the first signal. Outside of :meth:`deferred` there is nothing to save, and it raises at once."""

    def __init__(self) -> None:
        self.error: Interrupted | None = None
        self._deferred = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come; cheap enough to ask at every step."""
        return self.error is not None

    @property
    def number(self) -> int:
        """The signal that has come, 0 while there is none."""
        return self.error.number if self.error else 0

    def note(self, number: int) -> None:
        """Take up that another process of the run has been asked to stop, by the signal ``number`` unless it is 0."""
        if number and self.error is None:
            self.error = Interrupted(number)

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal has come."""
        if self.error is not None:
            raise self.error

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a signal only sets :attr:`requested`; a second SIGINT raises."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.error is None:
            self.error = Interrupted(number)
            if not self._deferred:
                raise self.error
        elif number == signal.SIGINT:  # others are sent again by whoever waits for the process, which is leaving
            raise self.error


@contextmanager
def handled() -> Iterator[StopRequest]:
    """Within, SIGINT, SIGTERM and SIGUSR1 go to the yielded request; their handlers before come back."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python lets the main thread alone handle signals
        yield request
        return
    before = {number: signal.signal(number, request._receive) for number in HANDLED}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
