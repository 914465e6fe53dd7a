"""Decode image files to pixels, on all cores."""

import contextlib
import logging
import math
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from dltrain.data.folders import IMAGE_FORMATS
from dltrain.data.workers import forked
from dltrain.errors import ConfigError, DataError, cause_of, did_you_mean, in_one_line
from dltrain.system.machine import core_count

log = logging.getLogger(__name__)

_EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})  # with EXIF data
_FORMATS = tuple(IMAGE_FORMATS)  # what a file may be, whatever its name says
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_CAN_BE_DEEP = IMAGE_FORMATS["PNG"] + IMAGE_FORMATS["TIFF"]
_DEEP_SAMPLE = 100  # files whose largest value is measured: enough to tell their number of bits
WHITE = 65535.0  # in images of more than 8 bits a pixel
_CHUNK = 64  # files that a task of the pool decodes
_POOL_PAYS_FROM = 512  # files: fewer small ones are decoded sooner than processes start
_SECONDS_BETWEEN_REPORTS = 10


class UnreadableError(Exception):
    """A file, or the content of a file, that cannot be decoded; the message says why."""


class Decoding(NamedTuple):
    """How a file becomes pixels: ``height`` and ``width`` after resizing, ``channels`` 1 (grey) or 3 (RGB).

    ``background`` is the colour that shows where an image is transparent, ``#rrggbb``; ``None``: the file's.
    ``white`` is the value that becomes 255 in images of more than 8 bits a pixel.
    """

    channels: int
    height: int
    width: int
    background: str | None = None
    white: float = WHITE

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a decoded image."""
        return self[:3]


def decoding_of(
    image_size: int | Sequence[int],
    channels: int,
    background: str | int | None = None,
    white: float | str = WHITE,
    stored: Mapping[str, Any] | None = None,
) -> Decoding:
    """The decoding that the keys of a data set ask for: ``dataset.image_size``, one side of a square or ``[height,
    width]``, ``channels``, ``background``, a colour, and ``white``, which is :data:`WHITE` until ``auto`` is measured.

    With ``stored``, the preprocessing of an earlier run, images are decoded as that run decoded them.

    Raises:
        ConfigError: the background is no colour, or the earlier run had others.
    """
    height, width = image_size if isinstance(image_size, Sequence) else (image_size, image_size)
    colour = colour_of(background)
    if stored is None:
        return Decoding(channels, height, width, colour, WHITE if white == "auto" else float(white))
    if "background" in stored and colour != stored["background"]:
        raise ConfigError([f"dataset.background={background}: the run was trained with {stored['background']}"])
    if "white" in stored and white not in ("auto", stored["white"]):
        raise ConfigError([f"dataset.white={white}: the run was trained with {stored['white']:g}"])
    return Decoding(channels, height, width, stored.get("background"), stored.get("white", WHITE))


def colour_of(background: str | int | None) -> str | None:
    """``dataset.background``, a colour's name, ``#rrggbb`` or a grey from 0 to 255, as ``#rrggbb``.

    Raises:
        ConfigError: it is no colour.
    """
    if background is None:
        return None
    if isinstance(background, int) and not isinstance(background, bool) and 0 <= background <= 255:
        return f"#{background:02x}{background:02x}{background:02x}"
    try:
        red, green, blue, *_ = ImageColor.getrgb(str(background))
    except ValueError as error:
        hint = did_you_mean(str(background), ImageColor.colormap)
        how = "a colour such as white, a grey from 0 to 255, '\"#rrggbb\"', or null"
        raise ConfigError([f"dataset.background must be {how}, not {background}{hint}"]) from error
    return f"#{red:02x}{green:02x}{blue:02x}"


def decode(file: Path | BinaryIO, to: Decoding) -> np.ndarray:
    """Decode an image to (channels, height, width) uint8, upright as its EXIF data say.

    Raises:
        UnreadableError: the file cannot be read, or holds no whole image of a known format.
    """
    with _reading(file) as image:
        _turn_upright(image)
        return pixels_of(image, to)


def pixels_of(image: Image.Image, to: Decoding) -> np.ndarray:
    """An upright image as (channels, height, width) uint8."""
    if _is_deep(image):
        image = _with_8_bits(image, to.white)
    if to.background and (image.mode in _WITH_ALPHA or "transparency" in image.info):
        ground = Image.new("RGBA", image.size, to.background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    if "transparency" in image.info:  # convert() would warn that it cannot keep it
        del image.info["transparency"]
    image = image.convert("RGB" if to.channels == 3 else "L")
    if image.size != (to.width, to.height):
        image = image.resize((to.width, to.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[np.newaxis] if to.channels == 1 else pixels.transpose(2, 0, 1)


@contextlib.contextmanager
def _reading(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an image; an error of any kind within is a fault of the file."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        fault = "cannot identify image file: " if isinstance(file, Path) else ""
        raise UnreadableError(f"{fault}it is no image of a known format ({', '.join(_FORMATS)})") from error
    except Exception as error:  # Pillow lets errors of its readers through: struct.error, KeyError, ...
        raise UnreadableError(cause_of(error)) from error


def _is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits a pixel, 16 or 32 bits of grey or floats, which convert() would clip."""
    return image.mode.startswith(("I", "F"))


