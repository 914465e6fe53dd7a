"""Processes that read files for a run: they hold what it holds, end with it, and leave signals to it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from dltrain.errors import TrainingError
from dltrain.system.machine import die_with_parent, has_shared_memory


@contextlib.contextmanager
def forked(workers: int) -> Iterator[Executor]:
    """Processes that hold what this process holds; threads where processes cannot be forked safely."""
    pool: Executor
    if sys.platform == "linux" and has_shared_memory():
        # A fresh interpreter would import torch first. The children touch Pillow, NumPy and readers of files alone.
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(workers, context, follow_parent, (os.getpid(),))
    else:
        pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise TrainingError("a process that reads data was killed; is there enough memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def follow_parent(parent: int, worker: int = 0) -> None:
    """End with the process ``parent``, however it ends, and leave signals to it, although a terminal and a batch system
    send them to every process; ``worker`` is the number that torch gives this one.
    """
    die_with_parent(signal.SIGKILL, parent)
    for name in ("SIGINT", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_on_sigterm_of, args=(parent,), daemon=True).start()


def _end_on_sigterm_of(parent: int) -> None:
    """Exit on a SIGTERM of the parent alone: torch and the standard library send it to workers that do not end."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        continue
    os._exit(0)
