"""Restores what is global to the process and belongs to the caller, once a command has ended; and ends the process."""

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn


@contextmanager
def process_restored() -> Iterator[None]:
    """Within, arguments, import path, environment, filters of warnings, log and signal handlers may change."""
    argv, path, environment = sys.argv, list(sys.path), dict(os.environ)
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
