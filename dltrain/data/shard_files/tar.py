"""Tar files as WebDataset writes them: files whose names differ only after the first dot are the same sample.

``webdataset`` groups the members into samples; the standard library's ``tarfile`` says where they lie. To index a shard
only headers and labels are read, and samples are read from their places in any order.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from dltrain.data.base import Task
from dltrain.data.shard_files.contents import Decode, decoded
from dltrain.data.shard_files.index import Index, Labels
from dltrain.errors import DataError, cause_of

_RUN = 128  # samples that are read together
_META = re.compile(r"__[^/]*__($|/)")  # members that belong to no sample, as WebDataset names them
_DEFAULT_LABELS = ("cls", "label")  # the suffix of a member, the key of a JSON member

Place = tuple[int, int]  # where the content of a member begins in its file, and how many bytes it has


@dataclass(frozen=True)
class TarShards:
    """Shards of which the first member with one of the suffixes ``inputs`` is the input of a sample.

    Its label is the member ``target`` as text, or what a ``.json`` member has under that key; without ``target`` the
    member ``cls`` or the key ``label``.
    """

    inputs: tuple[str, ...]
    target: str | None
    task: Task
    decode: Decode

    columns = 2

    @property
    def reads(self) -> tuple[object, ...]:
        return "tar", self.inputs, self.target

    def scan(self, path: Path) -> Iterator[tuple[np.ndarray, Labels]]:
        places: list[Place] = []
        texts: list[str] = []
        with open(path, "rb") as file:
            for key, members in members_of(path, file):
                places.append(self._input(path, key, members))
                texts.append(self._label(path, key, members, file))
                if len(places) == _RUN:
                    yield np.array(places), self._labels(path, texts)
                    places, texts = [], []
        if places:
            yield np.array(places), self._labels(path, texts)

    def read(self, index: Index, numbers: np.ndarray, places: np.ndarray) -> Tensor:
        files = index.file_of(numbers)
        contents = (
            pair
            for file in np.unique(files)
            for pair in _contents(index.files[file], np.flatnonzero(files == file), places)
        )
        return decoded(contents, len(numbers), self.decode, lambda row: index.name(self, int(numbers[row])))

    def name(self, path: Path, row: int, place: np.ndarray) -> str:
        try:
            with tarfile.open(path, "r:") as tar:
                return next(f"member '{member.name}'" for member in tar if member.offset_data == place[0])
        except (tarfile.TarError, OSError, StopIteration):  # it is damaged, so its number must do
            return f"sample {row + 1}"

    def _input(self, path: Path, key: str, members: Mapping[str, Place]) -> Place:
        for suffix, place in members.items():
            if suffix in self.inputs:
                return place
        wanted = ", ".join(f".{suffix}" for suffix in self.inputs)
        raise DataError(f"'{path}', sample '{key}' has no input ({wanted}), only {_listed(members)}")

    def _label(self, path: Path, key: str, members: Mapping[str, Place], file: BinaryIO) -> str:
        suffix, name = (self.target or default for default in _DEFAULT_LABELS)
        if suffix in members:
            return _text(file, members[suffix]).strip()
        if "json" in members:
            try:
                content = json.loads(_text(file, members["json"]))
            except (ValueError, RecursionError) as error:
                raise DataError(f"'{path}', member '{key}.json' cannot be read as JSON: {error}") from error
            label = content.get(name) if isinstance(content, dict) else None
            if isinstance(label, str | int | float):
                return str(label).strip()
        raise DataError(
            f"'{path}', sample '{key}' has no label: neither a member .{suffix} nor a text or number '{name}' in .json;"
            f" dataset.target names another one. It has {_listed(members)}"
        )

    def _labels(self, path: Path, texts: list[str]) -> Labels:
        if self.task == "classification":
            names, codes = np.unique(np.array(texts, object), return_inverse=True)
            return list(map(str, names)), codes
        try:
            return np.array(texts, np.float64)
        except ValueError as error:
            raise DataError(f"'{path}': a label is no number, as a regression needs: {error}") from error


def members_of(path: Path, file: BinaryIO) -> Iterator[tuple[str, dict[str, Place]]]:
    """The name of each sample of an open tar file, and its members by suffix, in the order of the file.

    Raises:
        DataError: the file is no uncompressed tar file, or it is cut short.
    """
    from webdataset.tariterators import group_by_keys

    with _damage_named(path), tarfile.open(fileobj=file, mode="r:") as tar:
        for sample in group_by_keys(_members(path, tar)):
            key = sample.pop("__key__")
            del sample["__url__"]
            yield key, sample
        # An archive ends with blocks of zeros; tarfile does not notice their absence in a copy cut between two members.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has no end")


def _members(path: Path, tar: tarfile.TarFile) -> Iterator[dict[str, object]]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # which else grow by every header that is read
        if member.isreg() and not _META.match(member.name):
            if member.issparse():
                raise tarfile.ReadError(f"its member '{member.name}' is sparse")
            yield {"fname": member.name, "data": (member.offset_data, member.size), "__url__": str(path)}


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (tarfile.TarError, OSError, ValueError) as error:  # ValueError: webdataset's, for a name that comes twice
        cause = str(error.args[0] if error.args else error).splitlines()[0]
        raise DataError(f"'{path}' is no whole, uncompressed tar file: {cause}") from error


def _contents(path: Path, rows: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """The bytes of a file at the places of some ``rows``, each after its row."""
    try:
        with open(path, "rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):  # so that a disk on the network gets all requests at once
                for start, size in places[rows].tolist():
                    os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
            for row in rows.tolist():
                yield row, content_of(file, places[row])
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {cause_of(error)}") from error


def content_of(file: BinaryIO, place: Place | np.ndarray) -> bytes:
    """The bytes of a member of an open tar file."""
    start, size = map(int, place)
    file.seek(start)
    return file.read(size)


def _text(file: BinaryIO, place: Place) -> str:
    return content_of(file, place).decode(errors="replace")


def _listed(members: Mapping[str, Place]) -> str:
    return ", ".join(f".{suffix}" for suffix in members)
