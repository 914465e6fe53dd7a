"""What this process may use of the machine: main memory, cores, locks; and processes that it ends with."""

import contextlib
import errno
import functools
import logging
import os
import platform
import select
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

log = logging.getLogger(__name__)

SPIN = "3000"  # turns of a waiting thread before it sleeps; alone as fast as OpenMP's default of 300,000
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


def die_with_parent(number: int, parent: int | None = None) -> None:
    """Have Linux send the signal ``number`` to this process when its parent ends, however that ends.

    ``parent`` is the process that started it, where that is known; it may have ended already.
    """
    if sys.platform == "linux":
        parent = parent or os.getppid()
        import ctypes  # takes long to import, as does multiprocessing

        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, number)
        if os.getppid() != parent:  # it ended before this
            os.kill(os.getpid(), number)


def die_with(pid: int) -> None:
    """Kill this process once the process ``pid`` has ended, which need not be its parent (Linux)."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
    except OSError:  # a kernel that cannot watch processes
        return

    def watch() -> None:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="die_with", daemon=True).start()


class Lock:
    """An exclusive lock on the folder ``path``, or with ``is_file`` on a file that is made there and names the holder.

    It ends with this process, however that ends: processes that are forked meanwhile do not hold it. Where the system
    has no locks, every process is granted it.
    """

    # Errors that say that a file system has no locks; network file systems often have none for folders.
    _NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
    _SECONDS_TO_SAY = 1.0  # for which a lock is waited for in silence
    _held: ClassVar[set[int]] = set()  # descriptors of all locks of this process

    def __init__(self, path: Path, is_file: bool = False):
        self.path = path
        self.is_file = is_file
        self.is_held = False
        self._descriptor: int | None = None

    def take(self, wait: bool = False) -> None:
        """Acquire the lock, with ``wait`` as soon as it is free.

        Raises:
            BlockingIOError: another process holds it, without ``wait``.
            OSError: ``path`` cannot be opened.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT if self.is_file else os.O_RDONLY, 0o600)
        self._held.add(self._descriptor)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.is_held = True
        except BaseException as error:  # also what a signal raises, for which it was waited
            self.release()
            if not isinstance(error, OSError) or error.errno not in self._NO_LOCKS:
                raise
        self._write(_this_process())

    def wait(self, instead: str) -> None:
        """Acquire the lock as soon as it is free; after a second, log which process holds it.

        ``instead``: what users may do who do not want to wait.
        """
        until = time.monotonic() + self._SECONDS_TO_SAY
        while time.monotonic() < until:
            try:
                self.take()
                return
            except BlockingIOError:
                time.sleep(0.02)
        log.warning("waiting for %s, which holds '%s'; %s", self.holder(), self.path, instead)
        self.take(wait=True)

    def release(self) -> None:
        """Let other processes hold it."""
        if self._descriptor in self._held:  # else this process was forked from the holder
            assert self._descriptor is not None
            if self.is_held:
                import fcntl

                self._write("")
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also where a forked process has not closed it yet
            self._held.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor, self.is_held = None, False

    def holder(self) -> str:
        """The process that holds it, as far as the lock file says."""
        text = ""
        with contextlib.suppress(OSError):
            text = self.path.read_text(encoding="utf-8", errors="replace")
        return "".join(filter(str.isprintable, text)) or "another process"

    def _write(self, text: str) -> None:
        if self.is_held and self.is_file:
            assert self._descriptor is not None
            with contextlib.suppress(OSError):  # on a full disk, the lock works without
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, text.encode(errors="replace"), 0)

    @classmethod
    def _close_all(cls) -> None:
        """Close them in a forked process, in which they would outlast the process that holds them."""
        for descriptor in cls._held:
            os.close(descriptor)
        cls._held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Lock._close_all)


def _this_process() -> str:
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    shown = command if len(command) <= 200 else f"{command[:200]}..."
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {platform.node()} ('{shown}', since {since}; kill {os.getpid()} ends it)"


@functools.cache
def has_shared_memory() -> bool:
    """Whether processes can share memory and semaphores; logs a warning where they cannot."""
    try:
        import multiprocessing

        multiprocessing.get_context().Lock()
    except OSError:
        log.warning(
            "this process reads all data by itself, for others need shared memory and there is no /dev/shm that it can"
            " use; in a container, mount one"
        )
        return False
    return True


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
    """Cores that a control group grants; infinite where it sets no limit."""
    with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
        granted, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return int(granted) / int(period)
    with contextlib.suppress(OSError, ValueError):
        granted, period = ((group / f"cpu.cfs_{part}_us").read_text(encoding="ascii") for part in ("quota", "period"))
        return int(granted) / int(period) if int(granted) > 0 else float("inf")
    return float("inf")


def shorten_spin() -> None:
    """Have OpenMP's threads wait for each other only briefly before they yield their core.

    By default a waiting thread spins for long, and keeps the core that the thread it waits for may need: beside another
    busy program, training in several threads is many times slower. The variable is read when torch is loaded, here and
    in child processes. What the user has set stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN


class CoreWatch:
    """Warns, once, when other programs take the cores of a computation in several ``threads``.

    A thread that the system interrupts, so that another program gets its turn, keeps the others waiting. Training was
    interrupted 40 to 80 times a second and thread alone, and 900 to 1,600 times beside a busy program.
    """

    SECONDS = 2.0  # between two checks
    INTERRUPTIONS = 250  # of each thread in a second

    def __init__(self, threads: int):
        self.threads = threads
        self._checked = time.perf_counter()
        self._count = interruptions()
        self._has_warned = False

    def after_step(self) -> None:
        """Check, if the last check was long enough ago."""
        now = time.perf_counter()
        if self._has_warned or now - self._checked < self.SECONDS:
            return
        count = interruptions()
        rate = (count - self._count) / (now - self._checked)
        self._checked, self._count = now, count
        if rate > self.INTERRUPTIONS * self.threads:
            self._has_warned = True
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
