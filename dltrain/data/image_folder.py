"""Images in class folders, of any size and mode."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Fitted, Samples, Streamed
from dltrain.data.cache import cache_limit, cached, key_of, read_ahead, shared_array
from dltrain.data.folders import describe_folder, labelled_images, text_of
from dltrain.data.images.decode import WHITE, Decoding, decode_all, decoding_of, white_of
from dltrain.data.images.labelled import image_data
from dltrain.data.splits import Split
from dltrain.data.stated import Stated
from dltrain.errors import DataError
from dltrain.system.machine import available_memory

log = logging.getLogger(__name__)

_SHARE_OF_MEMORY = 0.5  # of what is available, for decoded images

Cache = Literal["auto", "memory", "disk", "none"]


@Stated(task="classification", folders={"root": "train/<class>/<images>"})
def image_folder(
    root: str,
    image_size: int | Sequence[int] = 32,
    channels: int = 3,
    background: str | int | None = None,
    white: float | str = WHITE,
    cache: Cache = "auto",
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
    fitted: Fitted | None = None,
) -> Data:
    """Images under ``root/train/<class>/``, at any depth, with ``root/val`` and ``root/test`` if they exist, in any
    usual spelling (``Training``, ``validation``).

    A part without a folder is held out of the training images, seeded and stratified; ``root/<class>/`` without a
    ``train`` folder works as well. Each image is turned upright as its EXIF data say, converted to ``channels``
    (1 grey, 3 RGB) and resized to ``image_size`` (the side of a square, or ``[height, width]``).

    Args:
        background: the colour that shows where an image is transparent: a name, ``#rrggbb`` or a grey from 0 to 255;
            ``None``: the colour that the file has there, mostly black.
        white: the value that becomes 255 in images of more than 8 bits a pixel; ``auto`` measures it on the training
            images.
        cache: where decoded images are kept. ``memory`` reads them all, ``disk`` maps them from the cache on disk,
            ``none`` decodes each batch when it is needed, in other processes; ``auto`` takes the first of these that
            has enough room. All but ``none`` leave them in the cache on disk, so that the next run decodes nothing.
        fitted: measured by an earlier run, whose classes are kept; some of them may have no images here.

    Raises:
        DataError: a folder is missing, a class has no images to train on, an image cannot be read, or ``val`` or
            ``test`` have a class that ``train`` lacks.
    """
    decoding = decoding_of(image_size, channels, background, white, fitted.preprocessing if fitted else None)
    top = Path(os.path.expanduser(root))
    if not top.is_dir():
        raise DataError(f"there is no folder '{root}'; dataset.root must hold train/<class>/<images>")
    top = top.resolve()  # the cache knows images by their paths
    classes, labelled = labelled_images(top, fitted.facts.class_names if fitted else ())
    if white == "auto" and not fitted:
        decoding = decoding._replace(white=white_of(labelled["train"].paths))
    parts = {
        name: ImageFiles(part.folder, part.paths, torch.tensor(part.labels), decoding, cache)
        for name, part in labelled.items()
    }
    data = image_data(
        text_of(top.name),
        classes,
        parts,
        split=Split(val_fraction, test_fraction, limit, split_seed),
        augment=augment,
        background=decoding.background,
        white=decoding.white,
    )
    described = (f"{name} {describe_folder(part.folder, part.paths)}" for name, part in labelled.items())
    return replace(data, files="; ".join(described))


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled image files of a folder, which are decoded once or each time they are taken."""

    folder: Path
    paths: Sequence[Path]
    labels: Tensor
    decoding: Decoding
    cache: Cache

    @property
    def shape(self) -> tuple[int, ...]:
        return self.decoding.shape

    def load(self, indices: Tensor) -> Samples:
        """The images at ``indices``, kept as ``cache`` says."""
        paths, labels = [self.paths[index] for index in indices.tolist()], self.labels[indices]
        shape = (len(paths), *self.decoding.shape)
        place = self._place(math.prod(shape))
        pixels = None
        if place != "none" and len(paths) == len(self.paths):  # a part of them, for a trial run, is not worth keeping
            pixels = self._from_cache(shape)
            if pixels is None and place == "disk" and math.prod(shape) > _SHARE_OF_MEMORY * available_memory():
                place = "none"
        if place == "none":
            return ImageStream(self.folder, paths, labels, self.decoding)
        if pixels is None:
            pixels = shared_array(shape)
            decode_all(paths, self.decoding, pixels)
        elif place == "memory":
            read_ahead(pixels)
        return Arrays(torch.from_numpy(pixels), labels, _named(paths, self.folder))

    def _place(self, nbytes: int) -> Cache:
        if self.cache != "auto":
            return self.cache
        if nbytes <= _SHARE_OF_MEMORY * available_memory():
            return "memory"
        place: Cache = "disk" if nbytes <= cache_limit() else "none"
        log.info("%s: %.1f GiB of decoded images do not fit into memory: cache=%s", self.folder, nbytes / 2**30, place)
        return place

    def _from_cache(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """All decoded files of the folder, mapped; ``None``, with a warning, where the cache cannot be used."""
        filled = False

        def fill(pixels: np.ndarray) -> None:
            nonlocal filled
            log.info("decoding %s images of %s", f"{shape[0]:,}", self.folder)
            decode_all(self.paths, self.decoding, pixels)
            filled = True

        try:
            pixels = cached(key_of(self.paths, self.decoding), shape, text_of(self.folder), fill)
        except OSError as error:
            log.warning("%s: decoded images are not kept for the next run: %s", self.folder, error)
            return None
        if filled:
            log.info("decoded; the next run finds them in the cache")
        return pixels


@dataclass(frozen=True)
class ImageStream(Streamed):
    """Images that are decoded each time they are taken, in bounded memory."""

    folder: Path
    paths: Sequence[Path]
    labels: Tensor
    decoding: Decoding

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels = shared_array((len(indices), *self.decoding.shape))
        decode_all([self.paths[index] for index in indices.tolist()], self.decoding, pixels)
        return torch.from_numpy(pixels), self.labels[indices]

    def names(self, indices: Tensor) -> list[str]:
        return _named([self.paths[index] for index in indices.tolist()], self.folder)

    @property
    def nbytes(self) -> int:
        return len(self.labels) * math.prod(self.decoding.shape)


def _named(paths: Sequence[Path], folder: Path) -> list[str]:
    """The names of files of ``folder`` in messages: their paths from its parent."""
    start = len(os.path.join(folder.parent, ""))
    return [text_of(str(path)[start:]) for path in paths]
