"""stdout and stderr that never end a run, even when they are closed, full, or unable to encode a character.

Files get all log records, stderr those that the live view does not show.
"""

import codecs
import contextlib
import logging
import logging.config
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.resources import files
from pathlib import Path
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


EPOCHS = "dltrain.epochs"  # the logger of a line an epoch


class QuietFileHandler(logging.FileHandler):
    """Leaves out what cannot be written: the run itself says, once, that the disk is full."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # from opening the file
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        return None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def can_redraw() -> bool:
    """Whether stderr is a terminal on which lines can be redrawn."""
    capable = os.name == "nt" or os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
    return capable and sys.stderr.isatty()


class StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at the moment: a live view replaces it while it is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == EPOCHS and can_redraw():
            return
        prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        print(f"{prefix}{printable(self.format(record))}", file=sys.stderr)


def write_to(path: Path) -> None:
    """Append all that this process and the programs it calls write to stdout and stderr to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):  # what verbs print goes to stderr already
            stream.flush()
            os.dup2(file.fileno(), descriptor)


def log_to(path: Path | None, speaks: bool = True) -> None:
    """Set logging up as Hydra does for a training run, with ``path`` as the file: for verbs without Hydra.

    Without ``speaks``, as in all but rank 0 of several processes, nothing is logged to stderr.
    """
    import yaml

    text = (files("dltrain.conf") / "hydra" / "job_logging" / "dltrain.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        settings["handlers"]["file"]["filename"] = str(path)
    else:
        del settings["handlers"]["file"]
        settings["root"]["handlers"].remove("file")
    if not speaks:
        settings["handlers"]["stderr"] = {"class": "logging.NullHandler"}  # without one, Python writes to stderr
    logging.config.dictConfig(settings)
