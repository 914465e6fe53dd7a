"""Files to predict from: found by name, read as the run read its own, batch by batch; broken ones are reported."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from dltrain.data.base import Fitted, NamedBatch, Report
from dltrain.data.folders import IMAGES, files_in, say_left_out, text_of
from dltrain.data.images.decode import WHITE, Decoding, UnreadableError, decode
from dltrain.errors import DataError, UserError
from dltrain.system.files import kind_of
from dltrain.system.machine import core_count

TABLES = (".csv", ".parquet", ".pq", ".tsv", ".txt")
_STREAM = re.compile(r"/dev/(stdin|fd/\d+)")


def read_inputs(
    words: Sequence[str], fitted: Fitted, batch_size: int, report: Report
) -> tuple[Iterator[Iterable[NamedBatch]], int]:
    """All that ``words`` (files, folders, globs) name, in pieces of a batch or none, and how many files these are.

    Images of a piece are read when it is iterated over, so that whoever leaves it to another process reads nothing.

    Raises:
        DataError: a word names nothing.
        UserError: the run's data set is the user's own, and only that knows how to read files.
    """
    kind = fitted.facts.kind
    if not fitted.preprocessing:
        raise UserError(
            f"the data set '{fitted.facts.name}' of the run has not stored its preprocessing, so new files cannot be"
            " read as it reads them; a data set of your own does so with Data(preprocessing=...)"
        )
    files = find_files(words, IMAGES if kind == "image" else TABLES)
    if kind == "image":
        starts = range(0, len(files), batch_size)
        return (read_images(files[start : start + batch_size], fitted, report) for start in starts), len(files)
    from dltrain.data.rows import read_last_windows, read_tables  # here, so that images need no table reader

    if kind == "table":
        return ([batch] for batch in read_tables(files, fitted, batch_size, report)), len(files)
    return ([batch] for batch in read_last_windows(files, fitted, report)), len(files)


def find_files(words: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The files that ``words`` name; of folders and globs those with one of ``suffixes``, in alphabetical order.

    How many others there are is said.

    Raises:
        DataError: there is no such file, or none in a folder.
    """
    found: list[Path] = []
    for word in words:
        path = Path(os.path.expanduser(word))
        if path.is_file() or (suffixes is TABLES and is_stream(word)):
            found.append(path)
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
        say_left_out(path, left_out, "images" if suffixes is IMAGES else "tables")
        found += chosen
    return found


def is_stream(word: str) -> bool:
    """Whether a word is what a shell names a pipe by that it has made, as for ``<(...)``: one that has an end."""
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
    """A batch (batch, channels, height, width) uint8 of images, in the size, channels and range of the run's own."""
    stored = fitted.preprocessing
    levels = stored.get("levels", 255)
    channels, height, width = fitted.facts.input_shape
    decoding = Decoding(channels, height, width, stored.get("background"), stored.get("white", WHITE))

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


def _in_range(pixels: np.ndarray, levels: int) -> np.ndarray:
    """``pixels`` with white at ``levels``; a file that never goes beyond it was written in that range already."""
    if levels == 255 or pixels.max() <= levels:
        return pixels
    scaled: np.ndarray = np.rint(pixels * (levels / 255)).astype(np.uint8)
    return scaled
