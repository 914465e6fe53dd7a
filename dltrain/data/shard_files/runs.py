"""Runs of neighbouring samples in shards: which a part has, and the order in which an epoch reads them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Runs:
    """Samples ``starts[i]``, ``starts[i] + 1``, ... of all shards, ``lengths[i]`` of them; both (m,) int64, ascending.

    A run is what is read in one go. A part of a data set is a list of them, so that it takes no memory a sample.
    """

    starts: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        """How many samples these are."""
        return int(self.lengths.sum())

    @cached_property
    def ends(self) -> Tensor:
        return self.lengths.cumsum(0)

    def numbers(self, indices: Tensor) -> Tensor:
        """The numbers in all shards of the samples ``indices`` (batch,) of these runs."""
        run = torch.searchsorted(self.ends, indices, right=True)
        return self.starts[run] + indices - (self.ends - self.lengths)[run]

    def drawn(self, count: int, seed: int) -> tuple["Runs", "Runs"]:
        """``count`` samples in whole runs that ``seed`` draws, the last of them cut, and the samples that are left."""
        order = torch.randperm(len(self.lengths), generator=torch.Generator().manual_seed(seed))
        shuffled = self.lengths[order]
        taken = (count - (shuffled.cumsum(0) - shuffled)).clamp(min=0).minimum(shuffled)
        lengths = torch.empty_like(self.lengths).index_copy_(0, order, taken)
        return (
            _without_empty(self.starts, lengths),
            _without_empty(self.starts + lengths, self.lengths - lengths),
        )

    def stretches(self, window: int, draw: Callable[..., torch.Generator] | None, first: int) -> Iterator[Tensor]:
        """Indices of these samples from place ``first`` of an epoch on, about ``window`` (and whole runs) at a time.

        The runs are shuffled by ``draw(0)``, then the samples of the runs ``k`` that begin within the same ``window``
        by ``draw(k + 1)``: nothing depends on what was read before. Without ``draw`` nothing is shuffled.
        """
        if draw is None:
            for start in range(first, len(self), window):
                yield torch.arange(start, min(start + window, len(self)))
            return
        order = torch.randperm(len(self.lengths), generator=draw(0))
        lengths = self.lengths[order]
        ends = lengths.cumsum(0)
        counts = torch.unique_consecutive((ends - lengths) // window, return_counts=True)[1]
        run = stop = 0
        for number, count in enumerate(counts.tolist()):
            runs, run = order[run : run + count], run + count
            start, stop = stop, int(ends[run - 1])
            if stop > first:
                yield self._shuffled(runs, draw(number + 1))[max(first - start, 0) :]

    def _shuffled(self, runs: Tensor, generator: torch.Generator) -> Tensor:
        lengths = self.lengths[runs]
        first = (self.ends - self.lengths)[runs] - (lengths.cumsum(0) - lengths)
        indices = torch.repeat_interleave(first, lengths) + torch.arange(int(lengths.sum()))
        return indices[torch.randperm(len(indices), generator=generator)]


def _without_empty(starts: Tensor, lengths: Tensor) -> Runs:
    return Runs(starts[lengths > 0], lengths[lengths > 0])
