"""What this process may take of the machine: main memory and cores."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def available_memory() -> int:
    """Bytes of main memory that this process could still take: what the system reports, within its control group."""
    free = sys.maxsize
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int((group / "memory.current").read_text(encoding="ascii")))
    return free


def die_with_parent(signal: int, parent: int | None = None) -> None:
    """Have the system send ``signal`` to this process when the one that started it ends, however it ends (Linux).

    ``parent`` is the process that started it, where that is known; it may have ended already.
    """
    if sys.platform == "linux":
        parent = parent or os.getppid()
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal)
        if os.getppid() != parent:  # it went before this
            os.kill(os.getpid(), signal)


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
