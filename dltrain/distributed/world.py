"""The processes of a run, how they divide a batch, and what they say to each other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dltrain.errors import DltrainError
from dltrain.system import worker

Value = TypeVar("Value")
Agreed = tuple[int, ...]


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

    def shares(self, total: int) -> list[int]:
        """How many of ``total`` rows each process has, by rank."""
        spans = [_span(total, self.size, rank) for rank in range(self.size)]
        return [stop - start for start, stop in spans]

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
    """The processes that a launcher has started together; every method is called by all of them in the same order.

    ``explain`` finds what in another process has led to an error in this one.
    """

    def __init__(self, device: torch.device, explain: Callable[[BaseException], BaseException]):
        self.device, self.rank, self.size = device, dist.get_rank(), dist.get_world_size()
        self.local_size = worker.local_size()
        self._explain = explain
        # Flags and small objects travel between CPUs, so that no GPU is waited for.
        self._cpu: Any = dist.new_group(backend="gloo") if device.type == "cuda" else None
        self._asked: tuple[Tensor, Any] | None = None

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

    def explained(self, error: BaseException) -> BaseException:
        return self._explain(error)

    def close(self) -> None:
        """Part from the others."""
        dist.destroy_process_group()


def _span(total: int, size: int, rank: int) -> tuple[int, int]:
    """Where the part of ``rank`` begins and ends when ``total`` rows are cut into ``size``, the first ones larger."""
    each, more = divmod(total, size)
    start = rank * each + min(rank, more)
    return start, start + each + (rank < more)


def _answer(asked: tuple[Tensor, Any]) -> Agreed:
    tensor, work = asked
    work.wait()
    return tuple(tensor.tolist())
