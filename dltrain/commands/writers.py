"""Predictions to a file as they come: CSV, JSON lines or Parquet; the file is there once it is whole."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dltrain.errors import UserError
from dltrain.system.files import written_whole

_SUFFIXES = (".csv", ".jsonl", ".parquet")

Write = Callable[[Sequence[Any]], object]  # takes a row


def csv_writer(file: TextIO, columns: Mapping[str, type]) -> Write:
    """Write the header; returns a function that writes a row."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    return writer.writerow


def _json_writer(file: TextIO, columns: Mapping[str, type]) -> Write:
    def write(row: Sequence[Any]) -> None:
        file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")

    return write


@contextmanager
def writing(path: Path, columns: Mapping[str, type]) -> Iterator[Write]:
    """Within, rows may be written to ``path``, whose suffix decides the format; an error leaves no file.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    require_writable(path)
    try:
        with written_whole(path) as text:
            with open(text, "w", newline="", encoding="utf-8") as file:
                yield (_json_writer if path.suffix == ".jsonl" else csv_writer)(file, columns)
            if path.suffix == ".parquet":
                with written_whole(text) as whole:
                    _to_parquet(text, whole, columns)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error}") from error


def require_writable(path: Path) -> None:
    """Raise :class:`UserError` for a file of another format than those above, or in a folder that does not exist."""
    if path.suffix not in _SUFFIXES:
        raise UserError(f"out={path} must end with {', '.join(_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"out={path}: there is no folder '{path.parent}'")


def _to_parquet(text: Path, path: Path, columns: Mapping[str, type]) -> None:
    """By way of CSV, because a Parquet file can only be written as a stream from a source that polars reads itself."""
    import polars as pl

    types = {str: pl.String, int: pl.Int64, float: pl.Float64}
    pl.scan_csv(text, schema={name: types[kind] for name, kind in columns.items()}).sink_parquet(path)
