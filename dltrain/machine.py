"""What this process may take of the machine: main memory and cores."""

import contextlib
import ctypes
import logging
import os
import sys
import time
from pathlib import Path

log = logging.getLogger(__name__)

SPIN = "3000"  # looks of a waiting thread before it sleeps; alone as fast as OpenMP's default of 300,000
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
    """Cores that this process may use: those it is bound to, and no more than its control group has time for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, _core_quota())))


def _core_quota(root: Path = Path("/")) -> float:
    """Cores whose time the control groups of this process grant it (Linux, both versions); infinite where none does."""
    groups: list[str] = []
    with contextlib.suppress(OSError):
        groups = (root / "proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    quota = float("inf")
    for line in groups:
        _, controllers, name = line.split(":", 2)
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        place = mount / name.lstrip("/")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may see its own group as the root, whatever name the group has outside.
        for folder in (place, *place.parents):
            if folder.is_relative_to(mount):
                quota = min(quota, _quota_of(folder))
    return quota


def _quota_of(group: Path) -> float:
    """Cores that one control group grants; infinite where it sets no limit."""
    with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
        granted, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return int(granted) / int(period)
    with contextlib.suppress(OSError, ValueError):
        granted, period = ((group / f"cpu.cfs_{part}_us").read_text(encoding="ascii") for part in ("quota", "period"))
        return int(granted) / int(period) if int(granted) > 0 else float("inf")
    return float("inf")


def shorten_spin() -> None:
    """Have the threads of a computation wait for each other only briefly before they leave their core to others.

    OpenMP's threads spin: with its usual patience a second busy program makes a training of several threads many times
    slower, because a thread that waits keeps the core that the thread it waits for would need. It is read when torch
    is loaded, here and in processes started from here. What the user has set stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN


class CoreWatch:
    """Notices that other programs take the cores of a computation with several threads, and says so once.

    ``threads`` that wait for each other give up their cores; a thread that the system has to interrupt, so that another
    program gets its turn, keeps the others waiting. Alone a training was interrupted 40 to 80 times a second and
    thread, beside one busy program 900 to 1,600 times.
    """

    SECONDS = 2.0  # from one look to the next
    INTERRUPTIONS = 250  # of each thread in a second

    def __init__(self, threads: int):
        self.threads = threads
        self._looked = time.perf_counter()
        self._count = interruptions()
        self._has_spoken = False

    def after_step(self) -> None:
        """Look, if the last look was long enough ago."""
        now = time.perf_counter()
        if self._has_spoken or now - self._looked < self.SECONDS:
            return
        count = interruptions()
        rate = (count - self._count) / (now - self._looked)
        self._looked, self._count = now, count
        if rate > self.INTERRUPTIONS * self.threads:
            self._has_spoken = True
            log.warning(
                "other programs take the cores from the %d threads of this run (%s interruptions a second), which"
                " slows it down many times: beside them one thread is faster, trainer.threads=1",
                self.threads,
                f"{rate:,.0f}",
            )


def interruptions() -> int:
    """How often the system has stopped a thread of this process so that another program had its turn."""
    try:
        import resource
    except ImportError:  # Windows does not count them
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
