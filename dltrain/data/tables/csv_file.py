"""CSV files row by row: for training, which stops at a damaged row, and for predictions, which go on after it."""

import csv
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

import polars as pl

from dltrain.data.tables.dialect import Dialect, without_missing
from dltrain.errors import DataError

_CELLS = 2_000_000  # of a frame
_NO_END = "a quoted value does not end as it should"
_TOO_LONG = f"{_NO_END}, or is longer than {csv.field_size_limit():,} characters"
_SWALLOWED = 12  # separators in whole rows within a value that tell that it was not meant to hold them

Refuse = Callable[[int, int, str], None]  # takes a row from 1, its line, and what is wrong with it
Frames = Iterator[tuple[list[int], pl.DataFrame]]  # with the number of each row, from 1


class Record(NamedTuple):
    """A row with the line that it begins on, and what is wrong with it."""

    line: int
    fields: list[str]
    fault: str = ""


def open_csv(path: Path, dialect: Dialect, refuse: Refuse) -> tuple[list[str], Frames]:
    """The names of the columns, and all rows as text in frames with columns in that order; missing values are null.

    The columns of a frame are called column_1, column_2, ...; the names may be empty, or come twice.

    Raises:
        DataError: the file is empty, or its first row is damaged.
        OSError: it cannot be read.
    """
    records = _records(path, dialect)
    first = next(records, None)
    if first is None:
        raise DataError(f"'{path}' is empty")
    if first.fault:
        raise DataError(f"'{path}', line {first.line}: {first.fault}")
    width = len(first.fields)
    if dialect.header is False:
        return column_names(width), _frames(chain([first], records), width, dialect, refuse)
    return [name.strip() for name in first.fields], _frames(records, width, dialect, refuse)


def column_names(width: int) -> list[str]:
    """What the columns of a file without a header are called."""
    return [f"column_{number}" for number in range(1, width + 1)]


def line_of(path: Path, row: int, dialect: Dialect) -> int:
    """The line that ``row``, from 0, begins on."""
    records = _records(path, dialect)
    if dialect.header is not False:
        next(records)
    return next(record.line for number, record in enumerate(records) if number == row)


def _frames(records: Iterator[Record], width: int, dialect: Dialect, refuse: Refuse) -> Frames:
    numbers: list[int] = []
    rows: list[list[str]] = []
    for number, record in enumerate(records, 1):
        if record.fault:
            refuse(number, record.line, record.fault)
            continue
        numbers.append(number)
        rows.append(record.fields)
        if len(rows) * width >= _CELLS:
            yield numbers, _frame(rows, width, dialect)
            numbers, rows = [], []
    if rows:
        yield numbers, _frame(rows, width, dialect)


def _frame(rows: list[list[str]], width: int, dialect: Dialect) -> pl.DataFrame:
    columns = zip(column_names(width), zip(*rows, strict=True), strict=True)
    return without_missing(pl.DataFrame([pl.Series(name, values, pl.String) for name, values in columns]), dialect)


class _Lines:
    """The lines of a file, of which those of a damaged row can be read again."""

    def __init__(self, file: TextIO):
        self._file = file
        self._waiting: deque[str] = deque()
        self.taken: list[str] = []  # lines of the current row
        self.before = 0  # lines before it

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._file)
        self.taken.append(line)
        return line

    def begin_row(self) -> None:
        self.before += len(self.taken)
        self.taken = []

    def put_back(self) -> None:
        """Let the row end with its first line."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def hold_rows(self, separator: str, width: int) -> bool:
        """Whether the lines within the current row are rows of ``width`` themselves, so that a quote is missing."""
        inner = self.taken[1:-1]
        return len(inner) * (width - 1) >= _SWALLOWED and all(line.count(separator) == width - 1 for line in inner)

    @property
    def are_text(self) -> bool:
        try:
            for line in self.taken:
                line.isascii() or line.encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8 were read as surrogates
            return False
        return True


def _records(path: Path, dialect: Dialect) -> Iterator[Record]:
    """All rows after the empty lines at the top; a row without any value has as many empty fields as the first row.

    A quoted value that does not end makes its first line a damaged row; the lines that follow are separate rows.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = _Lines(file)
        unaligned = dialect.separator != " "
        reader = csv.reader(lines, delimiter=dialect.separator, strict=True, skipinitialspace=unaligned)
        first = "first row" if dialect.header is False else "header"
        width = 0
        while True:
            lines.begin_row()
            fields, fault = [], ""
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = _TOO_LONG if "field limit" in str(error) else f"{_NO_END} ({error})"
                lines.put_back()
            if not lines.are_text:
                fault = "this is not UTF-8 text; save the file as UTF-8"
            if not fault and not any(map(str.strip, fields)) and (width or not fields):
                if not width:
                    continue
                fields = [""] * width
            width = width or len(fields)
            if not fault and lines.hold_rows(dialect.separator, width):
                fault = f"{_NO_END}: it takes in {len(lines.taken) - 1:,} rows"
                lines.put_back()
            if not fault and len(fields) != width:
                fault = f"{len(fields)} fields, where the {first} has {width}"
                if len(lines.taken) > 1:
                    fault = _NO_END
                    lines.put_back()
            yield Record(lines.before + 1, fields, fault)
