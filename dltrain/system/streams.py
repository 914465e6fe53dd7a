"""stdout and stderr that never end a run, even when they are closed, full, or unable to encode a character."""

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_NAMES = ("stdin", "stdout", "stderr")
_ASCII = {"→": "->", "×": "x", "±": "+-", "–": "-", "·": ".", "²": "2", "…": "...", "↓": "v", "↑": "^"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """``text`` with control characters spelled out, so that no file name moves the cursor of a terminal."""
    return text.translate(_CONTROLS)


def on_any_streams(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """``main`` with streams that are always there and write what they can.

    Where stdout fails, a command that is done exits with 1, except for a run or a sweep, whose result is on disk.
    """

    @wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        arguments = sys.argv[1:] if argv is None else argv
        with _lenient("stdin"), _lenient("stdout") as out, _lenient("stderr"):
            code = main(argv)
            if not out.error:
                return code
            print(f"dltrain: stdout cannot be written: {out.error}", file=sys.stderr)
            trains = not arguments or arguments[0] == "resume" or not arguments[0].isidentifier()
            return code if trains else code or 1

    return wrapped


class _Lenient:
    """A text stream that leaves out what cannot be written, and knows why."""

    def __init__(self, stream: Any, ends: bool):
        self._stream = stream
        self._ends = ends  # at the first error: the rest of its buffer would fail again as the process ends
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BrokenPipeError:
            if self._ends:  # the reader of the answer has closed the pipe: the exit code alone says so
                raise
        except OSError as error:
            self.error = error
            if self._ends:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def _lenient(name: str) -> Iterator[_Lenient]:
    """Within, ``sys.name`` is a lenient stream, which writes characters that its encoding lacks in ASCII."""
    stream = before = getattr(sys, name)
    if before is None:  # it was closed
        _occupy(_NAMES.index(name))
        stream = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115
    errors = getattr(stream, "errors", None)
    has_encoding = hasattr(stream, "reconfigure") and name != "stdin"
    if has_encoding:
        stream.reconfigure(errors=_to_ascii.__name__)
    lenient = _Lenient(stream, ends=name == "stdout")
    setattr(sys, name, lenient if name != "stdin" else stream)
    try:
        yield lenient
    finally:
        setattr(sys, name, before)
        if before is None:
            stream.close()
        elif has_encoding:
            stream.reconfigure(errors=errors)


def _occupy(descriptor: int) -> None:
    """Redirect ``descriptor`` to nowhere if it is free: else the next file opened would get what a library writes."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def _to_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that an encoding lacks; dots of a curve become stars."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if 0x2800 <= ord(character) < 0x2900:
        return " " if character == "\u2800" else "*", error.start + 1
    return _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(_to_ascii.__name__, _to_ascii)
