"""Files to predict from, read batch by batch as the run read its data; broken ones are reported."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dltrain.data.base import Fitted, NamedBatch, Report
from dltrain.data.folders import IMAGES, files_in, text_of, warn_left_out
from dltrain.data.images.decode import WHITE, Decoding, UnreadableError, decode, pixels_of
from dltrain.errors import DataError, UserError
from dltrain.system.files import kind_of
from dltrain.system.machine import core_count

TABLES = (".csv", ".parquet", ".pq", ".tsv", ".txt")
_STREAM = re.compile(r"/dev/(stdin|fd/\d+)")


def read_inputs(
    words: Sequence[str], fitted: Fitted, batch_size: int, report: Report
) -> tuple[Iterator[Iterable[NamedBatch]], int]:
    """All that ``words`` (files, folders, globs) name, in pieces of a batch or none, and how many files these are.

    Images of a piece are read when it is iterated over: a process that leaves it to another one reads nothing.

    Raises:
        DataError: a word names nothing.
        UserError: the run's data set is of a user's class, which alone can read files.
    """
    kind = fitted.facts.kind
    _require_preprocessing(fitted)
    files = find_files(words, IMAGES if kind == "image" else TABLES)
    if kind == "image":
        starts = range(0, len(files), batch_size)
        return (read_images(files[start : start + batch_size], fitted, report) for start in starts), len(files)
    return _from_tables(files, fitted, batch_size, report), len(files)


def read_values(values: Any, fitted: Fitted, batch_size: int, report: Report) -> Iterator[Iterable[NamedBatch]]:
    """As :func:`read_inputs`, of what lies in memory: a frame of polars' or pandas', or images.

    Images are an array (batch, height, width, channels) or (batch, height, width) uint8, a tensor (batch, channels,
    height, width) uint8, or a list of arrays (height, width, channels) of any sizes.

    Raises:
        DataError: this is nothing that such a run reads.
        UserError: as :func:`read_inputs`.
    """
    _require_preprocessing(fitted)
    kind = fitted.facts.kind
    if kind == "image":
        images = _as_images(values)
        starts = range(0, len(images), batch_size)
        return ([_images_of(images, slice(start, start + batch_size), fitted)] for start in starts)
    if not hasattr(type(values), "columns"):  # of a lazy frame itself it would take long
        raise DataError(f"a run on a {kind} predicts from a polars or pandas frame, or files, not {_type_of(values)}")
    return _from_tables([values], fitted, batch_size, report)


def _from_tables(
    sources: Sequence[Any], fitted: Fitted, batch_size: int, report: Report
) -> Iterator[Iterable[NamedBatch]]:
    from dltrain.data.rows import as_source, read_last_windows, read_tables  # here: images need no table reader

    tables = [as_source(source) for source in sources]
    if fitted.facts.kind == "table":
        return ([batch] for batch in read_tables(tables, fitted, batch_size, report))
    return ([batch] for batch in read_last_windows(tables, fitted, report))


def _require_preprocessing(fitted: Fitted) -> None:
    if not fitted.preprocessing:
        raise UserError(
            f"the data set '{fitted.facts.name}' of the run has not stored its preprocessing, so new files cannot be"
            " read as it reads them; a data set of your own does so with Data(preprocessing=...)"
        )


def _as_images(values: Any) -> list[np.ndarray]:
    """Each image as (height, width) or (height, width, channels) uint8; raises :class:`DataError` for others."""
    several = values.ndim if isinstance(values, Tensor | np.ndarray) else 4 if isinstance(values, list | tuple) else 0
    images = [_as_image(image) for image in values] if several in (3, 4) else []
    if several == 3 and images and images[0].shape[-1] in (3, 4):
        raise DataError(f"an array {tuple(values.shape)} is one image: give a list of images, [image]")
    shapes = "(images, height, width, channels), a tensor (images, channels, height, width), or a list of images"
    if several not in (3, 4):
        raise DataError(f"a run on images predicts from files, an array {shapes}, not {_type_of(values)}")
    for image in images:
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
            raise DataError(f"images are uint8 from 0 to 255 in an array {shapes}, not {_type_of(image)}")
    return images


def _as_image(image: Any) -> np.ndarray:
    if isinstance(image, Tensor):
        image = image.cpu().permute(1, 2, 0) if image.ndim == 3 else image.cpu()
    array = np.asarray(image)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _type_of(value: Any) -> str:
    shape = tuple(getattr(value, "shape", ()))
    return f"{type(value).__name__}{f' {shape} {value.dtype}' if shape and hasattr(value, 'dtype') else ''}"


def _images_of(images: Sequence[np.ndarray], part: slice, fitted: Fitted) -> NamedBatch:
    decoding, levels = _decoding_of(fitted), fitted.preprocessing.get("levels", 255)
    pixels = [_in_range(pixels_of(Image.fromarray(image), decoding), levels) for image in images[part]]
    return [(str(number),) for number in range(len(images))[part]], torch.from_numpy(np.stack(pixels))


def find_files(words: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The files that ``words`` name; of folders and globs those with one of ``suffixes``, in alphabetical order.

    How many others there are is said.

    Raises:
        DataError: there is no such file, or none in a folder.
    """
    files: list[Path] = []
    for word in words:
        path = Path(os.path.expanduser(word))
        if path.is_file() or (suffixes is TABLES and is_stream(word)):
            files.append(path)
            continue
        left_out: Counter[str] = Counter()
        if path.is_dir():
            chosen = files_in(path, suffixes, left_out)
        elif glob.has_magic(word):
            chosen = _matching(word, suffixes, left_out)
        else:
            raise DataError(_nothing_at(word, kind_of(path), suffixes))
        if not chosen:
            raise DataError(f"'{word}' holds no file that ends with {', '.join(suffixes)}")
        warn_left_out(path, left_out, "images" if suffixes is IMAGES else "tables")
        files += chosen
    return files


