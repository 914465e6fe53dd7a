"""Image classification: a data set of labelled images from any source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Facts, Samples, Subset
from dltrain.data.images.decode import WHITE
from dltrain.data.images.transforms import Normalize, channel_statistics, make_augment, require_augment
from dltrain.data.splits import Shuffled, Split
from dltrain.errors import DataError

# images, which give the mean of a channel to about 1 % even where decoding all of them would take long
_MEASURED = 5000


class Images(Protocol):
    """Labelled images, wherever they are."""

    @property
    def labels(self) -> Tensor:
        """Class indices (n,) int64."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image: (channels, height, width)."""
        ...

    def load(self, indices: Tensor) -> Samples:
        """The images at ``indices`` (m,) int64, in that order, as (m, channels, height, width) uint8."""
        ...


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images in memory: ``images`` (n, channels, height, width) uint8."""

    labels: Tensor
    images: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def load(self, indices: Tensor) -> Samples:
        return Subset(Arrays(self.images, self.labels), indices)


def image_data(
    name: str,
    class_names: Sequence[str],
    sources: Mapping[str, Images],
    *,
    split: Split,
    augment: Mapping[str, Any] | None = None,
    levels: int = 255,
    background: str | None = "#ffffff",
    white: float = WHITE,
) -> Data:
    """Hold out the parts that ``sources`` lack, stratified by class, load all, and measure the training part.

    ``levels`` is the value of white; ``background`` and ``white`` are those of the :class:`~.decode.Decoding`.
    """
    train = sources["train"]
    require_augment(augment, train.shape)  # before minutes of decoding
    pools = split.parts({part: Shuffled.of(len(images.labels), images.labels) for part, images in sources.items()})
    if len(pools["train"]) == 0:
        raise DataError(f"{name}: no image is left for training")
    parts = _load({part: (sources.get(part, train), pool.indices) for part, pool in pools.items()})
    measured = Shuffled.of(len(parts["train"])).limited(_MEASURED, split.seed)
    sample = parts["train"].take(measured.indices)[0]
    mean, std = channel_statistics(sample)
    facts = Facts(
        name=name,
        task="classification",
        kind="image",
        input_shape=train.shape,
        num_outputs=len(class_names),
        class_names=tuple(class_names),
    )
    return Data(
        facts,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        Normalize(mean, std),
        make_augment(augment, mean, facts.input_shape),
        {"mean": mean.tolist(), "std": std.tolist(), "levels": levels, "background": background, "white": white},
    )


def _load(places: Mapping[str, tuple[Images, Tensor]]) -> dict[str, Samples]:
    """Load each source once, however many parts are cut from it."""
    loaded: dict[Images, tuple[Tensor, Samples]] = {}
    for images in dict.fromkeys(images for images, _ in places.values()):
        wanted = torch.unique(torch.cat([picks for other, picks in places.values() if other is images]))
        loaded[images] = wanted, images.load(wanted)
    return {
        part: Subset(loaded[images][1], torch.searchsorted(loaded[images][0], picks))
        for part, (images, picks) in places.items()
    }
