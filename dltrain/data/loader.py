"""Batches cut from samples in memory: one indexing operation a batch, in a seeded order."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.data.base import Samples


class Loader:
    """Yields ``(inputs, targets)`` on ``device``; every sample comes once an epoch.

    With a ``seed`` the order is a pure function of the seed and the epoch, whatever happened before, so any epoch
    can be repeated or resumed; without one the samples come as they lie. When shuffling, a last batch of a single
    sample joins the batch before it, because batch norm cannot train on one sample.
    """

    def __init__(
        self, samples: Samples, batch_size: int, transform: nn.Module, device: torch.device, seed: int | None = None
    ):
        self.samples = samples
        self.batch_size = batch_size
        self.transform = transform.to(device)
        self.device = device
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.samples)
        return math.ceil(count / self.batch_size) - self._joins_last(count)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.order().to(self.device)
        last = len(self) - 1
        for index in range(len(self)):
            start = index * self.batch_size
            indices = order[start:] if index == last else order[start : start + self.batch_size]
            inputs, targets = self.samples.take(indices)
            yield self.transform(inputs), targets

    def order(self) -> Tensor:
        """Indices of this epoch's samples (n,) int64, in the order they are served, on the CPU."""
        count = len(self.samples)
        if self.seed is None:
            return torch.arange(count)
        # torch's generator keeps only the low 32 bits of its seed, so seed and epoch are mixed into those.
        mixed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        return torch.randperm(count, generator=torch.Generator().manual_seed(mixed))

    def _joins_last(self, count: int) -> bool:
        return self.seed is not None and count > self.batch_size > 1 and count % self.batch_size == 1
