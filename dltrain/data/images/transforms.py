"""Raw batches to inputs of the model, on the device."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Normalise uint8 images to float32 with zero mean and unit deviation in each channel.

    ``inputs``: (batch, channels, height, width) uint8; ``mean`` and ``std``: one value a channel, in units of the
    raw values (0 to 255). A channel that never changes is only shifted.
    """

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        scale = 1 / torch.where(std > 0, std, 1)
        self.register_buffer("scale", scale.float().view(-1, 1, 1))
        self.register_buffer("shift", (-mean * scale).float().view(-1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.addcmul(cast(Tensor, self.shift), inputs.float(), cast(Tensor, self.scale))


def transform_of(kind: str, preprocessing: Mapping[str, Any]) -> nn.Module:
    """The transform of a data set of this ``kind``, rebuilt from its ``preprocessing``."""
    if kind != "image" or "mean" not in preprocessing:
        return nn.Identity()
    return Normalize(*stored_statistics(preprocessing))


def stored_statistics(preprocessing: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, as an earlier run measured them."""
    mean, std = (torch.tensor(preprocessing[name], dtype=torch.float64) for name in ("mean", "std"))
    return mean, std


def channel_statistics(images: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of ``images`` (n, channels, height, width) uint8, exact, as float64."""
    return statistics_of(torch.split(images, chunk), images.shape[1])


def statistics_of(parts: Iterable[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """:func:`channel_statistics` of images that come in ``parts``."""
    values = torch.arange(256, dtype=torch.float64)
    histogram = torch.zeros(channels, 256, dtype=torch.float64)
    for part in parts:
        for channel, counts in enumerate(histogram):
            counts += torch.bincount(part[:, channel].flatten(), minlength=256)
    weights = histogram / histogram.sum(1, keepdim=True)
    mean = weights @ values
    return mean, (weights @ values**2 - mean**2).clamp(min=0).sqrt()
