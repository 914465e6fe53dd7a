"""Parquet files with a sample a row: a column of encoded images, or columns of numbers and categories.

``pyarrow`` reads them a row group at a time, the least that can be read of such a file. The row groups of a window stay
in memory until its end, so that a process reads each once a window. Samples are read without polars, whose threads do
not survive in forked processes.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.base import Task
from dltrain.data.shard_files.contents import Decode, decoded
from dltrain.data.shard_files.index import Index, Labels
from dltrain.data.tables.encoder import TableEncoder
from dltrain.data.tables.frames import TOO_FAR, require_columns, too_far
from dltrain.errors import DataError

_IMAGE_COLUMNS = ("image", "img", "jpg", "png")  # which come first among columns of bytes
_LABEL_COLUMNS = ("label", "cls", "class", "target")

Selected = tuple[np.ndarray, np.ndarray, Any]  # places in a batch, their rows in a row group, and the row group
Prepare = Callable[[Any, int], Any]  # takes a row group and the number of its first sample


class RowGroups:
    """Some columns of the row groups of Parquet files; those used last stay in memory, about ``window`` rows."""

    def __init__(self, columns: Sequence[str], window: int):
        self.columns = list(columns)
        self.window = window
        self._kept: OrderedDict[tuple[Path, int], tuple[int, Any]] = OrderedDict()  # with the number of rows

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": OrderedDict()}

    def select(self, index: Index, numbers: np.ndarray, prepare: Prepare | None = None) -> Iterator[Selected]:
        """The row groups of the samples ``numbers`` (batch,), prepared, in the order of the batch."""
        groups = index.group_of(numbers)
        for group in dict.fromkeys(groups.tolist()):
            places = np.flatnonzero(groups == group)
            yield places, numbers[places] - index.group_starts[group], self._get(index, group, prepare)

    def _get(self, index: Index, group: int, prepare: Prepare | None) -> Any:
        file = int(np.searchsorted(index.first_groups, group, side="right")) - 1
        key = index.files[file], group - int(index.first_groups[file])
        if key not in self._kept:
            with opened(key[0]) as parquet:
                table = parquet.read_row_group(key[1], self.columns, use_threads=False)
            room = self.window + 2 * int(np.diff(index.group_starts).max()) - len(table)
            while self._kept and sum(rows for rows, _ in self._kept.values()) > room:
                self._kept.popitem(last=False)
            self._kept[key] = len(table), prepare(table, int(index.group_starts[group])) if prepare else table
        self._kept.move_to_end(key)
        return self._kept[key][1]


@dataclass(frozen=True)
class _LabelColumn:
    """The base of both kinds of Parquet shards: the label of a sample is its row's ``target``."""

    target: str
    task: Task
    groups: RowGroups

    columns = 0

    @property
    def reads(self) -> tuple[object, ...]:
        return "parquet", self.target

    def scan(self, path: Path) -> Iterator[tuple[np.ndarray, Labels]]:
        with opened(path) as parquet:
            wanted = [*self.groups.columns, self.target]
            require_columns(pl.DataFrame(schema=parquet.schema_arrow.names), wanted, str(path), "columns of the shards")
            first = 0
            for group in range(parquet.num_row_groups):
                column = parquet.read_row_group(group, [self.target], use_threads=False).column(0).combine_chunks()
                yield np.empty((len(column), 0), np.int64), self._labels(path, column, first)
                first += len(column)

    def name(self, path: Path, row: int, place: np.ndarray) -> str:
        return f"row {row + 1}"

    def _labels(self, path: Path, column: Any, first: int) -> Labels:
        import pyarrow as pa
        import pyarrow.compute as pc

        if column.null_count:
            row = first + column.is_null().to_numpy(zero_copy_only=False).argmax()
            raise DataError(f"'{path}', {self.name(path, row, np.empty(0))} has no '{self.target}'")
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if self.task == "regression":
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
                raise DataError(f"'{path}': column '{self.target}' is of type {kind}, where a regression needs numbers")
            values: np.ndarray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return values
        if pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise DataError(
                f"'{path}': column '{self.target}' is of type {kind}, which names no classes; dataset.target names"
                " another column, dataset.task=regression takes numbers"
            )
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        names = pc.cast(encoded.dictionary, pa.string()).to_pylist()
        return names, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


@dataclass(frozen=True)
class ParquetImages(_LabelColumn):
    """Rows with an encoded image, as bytes or as Hugging Face's ``{bytes, path}``."""

    decode: Decode

    def read(self, index: Index, numbers: np.ndarray, places: np.ndarray) -> Tensor:
        def contents() -> Iterator[tuple[int, bytes]]:
            for rows, within, table in self.groups.select(index, numbers):
                for row, content in zip(rows.tolist(), _bytes(table.column(0).take(within)), strict=True):
                    if content is None:
                        raise DataError(f"{index.name(self, int(numbers[row]))} has no image")
                    yield row, content

        return decoded(contents(), len(numbers), self.decode, lambda row: index.name(self, int(numbers[row])))