def _with_8_bits(image: Image.Image, white: float) -> Image.Image:
    """A deep image as grey in 256 equal steps from 0 to ``white``; transparent pixels stay transparent."""
    values = np.asarray(image)
    steps = np.nan_to_num(np.asarray(values, np.float64)) * (256 / white)
    grey = Image.fromarray(steps.clip(0, 255).astype(np.uint8))
    if isinstance(transparent := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def white_of(paths: Sequence[Path]) -> float:
    """The value of white in images of more than 8 bits a pixel, from the largest values of some of them."""
    deep = [path for path in paths if path.suffix.lower() in _CAN_BE_DEEP]
    return white_for(map(largest_value, deep[:: max(len(deep) // _DEEP_SAMPLE, 1)]))


def white_for(largest: Iterable[float]) -> float:
    """The value of white for images with these ``largest`` values: the largest number of as many bits, at least 8 for
    whole numbers above 1; :data:`WHITE` where no image has more than 8 bits a pixel."""
    value = max(largest, default=0.0)
    if value <= 0:
        return WHITE
    bits = math.ceil(math.log2(value + 1))
    return 2.0 ** (max(bits, 8) if value > 1 and value.is_integer() else bits) - 1


def largest_value(file: Path | BinaryIO) -> float:
    """The largest value in an image of more than 8 bits a pixel; 0 for others, and for files that cannot be read."""
    try:
        with _reading(file) as image:
            if not _is_deep(image):
                return 0.0
            values = np.asarray(image, np.float64)
            return float(values.max(initial=0, where=np.isfinite(values)))
    except UnreadableError:
        return 0.0


def _turn_upright(image: Image.Image) -> None:
    """Turn the image as its EXIF data say; damaged EXIF data are ignored."""
    image.load()  # here, so that damaged pixels raise; PNG files may have their EXIF data after the pixels
    if image.info.keys() & _EXIF_KEYS:  # looking further takes longer than decoding a small image
        with contextlib.suppress(Exception):  # Pillow lets errors of its TIFF reader through: struct.error, KeyError...
            ImageOps.exif_transpose(image, in_place=True)


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
    workers = core_count()
    in_process = len(paths) < _POOL_PAYS_FROM or workers == 1 or multiprocessing.current_process().daemon
    try:
        with contextlib.nullcontext() if in_process else forked(workers) as pool:
            chunks = pool.map(_decode_chunk, starts) if pool else map(_decode_chunk, starts)
            for start, messages in zip(starts, chunks, strict=True):
                broken += messages
                if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                    reported = time.monotonic()
                    log.info("decoded %s of %s images", f"{start + _CHUNK:,}", f"{len(paths):,}")
    finally:
        _job = ((), to, pixels[:0])
    if broken:
        first = "\n  ".join(sorted(broken)[:10])
        more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise DataError(f"{len(broken)} of {len(paths)} images cannot be read:\n  {first}{more}")


# The job of the processes of a pool, which inherit it: only row numbers are sent to them.
_job: tuple[Sequence[Path], Decoding, np.ndarray] = ((), Decoding(1, 1, 1), np.empty(0, np.uint8))


def _decode_chunk(start: int) -> list[str]:
    """Decode a chunk of the job; returns a message for each file that cannot be read."""
    paths, to, pixels = _job
    broken = []
    for row, path in enumerate(paths[start : start + _CHUNK], start):
        try:
            pixels[row] = decode(path, to)
        except UnreadableError as error:
            broken.append(in_one_line(f"'{path}': {error}"))
    return broken
