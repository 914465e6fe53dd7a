"""The processes of a run, how they divide a batch, and what they say to each other."""

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.rendezvous import rendezvous

from dltrain import distributed
from dltrain.errors import DltrainError, Interrupted, TrainingError

Value = TypeVar("Value")
Agreed = tuple[int, ...]

_PATIENCE = 5.0  # seconds in which rank 0 may say what has ended the run, before the others leave without it
_SIGNAL = 128  # exit codes from here on are a signal's
_PLAN, _FOLDER = "plan", "dltrain run folder"  # keys of the stores
_SECONDS_TO_SAY = 1.0  # in which a process that ends says why
_POLL = 0.5  # seconds between two looks at whether another process has failed


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a micro-batch of ``total`` samples: what one process computes of it."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start


class World:
    """One process alone: every question has its own answer, and nothing waits.

    ``piece`` is what of a micro-batch is being computed; layers that look at whole batches ask for it.
    """

    rank = 0
    size = 1
    local_size = 1
    piece: Piece | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "World":
        return self  # copies of a network are of the same run

    @property
    def is_main(self) -> bool:
        """Whether this process writes, prints and reports for all."""
        return self.rank == 0

    def pieces(self, total: int, micro_batches: int = 1) -> list[Piece]:
        """This process's part of each micro-batch of a batch of ``total`` samples, as ``tensor_split`` cuts twice."""
        spans = [_span(total, micro_batches, index) for index in range(micro_batches)]
        return [Piece(*_span(stop - start, self.size, self.rank), stop - start) for start, stop in spans]

    def cut(self, indices: Tensor, micro_batches: int = 1) -> Tensor:
        """This process's part of a batch (n,): its pieces one behind the other; empty where n is below ``size``."""
        if self.size == 1:
            return indices
        parts = indices.tensor_split(micro_batches)
        return torch.cat([part.tensor_split(self.size)[self.rank] for part in parts])

    @contextmanager
    def at(self, piece: Piece) -> Iterator[None]:
        """Within, layers that look at whole batches know that the rows they get are ``piece``."""
        before, self.piece = self.piece, piece
        try:
            yield
        finally:
            self.piece = before

    def sum(self, tensor: Tensor) -> Tensor:
        """``tensor`` with those of all processes added to it, in place."""
        return tensor

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values that rank 0 has in ``tensors``."""

    def share(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns in rank 0, in all processes; where it raises, so do all."""
        return make()

    def gather(self, value: Value) -> list[Value]:
        """``value`` of all processes, by rank, in each of them."""
        return [value]

    def agree(self, *flags: int) -> Agreed:
        """The largest of each flag over all processes, as of the call before where there are several.

        So nobody waits for the answer, and all act on it behind the same step.
        """
        return flags

    def agree_now(self, *flags: int) -> Agreed:
        """The largest of each flag over all processes, once all have come here."""
        return flags

    def explained(self, error: BaseException) -> BaseException:
        """``error``, or what happened in another process and has led to it."""
        return error


