"""Batches in a seeded order, taken from memory or read ahead from files, and transformed on the device."""

import copy
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.base import Ordered, Samples
from dltrain.data.workers import follow_parent
from dltrain.errors import DltrainError, TrainingError
from dltrain.system.machine import core_count, has_shared_memory

_READ_AHEAD = 4  # batches that each worker has ready
# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose constants are unsigned; torch multiplies modulo 2 ** 64.
_STEP, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

Batch = tuple[Tensor, Tensor, Tensor]  # indices of the samples, raw inputs, targets


class Loader:
    """Yields ``(inputs, targets)`` on ``device``, each sample once an epoch.

    With a ``seed`` the order is a pure function of the seed and the epoch, so that any epoch can be repeated or
    resumed; without it the samples come in order. When shuffling, a last batch of fewer than ``smallest`` samples joins
    the batch before it, because batch norm cannot train on a single sample.

    Samples that are :class:`~dltrain.data.base.Ordered` choose the order themselves, a stretch at a time, in memory
    that does not grow with their number.

    ``augment`` changes each sample by random numbers that depend on the seed, the epoch and the sample, but not on its
    batch or the process that read it. ``resident`` samples are on ``device`` already, others are copied there batch by
    batch; streamed ones are read by ``workers`` processes, by default as many as there are cores.

    ``cut`` selects this process's part of the indices of each batch, where several processes share it.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        transform: nn.Module,
        device: torch.device,
        seed: int | None = None,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
        resident: bool = True,
        workers: int | None = None,
        smallest: int = 2,
    ):
        self.samples = samples
        self.batch_size = batch_size
        self.transform = transform.to(device)
        self.device = device
        self.seed = seed
        self.augment = augment
        self.resident = resident and not samples.streamed
        self.workers = core_count() if workers is None else workers
        self.epoch = 0
        self.start = 0
        self.smallest = smallest
        self.cut: Callable[[Tensor], Tensor] | None = None
        self._batches = _BatchSampler()
        self._reader: Any = None

    def drawn(self, seed: int | None) -> "Loader":
        """The same samples in another order, without a cut: for a process that does not share its batches."""
        drawn = copy.copy(self)
        drawn.seed, drawn.cut, drawn._reader, drawn._batches = seed, None, None, _BatchSampler()
        return drawn

    def close(self) -> None:
        """End the processes that read ahead; the next iteration starts new ones.

        Garbage collection would end them in no particular order, and torch then waits 5 seconds for each.
        """
        self._reader = None

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch (from 0) whose order the next iterations follow, and their first batch (from 0)."""
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        count = len(self.samples)
        return math.ceil(count / self.batch_size) - self._joins_last(count)

    def size_of(self, batch: int) -> int:
        """Number of samples of a batch (from 0), in all processes together."""
        return self.batch_size if batch + 1 < len(self) else len(self.samples) - batch * self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draws = self._draws()
        for indices, inputs, targets in self._batches_on_device():
            if self.augment is not None and draws is not None:
                inputs = self.augment(inputs, draws(indices))
            yield self.transform(inputs), targets

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first samples, transformed but not augmented; starts no worker."""
        indices = torch.arange(min(count, len(self.samples)), device=self.device if self.resident else "cpu")
        inputs, targets = self.samples.take(indices)
        return self.transform(inputs.to(self.device)), targets.to(self.device)

    def order(self, count: int | None = None) -> Tensor:
        """Indices of this epoch's samples (n,) int64, or of the first ``count``, in order, on the CPU."""
        count = len(self.samples) if count is None else count
        order = torch.empty(0, dtype=torch.int64)
        stretches = self._order_from(0)
        while len(order) < count:
            order = torch.cat([order, next(stretches)])
        return order[:count]

    def _order_from(self, first: int) -> Iterator[Tensor]:
        """The order from place ``first`` on; that of :class:`Ordered` samples comes a stretch at a time."""
        count = len(self.samples)
        if isinstance(self.samples, Ordered):
            yield from self.samples.order(None if self.seed is None else partial(self._generator, 3), first)
            return
        order = torch.arange(count) if self.seed is None else torch.randperm(count, generator=self._generator())
        yield order[first:]

    def _draws(self) -> Callable[[Tensor], Tensor] | None:
        """A function from indices (batch,) to the random numbers (batch, draws) of augmentation, on the device."""
        if self.augment is None:
            return None
        width = getattr(self.augment, "draws", 1)
        if isinstance(self.samples, Ordered):  # too many for a table
            return partial(hashed_draws, int(self._mixed(1)), width)
        draws = torch.rand((len(self.samples), width), generator=self._generator(1)).to(self.device)
        return partial(draws.index_select, 0)

    def _generator(self, *purpose: int) -> torch.Generator:
        # torch's generator keeps only the low 32 bits of its seed, so everything is mixed into those.
        return torch.Generator().manual_seed(int(self._mixed(*purpose)))

    def _mixed(self, *purpose: int) -> np.uint32:
        mixed: np.uint32 = np.random.SeedSequence((self.seed or 0, self.epoch, *purpose)).generate_state(1)[0]
        return mixed

    def _joins_last(self, count: int) -> bool:
        return self.seed is not None and count > self.batch_size > 1 and 0 < count % self.batch_size < self.smallest

    def _batches_on_device(self) -> Iterator[Batch]:
        self._batches.epoch = self._cut_from(self.start)
        if self.resident:
            return self._take()
        read = self._read_ahead() if self.samples.streamed else self._take()
        if self.device.type == "cuda":
            return _copied_ahead(read, self.device)
        return (tuple(part.to(self.device) for part in batch) for batch in read)  # type: ignore[misc]

    def _cut_from(self, first: int) -> Iterator[Tensor]:
        """The indices of this process's part of each batch, from batch ``first`` on."""
        stretches = self._order_from(first * self.batch_size)
        order = torch.empty(0, dtype=torch.int64)
        for batch in range(first, len(self)):
            size = self.size_of(batch)
            while len(order) < size:
                stretch = next(stretches)
                stretch = stretch.to(self.device) if self.resident else stretch
                order = torch.cat([order, stretch]) if len(order) else stretch
            yield self.cut(order[:size]) if self.cut else order[:size]
            order = order[size:]

    def _take(self) -> Iterator[Batch]:
        for indices in self._batches:
            yield indices, *_taken(self.samples, indices)

    def _read_ahead(self) -> Iterator[Batch]:
        """Batches in order, read by other processes."""
        if self._reader is None:
            self._reader = self._start_reader()
        try:
            for batch in self._reader:
                if isinstance(batch, DltrainError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            cause = str(error).splitlines()[0]
            raise TrainingError(
                f"a process that reads data has ended ({cause}); is there enough memory, also in /dev/shm? A container"
                " gets more there by docker run --shm-size=8g"
            ) from error

    def _start_reader(self) -> Any:
        from torch.utils.data import DataLoader

        workers = self.workers if self.workers and has_shared_memory() else 0
        return DataLoader(
            _Taking(self.samples),  # type: ignore[arg-type]  # a map-style data set by its methods
            sampler=self._batches,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_READ_AHEAD if workers else None,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=partial(follow_parent, os.getpid()),
            # As children of this process, which end with it: a fork server would be their parent otherwise.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            generator=self._generator(2),  # seeds the workers, for random numbers of a user's data set
        )


class _BatchSampler:
    """The indices of the batches to come: new ones each epoch, for workers that stay alive."""

    def __init__(self) -> None:
        self.epoch: Iterator[Tensor] = iter(())

    def __iter__(self) -> Iterator[Tensor]:
        return self.epoch


class _Taking:
    """Takes batches in a worker; errors of the user's input are returned as values, without the worker's traceback."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: Tensor) -> Batch | DltrainError:
        try:
            return indices, *_taken(self.samples, indices)
        except DltrainError as error:
            return error


def _taken(samples: Samples, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The samples at ``indices``; for no indices, which some samples cannot take, tensors without rows."""
    if len(indices):
        return samples.take(indices)
    inputs, targets = samples.take(indices.new_zeros(1))
    return inputs[:0], targets[:0]


def _copied_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """``batches`` on a GPU, each copied while the GPU computes on the batch before."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = tuple(part.pin_memory().to(device, non_blocking=True) for part in batch)
        if ahead is not None:
            yield ahead
        torch.cuda.current_stream(device).wait_stream(stream)
        for part in copied:  # so that its memory is not reused while the computing stream still reads it
            part.record_stream(torch.cuda.current_stream(device))
        ahead = copied  # type: ignore[assignment]
    if ahead is not None:
        yield ahead


def hashed_draws(key: int, width: int, indices: Tensor) -> Tensor:
    """Random numbers (batch, width) in [0, 1) float32 that belong to the samples ``indices`` (batch,) int64 and to
    ``key``, computed on their device when they are needed: no table of them grows with a data set.
    """
    columns = torch.arange(width, device=indices.device)
    bits = _splitmix(_splitmix(indices + _splitmix(torch.full_like(indices[:1], key))).unsqueeze(1) + columns)
    return _shifted(bits, 40).float() / 2**24


def _splitmix(bits: Tensor) -> Tensor:
    bits = bits * _STEP + _STEP
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """``bits`` shifted right as unsigned numbers are."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
