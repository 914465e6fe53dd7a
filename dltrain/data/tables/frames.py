"""Tables as they are on disk: read strictly, with errors that name the file, the row and the column."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from polars import selectors

from dltrain.data.tables.csv_file import column_names, line_of, open_csv
from dltrain.data.tables.dialect import PLAIN, Dialect, looks_like_data, without_missing
from dltrain.errors import ConfigError, DataError, did_you_mean, to_type
from dltrain.system.files import kind_of

TOO_FAR = "is too far from the values of the training rows to compute with"
_LARGEST = 3.4e38  # of single precision, in which networks and metrics compute
# What polars raises for a file that is damaged; of some it panics, which is no Exception.
UNREADABLE = (OSError, UnicodeError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


def unreadable(file: Path | str, error: BaseException) -> DataError:
    """What to raise for an error of :data:`UNREADABLE`."""
    return DataError(f"'{file}' cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}")


def read_frame(path: str, dialect: Dialect = PLAIN, target: str = "") -> tuple[pl.DataFrame, Dialect]:
    """A CSV file with every column as text, or a Parquet file with its own types; missing values are null.

    Space around a value or a name does not count, and rows of a CSV file without any value at its end are left out.
    The dialect comes back with what the file shows of its header; ``target`` is the column to predict, for messages.

    Raises:
        DataError: the file is missing, empty or damaged, not UTF-8, names a column twice, or a row has more or fewer
            fields than the first; or the first row is data, though the user did not say so.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        what = f"'{path}' is {kind}, no file" if (kind := kind_of(file)) else f"there is no file '{path}'"
        raise DataError(f"{what}; dataset.path must name a CSV or Parquet file")
    try:
        frame, dialect = _read_parquet(file, dialect) if is_parquet(file) else _read_csv(file, dialect, target)
    except UNREADABLE as error:
        raise unreadable(file, error) from error
    if frame.height == 0:
        raise DataError(f"'{path}' has a header but no rows")
    return frame, dialect


def require_columns(frame: pl.DataFrame, names: Sequence[str | int], path: str, key: str) -> list[str]:
    """``names``, which the user gave as ``key``, as text: a column named 2020 comes as a number.

    Raises:
        DataError: the frame has no such column.
    """
    if isinstance(names, str):
        raise ConfigError([f"{key} is a list of columns: '{key}=[{names}]'"])
    columns, known = [str(name) for name in names], set(frame.columns)
    for name in columns:
        if name not in known:
            listed = ", ".join(f"'{column}'" for column in frame.columns[:30])
            lone = " (a single column: set dataset.separator?)" if frame.width == 1 else ""
            hint = did_you_mean(name, frame.columns) or "."
            raise DataError(f"{key}: '{path}' has no column '{name}'{hint} Its columns are {listed}{lone}")
    return columns


def check_numbers(column: pl.Series, numbers: pl.Series, path: str, advice: str, dialect: Dialect = PLAIN) -> None:
    """Raise :class:`DataError` for the first value of ``column`` that has no number in ``numbers``."""
    bad = (column.is_not_null() & numbers.is_null()).arg_true()
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"'{path}', column '{column.name}', {row_name(path, row, dialect)}: '{column[row]}' is not a finite number"
            f" ({len(bad)} such value{'s' if len(bad) > 1 else ''} among {len(column):,}); {advice}"
        )


def require_plain(column: pl.Series, path: str) -> None:
    """Raise :class:`DataError` for what a Parquet column may hold and no row of features can."""
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(
            f"'{path}', column '{column.name}' is of type {column.dtype}; only numbers, texts, dates and true/false can"
            f" be used; leave other columns out with {to_type('dataset.ignore', [column.name])}"
        )


def require_measured(path: str, name: str, measured: Iterable[float]) -> None:
    """Raise :class:`DataError` where mean or deviation of a column, as ``measured``, are beyond single precision."""
    if not all(abs(number) <= _LARGEST for number in measured):  # nor is infinity, or NaN
        raise DataError(
            f"'{path}', column '{name}': its numbers are too large to take their mean and deviation; divide them by a"
            " power of ten, or leave the column out"
        )


