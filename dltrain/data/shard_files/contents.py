"""Decode the content of a file, or of a cell of a table, to a sample: an encoded image or a NumPy array."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dltrain.data.images.decode import Decoding, decode, largest_value
from dltrain.errors import DataError, cause_of

Decode = Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class Picture:
    """An encoded image as (channels, height, width) uint8."""

    decoding: Decoding

    def __call__(self, content: bytes) -> np.ndarray:
        return decode(io.BytesIO(content), self.decoding)


def largest_in(content: bytes) -> np.ndarray:
    """The largest value in an encoded image of more than 8 bits a pixel, 0 for any other, as (1,) float64."""
    return np.array([largest_value(io.BytesIO(content))])


@dataclass(frozen=True)
class NumpyFile:
    """The array of an ``.npy`` file of this ``shape``: of bytes where it is ``raw``, else of numbers, as float32."""

    shape: tuple[int, ...]
    raw: bool

    def __call__(self, content: bytes) -> np.ndarray:
        array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
        if array.shape != self.shape:
            raise ValueError(f"its shape is {array.shape}, where the first sample has {self.shape}")
        if (array.dtype == np.uint8) != self.raw:
            raise ValueError(f"it holds {array.dtype}, unlike the first sample")
        return array if self.raw else array.astype(np.float32)


def decoded(contents: Iterable[tuple[int, bytes]], count: int, decode: Decode, name: Callable[[int], str]) -> Tensor:
    """A batch of ``count`` samples, decoded from ``contents``: pairs of a place in the batch and bytes, in any order.

    Raises:
        DataError: a sample cannot be decoded; ``name`` gives its name by its place.
    """
    samples = [torch.empty(0)] * count
    for place, content in contents:
        try:
            samples[place] = torch.from_numpy(np.ascontiguousarray(decode(content)))
        except Exception as error:  # decoders pass on errors of any kind
            raise DataError(f"{name(place)} cannot be read: {cause_of(error)}") from error
    return torch.stack(samples)
