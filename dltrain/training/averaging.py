"""An exponential moving average of a network's weights."""

import copy

import torch
from torch import nn

from dltrain.distributed.strategy import local


class ExponentialMovingAverage:
    """Keeps ``average = d * average + (1 - d) * weights`` in a copy of the network, for evaluation.

    ``d`` rises to ``decay``: it is ``min(decay, (1 + t) / (10 + t))`` at the update after ``t`` others. With a
    constant decay the initial weights would be most of the average for ``1 / (1 - decay)`` updates.

    Floating-point buffers (batch-norm statistics) are averaged as well, others are copied. The average starts as
    the initial weights. Equal to :class:`torch.optim.swa_utils.AveragedModel` with that decay and
    ``use_buffers=True``, but for that class's first update, which copies, and its counter on the device, which
    would make every step wait for a GPU.

    ``average`` is the copy, where it is there already: a network that lies in shards cannot be copied.
    """

    def __init__(self, model: nn.Module, decay: float, average: nn.Module | None = None):
        self.model = (copy.deepcopy(model) if average is None else average).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0
        states = self.model.state_dict().values(), model.state_dict().values()
        pairs = [(local(average), local(weight)) for average, weight in zip(*states, strict=True)]
        # Weights that two layers share are listed twice, but are a single tensor and take a single update. (Shards
        # without rows all have the address 0, and nothing to update.)
        pairs = list({average.data_ptr(): (average, weight) for average, weight in pairs}.values())
        # state_dict returns the tensors themselves, so these lists stay valid as training goes on.
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._weights = [weight for average, weight in pairs if average.is_floating_point()]
        self._copies = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        for copied, original in self._copies:
            copied.copy_(original)