def is_stream(word: str) -> bool:
    """Whether a word names a pipe that a shell has made, as for ``<(...)``, and that therefore ends."""
    return bool(_STREAM.fullmatch(word)) and kind_of(word) == "a pipe"


def _nothing_at(word: str, kind: str, suffixes: Sequence[str]) -> str:
    if not kind:
        return f"there is no file or folder '{word}'"
    streams = "; a table may come through /dev/stdin, or <(...)" if suffixes is TABLES else ""
    return f"'{word}' is {kind}, no file{streams}"


def _matching(pattern: str, suffixes: Sequence[str], left_out: Counter[str]) -> list[Path]:
    names = glob.glob(os.path.expanduser(pattern), recursive=True)
    files = [Path(name) for name in sorted(names) if os.path.isfile(name) and os.path.basename(name)[0] != "."]
    others = [path.suffix.lower() for path in files if path.suffix.lower() not in suffixes]
    left_out.update(suffix or "without a suffix" for suffix in others)
    return [path for path in files if path.suffix.lower() in suffixes]


def read_images(paths: Sequence[Path], fitted: Fitted, report: Report) -> Iterator[NamedBatch]:
    """A batch (batch, channels, height, width) uint8 of images, sized and scaled as in training."""
    decoding, levels = _decoding_of(fitted), fitted.preprocessing.get("levels", 255)

    def read(path: Path) -> np.ndarray | str:
        try:
            return _in_range(decode(path, decoding), levels)
        except UnreadableError as error:
            return str(error)

    with ThreadPoolExecutor(core_count()) as pool:  # Pillow decodes without holding the interpreter's lock
        images = list(pool.map(read, paths))
    for path, image in zip(paths, images, strict=True):
        if isinstance(image, str):
            report(text_of(path), image)
    whole = [(path, image) for path, image in zip(paths, images, strict=True) if not isinstance(image, str)]
    if whole:
        yield [(text_of(path),) for path, _ in whole], torch.from_numpy(np.stack([image for _, image in whole]))


def _decoding_of(fitted: Fitted) -> Decoding:
    stored = fitted.preprocessing
    channels, height, width = fitted.facts.input_shape
    return Decoding(channels, height, width, stored.get("background"), stored.get("white", WHITE))


def _in_range(pixels: np.ndarray, levels: int) -> np.ndarray:
    """``pixels`` with white at ``levels``; a file that never goes beyond it was written in that range already."""
    if levels == 255 or pixels.max() <= levels:
        return pixels
    scaled: np.ndarray = np.rint(pixels * (levels / 255)).astype(np.uint8)
    return scaled
