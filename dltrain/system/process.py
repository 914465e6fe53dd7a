"""The process of a command: its signals, its rank among those of a run, its end. Imports no torch.

Signals ask a run to stop at its next step, where its state can be saved; a second Ctrl-C ends it at once. What is
global to the process and belongs to the caller is restored once a command has ended. Rank and size of the process
group are as the launcher says in the environment.
"""

import atexit
import contextlib
import gc
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from dltrain.errors import Interrupted


@contextmanager
def process_restored() -> Iterator[None]:
    """Within, arguments, import path, environment, filters of warnings, log and signal handlers may change.

    So may the state of Python's random generator, from which packages draw while they are imported.
    """
    argv, path, environment, draws = sys.argv, list(sys.path), dict(os.environ), random.getstate()
    with ExitStack() as stack:
        stack.enter_context(_logging_kept())
        stack.enter_context(_signals_kept())
        stack.enter_context(warnings.catch_warnings())
        # Pillow warns of odd tags and of large images, in files that are read anyway or reported as broken.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", "Validating sparse tensor invariants")  # torch's, of a checkpoint
        try:
            yield
        finally:
            random.setstate(draws)
            sys.argv = argv
            sys.path[:] = path
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Within, no garbage is collected: much is made that stays, and each look through all of it is in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def leave(code: int) -> NoReturn:
    """End the process with the exit code ``code`` as ``sys.exit`` would, but without taking the interpreter apart.

    That would abort a process with a process group: the thread of a collective releases its tensor afterwards, for
    which it needs the interpreter, and on a busy machine that may happen as late as now.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):  # what could not be written has been said
            stream.flush()
    os._exit(code)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Loggers that libraries set up within stay so."""
    before = {logger: (list(logger.handlers), logger.level, logger.disabled) for logger in _loggers()}
    known: list[Any] = logging._handlerList  # type: ignore[attr-defined]
    kept, known[:] = list(known), []  # setting logging up closes all handlers in it
    try:
        yield
    finally:
        known[:] = [*kept, *known]
        for logger in _loggers():
            if logger in before or logger.name.partition(".")[0] == "dltrain":
                handlers, level, logger.disabled = before.get(logger, ([], logging.NOTSET, False))
                for handler in [handler for handler in logger.handlers if handler not in handlers]:
                    handler.close()
                logger.handlers[:] = handlers
                logger.setLevel(level)


def _loggers() -> list[logging.Logger]:
    known = list(logging.Logger.manager.loggerDict.values())  # placeholders too
    return [logging.getLogger(), *(logger for logger in known if isinstance(logger, logging.Logger))]


@contextmanager
def _signals_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # no other may set them
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) != handler:  # None: not set by Python
                    signal.signal(number, handler)


# Batch systems send SIGUSR1 ahead of a time limit, a terminal that is closed SIGHUP; Windows has neither.
HANDLED_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
]


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
def signals_handled() -> Iterator[StopRequest]:
    """Within, :data:`HANDLED_SIGNALS` go to the yielded request; their handlers before come back."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python lets the main thread alone handle signals
        yield request
        return
    with signals_handled_by(request._receive):
        yield request


@contextmanager
def signals_handled_by(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, ``receive`` handles :data:`HANDLED_SIGNALS`, but for a SIGHUP that is ignored, as ``nohup`` has it."""
    numbers = [
        number for number in HANDLED_SIGNALS if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    ]
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


COMMAND = "DLTRAIN_COMMAND"  # what the user has typed, for the processes of the run
LAUNCHER = "DLTRAIN_LAUNCHER"  # the id of the process that has started them
ERROR_FILE = "error.json"  # as torch's launcher names it
ANSWERED_FILE = "answered"


def is_worker() -> bool:
    """Whether ``torchrun``, or dltrain itself, has started this process for a run in several."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def is_launched_by_dltrain() -> bool:
    """Whether dltrain itself has started this process."""
    return is_worker() and COMMAND in os.environ


def has_launcher() -> bool:
    """Whether dltrain's launcher waits for this process, and says how the run ended where this one cannot know."""
    return is_launched_by_dltrain() and os.getppid() == int(os.environ[LAUNCHER])


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if is_worker() else 0


def size() -> int:
    """Processes of the run, on all machines."""
    return int(os.environ["WORLD_SIZE"]) if is_worker() else 1


def local_rank() -> int:
    """The number of this process among those on this machine, from 0: the index of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if is_worker() else 0


def local_size() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_worker() else 1


def restarts() -> int:
    """How often the launcher has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if is_worker() else 0


def may_start_again() -> bool:
    """Whether the launcher restarts the processes if any of them fails now."""
    return is_worker() and restarts() < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def leave_error(text: str) -> None:
    """Tell the launcher why this process fails, as torch's ``ErrorHandler`` does: torchrun shows it in its summary."""
    extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
    _leave(ERROR_FILE, json.dumps({"message": {"message": text, "extraInfo": extra}}))


def leave_answered() -> None:
    """Tell dltrain's own launcher that the answer is on stdout."""
    if is_launched_by_dltrain():
        _leave(ANSWERED_FILE, "")


def _leave(name: str, text: str) -> None:
    file = os.environ.get("TORCHELASTIC_ERROR_FILE") if is_worker() else None
    if file:
        with contextlib.suppress(OSError):  # what it would say is said on stderr as well
            path = Path(file)
            (path if name == ERROR_FILE else path.with_name(name)).write_text(text, encoding="utf-8")
