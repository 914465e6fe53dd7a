"""Signals ask a run to stop at its next step, where its state can be saved; a second Ctrl-C ends it at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from dltrain.errors import Interrupted

# Batch systems send SIGUSR1 ahead of a time limit, a terminal that is closed SIGHUP; Windows has neither.
HANDLED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """Notes the first signal. Outside of :meth:`deferred` there is nothing to save, and the signal raises at once."""

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
        """Note that another process of the run has received the signal ``number``, unless that is 0."""
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
        leave_closed_terminal()
        if self.error is None:
            self.error = Interrupted(number)
            if not self._deferred:
                raise self.error
        elif number == signal.SIGINT:  # a launcher repeats others while this process is ending
            raise self.error


@contextmanager
def handled() -> Iterator[StopRequest]:
    """Within, :data:`HANDLED` signals go to the yielded request; their handlers before come back."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python lets the main thread alone handle signals
        yield request
        return
    with handled_by(request._receive):
        yield request


@contextmanager
def handled_by(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, ``receive`` handles :data:`HANDLED` signals, but for a SIGHUP that is ignored, as ``nohup`` has it."""
    numbers = [number for number in HANDLED if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_closed_terminal() -> None:
    """Redirect stdout and stderr to nowhere where their terminal is closed: each write to it would be an error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
