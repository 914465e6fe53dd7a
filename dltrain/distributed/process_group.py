"""The processes of a run: how they divide a batch, and what they compute and exchange together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dltrain.errors import DltrainError
from dltrain.system import process

Value = TypeVar("Value")
Agreed = tuple[int, ...]
_Reduction = tuple[Tensor, Any]  # flags, and the work that reduces them


@dataclass(frozen=True)
class BatchSlice:
    """Rows ``start`` to ``stop`` of a micro-batch of ``total`` samples: what one process computes of it."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start


class ProcessGroup:
    """A single process: nothing is exchanged, and nothing waits.

    ``batch_slice`` is what of a micro-batch is being computed; layers that look at whole batches read it.
    """

    rank = 0
    size = 1
    local_size = 1
    batch_slice: BatchSlice | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProcessGroup":
        return self  # copies of a network are of the same run

    @property
    def is_main(self) -> bool:
        """Whether this process writes, prints and reports for all."""
        return self.rank == 0

    def slices(self, total: int, micro_batches: int = 1) -> list[BatchSlice]:
        """This process's part of each micro-batch of a batch of ``total`` samples, as ``tensor_split`` cuts twice."""
        spans = [_span(total, micro_batches, index) for index in range(micro_batches)]
        return [BatchSlice(*_span(stop - start, self.size, self.rank), stop - start) for start, stop in spans]

    def shares(self, total: int) -> list[int]:
        """How many of ``total`` rows each process has, by rank."""
        spans = [_span(total, self.size, rank) for rank in range(self.size)]
        return [stop - start for start, stop in spans]

    def cut(self, indices: Tensor, micro_batches: int = 1) -> Tensor:
        """This process's part of a batch (n,): its slices in order; empty where n is below ``size``."""
        if self.size == 1:
            return indices
        parts = indices.tensor_split(micro_batches)
        return torch.cat([part.tensor_split(self.size)[self.rank] for part in parts])

    @contextmanager
    def computing(self, batch_slice: BatchSlice) -> Iterator[None]:
        """Within, layers that look at whole batches know that the rows they get are ``batch_slice``."""
        before, self.batch_slice = self.batch_slice, batch_slice
        try:
            yield
        finally:
            self.batch_slice = before

    def sum(self, tensor: Tensor) -> Tensor:
        """``tensor`` with those of all processes added to it, in place."""
        return tensor

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values that rank 0 has in ``tensors``."""

    def broadcast(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns in rank 0, in all processes; where it raises, it raises in all of them."""
        return make()

    def gather(self, value: Value) -> list[Value]:
        """``value`` of all processes, by rank, in each of them."""
        return [value]

    def agree(self, *flags: int) -> Agreed:
        """The largest of each flag over all processes; where there are several, of the flags of the previous call.

        So no process waits for the result, and all act on it after the same step.
        """
        return flags

    def agree_now(self, *flags: int) -> Agreed:
        """The largest of each flag over all processes, which wait for each other here."""
        return flags

    def cause_of(self, error: BaseException) -> BaseException:
        """``error``, or what happened in another process and has led to it."""
        return error


class DistributedGroup(ProcessGroup):
    """The processes that a launcher has started together; every method is called by all of them in the same order.

    ``cause_of`` finds what in another process has led to an error in this one.
    """

    def __init__(self, device: torch.device, cause_of: Callable[[BaseException], BaseException]):
        self.device, self.rank, self.size = device, dist.get_rank(), dist.get_world_size()
        self.local_size = process.local_size()
        self._cause_of = cause_of
        # Flags and small objects travel between CPUs, so that no GPU is waited for.
        self._cpu: Any = dist.new_group(backend="gloo") if device.type == "cuda" else None
        self._pending: _Reduction | None = None  # of the flags of the previous call

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def broadcast(self, make: Callable[[], Value]) -> Value:
        values: list[Any] = [None]
        if self.is_main:
            try:
                values = [make()]
            except DltrainError as error:
                values = [error]
        dist.broadcast_object_list(values, 0, group=self._cpu)
        if isinstance(values[0], DltrainError):
            raise values[0]
        return cast(Value, values[0])

    def gather(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._cpu)
        return values

    def agree(self, *flags: int) -> Agreed:
        if self.size == 1:
            return flags
        previous, self._pending = self._pending, self._start_max(flags)
        return _completed(previous) if previous else (0,) * len(flags)

    def agree_now(self, *flags: int) -> Agreed:
        previous, self._pending = self._pending, None
        now = _completed(self._start_max(flags))
        return tuple(map(max, now, _completed(previous))) if previous else now

    def _start_max(self, flags: Sequence[int]) -> _Reduction:
        tensor = torch.tensor(flags)
        return tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._cpu, async_op=True)

    def cause_of(self, error: BaseException) -> BaseException:
        return self._cause_of(error)

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def _span(total: int, size: int, rank: int) -> tuple[int, int]:
    """Where the part of ``rank`` begins and ends when ``total`` rows are cut into ``size``, the first ones larger."""
    each, more = divmod(total, size)
    start = rank * each + min(rank, more)
    return start, start + each + (rank < more)


def _completed(reduction: _Reduction) -> Agreed:
    tensor, work = reduction
    work.wait()
    return tuple(tensor.tolist())
