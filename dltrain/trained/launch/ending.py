"""How a run in several processes ended, from their exit codes and files, for the launcher to report."""

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from dltrain.errors import SIGNALLED, Interrupted, TrainingError
from dltrain.runs.record import read_result
from dltrain.system.files import write_json
from dltrain.system.process import ANSWERED_FILE, ERROR_FILE, HANDLED_SIGNALS

_EXIT_CODES = {1, 2, *(Interrupted(number).exit_code for number in HANDLED_SIGNALS)}  # that dltrain ends with
_CLOSING = {-signal.SIGTERM, -getattr(signal, "SIGKILL", signal.SIGTERM)}  # how the launcher ends the others


class Leftovers:
    """The files that the processes of a run left, and the result in its folder ``path``, if it has any.

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
    def has_reported(self) -> bool:
        """Whether rank 0 has said on stderr why it ended."""
        return 0 in self.errors

    def finish(self, status: str, cause: str = "") -> None:
        """Write to ``result.json`` how the run ended, unless rank 0 knew, and show it where rank 0 has not."""
        from dltrain.trained.result import show  # imports all of training

        is_done = self.result.get("status") == "done"
        is_wrong = self.result.get("status") == "running" or (bool(cause) and not self.has_reported)
        if self.path and self.result and not is_done and is_wrong:
            self.result |= {"status": status} | ({"error": cause} if cause else {})
            write_json(self.path / "result.json", self.result)
        if self.result and not self.has_answered and (is_done or not self.has_reported):
            show(self.result)


def settle_signal(error: Interrupted, leftovers: Leftovers) -> NoReturn:
    """End this process, the launcher, which a signal asked to stop.

    Raises:
        Interrupted: ``error``.
    """
    leftovers.finish("interrupted")
    error.is_reported = leftovers.has_reported
    raise error


def settle_failure(codes: Mapping[int, int], leftovers: Leftovers) -> None:
    """Raise why a run ended whose ranks ended with ``codes``, in the order of their ends; negative: by a signal.

    Raises:
        TrainingError: a rank failed; rank 0 may have said why. Where the run was done before, that is a warning.
        Interrupted: all ranks were asked to stop, but not by the launcher.
    """
    from dltrain.trained.resume import how_to_go_on

    killed = _killed(codes, leftovers)
    rank = next((rank for rank in codes if rank in leftovers.errors), next(iter(codes)))
    code, said = codes[rank], leftovers.errors.get(rank)
    if code > SIGNALLED and not killed:
        settle_signal(Interrupted(code - SIGNALLED), leftovers)
    cause = killed or (f"rank {rank} ended with exit code {code}" if said is None else f"rank {rank}: {said}")
    hint = ""
    if leftovers.path and leftovers.result.get("status") not in ("failed", "interrupted"):  # else it is in the log
        hint = how_to_go_on(leftovers.path)
    leftovers.finish("failed", cause)
    if killed and leftovers.result.get("status") == "done":
        print(f"warning: {killed}, when the run was done", file=sys.stderr)
        return
    error = TrainingError(f"{cause}{hint}")
    error.exit_code = 1 if killed else code
    error.is_reported = leftovers.has_reported and not any(map(_is_foreign, codes.values()))
    raise error


def _killed(codes: Mapping[int, int], leftovers: Leftovers) -> str:
    """Say which rank was killed or left by itself; empty where each ended as dltrain ends."""
    is_explained = False  # by a rank that ended earlier
    for number, (rank, code) in enumerate(codes.items()):
        if _is_foreign(code):
            return f"rank {rank} left by itself, with exit code {code}"
        by_launcher = code in _CLOSING and (is_explained or (code == -signal.SIGTERM and number > 0))
        if code < 0 and not by_launcher:
            return f"rank {rank} was killed by signal {-code}"
        is_explained |= rank in leftovers.errors
    return ""


def _is_foreign(code: int) -> bool:
    """Whether the user's code ended the process with this exit code, which rank 0 does not know."""
    return code >= 0 and code not in _EXIT_CODES


def _text_of(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["message"]["message"])
    except (OSError, ValueError, KeyError, TypeError):  # of a process that was killed while it wrote
        return "it failed"