@dataclass(frozen=True)
class ParquetRows(_LabelColumn):
    """Rows of features."""

    encoder: TableEncoder

    def read(self, index: Index, numbers: np.ndarray, places: np.ndarray) -> Tensor:
        def prepare(table: Any, first: int) -> Tensor:
            return encoded(table, self.encoder, lambda row: index.name(self, first + row))

        inputs = torch.empty(len(numbers), len(self.encoder.feature_names))
        for rows, within, features in self.groups.select(index, numbers, prepare):
            inputs[torch.from_numpy(rows)] = features[torch.from_numpy(within)]
        return inputs


def encoded(table: Any, encoder: TableEncoder, where: Callable[[int], str]) -> Tensor:
    """The rows of ``table`` as :meth:`TableEncoder.encode` encodes them, without polars.

    Raises:
        DataError: a value is no finite number where a number belongs; ``where`` names its row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: list[np.ndarray] = []
    for name, measured in encoder.numeric.items():
        try:
            values = pc.cast(table.column(name), pa.float64(), safe=False).to_numpy()
        except pa.ArrowInvalid as error:
            raise DataError(f"{where(0)} or below, column '{name}': {str(error).splitlines()[0]}") from error
        if len(bad := np.flatnonzero(np.isinf(values))):
            raise DataError(f"{where(int(bad[0]))}, column '{name}': '{values[bad[0]]}' is not a finite number")
        if len(bad := too_far(values, measured["mean"], measured["std"])):
            raise DataError(f"{where(int(bad[0]))}, column '{name}': {values[bad[0]]:g} {TOO_FAR}")
        missing = np.isnan(values)
        columns.append(np.where(missing, 0.0, (values - measured["mean"]) / measured["std"]))
        if measured["missing"]:
            columns.append(missing)
    for name, known in encoder.categorical.items():
        texts = pc.cast(table.column(name), pa.string()).combine_chunks().dictionary_encode()
        places = [encoder.categories[name].code(text) for text in texts.dictionary.to_pylist()]
        known_places = [len(known) if place is None else place for place in places]
        codes = np.array([*known_places, len(known)])[pc.fill_null(texts.indices, len(places)).to_numpy()]
        columns += [codes == value for value in range(len(known) + 1)]
    return torch.from_numpy(np.stack(columns, 1, dtype=np.float32, casting="unsafe"))


def _bytes(cells: Any) -> list[bytes | None]:
    """Cells of bytes, or of Hugging Face's ``{bytes, path}``."""
    column = cells.combine_chunks()
    contents: list[bytes | None] = (column.field("bytes") if hasattr(column, "field") else column).to_pylist()
    return contents


def frame_of(table: Any) -> pl.DataFrame:
    """Rows as a frame of polars; NaN counts as missing, as everywhere."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    for column in frame.get_columns():
        if column.dtype.is_temporal():  # the two libraries convert these to different texts
            raise DataError(
                f"column '{column.name}' holds times, which shards cannot: leave it out with dataset.ignore"
            )
    return frame.fill_nan(None)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file with pyarrow.

    Raises:
        DataError: it is no such file, or is damaged, which may show only while it is read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, UnicodeError) as error:  # UnicodeError: for the name of a column
        raise DataError(f"'{path}' is no whole Parquet file: {str(error).splitlines()[0]}") from error


def columns_of(path: Path, image: str | None, target: str | None) -> tuple[str | None, str, list[str]]:
    """The names of the column of images, if there is any, of the column of labels, and of all other columns.

    Raises:
        DataError: a named column does not exist, or no column looks like labels.
    """
    import pyarrow as pa

    with opened(path) as parquet:
        schema = parquet.schema_arrow
    frame = pl.DataFrame(schema=schema.names)
    for key, name in (("dataset.input", image), ("dataset.target", target)):
        if name is not None:
            require_columns(frame, [name], str(path), key)
    target = target or next((name for name in _LABEL_COLUMNS if name in schema.names), None)
    if target is None:
        raise DataError(f"'{path}' has no column 'label'; dataset.target names one of {', '.join(schema.names)}")

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    with_bytes = [field.name for field in schema if holds_bytes(field.type) and field.name != target]
    if image is None:
        image = next((name for name in _IMAGE_COLUMNS if name in with_bytes), (with_bytes or [None])[0])
    elif image not in with_bytes:
        raise DataError(f"dataset.input={image}: this column of '{path}' holds {schema.field(image).type}, no bytes")
    return image, target, [name for name in schema.names if name not in (image, target)]


def class_names_in(path: Path, target: str) -> tuple[str, ...]:
    """The names of classes that Hugging Face's ``datasets`` stores in a file for a column of numbers, if any."""
    with opened(path) as parquet:
        stored = (parquet.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        return tuple(json.loads(stored)["info"]["features"][target]["names"]) if stored else ()
    except (ValueError, KeyError, TypeError, RecursionError):  # other features have no names
        return ()
