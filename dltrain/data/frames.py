"""Tables as they are on disk: read strictly, with errors that name the file, the row and the column."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from dltrain.errors import ConfigError, DataError, did_you_mean

log = logging.getLogger(__name__)

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")


def read_frame(path: str, separator: str = ",") -> pl.DataFrame:
    """A CSV file with every column as text, or a Parquet file with its own types; missing values are null.

    Space around a value or a name of a CSV file does not count, and rows without any value at its end are left out.

    Raises:
        DataError: the file is missing, empty or damaged, not UTF-8, names a column twice, or a row has more or fewer
            fields than the header.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"there is no file '{path}'; dataset.path must name a CSV or Parquet file")
    frame = _read_parquet(file) if is_parquet(file) else _read_csv(file, separator)
    if frame.height == 0:
        raise DataError(f"'{path}' has a header but no rows")
    return frame


def require_columns(frame: pl.DataFrame, names: Sequence[str], path: str, key: str) -> list[str]:
    """``names``, which the user gave as ``key``, as text: a column named 2020 comes as a number.

    Raises:
        DataError: the frame has no such column.
    """
    if isinstance(names, str):
        raise ConfigError([f"{key} is a list of columns: '{key}=[{names}]'"])
    columns = [str(name) for name in names]
    for name in columns:
        if name not in frame.columns:
            listed = ", ".join(f"'{column}'" for column in frame.columns[:30])
            lone = " (a single column: set dataset.separator?)" if frame.width == 1 else ""
            hint = did_you_mean(name, frame.columns) or "."
            raise DataError(f"{key}: '{path}' has no column '{name}'{hint} Its columns are {listed}{lone}")
    return columns


def as_numbers(column: pl.Series) -> pl.Series:
    """The column as Float64; what is no finite number becomes null."""
    if column.dtype == pl.String:
        numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
    elif column.dtype.is_numeric() or column.dtype == pl.Boolean:
        numbers = column.cast(pl.Float64)
    else:  # dates would become days since 1970
        numbers = pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    return numbers.set(~numbers.is_finite().fill_null(True), None)


def check_numbers(column: pl.Series, numbers: pl.Series, path: str, advice: str) -> None:
    """Raise :class:`DataError` for the first value of ``column`` that has no number in ``numbers``."""
    bad = (column.is_not_null() & numbers.is_null()).arg_true()
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"'{path}', column '{column.name}', {row_name(path, row)}: '{column[row]}' is not a finite number"
            f" ({len(bad)} such value{'s' if len(bad) > 1 else ''} among {len(column):,}); {advice}"
        )


def require_plain(column: pl.Series, path: str) -> None:
    """Raise :class:`DataError` for what a Parquet column may hold and no row of features can."""
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(
            f"'{path}', column '{column.name}' is of type {column.dtype}; only numbers, texts, dates and true/false can"
            f" be used; leave other columns out with 'dataset.ignore=[{column.name}]'"
        )


def row_name(path: str, row: int) -> str:
    """``row 3 (line 4)``: ``row`` from 0, as counted from 1 below the header, and the line of a CSV file."""
    if is_parquet(Path(path)):
        return f"row {row + 1}"
    ended, quotes = -2, 0  # -1: the header, below lines that may be empty
    with open(Path(path).expanduser(), "rb") as lines:
        for line, text in enumerate(lines, 1):
            quotes += text.count(b'"')
            # A row ends where every quote is paired, whatever the separator: a quoted value may hold line breaks.
            ended += quotes % 2 == 0 and (ended > -2 or text.strip(b"\r\n") != b"")
            if ended == row:
                return f"row {row + 1} (line {line})"
    return f"row {row + 1}"


def is_parquet(file: Path) -> bool:
    """Whether a file is to be read as Parquet, else as CSV."""
    return file.suffix.lower() in (".parquet", ".pq")


def _read_parquet(file: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from error
    return frame.fill_nan(None)


def csv_separator(separator: str) -> str:
    """``separator`` as one character; raises :class:`ConfigError` for another one than ASCII has."""
    separator = "\t" if separator == "\\t" else separator  # what most shells pass on for a tab
    if len(separator.encode()) != 1:
        raise ConfigError([f"dataset.separator must be one ASCII character, not '{separator}'"])
    return separator


def _read_csv(file: Path, separator: str) -> pl.DataFrame:
    separator = csv_separator(separator)
    try:
        frame = pl.read_csv(file, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        fault = _csv_fault(file, separator) or f"'{file}' cannot be read: {str(error).splitlines()[0]}"
        raise DataError(fault) from error
    # What polars lets pass: it pads short rows with nulls, renames repeated columns and mends a header's encoding.
    padded = frame.width > 1 and frame[:, -1].null_count()
    names = {name: name.strip() or name for name in frame.columns}
    odd = len(set(names.values())) < len(names) or any("_duplicated_" in name or "\ufffd" in name for name in names)
    if (padded or odd) and (fault := _csv_fault(file, separator)):
        raise DataError(fault)
    frame = frame.rename(names).with_columns(pl.all().str.strip_chars().replace(dict.fromkeys(MISSING)))
    frame = _with_decimal_points(frame, file) if separator != "," else frame
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    return frame.head(int(filled[-1]) + 1 if len(filled) else 0)


def _with_decimal_points(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """The columns in which every value is a number, some of them written as 1,5, with points instead of commas."""
    found = []
    for column in frame.get_columns():
        values = column.drop_nulls()
        if (
            values.str.contains(r"^[+-]?\d*,\d+$").any()
            and values.str.contains(r"^[+-]?\d*,?\d+([eE][+-]?\d+)?$").all()
        ):
            found.append(column.name)
    if found:
        log.info("%s: decimal commas in %s are read as points", file, ", ".join(found))
    return frame.with_columns(pl.col(found).str.replace(",", ".", literal=True))


def _csv_fault(path: Path, separator: str) -> str:
    """What is wrong with a CSV file, and where; an empty string where nothing is."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"'{path}', line {number}: this is not UTF-8 text; save the file as UTF-8"
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        row = 0
        try:
            header = [name.strip() for name in next(filter(None, reader), [])]
            for name in filter(None, header):
                if header.count(name) > 1:
                    return f"'{path}' has {header.count(name)} columns named '{name}'; rename all but one"
            for row, fields in enumerate(reader, 1):
                if fields and len(fields) != len(header):
                    lone = " (a single column: set dataset.separator?)" if len(header) == 1 else ""
                    return (
                        f"'{path}', row {row} (line {reader.line_num}): {len(fields)} fields,"
                        f" where the header has {len(header)}{lone}"
                    )
        except csv.Error as error:
            return f"'{path}', row {row + 1}: a quoted value does not end as it should ({error})"
    return ""
