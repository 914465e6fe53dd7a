"""Rank and size of the process group, as the launcher says in the environment. Imports no torch."""

import contextlib
import json
import os
import time
from pathlib import Path

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