def too_far(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """The rows of ``values`` (rows,) that single precision cannot hold, as they are or once they are standardised."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.flatnonzero(np.maximum(np.abs(values), np.abs((values - mean) / std)) > _LARGEST)


def require_near(values: np.ndarray, mean: float, std: float, path: str, name: str, dialect: Dialect = PLAIN) -> None:
    """Raise :class:`DataError` for the first of ``values`` that is :func:`too_far` off, by its row."""
    rows = too_far(values, mean, std)
    if len(rows):
        where = row_name(path, int(rows[0]), dialect)
        raise DataError(f"'{path}', column '{name}', {where}: {values[rows[0]]:g} {TOO_FAR}; mend it")


def row_name(path: str, row: int, dialect: Dialect = PLAIN) -> str:
    """``row 3 (line 4)``: ``row`` from 0, as counted from 1 below the header, and the line of a CSV file."""
    file = Path(os.path.expanduser(path))
    return f"row {row + 1}" + ("" if is_parquet(file) else f" (line {line_of(file, row, dialect)})")


def is_parquet(file: Path) -> bool:
    """Whether a file is to be read as Parquet, else as CSV."""
    return file.suffix.lower() in (".parquet", ".pq")


def parquet_values(frame: pl.DataFrame, dialect: Dialect) -> pl.DataFrame:
    """Rows of a Parquet file with dictionaries as the texts they stand for, and nulls for what counts as missing."""
    dictionaries = selectors.categorical() | selectors.enum()
    return without_missing(frame.with_columns(dictionaries.cast(pl.String)), dialect, usual=())


def _read_parquet(file: Path, dialect: Dialect) -> tuple[pl.DataFrame, Dialect]:
    return parquet_values(pl.read_parquet(file), dialect), replace(dialect, header=True)


def _read_csv(file: Path, dialect: Dialect, target: str) -> tuple[pl.DataFrame, Dialect]:
    def refuse(row: int, line: int, fault: str) -> None:
        lone = " (a single column: set dataset.separator?)" if len(names) == 1 else ""
        raise DataError(f"'{file}', row {row} (line {line}): {fault}{lone}")

    names, frames = open_csv(file, dialect, refuse)
    parts = [frame for _, frame in frames]
    frame = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(column_names(len(names)), pl.String))
    if dialect.header is None and looks_like_data(names, frame, dialect):
        raise DataError(f"'{file}': {_header_or_data(names, target)}")
    frame.columns = names_of(names, dialect, file, target)
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    frame = frame.head(int(filled[-1]) + 1 if len(filled) else 0)
    if dialect.header is False:
        return frame, replace(dialect, width=frame.width)
    return frame, replace(dialect, header=True)


def names_of(names: Sequence[str], dialect: Dialect, file: Path, target: str) -> list[str]:
    """The names of the columns that :func:`open_csv` calls ``names``, all different.

    All but the first of those without a name are called by their place. A file without a header may lack ``target``.

    Raises:
        DataError: a name comes twice, or a file without a header has another number of columns than the run's own.
    """
    if dialect.header is False and dialect.width not in (None, len(names)):
        others = [name for name in column_names(dialect.width or 0) if name != target]
        if len(others) != len(names):
            raise DataError(
                f"'{file}' has {len(names)} columns, where the run's own file, which has no header either, had"
                f" {dialect.width}"
            )
        return others
    empty = [place for place, name in enumerate(names) if not name]
    columns = [f"column_{place + 1}" if place in empty[1:] else name for place, name in enumerate(names)]
    name, count = Counter(columns).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"'{file}' has {count} columns named '{name}'; rename all but one, or write 'dataset.header=false' if its"
            " first row is one of data"
        )
    return columns


def _header_or_data(names: Sequence[str], target: str) -> str:
    """What to type where the first row, taken for names, looks like data."""
    place = names.index(target) + 1 if target in names else len(names)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return (
        f"the first row looks like data, not like names ({shown}): write 'dataset.header=false' and name columns by"
        f" their places, column_1 to column_{len(names)} (dataset.target=column_{place}), or 'dataset.header=true' if"
        " these are names"
    )
