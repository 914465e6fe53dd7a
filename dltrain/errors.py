"""Every error that dltrain raises on purpose.

    DltrainError               shown without a traceback; ``exit_code`` says how the process ends
    ├── UserError              exit 2: the configuration, a file or an argument is wrong
    │   ├── ConfigError        a key or value of the configuration, all problems at once
    │   ├── DataError          a file or folder: named, with its row, column or class
    │   ├── CheckpointError    a checkpoint that is missing, damaged, foreign or of another format
    │   ├── RecordError        another file of a run or sweep that is damaged or foreign
    │   └── MismatchError      parts that do not fit each other: a CNN for a table
    └── TrainingError          exit 1: training itself failed, for example diverged
        └── LostPeerError      another process of the run is no longer there; its launcher knows why

Anything else that escapes is a bug, here or in the user's class, and keeps its traceback (exit 1).
A signal that ends a run is :class:`Interrupted`, no ``Exception``: only the command line catches it.
"""

import difflib
import re
import shlex
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path


class DltrainError(Exception):
    """Base of what is shown to the user as one message; ``is_reported``: another process has shown it."""

    exit_code = 1
    is_reported = False


class UserError(DltrainError):
    """The user's input is wrong; the message says what to type instead."""

    exit_code = 2

    @property
    def problems(self) -> tuple[str, ...]:
        """Each thing that is wrong, in a sentence."""
        return (str(self),)


class ConfigError(UserError):
    """Everything that is wrong with a configuration, a sentence for each problem."""

    def __init__(self, problems: Iterable[str]):
        self._problems = tuple(problems)
        several = f"{len(self._problems)} problems in the configuration:\n  - " if len(self._problems) > 1 else ""
        super().__init__(several + "\n  - ".join(self._problems))

    @property
    def problems(self) -> tuple[str, ...]:
        return self._problems


class DataError(UserError):
    """A file or folder that cannot be trained on."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, foreign or of another format."""


class RecordError(UserError):
    """A file in the folder of a run or sweep that is damaged, or that some other program has written."""


class MismatchError(UserError):
    """Two chosen parts do not fit each other."""


class TrainingError(DltrainError):
    """Training failed; the message says where and what to try."""


class LostPeerError(TrainingError):
    """Another process of the run is no longer there."""


SIGNALLED = 128  # exit codes above are a signal's, as a shell has them


class Interrupted(BaseException):
    """The signal ``number`` asked the process to stop; the exit code is :data:`SIGNALLED` and the number."""

    is_reported = False

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number
        self.exit_code = SIGNALLED + number


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that ``error`` leads to: 1 for a bug."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return SIGNALLED + signal.SIGINT
    return error.exit_code if isinstance(error, DltrainError | Interrupted) else 1


def cause_of(error: Exception) -> str:
    """Why something failed, in a line: what the system says, else the error's message, else its type."""
    return ((isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__).splitlines()[0]


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first of ``names``, for a message: ``a, b, ...``."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def in_one_line(text: str) -> str:
    """A name without line breaks, so that none looks like a message."""
    return text.replace("\n", "\\n")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'lstm'?"`` for the closest of ``choices``, or an empty string when none is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def to_type(key: str, value: str | Path | Sequence[str]) -> str:
    """``key=value`` for text, a path or a list of texts, quoted for a shell and for the command line's grammar."""
    written = quoted(value) if isinstance(value, str | Path) else f"[{','.join(map(quoted, value))}]"
    return shlex.quote(f"{key}={written}")


def quoted(value: str | Path) -> str:
    """The text as a value in the command line's grammar: in quotes where it would be read as something else."""
    text = str(value)
    plain = re.fullmatch(r"(\.{0,2}/)?[a-z_][\w./-]*", text, re.ASCII | re.IGNORECASE)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return '"' + re.sub(r'(\\*)"', r"\1\1\"", literal + '"')[:-2] + '"'
