"""Image classification: from labelled images, wherever they come from, to a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Facts
from dltrain.data.splits import holdout, limited
from dltrain.data.transforms import Normalize, channel_statistics
from dltrain.errors import DataError


@dataclass(frozen=True)
class LabelledImages:
    """Images that are read when asked for: ``read(indices)`` gives (n, channels, height, width) uint8."""

    labels: Tensor
    read: Callable[[Tensor], Tensor]

    def subset(self, indices: Tensor) -> "LabelledImages":
        return LabelledImages(self.labels[indices], lambda picks: self.read(indices[picks]))

    def load(self, limit: int | None, seed: int) -> Arrays:
        picks = limited(torch.arange(len(self.labels)), limit, seed)
        return Arrays(self.read(picks), self.labels[picks])


def image_data(
    name: str,
    class_names: Sequence[str],
    train: LabelledImages,
    val: LabelledImages | None = None,
    test: LabelledImages | None = None,
    *,
    val_fraction: float,
    test_fraction: float = 0.0,
    limit: int | None,
    split_seed: int,
) -> Data:
    """Hold out what is not given as a part of its own, read the images, and measure the training part.

    ``test_fraction`` of ``train`` becomes the test part where there is none, then ``val_fraction`` of what is left
    the validation part; ``limit`` keeps at most that many images of each part.
    """
    if test is None:
        train, test = _split(train, test_fraction, split_seed)
    if val is None:
        train, val = _split(train, val_fraction, split_seed)
    if len(train.labels) == 0:
        raise DataError(f"{name}: no image is left for training")
    arrays = train.load(limit, split_seed)
    held = [part.load(limit, split_seed) if part is not None else None for part in (val, test)]
    facts = Facts(
        name=name,
        task="classification",
        kind="image",
        input_shape=tuple(arrays.inputs.shape[1:]),
        num_outputs=len(class_names),
        class_names=tuple(class_names),
    )
    mean, std = channel_statistics(arrays.inputs)
    preprocessing = {"mean": mean.tolist(), "std": std.tolist()}
    return Data(facts, arrays, held[0], held[1], Normalize(mean, std), preprocessing)


def _split(images: LabelledImages, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages | None]:
    kept, held = holdout(len(images.labels), fraction, seed, images.labels)
    return images.subset(kept), images.subset(held) if len(held) else None
