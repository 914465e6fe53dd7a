"""Where the processes of a run meet: what rank 0 has planned, and why one of them failed."""

import atexit
import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.rendezvous import rendezvous as torch_rendezvous

from dltrain.distributed.process_group import DistributedGroup, ProcessGroup
from dltrain.errors import SIGNALLED, DltrainError, Interrupted, LostPeerError, TrainingError, exit_code_of
from dltrain.system import process
from dltrain.system.answer import answer_ending, is_left_to_launcher, report

_PLAN, _ERROR, _FOLDER = "plan", "error", "dltrain run folder"  # keys of the stores
_NO_PLAN = "null"
_POLL = 0.5  # seconds between two looks at whether another process has failed
_PATIENCE = 5.0  # seconds in which this process may notice by itself that another has failed
_SECONDS_TO_SAY = 1.0  # in which a process that ends says why


@dataclass(frozen=True)
class Plan:
    """What rank 0 has made of the command line."""

    config: str  # composed
    path: str  # the run folder
    command: str
    force: bool
    imports_from_here: bool  # whether classes of the working directory may be named


class Rendezvous:
    """The launcher's store, in which each process leaves messages for the others."""

    def __init__(self) -> None:
        store, self.rank, self.size = _connect()
        self.store = PrefixStore(f"dltrain/{process.restarts()}", store)
        self.store.set(f"process {self.rank}", f"{os.uname().nodename} {os.getpid()}")
        # A connection for the watcher alone: another is busy for as long as what it waits for.
        self._watched = self.store.clone()
        self._left = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="other processes", daemon=True)
        self._watcher.start()
        # A thread that is within the store when the interpreter ends would abort the process.
        atexit.register(self.leave)

    def publish(self, plan: Plan) -> None:
        """Tell the others what is to be done, and keep the folder, in case the launcher restarts all processes."""
        self.store.set(_PLAN, json.dumps(astuple(plan)))
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _launchers_store().set(_FOLDER, plan.path)

    def publish_no_plan(self) -> None:
        """Tell the others, unless they have a plan, that there is nothing to be done."""
        with contextlib.suppress(dist.DistError):  # the launcher has ended, and the others with it
            self.store.compare_set(_PLAN, "", _NO_PLAN)

    def plan(self) -> Plan | None:
        """Wait for the plan of rank 0; ``None`` where there is nothing to be done.

        Raises:
            TrainingError: rank 0 has failed or ended.
        """
        while not self.store.check([_PLAN]):  # the store's own waiting would keep signals from being handled
            lost = self._lost()
            if failure := self._failure():
                raise failure[1]
            if lost and not self.store.check([_PLAN]):
                raise LostPeerError(f"{lost} has ended before there was anything to do")
            time.sleep(_POLL / 10)
        plan = json.loads(self.store.get(_PLAN).decode())
        return None if plan is None else Plan(*plan)

    def report(self, error: BaseException) -> None:
        """Tell the others what has ended this process, unless another has failed before."""
        self.leave()
        message = "interrupted"
        if not isinstance(error, Interrupted):
            text = str(error) or type(error).__name__
            message = text if isinstance(error, DltrainError) else f"a bug: {text}"
        with contextlib.suppress(dist.DistError):  # the store has ended with the process that kept it
            failure = self.rank, exit_code_of(error), message, isinstance(error, LostPeerError)
            self.store.compare_set(_ERROR, "", json.dumps(failure))
        if self.rank > 0 and not is_left_to_launcher(error):  # rank 0 says it itself
            process.leave_error(message)

    def cause_of(self, error: BaseException) -> BaseException:
        """``error``, or what happened in another process and has led to it."""
        if not isinstance(error, Interrupted | RuntimeError):  # what a broken connection, or the launcher, makes
            return error
        failure, until = None, time.monotonic() + _SECONDS_TO_SAY
        while not failure and time.monotonic() < until:
            lost = self._lost()
            failure = self._failure()  # after the look at who is left: a process that ends says why before
            if lost and not failure:
                return LostPeerError(f"{lost} has ended without a word: it was killed, left, or had no memory")
            time.sleep(_POLL / 10)
        return failure[1] if failure and failure[0] != self.rank else error

    def leave(self) -> None:
        """Stop watching the others."""
        self._left.set()
        if threading.current_thread() is not self._watcher:
            self._watcher.join()

    def _failure(self) -> tuple[int, BaseException] | None:
        """The rank of the first process that has failed, and what has ended it."""
        with contextlib.suppress(dist.DistError):
            if self._watched.check([_ERROR]):
                rank, code, text, is_lost_peer = json.loads(self._watched.get(_ERROR).decode())
                return rank, _elsewhere(rank, code, text, is_lost_peer)
        return None

    def _lost(self) -> str:
        """The processes on this machine that have ended."""
        here = os.uname().nodename
        lost = []
        with contextlib.suppress(dist.DistError):
            for rank in range(self.size):
                if self._watched.check([f"process {rank}"]):
                    host, pid = self._watched.get(f"process {rank}").decode().split()
                    lost += [f"rank {rank}"] if host == here and not _is_alive(int(pid)) else []
        return ", ".join(lost)

    def _watch(self) -> None:
        """End this process where it waits for one that has failed: some collectives wait for half an hour."""
        while not self._left.wait(_POLL):
            if (failure := self._failure()) and failure[0] != self.rank and not self._left.wait(_PATIENCE):
                code = exit_code_of(failure[1])
                if self.rank == 0:
                    report(failure[1])
                    answer_ending(code, failure[1])
                os._exit(code)


