"""Predictions to a file as they come: CSV, JSON lines or Parquet; the file is there once it is whole."""

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from dltrain.errors import UserError
from dltrain.system.files import written_whole

SUFFIXES = (".csv", ".jsonl", ".parquet")


class Writer(Protocol):
    """Takes rows."""

    def write(self, row: Sequence[Any]) -> None: ...


class CSVWriter:
    """Writes a header and a line a row."""

    def __init__(self, file: TextIO, columns: dict[str, type]):
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(columns)

    def write(self, row: Sequence[Any]) -> None:
        self._writer.writerow(row)


class JSONLinesWriter:
    """Writes an object a row."""

    def __init__(self, file: TextIO, columns: dict[str, type]):
        self._file = file
        self._columns = columns

    def write(self, row: Sequence[Any]) -> None:
        self._file.write(json.dumps(dict(zip(self._columns, row, strict=True)), ensure_ascii=False) + "\n")


@contextlib.contextmanager
def writing(path: Path, columns: dict[str, type]) -> Iterator[Writer]:
    """A writer to ``path``, whose suffix decides the format; an error leaves no file.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    require_writable(path)
    try:
        with written_whole(path) as text:
            with open(text, "w", newline="", encoding="utf-8") as file:
                yield JSONLinesWriter(file, columns) if path.suffix == ".jsonl" else CSVWriter(file, columns)
            if path.suffix == ".parquet":
                with written_whole(text) as whole:
                    _to_parquet(text, whole, columns)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error}") from error


def require_writable(path: Path) -> None:
    """Raise :class:`UserError` for a file of another format than those above, or in a folder that does not exist."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"out={path} must end with {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"out={path}: there is no folder '{path.parent}'")


def _to_parquet(text: Path, path: Path, columns: dict[str, type]) -> None:
    """By way of CSV, because a Parquet file can only be written as a stream from a source that polars reads itself."""
    import polars as pl

    types = {str: pl.String, int: pl.Int64, float: pl.Float64}
    pl.scan_csv(text, schema={name: types[kind] for name, kind in columns.items()}).sink_parquet(path)
