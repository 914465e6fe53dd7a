"""How a run in several processes has ended, by what its launcher saw and what they have left: the last word is said."""

import json
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from dltrain.errors import Interrupted, TrainingError
from dltrain.runs.record import read_result
from dltrain.system.files import write_json
from dltrain.system.signals import HANDLED
from dltrain.system.worker import ANSWERED_FILE, ERROR_FILE

_OWN = {1, 2, *(Interrupted(number).exit_code for number in HANDLED)}  # exit codes that dltrain leaves with
_CLOSING = {-signal.SIGTERM, -getattr(signal, "SIGKILL", signal.SIGTERM)}  # how the launcher ends the others


class Left:
    """What the processes of a run in the folder ``path``, if it has one, have left.

    ``before`` is what ``result.json`` held when they began.
    """

    def __init__(self, logs: Path, path: Path | None, before: Mapping[str, Any]):
        self.errors = {int(file.parent.name): _text_of(file) for file in logs.glob(f"*/*/*/{ERROR_FILE}")}
        self.has_answered = any(logs.glob(f"*/*/0/{ANSWERED_FILE}"))
        self.path = path
        self.result = read_result(path) if path else {}
        if self.result == before:
            self.result = {}

    @property
    def has_spoken(self) -> bool:
        """Whether rank 0 has said on stderr why it ended."""
        return 0 in self.errors

    def finish(self, status: str, cause: str = "") -> None:
        """Say how the run ended in ``result.json``, where it says something else, and on stdout, where nobody has."""
        from dltrain.trained.result import show

        if self.path and self.result.get("status") == "running":
            self.result |= {"status": status} | ({"error": cause} if cause else {})
            write_json(self.path / "result.json", self.result)
        is_done = self.result.get("status") == "done"
        if self.result and not self.has_answered and (is_done or not self.has_spoken):
            show(self.result)


def settle_signal(error: Interrupted, left: Left) -> NoReturn:
    """End this process, the launcher, which was asked to by a signal.

    Raises:
        Interrupted: ``error``, which rank 0 may have told already.
    """
    left.finish("interrupted")
    error.is_told = left.has_spoken
    raise error


def settle_failure(codes: Mapping[int, int], left: Left) -> None:
    """Say what nobody has said of a run whose ranks ended with ``codes``, the first to fail first; negative: a signal.

    Raises:
        TrainingError: why, which rank 0 may have told already. A run that was done before nevertheless is.
    """
    rank, code = next(iter(codes.items()))
    sudden = _sudden(codes)
    told = f"rank {rank}: {left.errors[rank]}" if rank in left.errors else f"rank {rank} ended with exit code {code}"
    cause = sudden or told
    left.finish("failed", cause)
    if sudden and left.result.get("status") == "done":
        print(f"warning: {sudden}, when the run was done", file=sys.stderr)
        return
    error = TrainingError(f"{cause}{_how_to_go_on(left.path)}")
    error.exit_code = 1 if sudden else code
    error.is_told = left.has_spoken and not any(map(_is_foreign, codes.values()))
    raise error


def _sudden(codes: Mapping[int, int]) -> str:
    """Which rank has ended without that dltrain knew, and how; empty where none has."""
    for number, (rank, code) in enumerate(codes.items()):
        if _is_foreign(code):
            return f"rank {rank} left by itself, with exit code {code}"
        if code < 0 and (number == 0 or code not in _CLOSING):
            return f"rank {rank} was killed by signal {-code}"
    return ""


def _is_foreign(code: int) -> bool:
    """Whether a user's own code has left with this exit code, of which rank 0 can only guess."""
    return code >= 0 and code not in _OWN


def _how_to_go_on(path: Path | None) -> str:
    from dltrain.trained.resume import candidates

    saved = path is not None and any(file.exists() for file in candidates(path))
    return f"; to go on: dltrain resume {shlex.quote(str(path))}" if saved else ""


def _text_of(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["message"]["message"])
    except (OSError, ValueError, KeyError, TypeError):  # of a process that was killed while it wrote
        return "it failed"