def _elsewhere(rank: int, code: int, text: str, is_lost_peer: bool) -> BaseException:
    """What has ended the process ``rank``, and with it the run."""
    if code > SIGNALLED:
        return Interrupted(code - SIGNALLED)
    error = LostPeerError(text) if is_lost_peer else TrainingError(f"rank {rank}: {text}")
    error.exit_code = code
    return error


def _connect() -> tuple[Any, int, int]:
    """The launcher's store, the rank of this process and how many there are.

    torch waits for the store in a thread: the main thread would get no signal meanwhile, not even after the launcher,
    and its store with it, has ended.
    """
    connection: Future[tuple[Any, int, int]] = Future()

    def connect() -> None:
        try:
            connection.set_result(next(iter(torch_rendezvous("env://"))))
        except Exception as error:
            connection.set_exception(error)

    threading.Thread(target=connect, name="rendezvous", daemon=True).start()
    return connection.result()


@functools.cache
def rendezvous() -> Rendezvous:
    """The rendezvous of the processes that a launcher has started with this one."""
    return Rendezvous()


@contextmanager
def join_group(device: torch.device, plan: Plan | None = None) -> Iterator[ProcessGroup]:
    """The processes of this run, this one computing on ``device``; a single one where no launcher has started more.

    Rank 0 publishes its ``plan``. An exception that leaves the block is reported to the other processes.
    """
    if not process.is_worker():
        yield ProcessGroup()
        return
    others = rendezvous()
    with reporting(others):
        if plan:
            others.publish(plan)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=others.store, rank=others.rank, world_size=others.size)
    process_group = DistributedGroup(device, others.cause_of)
    try:
        with reporting(others):  # before the others notice that this one has ended
            yield process_group
        others.leave()
    finally:
        process_group.close()


@contextmanager
def reporting(others: Rendezvous) -> Iterator[None]:
    """Within, an exception becomes what has led to it, and is reported to the other processes."""
    try:
        yield
    except BaseException as error:
        try:
            cause = others.cause_of(error)
        except Interrupted as also:  # the launcher tells the others to stop once one has failed
            cause = others.cause_of(also)
        others.report(cause)
        if cause is error:
            raise
        raise cause from error


def folder_before_restart() -> Path | None:
    """The run folder, where the launcher has restarted all processes."""
    if not process.restarts():
        return None
    store = _launchers_store()
    return Path(store.get(_FOLDER).decode()) if store.check([_FOLDER]) else None


def _launchers_store() -> Any:
    """The launcher's store, which stays when all processes are restarted."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return True
