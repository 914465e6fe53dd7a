"""stdout holds the answer of a command and nothing else: in a pipe a single line of JSON, however the command ends.

What classes of the user print goes to stderr. A table that a verb streams to stdout is its answer, and nothing follows
it.
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
from dltrain.system import process
from dltrain.system.files import finite
from dltrain.system.log import printable

_targets: list[TextIO] = []  # where an answer goes, the innermost last
_given = threading.Event()


def begin() -> None:
    """Note that a command begins, without an answer yet."""
    _given.clear()


def give() -> None:
    """Note that the answer, or its beginning, is on stdout: no line may follow."""
    _given.set()
    process.leave_answered()


@contextmanager
def stdout_reserved() -> Iterator[None]:
    """Within, ``print`` writes to stderr, and :func:`stdout` is where an answer goes."""
    with _answering_to(stdout()), contextlib.redirect_stdout(sys.stderr):
        yield


@contextmanager
def silenced() -> Iterator[None]:
    """Within, lines of JSON go nowhere: the answer of a job is not that of its sweep."""
    if on_terminal():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, _answering_to(nowhere):
        try:
            yield
        finally:
            _given.clear()


@contextmanager
def captured() -> Iterator[io.StringIO]:
    """Within, an answer goes into the text that is yielded, also on a terminal; ``print`` writes to stderr."""
    text, given = io.StringIO(), _given.is_set()
    with _answering_to(text), contextlib.redirect_stdout(sys.stderr):
        try:
            yield text
        finally:
            if not given:
                _given.clear()


@contextmanager
def _answering_to(target: TextIO) -> Iterator[None]:
    _targets.append(target)
    try:
        yield
    finally:
        _targets.pop()


def stdout() -> TextIO:
    """Where the answer of a command goes."""
    return _targets[-1] if _targets else sys.stdout


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return bool(stdout()) and stdout().isatty()


def say(text: str) -> None:
    """Print lines on stdout."""
    print(printable(text), file=stdout(), flush=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Answer with a line of JSON."""
    try:
        print(json.dumps(finite(content)), file=stdout(), flush=True)
    except BrokenPipeError:  # which ends no run, but the flush at exit would fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout().fileno())
    give()


def report(error: BaseException) -> int:
    """Say on stderr what has ended a command: a message for what the user can fix, a traceback for a bug.

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
        process.leave_error(f"a bug: {_text_of(error)}")
        return 1
    if not is_reported(error) and not is_left_to_launcher(error):
        print(f"dltrain: {printable(text)}", file=sys.stderr, flush=True)
        process.leave_error(text)  # the launcher says what has not been said
    return exit_code_of(error)


def is_reported(error: BaseException) -> bool:
    """Whether another process, or a plugin of Hydra's, has said on stderr what has ended this one."""
    return isinstance(error, SystemExit) or bool(getattr(error, "is_reported", False))


def is_left_to_launcher(error: BaseException | None) -> bool:
    """Whether dltrain's launcher says what ended the run, of which ``error`` is only the effect in this process.

    The launcher stops the others once a process has ended, and they may receive its signal before they notice why.
    """
    return isinstance(error, LostPeerError | Interrupted | KeyboardInterrupt) and process.has_launcher()


def answer_ending(code: int, error: BaseException | None) -> None:
    """Answer for a command that ``error`` has ended with exit code ``code``, unless there is an answer.

    Where a launcher restarts the processes of a run, the run has not ended.
    """
    is_last_word = code > SIGNALLED or not process.may_start_again()
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
