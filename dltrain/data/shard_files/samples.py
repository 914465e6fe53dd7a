"""Samples that stay in their shards until they are wanted."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dltrain.data.shard_files.formats import Layout
from dltrain.data.shard_files.index import Index
from dltrain.data.shard_files.runs import Runs

_BLOCK = 1 << 20  # labels that are looked at at a time


@dataclass(frozen=True)
class Targets:
    """The labels of an index as targets: the class of each of its labels, or values standardised."""

    classes: Tensor | None
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, labels: np.ndarray) -> Tensor:
        if self.classes is not None:
            return self.classes[torch.from_numpy(labels)]
        return torch.from_numpy((labels.view(np.float64) - self.mean) / self.std).float().unsqueeze(1)


@dataclass(frozen=True, eq=False)
class ShardSamples:
    """The samples of some ``runs``, read each time they are taken; an epoch shuffles ``window`` of them at a time."""

    index: Index
    layout: Layout
    runs: Runs
    targets: Targets
    window: int

    def __len__(self) -> int:
        return len(self.runs)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.runs.numbers(indices).numpy()
        rows = np.array(self.index.rows[numbers])
        inputs = self.layout.shards.read(self.index, numbers, rows[:, :-1])
        return inputs, self.targets(np.ascontiguousarray(rows[:, -1]))

    def names(self, indices: Tensor) -> list[str]:
        return [self.index.name(self.layout.shards, number) for number in self.runs.numbers(indices).tolist()]

    def order(self, draw: Callable[..., torch.Generator] | None, first: int) -> Iterator[Tensor]:
        return self.runs.stretches(self.window, draw, first)

    def to(self, device: torch.device) -> "ShardSamples":
        return self

    @property
    def nbytes(self) -> int:
        return len(self) * math.prod(self.layout.shape) * (1 if self.layout.has_pixels else 4)

    @property
    def streamed(self) -> bool:
        return True


def label_blocks(index: Index, runs: Runs) -> Iterator[np.ndarray]:
    """The labels of some samples as the index has them, a block at a time."""
    for start in range(0, len(runs), _BLOCK):
        numbers = runs.numbers(torch.arange(start, min(start + _BLOCK, len(runs))))
        yield np.ascontiguousarray(index.rows[numbers.numpy(), -1])
