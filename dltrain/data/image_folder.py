"""Images in class folders, of any size and mode, decoded by all cores."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from dltrain.data.base import Data
from dltrain.data.images import LabelledImages, image_data
from dltrain.errors import ConfigError, DataError, did_you_mean

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})  # where Pillow looks
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CHUNK = 64  # files a task of the pool decodes
# Pillow lets go of the interpreter while it decodes, but for tiny files the hand-over costs more than it gains:
# 50,000 CIFAR-10 files took 14 s on two threads and 9 s on one.
_THREADS_PAY_FROM = 32 * 1024  # mean bytes a file


def image_folder(
    root: str,
    image_size: int | Sequence[int] = 32,
    channels: int = 3,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
) -> Data:
    """Images under ``root/train/<class>/``, with ``root/val`` and ``root/test`` where they exist.

    A part without a folder is held out of the training images, seeded and stratified. ``root/<class>/`` without a
    ``train`` folder works as well. Each image is turned upright as its EXIF data say, brought to ``channels``
    (1 grey, 3 RGB) and resized to ``image_size`` (one side of a square, or ``[height, width]``).

    Raises:
        DataError: a folder is missing or a class is empty, an image cannot be read, or the classes of ``val`` or
            ``test`` are not those of ``train``.
    """
    if channels not in (1, 3):
        raise ConfigError([f"dataset.channels must be 1 (grey) or 3 (RGB), not {channels}"])
    size = _height_and_width(image_size)
    top = Path(root).expanduser()
    if not top.is_dir():
        raise DataError(f"there is no folder '{root}'; dataset.root must hold train/<class>/<images>")
    train_folder = top / "train" if (top / "train").is_dir() else top
    classes = _class_names(train_folder, but=("val", "test") if train_folder == top else ())
    parts = {
        name: _labelled(folder, classes, size, channels)
        for name, folder in (("train", train_folder), ("val", top / "val"), ("test", top / "test"))
        if folder.is_dir()
    }
    return image_data(
        top.resolve().name,
        classes,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        limit=limit,
        split_seed=split_seed,
    )


def decode(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """One image as (channels, height, width) uint8; ``size`` is (height, width)."""
    with Image.open(path) as image:
        upright = _upright(image)
        if upright.mode.startswith("I"):  # 16 bits a pixel: the upper 8 of them, where convert() would clip
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if "transparency" in upright.info:  # convert() would warn that it cannot keep it
            del upright.info["transparency"]
        upright = upright.convert("RGB" if channels == 3 else "L")
        if upright.size != size[::-1]:
            upright = upright.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(upright)
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say; EXIF data that are damaged say nothing."""
    image.load()  # what is wrong with the pixels must show, and PNG files may have their EXIF data behind them
    if not image.info.keys() & _EXIF_KEYS:  # looking further takes longer than decoding a small image
        return image
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # struct.error, KeyError, TypeError, ...: Pillow passes on what its TIFF reader stumbles over
        return image
    return image if turn is None else image.transpose(turn)


def _height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = list(image_size) if isinstance(image_size, Sequence) else [image_size] * 2
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigError([f"dataset.image_size must be a whole number of pixels or [height, width], not {image_size}"])
    return sides[0], sides[1]


def _class_names(folder: Path, but: Sequence[str] = ()) -> list[str]:
    entries = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    classes = sorted(name for name in entries if name not in but)
    if len(classes) < 2:
        found = f"only '{classes[0]}'" if classes else "none"
        raise DataError(f"'{folder}' must hold a folder for each class, at least two; found {found}")
    return classes


def _labelled(folder: Path, classes: list[str], size: tuple[int, int], channels: int) -> LabelledImages:
    for found in _class_names(folder):
        if found not in classes:
            hint = did_you_mean(found, classes)
            raise DataError(f"'{folder / found}' is not a class of the training folder ({', '.join(classes)}){hint}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _image_files(folder / name)
        if not images:
            raise DataError(f"class '{name}' is empty: no {', '.join(sorted(SUFFIXES))} file in '{folder / name}'")
        paths += images
        labels += [label] * len(images)
    return LabelledImages(torch.tensor(labels), lambda indices: _read(paths, indices, size, channels))


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    entries = os.scandir(folder)
    names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]


def _read(paths: list[Path], indices: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    chosen = [paths[index] for index in indices.tolist()]
    pixels = np.empty((len(chosen), channels, *size), dtype=np.uint8)
    broken: list[str] = []

    def read_chunk(start: int) -> None:
        for row, path in enumerate(chosen[start : start + _CHUNK], start):
            try:
                pixels[row] = decode(path, size, channels)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all that Pillow raises
                broken.append(f"'{path}': {error}")

    with ThreadPoolExecutor(_worker_count(chosen)) as pool:
        list(pool.map(read_chunk, range(0, len(chosen), _CHUNK)))
    if broken:
        listed = "\n  ".join(sorted(broken)[:10])
        more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise DataError(f"{len(broken)} of {len(chosen)} images cannot be read:\n  {listed}{more}")
    return torch.from_numpy(pixels)


def _worker_count(paths: list[Path]) -> int:
    sample = paths[:: max(len(paths) // 100, 1)]
    mean_size = sum(path.stat().st_size for path in sample) / max(len(sample), 1)
    return os.cpu_count() or 1 if mean_size >= _THREADS_PAY_FROM else 1
