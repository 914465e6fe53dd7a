"""Image classification: from labelled images, wherever they come from, to a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Facts, Samples, Subset
from dltrain.data.images.augment import make_augment, require_augment
from dltrain.data.images.decode import WHITE
from dltrain.data.images.transforms import Normalize, channel_statistics
from dltrain.data.splits import holdout, limited
from dltrain.errors import DataError

# Enough for the mean of a channel to within a per cent, so that data that are never in memory start at once too.
_MEASURED = 5000


class Images(Protocol):
    """Labelled images, wherever they are kept."""

    @property
    def labels(self) -> Tensor:
        """Class indices (n,) int64."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image: (channels, height, width)."""
        ...

    def load(self, indices: Tensor) -> Samples:
        """The images at ``indices`` (m,) int64, in that order, as (m, channels, height, width) uint8."""
        ...


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images that are in memory as they are: ``images`` (n, channels, height, width) uint8."""

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
    train: Images,
    val: Images | None = None,
    test: Images | None = None,
    *,
    val_fraction: float,
    test_fraction: float = 0.0,
    limit: int | None,
    split_seed: int,
    augment: Mapping[str, Any] | None = None,
    levels: int = 255,
    background: str | None = "#ffffff",
    white: float = WHITE,
) -> Data:
    """Hold out what is not given as a part of its own, load the images, and measure the training part.

    ``test_fraction`` of ``train`` becomes the test part where there is none, then ``val_fraction`` of what is left
    the validation part; ``limit`` keeps at most that many images of each part. ``levels`` is the value of white.
    ``background`` and ``white`` say how files were decoded, or are to be: see :class:`~.decode.Decoding`.
    """
    require_augment(augment, train.shape)  # before minutes of decoding
    places: dict[str, tuple[Images, Tensor]] = {"train": (train, torch.arange(len(train.labels)))}
    for part, given, fraction in (("test", test, test_fraction), ("val", val, val_fraction)):
        if given is not None:
            places[part] = (given, torch.arange(len(given.labels)))
            continue
        rest = places["train"][1]
        kept, held = holdout(len(rest), fraction, split_seed, train.labels[rest])
        places["train"] = (train, rest[kept])
        if len(held):
            places[part] = (train, rest[held])
    if len(places["train"][1]) == 0:
        raise DataError(f"{name}: no image is left for training")
    parts = _load({part: (images, limited(picks, limit, split_seed)) for part, (images, picks) in places.items()})
    measured = limited(torch.arange(len(parts["train"])), _MEASURED, split_seed)
    sample = parts["train"].take(measured)[0]
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
