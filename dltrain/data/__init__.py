"""Data sets: each option of the ``dataset`` group is one function here that returns a :class:`Data`."""

from dltrain.data.base import Arrays, Data, Facts, Samples, Windows
from dltrain.data.loader import Loader

__all__ = ["Arrays", "Data", "Facts", "Loader", "Samples", "Windows"]