class Group(World):
    """The processes that a launcher has started together; every method is called by all of them in the same order."""

    def __init__(self, device: torch.device, store: Any, rank: int, size: int):
        self.device, self.rank, self.size = device, rank, size
        self.local_size = distributed.local_size()
        self._store = store
        self._store.set(f"process {rank}", f"{os.uname().nodename} {os.getpid()}")
        # Flags and small objects travel between CPUs, so that no GPU is waited for.
        self._cpu: Any = dist.new_group(backend="gloo") if device.type == "cuda" else None
        self._asked: tuple[Tensor, Any] | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="other processes", daemon=True).start()

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def send(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def share(self, make: Callable[[], Value]) -> Value:
        found: list[Any] = [None]
        if self.is_main:
            try:
                found = [make()]
            except DltrainError as error:
                found = [error]
        dist.broadcast_object_list(found, 0, group=self._cpu)
        if isinstance(found[0], DltrainError):
            raise found[0]
        value: Value = found[0]
        return value

    def gather(self, value: Value) -> list[Value]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._cpu)
        return found

    def agree(self, *flags: int) -> Agreed:
        if self.size == 1:
            return flags
        before, self._asked = self._asked, self._ask(flags)
        return _answer(before) if before else (0,) * len(flags)

    def agree_now(self, *flags: int) -> Agreed:
        before, self._asked = self._asked, None
        now = _answer(self._ask(flags))
        return tuple(map(max, now, _answer(before))) if before else now

    def _ask(self, flags: Sequence[int]) -> tuple[Tensor, Any]:
        tensor = torch.tensor(flags)
        return tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._cpu, async_op=True)

    def fail(self, error: BaseException) -> None:
        """Tell the other processes what has ended this one, unless another has failed before."""
        self._ended.set()
        code = error.exit_code if isinstance(error, DltrainError | Interrupted) else 1
        text = str(error) or type(error).__name__
        told = f"{self.rank} {code} {text}" if isinstance(error, DltrainError) else f"{self.rank} {code} a bug: {text}"
        with contextlib.suppress(dist.DistError):  # the store has gone with the process that kept it
            self._store.compare_set("error", "", told)

    def explained(self, error: BaseException) -> BaseException:
        if isinstance(error, DltrainError):
            return error
        failed, until = None, time.monotonic() + _SECONDS_TO_SAY
        while not failed and time.monotonic() < until:
            failed = self._failure()
            if not failed and (lost := self._lost()):
                return TrainingError(f"{lost} has ended without a word: it was killed, or there was no memory left")
            time.sleep(_POLL / 10)
        if failed and failed[0] != self.rank:
            signal = failed[1] - _SIGNAL
            return Interrupted(signal) if signal > 0 else _ElsewhereError(*failed)
        return error

    def _failure(self) -> tuple[int, int, str] | None:
        """Rank, exit code and message of the first process that has failed."""
        with contextlib.suppress(dist.DistError):
            if self._store.check(["error"]):
                rank, code, text = self._store.get("error").decode().split(" ", 2)
                return int(rank), int(code), text
        return None

    def _lost(self) -> str:
        """The processes on this machine that are there no more."""
        here = os.uname().nodename
        lost = []
        for rank in range(self.size):
            host, pid = self._store.get(f"process {rank}").decode().split()
            if host == here and not _is_alive(int(pid)):
                lost.append(f"rank {rank}")
        return ", ".join(lost)

    def _watch(self) -> None:
        """End this process where it waits for one that has failed: some collectives wait for half an hour."""
        while not self._ended.wait(_POLL):
            if (failed := self._failure()) and failed[0] != self.rank and not self._ended.wait(_PATIENCE):
                os._exit(failed[1])

    def close(self) -> None:
        """Part from the others."""
        self._ended.set()
        dist.destroy_process_group()


class _ElsewhereError(TrainingError):
    """What has ended another process, and with it the run."""

    def __init__(self, rank: int, code: int, text: str):
        super().__init__(f"rank {rank}: {text}")
        self.exit_code = code


def _span(total: int, size: int, rank: int) -> tuple[int, int]:
    """Where the part of ``rank`` begins and ends when ``total`` rows are cut into ``size``, the first ones larger."""
    each, more = divmod(total, size)
    start = rank * each + min(rank, more)
    return start, start + each + (rank < more)


def _answer(asked: tuple[Tensor, Any]) -> Agreed:
    tensor, work = asked
    work.wait()
    return tuple(tensor.tolist())


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


@dataclass(frozen=True)
class Plan:
    """What rank 0 has made of the command line: the composed configuration, the run folder, and what is to be said."""

    config: str
    path: str
    command: str
    force: bool
    imports_from_here: bool  # whether classes of the working directory may be named


def await_plan() -> Plan:
    """What rank 0 has planned, once it has."""
    return Plan(*json.loads(_meeting()[0].get(_PLAN).decode()))


def earlier_folder() -> Path | None:
    """The run folder from before the launcher has started all processes anew."""
    if not distributed.restarts():
        return None
    store = _launchers_store()
    return Path(store.get(_FOLDER).decode()) if store.check([_FOLDER]) else None


@contextmanager
def joined(device: torch.device, plan: Plan | None = None) -> Iterator[World]:
    """The processes of this run, this one computing on ``device``; it alone where nobody has started more.

    Rank 0 tells the others its ``plan``.

    An exception that leaves the block is told to the other processes.
    """
    if not distributed.is_worker():
        yield World()
        return
    store, rank, size = _meeting()
    if plan:
        store.set(_PLAN, json.dumps(astuple(plan)))
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _launchers_store().set(_FOLDER, plan.path)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    world = Group(device, store, rank, size)
    try:
        yield world
    except BaseException as error:
        explained = _explained(world, error)
        world.fail(explained)
        if explained is error:
            raise
        raise explained from error
    finally:
        world.close()


def _explained(world: Group, error: BaseException) -> BaseException:
    try:
        return world.explained(error)
    except Interrupted as also:  # the launcher tells the others to stop once one has failed
        return world.explained(also)


@functools.cache
def _meeting() -> tuple[Any, int, int]:
    """Where the processes find each other, this one's rank, and how many there are."""
    store, rank, size = next(iter(rendezvous("env://")))
    return PrefixStore(f"dltrain/{distributed.restarts()}", store), rank, size


def _launchers_store() -> Any:
    """The launcher's own store, which stays when all processes are started anew."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False)
