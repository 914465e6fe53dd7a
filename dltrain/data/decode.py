"""Image files to pixels, by all cores."""

import contextlib
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from dltrain.errors import ConfigError, DataError, TrainingError
from dltrain.machine import core_count

log = logging.getLogger(__name__)

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
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # all that Pillow raises
_CHUNK = 64  # files a task of the pool decodes
_POOL_PAYS_FROM = 512  # files: starting processes takes as long as decoding so many small ones
_SECONDS_BETWEEN_REPORTS = 10


class Decoding(NamedTuple):
    """How a file becomes pixels: ``height`` and ``width`` after resizing, ``channels`` 1 (grey) or 3 (RGB)."""

    channels: int
    height: int
    width: int


def decoding_of(image_size: int | Sequence[int], channels: int) -> Decoding:
    """The decoding that ``dataset.image_size``, one side of a square or ``[height, width]``, and ``channels`` ask for.

    Raises:
        ConfigError: no image can have them.
    """
    if channels not in (1, 3):
        raise ConfigError([f"dataset.channels must be 1 (grey) or 3 (RGB), not {channels}"])
    sides = list(image_size) if isinstance(image_size, Sequence) else [image_size] * 2
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigError([f"dataset.image_size must be a whole number of pixels or [height, width], not {image_size}"])
    return Decoding(channels, *sides)


def decode(file: Path | BinaryIO, to: Decoding) -> np.ndarray:
    """One image as (channels, height, width) uint8, upright as its EXIF data say."""
    with Image.open(file) as image:
        upright = _upright(image)
        if upright.mode.startswith("I"):  # 16 bits a pixel: the upper 8 of them, where convert() would clip
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if "transparency" in upright.info:  # convert() would warn that it cannot keep it
            del upright.info["transparency"]
        upright = upright.convert("RGB" if to.channels == 3 else "L")
        if upright.size != (to.width, to.height):
            upright = upright.resize((to.width, to.height), Image.Resampling.BILINEAR)
        pixels = np.asarray(upright)
    return pixels[np.newaxis] if to.channels == 1 else pixels.transpose(2, 0, 1)


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


def decode_all(paths: Sequence[Path], to: Decoding, pixels: np.ndarray) -> None:
    """Decode ``paths`` into the rows of ``pixels`` (n, channels, height, width) uint8.

    For many files ``pixels`` must be memory that processes share: a mapped file, or ``cache.shared_array``.

    Raises:
        DataError: files that cannot be read, each with its cause.
    """
    global _job
    _job = paths, to, pixels
    broken: list[str] = []
    reported = time.monotonic()
    starts = range(0, len(paths), _CHUNK)
    try:
        with _pool(len(paths)) as pool:
            chunks = pool.map(_decode_chunk, starts) if pool else map(_decode_chunk, starts)
            for start, found in zip(starts, chunks, strict=True):
                broken += found
                if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                    reported = time.monotonic()
                    log.info("decoded %s of %s images", f"{start + _CHUNK:,}", f"{len(paths):,}")
    except BrokenProcessPool as error:
        raise TrainingError("a process that decodes images was killed; is there enough memory?") from error
    finally:
        _job = ((), to, pixels[:0])
    if broken:
        listed = "\n  ".join(sorted(broken)[:10])
        more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise DataError(f"{len(broken)} of {len(paths)} images cannot be read:\n  {listed}{more}")


# What the processes of a pool work on: they inherit it, so that nothing but row numbers is sent to them.
_job: tuple[Sequence[Path], Decoding, np.ndarray] = ((), Decoding(1, 1, 1), np.empty(0, np.uint8))


def _decode_chunk(start: int) -> list[str]:
    """Decode a chunk of the job; returns what is wrong with its files."""
    paths, to, pixels = _job
    broken = []
    for row, path in enumerate(paths[start : start + _CHUNK], start):
        try:
            pixels[row] = decode(path, to)
        except UNREADABLE as error:
            broken.append(f"'{path}': {error}")
    return broken


@contextlib.contextmanager
def _pool(count: int) -> Iterator[Executor | None]:
    """Processes to decode ``count`` files with; threads where processes cannot be forked safely."""
    workers = core_count()
    if count < _POOL_PAYS_FROM or workers == 1 or multiprocessing.current_process().daemon:
        yield None
        return
    with forked(workers) as pool:
        yield pool


@contextlib.contextmanager
def forked(workers: int) -> Iterator[Executor]:
    """Processes that hold what this one holds, for work on files; threads where processes cannot be forked safely."""
    pool: Executor
    if sys.platform == "linux":
        # A fresh interpreter would import torch first. The children touch Pillow, NumPy and readers of files alone.
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _leave_signals_to_the_parent)
    else:
        pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_signals_to_the_parent() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # which a terminal sends to all
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
