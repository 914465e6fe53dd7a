"""Raw batches to inputs of the model, and random changes of training images: whole batches at a time, on the device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dltrain.errors import ConfigError


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


@dataclass(frozen=True)
class Augment:
    """Changes each image of a batch at random.

    Args:
        fill: mean of each channel (channels,), in raw units, with which ``cutout`` covers its square.
        crop: pixels of black that are added around the image, which is then cut out at a random place.
        flip: mirror left and right with a probability of 1/2.
        cutout: side in pixels of a square that is covered, its centre anywhere (DeVries and Taylor, 2017).
        brightness, contrast, saturation: multiply the image, its distance from its mean grey, or from the grey of each
            pixel by a factor in ``[1 - x, 1 + x]``; saturation needs three channels.
    """

    fill: Tensor
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    draws = 8  # random numbers for an image

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change ``images`` (batch, channels, height, width) uint8 by ``draws`` (batch, 8) in [0, 1) on their device;
        returns raw values of the same shape, uint8 or, after a change of colour, float32."""
        if self.crop:
            images = self._cropped(images, draws[:, 0], draws[:, 1])
        if self.flip:
            images = torch.where(draws[:, 2].view(-1, 1, 1, 1) < 0.5, images.flip(3), images)
        if self.brightness or self.contrast or self.saturation:
            images = self._coloured(images.float(), draws[:, 3:6])
        if self.cutout:
            images = self._covered(images, draws[:, 6], draws[:, 7])
        return images

    def _cropped(self, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, [self.crop] * 4)
        # Views of all places to cut out; to pick a place for each image copies only its pixels.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        places = 2 * self.crop + 1
        rows = torch.arange(len(images), device=images.device)
        return windows[rows, :, (down * places).long(), (right * places).long()]

    def _coloured(self, images: Tensor, draws: Tensor) -> Tensor:
        def factors(column: int, strength: float) -> Tensor:
            return (1 + strength * (2 * draws[:, column] - 1)).view(-1, 1, 1, 1)

        if self.brightness:
            images = (images * factors(0, self.brightness)).clamp(0, 255)
        if self.contrast:
            mean = images.mean((1, 2, 3), keepdim=True)
            images = torch.lerp(mean.expand_as(images), images, factors(1, self.contrast)).clamp(0, 255)
        if self.saturation:
            grey = images.mean(1, keepdim=True)
            images = torch.lerp(grey.expand_as(images), images, factors(2, self.saturation)).clamp(0, 255)
        return images

    def _covered(self, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        def inside(size: int, draw: Tensor) -> Tensor:
            first = (draw * size).long().unsqueeze(1) - self.cutout // 2
            places = torch.arange(size, device=images.device)
            return (places >= first) & (places < first + self.cutout)

        mask = inside(images.shape[2], down).unsqueeze(2) & inside(images.shape[3], right).unsqueeze(1)
        fill = self.fill.to(images.device).view(-1, 1, 1).round().to(images.dtype)
        return torch.where(mask.unsqueeze(1), fill, images)


def make_augment(options: Mapping[str, Any] | None, fill: Tensor, input_shape: Sequence[int]) -> Augment | None:
    """The augmentation that ``dataset.augment`` asks for, ``None`` where it changes nothing; it is checked as by
    :func:`require_augment`."""
    require_augment(options, input_shape)
    return Augment(fill.float(), **options) if options and any(options.values()) else None


def require_augment(options: Mapping[str, Any] | None, input_shape: Sequence[int]) -> None:
    """Refuse, before an image of ``input_shape`` is decoded, what such images cannot have.

    Raises:
        ConfigError: squares or borders that are no smaller than an image, or saturation without colours.
    """
    options = options or {}
    side = min(input_shape[1:])
    problems = [
        f"dataset.augment.{name}={options[name]} must be a whole number of pixels below {side}"
        for name in ("crop", "cutout")
        if options.get(name, 0) >= side
    ]
    if options.get("saturation") and input_shape[0] != 3:
        problems.append("dataset.augment.saturation needs images of three channels (dataset.channels=3)")
    if problems:
        raise ConfigError(problems)
