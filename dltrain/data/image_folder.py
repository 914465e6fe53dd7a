"""Images in class folders, of any size and mode."""

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Fitted, Samples
from dltrain.data.cache import cache_limit, cached, key_of, read_ahead, shared_array
from dltrain.data.decode import Decoding, decode_all, decoding_of
from dltrain.data.images import image_data
from dltrain.data.source import describe_folder
from dltrain.errors import ConfigError, DataError, did_you_mean
from dltrain.machine import available_memory

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_SHARE_OF_MEMORY = 0.5  # of what is available, for decoded images

Cache = Literal["auto", "memory", "disk", "none"]


def image_folder(
    root: str,
    image_size: int | Sequence[int] = 32,
    channels: int = 3,
    cache: Cache = "auto",
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
    fitted: Fitted | None = None,
) -> Data:
    """Images under ``root/train/<class>/``, at any depth, with ``root/val`` and ``root/test`` where they exist.

    A part without a folder is held out of the training images, seeded and stratified. ``root/<class>/`` without a
    ``train`` folder works as well. Each image is turned upright as its EXIF data say, brought to ``channels``
    (1 grey, 3 RGB) and resized to ``image_size`` (one side of a square, or ``[height, width]``).

    Args:
        cache: where decoded images are kept. ``memory`` reads them all in, ``disk`` maps them from the cache on disk,
            ``none`` decodes each batch when it is wanted, in other processes; ``auto`` takes the first of these that
            has the room. All but ``none`` leave them in the cache on disk, so that the next run decodes nothing.
        fitted: what an earlier run measured: the classes are its classes, some of which may have no images here.

    Raises:
        DataError: a folder is missing or a class is empty, an image cannot be read, or the classes of ``val`` or
            ``test`` are not those of ``train``.
    """
    if cache not in ("auto", "memory", "disk", "none"):
        raise ConfigError([f"dataset.cache must be auto, memory, disk or none, not '{cache}'"])
    decoding = decoding_of(image_size, channels)
    top = Path(root).expanduser()
    if not top.is_dir():
        raise DataError(f"there is no folder '{root}'; dataset.root must hold train/<class>/<images>")
    train_folder = top / "train" if (top / "train").is_dir() else top
    known = list(fitted.facts.class_names) if fitted else None
    classes = known or _class_names(train_folder, but=("val", "test") if train_folder == top else ())
    parts = {
        name: _labelled(folder.resolve(), classes, decoding, cache, ("val", "test") if folder == top else (), not known)
        for name, folder in (("train", train_folder), ("val", top / "val"), ("test", top / "test"))
        if folder.is_dir()
    }
    data = image_data(
        top.resolve().name,
        classes,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        limit=limit,
        split_seed=split_seed,
        augment=augment,
    )
    described = (f"{name} {describe_folder(part.folder, part.paths)}" for name, part in parts.items())
    return replace(data, files="; ".join(described))


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled image files of a folder, which are decoded once or whenever they are wanted."""

    folder: Path
    paths: Sequence[Path]
    labels: Tensor
    decoding: Decoding
    cache: Cache

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.decoding)

    def load(self, indices: Tensor) -> Samples:
        """The images at ``indices``, kept as ``cache`` says."""
        paths, labels = [self.paths[index] for index in indices.tolist()], self.labels[indices]
        shape = (len(paths), *self.decoding)
        place = self._place(math.prod(shape))
        pixels = None
        if place != "none" and len(paths) == len(self.paths):  # a few for a trial run are not worth keeping
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
        """The decoded files of the whole folder, mapped; ``None`` with a warning where the cache cannot be used."""

        filled = False

        def fill(pixels: np.ndarray) -> None:
            nonlocal filled
            log.info("decoding %s images of %s", f"{shape[0]:,}", self.folder)
            decode_all(self.paths, self.decoding, pixels)
            filled = True

        try:
            pixels = cached(key_of(self.paths, self.decoding), shape, str(self.folder), fill)
        except OSError as error:
            log.warning("%s: decoded images are not kept for the next run: %s", self.folder, error)
            return None
        if filled:
            log.info("decoded; the next run finds them in the cache")
        return pixels


@dataclass(frozen=True)
class ImageStream:
    """Samples that are decoded again each time they are taken, in bounded memory."""

    folder: Path
    paths: Sequence[Path]
    labels: Tensor
    decoding: Decoding

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels = shared_array((len(indices), *self.decoding))
        decode_all([self.paths[index] for index in indices.tolist()], self.decoding, pixels)
        return torch.from_numpy(pixels), self.labels[indices]

    def names(self, indices: Tensor) -> list[str]:
        return _named([self.paths[index] for index in indices.tolist()], self.folder)

    def to(self, device: torch.device) -> "ImageStream":
        return self

    @property
    def nbytes(self) -> int:
        return len(self.labels) * math.prod(self.decoding)

    @property
    def streamed(self) -> bool:
        return True


def _named(paths: Sequence[Path], folder: Path) -> list[str]:
    """What people call files of ``folder``: by their paths from where that lies."""
    start = len(os.path.join(folder.parent, ""))
    return [str(path)[start:] for path in paths]


def _class_names(folder: Path, but: Sequence[str] = (), least: int = 2) -> list[str]:
    entries = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    classes = sorted(name for name in entries if name not in but)
    if len(classes) < least:
        found = f"only '{classes[0]}'" if classes else "none"
        number = "at least two" if least == 2 else "at least one"
        raise DataError(f"'{folder}' must hold a folder for each class, {number}; found {found}")
    return classes


def _labelled(
    folder: Path, classes: list[str], decoding: Decoding, cache: Cache, but: Sequence[str], require_all: bool
) -> ImageFiles:
    for found in _class_names(folder, but, least=2 if require_all else 1):
        if found not in classes:
            hint = did_you_mean(found, classes)
            raise DataError(f"'{folder / found}' is not a class of the training folder ({', '.join(classes)}){hint}")
    paths: list[Path] = []
    labels: list[int] = []
    left_out: Counter[str] = Counter()
    for label, name in enumerate(classes):
        images = _image_files(folder / name, left_out)
        if not images and require_all:
            raise DataError(f"class '{name}' is empty: no {', '.join(sorted(SUFFIXES))} file in '{folder / name}'")
        paths += images
        labels += [label] * len(images)
    if left_out:
        named = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in left_out.most_common(5))
        log.warning("%s: files that are no images are left out: %s", folder, named)
    return ImageFiles(folder, paths, torch.tensor(labels), decoding, cache)


def _image_files(folder: Path, left_out: Counter[str]) -> list[Path]:
    """Images in the folder and those below it, in the order of their names; ``left_out`` counts other files."""
    if not folder.is_dir():
        return []
    found: list[Path] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found += _image_files(folder / entry.name, left_out)
        elif suffix in SUFFIXES:
            found.append(folder / entry.name)
        else:
            left_out[suffix] += 1
    return found
