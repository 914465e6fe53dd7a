"""stdout is for the answer of a command alone: where it is no terminal, one line of JSON, however the command ends.

What a user's own classes print meanwhile goes to stderr. A table that a verb streams to stdout is its answer from the
first row on, and nothing follows it.
"""

import contextlib
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from dltrain.errors import SIGNALLED, ConfigError, DltrainError, Interrupted, LostPeerError, exit_code_of
from dltrain.system import worker
from dltrain.system.files import finite
from dltrain.system.streams import printable

_kept: list[TextIO] = []  # stdout as it was before what lies within
_given = threading.Event()


def begin() -> None:
    """A command begins, and nothing has been answered."""
    _given.clear()


def give() -> None:
    """Note that the answer, or the beginning of it, is on stdout: no line may follow."""
    _given.set()
    worker.leave_answered()


@contextmanager
def stdout_reserved() -> Iterator[None]:
    """Within, ``print`` writes to stderr, and :func:`stdout` is where an answer goes."""
    _kept.append(stdout())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


@contextmanager
def silenced() -> Iterator[None]:
    """Within, lines of JSON go nowhere: what a job of a sweep answers is not the answer of the sweep."""
    if on_terminal():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        _kept.append(nowhere)
        try:
            yield
        finally:
            _kept.pop()
            _given.clear()


@contextmanager
def captured() -> Iterator[io.StringIO]:
    """Within, an answer goes into the text that is yielded, also where stdout is a terminal; ``print`` writes to
    stderr."""
    text, given = io.StringIO(), _given.is_set()
    _kept.append(text)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield text
    finally:
        _kept.pop()
        if not given:
            _given.clear()


def stdout() -> TextIO:
    """Where the answer of a command goes."""
    return _kept[-1] if _kept else sys.stdout


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return bool(stdout()) and stdout().isatty()


def say(text: str) -> None:
    """Lines on stdout."""
    print(printable(text), file=stdout(), flush=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Answer with one line of JSON."""
    try:
        print(json.dumps(finite(content)), file=stdout(), flush=True)
    except BrokenPipeError:  # nobody reads on, which takes nothing from a run, but the flush at exit would fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout().fileno())
    give()


def report(error: BaseException) -> int:
    """Say on stderr what has ended a command: one message for what the user can mend, a traceback for a bug.

    Returns the exit code.
    """
    if isinstance(error, KeyboardInterrupt | Interrupted):
        text = "interrupted"
    elif isinstance(error, DltrainError):
        text = str(error)
    elif isinstance(error, SystemExit):  # of a class of the user's, or of a plugin, which has said why
        return exit_code_of(error)
    else:
        traceback.print_exception(error)
        worker.leave_error(f"a bug: {_text_of(error)}")
        return 1
    if not is_reported(error) and not is_left_to_launcher(error):
        print(f"dltrain: {printable(text)}", file=sys.stderr, flush=True)
        worker.leave_error(text)  # once it is said: the launcher says what has not been
    return exit_code_of(error)


def is_reported(error: BaseException) -> bool:
    """Whether another process has said on stderr what has ended this one, or a plugin of Hydra's has."""
    return isinstance(error, SystemExit) or bool(getattr(error, "is_reported", False))


def is_left_to_launcher(error: BaseException | None) -> bool:
    """Whether dltrain's launcher says what ended the run, of which ``error`` is only the effect in this process.

    The launcher stops the others once a process has ended, and they may receive its signal before they notice why.
    """
    return isinstance(error, LostPeerError | Interrupted | KeyboardInterrupt) and worker.has_launcher()


def answer_ending(code: int, error: BaseException | None) -> None:
    """Answer for a command that ``error`` has ended with exit code ``code``, unless there is an answer.

    Where a launcher starts the processes of a run anew, this is not how it ended.
    """
    is_last_word = code > SIGNALLED or not worker.may_start_again()
    if is_last_word and not is_left_to_launcher(error) and stdout() and not (_given.is_set() or on_terminal()):
        print_json(ending(code, error))


def ending(code: int, error: BaseException | None) -> dict[str, Any]:
    """The status that belongs to an exit code, and what ``error`` says of it."""
    if code > SIGNALLED:
        return {"status": "interrupted"}
    text = _text_of(error) if error else f"it ended with exit code {code}"
    if code == 2:
        return {"status": "invalid", "problems": list(error.problems) if isinstance(error, ConfigError) else [text]}
    return {"status": "failed", "error": text}


def _text_of(error: BaseException) -> str:
    if isinstance(error, DltrainError):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()
