"""How the file of a table is written: its header, its numbers, and the words that stand for no value."""

import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import polars as pl
from polars import selectors

from dltrain.errors import ConfigError, DataError

log = logging.getLogger(__name__)

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MOSTLY = 0.5  # a text column in which more than this share are numbers is a numeric column with mistakes
_ROWS = 1000  # that a header is compared with
_TELLING = 10  # values with three decimals: of so many, some decimals would be fewer
_THOUSANDS = ("", ",", ".", "'", " ", "\u00a0", "\u202f")
_MARKED = r"^[+-]?[\d.]*[,' \u00a0\u202f]\d|\..*\."  # how a number begins that has other marks than one point


@dataclass(frozen=True)
class Dialect:
    """How every file of a run is read, in training and later; a run stores it.

    Attributes:
        separator: what parts the fields of a CSV file.
        header: whether its first row holds names; ``None``: it does, unless it looks like data, which is refused.
        decimal: the decimal mark; ``None``: a point, unless the numbers of a file show a comma.
        thousands: the mark between groups of three digits, empty for none; ``None``: as the numbers show.
        missing: what counts as no value, beside an empty field; ``None``: the usual words, in CSV files alone.
        width: the number of columns of the file of the training, where it has no header.
    """

    separator: str = ","
    header: bool | None = None
    decimal: str | None = None
    thousands: str | None = None
    missing: Sequence[str] | None = None
    width: int | None = None

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> Self:
        """The dialect that an earlier run stored; runs of earlier versions stored less of it."""
        stored = {name: preprocessing[name] for name in cls.__dataclass_fields__ if name in preprocessing}
        return cls(**{"header": True, **stored})

    def stored(self) -> dict[str, Any]:
        """Plain types for :meth:`of`."""
        return asdict(self)

    def number(self, text: str) -> float | None:
        """``text`` as a number of this notation, ``None`` where it is none: :func:`as_numbers` for a single value."""
        if self.thousands:
            text = text.replace(self.thousands, "") if re.fullmatch(self._grouped, text) else ""
        if self.decimal == ",":
            text = "" if "." in text else text.replace(",", ".")
        return float(text) if _NUMBER.fullmatch(text) else None

    def with_points(self, texts: pl.Expr) -> pl.Expr:
        """Numbers of this notation as all others read them, null for what is not of this notation."""
        if self.thousands:
            texts = texts.str.extract(f"^({self._grouped})$").str.replace_all(self.thousands, "", literal=True)
        if self.decimal == ",":
            texts = texts.str.extract(r"^([^.]*)$").str.replace(",", ".", literal=True)
        return texts

    @property
    def _grouped(self) -> str:
        """The pattern of a number that may have its digits in groups."""
        group, decimal = re.escape(self.thousands or ""), re.escape(self.decimal or ".")
        return rf"[+-]?(?:[1-9]\d{{0,2}}(?:{group}\d{{3}})+|\d*)(?:{decimal}\d*)?(?:[eE][+-]?\d+)?"


PLAIN = Dialect()


def dialect_of(
    separator: str,
    header: bool | None,
    decimal: str | None,
    thousands: str | None,
    missing: Sequence[str | float] | None,
) -> Dialect:
    """The dialect of the keys of a data set.

    Raises:
        ConfigError: a key has a value that it cannot have.
    """
    separator = "\t" if separator == "\\t" else separator  # what most shells pass on for a tab
    problems = []
    if len(separator.encode()) != 1:
        problems.append(f"dataset.separator must be one ASCII character, not '{separator}'")
    if header not in (None, True, False):
        problems.append(f"dataset.header must be true or false, not '{header}'")
    if decimal not in (None, ".", ","):
        problems.append(f"dataset.decimal must be . or \",\", not '{decimal}'")
    if thousands and (len(thousands) != 1 or thousands.isalnum() or thousands in f"+-{decimal}"):
        problems.append(
            f"dataset.thousands must be one character between groups of three digits, another one than dataset.decimal,"
            f" not '{thousands}'"
        )
    if isinstance(missing, str):
        problems.append(f"dataset.missing is a list of words: 'dataset.missing=[{missing}]'")
    if problems:
        raise ConfigError(problems)
    words = None if missing is None else ["null" if word is None else str(word) for word in missing]
    return Dialect(separator, header, decimal, thousands, words)


def as_numbers(column: pl.Series, dialect: Dialect = PLAIN) -> pl.Series:
    """The column as Float64; what is no finite number becomes null."""
    return numbers_in(column.to_frame(), dialect).to_series()


def numbers_in(frame: pl.DataFrame, dialect: Dialect = PLAIN) -> pl.DataFrame:
    """:func:`as_numbers` of every column, many times as fast for many columns."""
    expressions = []
    for place, (name, dtype) in enumerate(frame.schema.items()):
        values = pl.nth(place)  # pl.col would take some names for patterns
        if dtype == pl.String:
            values = dialect.with_points(values.str.strip_chars()).cast(pl.Float64, strict=False)
        elif dtype.is_numeric() or dtype == pl.Boolean:
            values = values.cast(pl.Float64)
        else:  # dates would become days since 1970
            values = pl.when(False).then(values.is_null().cast(pl.Float64))
        expressions.append(pl.when(values.is_finite()).then(values).alias(name))
    return frame.select(expressions)


def selected(frame: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """The columns ``names``, which may be none; polars' select takes some names for patterns."""
    return pl.DataFrame({name: frame[name] for name in names})


def without_missing(frame: pl.DataFrame, dialect: Dialect, usual: Sequence[str] = MISSING) -> pl.DataFrame:
    """``frame`` with nulls for what counts as missing, and no space around texts; ``usual`` words by default."""
    words = ["", *(usual if dialect.missing is None else dialect.missing)]
    numbers = [number for number in map(PLAIN.number, dialect.missing or ()) if number is not None]
    texts = pl.col(pl.String).str.strip_chars().replace(dict.fromkeys(words))
    frame = frame.with_columns(texts)
    for number in numbers:  # -999 is -999.0 as well
        values = selectors.string() | selectors.numeric()
        is_it = values.cast(pl.Float64, strict=False).eq_missing(number)
        frame = frame.with_columns(pl.when(is_it).then(None).otherwise(values).name.keep())
    return frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


def looks_like_data(header: Sequence[str], frame: pl.DataFrame, dialect: Dialect) -> bool:
    """Whether ``header`` is a row as those of ``frame`` are: numbers of their sizes, texts that come again below."""
    if _counts_up(header):
        return False
    alike = named = 0
    for name, column in zip(header, frame.head(_ROWS), strict=True):
        vote = _is_of(name, column, dialect)
        if vote is False:
            return False
        alike, named = alike + bool(vote), named + bool(name)
    return 0 < named <= 2 * alike


def _counts_up(header: Sequence[str]) -> bool:
    """Whether names are 0, 1, 2, ..., or years: as programs name columns, and as no row of data is."""
    numbers = [number for name in header if (number := PLAIN.number(name)) is not None]
    counted = numbers == list(range(len(numbers)))
    if header[0] == "" and counted and len(numbers) == len(header) - 1:  # an index has no name
        return True
    steps = {later - earlier for earlier, later in pairwise(numbers)}
    if len(steps) != 1 or (step := steps.pop()) <= 0:
        return False
    are_years = step == 1 and numbers[0] >= 1800 and numbers[-1] < 2200
    return len(numbers) >= (3 if are_years else 4 if counted else 5)


def _is_of(name: str, column: pl.Series, dialect: Dialect) -> bool | None:
    """Whether ``name`` could be a value of ``column``: certainly not a text above numbers; ``None``: who knows."""
    present = len(column) - column.null_count()
    for decimal in (dialect.decimal or ".", ","):
        notation = replace(dialect, decimal=decimal)
        numbers = as_numbers(column, notation).drop_nulls()
        if len(numbers) > MOSTLY * present:
            number = notation.number(name)
            if number is None:
                return None if name in (*MISSING, *(dialect.missing or ())) else False
            lower, upper = float(numbers.min()), float(numbers.max())  # type: ignore[arg-type]
            return True if 2 * lower - upper <= number <= 2 * upper - lower else None
    return True if (column == name).any() else None


def with_notation(dialect: Dialect, frame: pl.DataFrame, path: str) -> Dialect:
    """``dialect`` with the marks that the numbers in ``frame`` have, and a decimal point where they have none.

    Raises:
        DataError: a comma may be a decimal mark or part thousands, or the columns have different marks.
    """
    if dialect.decimal is not None and dialect.thousands is not None:
        return dialect
    notations = [
        replace(dialect, decimal=decimal, thousands=thousands)
        for thousands in (_THOUSANDS if dialect.thousands is None else [dialect.thousands])
        for decimal in dialect.decimal or ".,"
        if decimal != thousands
    ]
    texts = _with(_MARKED, frame)
    counts = np.array([_counts(texts, notation) for notation in notations])  # (notations, columns)
    most = counts.max(0)
    # Columns of numbers of which the first notation does not know all.
    marked = (most > counts[0]) & (most > MOSTLY * np.array(_present(texts)))
    fitting = [n for n, count in zip(notations, counts, strict=True) if (count == most)[marked].all()]
    columns = [column for column, needed in zip(texts, marked, strict=True) if needed]
    if not fitting:
        raise DataError(f"'{path}': {_different(columns)}")
    chosen = fitting[0]
    for other in fitting[1:]:
        _require_alike(chosen, other, columns, path)
    if columns:
        log.info("%s: %s in %s", path, " and ".join(_words(chosen)), ", ".join(column.name for column in columns))
    if chosen.decimal == "," and (pointed := _misread(_with(r"\.", frame), chosen)):
        raise DataError(f"'{path}': {_different([*columns, *pointed])}")
    if (dialect.decimal, dialect.thousands, chosen) == (None, None, notations[0]):
        _warn_of_points(frame, path)
    return chosen


def _warn_of_points(frame: pl.DataFrame, path: str) -> None:
    """Say where points look as if they part thousands: each before three digits, beside whole numbers below 1000."""
    for column in _with(r"^[+-]?[1-9]\d{0,2}\.\d{3}$", frame):
        has_point = column.str.contains(".", literal=True)
        pointed, whole = column.filter(has_point), column.filter(~has_point)
        alike = pointed.str.contains(r"^[+-]?[1-9]\d{0,2}\.\d{3}$").all()
        if alike and pointed.n_unique() >= _TELLING and len(whole) and whole.str.contains(r"^[+-]?\d{1,3}$").all():
            log.warning(
                "%s: column '%s': '%s' is read as %g, and '%s' is there too; where points part thousands, write"
                " 'dataset.thousands=\".\"'",
                *(path, column.name, pointed[0], float(pointed[0]), whole[0]),
            )


def _with(pattern: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The columns of text in which a value holds ``pattern``."""
    texts = frame.select(pl.col(pl.String))
    matches = texts.select(pl.all().str.contains(pattern).any()).row(0) if texts.width else ()
    return selected(texts, [name for name, has_it in zip(texts.columns, matches, strict=True) if has_it])


def _counts(frame: pl.DataFrame, notation: Dialect = PLAIN) -> tuple[int, ...]:
    """How many numbers each column holds."""
    return numbers_in(frame, notation).count().row(0) if frame.width else ()


def _present(frame: pl.DataFrame) -> tuple[int, ...]:
    return frame.count().row(0) if frame.width else ()


def _misread(frame: pl.DataFrame, notation: Dialect) -> list[pl.Series]:
    """Columns of numbers that only the plain notation knows."""
    columns = zip(frame, _counts(frame), _counts(frame, notation), _present(frame), strict=True)
    return [column for column, plain, count, present in columns if plain > max(count, MOSTLY * present)]


def _require_alike(first: Dialect, second: Dialect, columns: Sequence[pl.Series], path: str) -> None:
    """Raise :class:`DataError` where two notations read a number differently."""
    for column in columns:
        readings = [(as_numbers(column, notation), notation) for notation in (first, second)]
        differ = (readings[0][0] != readings[1][0]).fill_null(False).arg_true()
        if len(differ):
            row = int(differ[0])
            listed = " or ".join(f"{numbers[row]:.15g} ({_to_type(notation)})" for numbers, notation in readings)
            raise DataError(f"'{path}', column '{column.name}': '{column[row]}' may be {listed}: say which")


def _to_type(notation: Dialect) -> str:
    key, mark = ("thousands", notation.thousands) if notation.thousands else ("decimal", notation.decimal)
    return shlex.quote(f'dataset.{key}="{mark}"')


def _words(notation: Dialect) -> list[str]:
    comma = ["decimal commas"] if notation.decimal == "," else []
    return comma + ([f"'{notation.thousands}' between thousands"] if notation.thousands else [])


def _different(columns: Sequence[pl.Series]) -> str:
    """A sentence on columns whose numbers cannot be read alike."""
    shown = []
    for column in columns[:4]:
        marks = column.filter(column.str.contains(r"[.,' \u00a0\u202f]").fill_null(False))
        shown.append(f"'{marks[0] if len(marks) else column[0]}' in '{column.name}'")
    listed = ", ".join(shown)
    ways = "mend one, leave it out (dataset.ignore), or read it as categories (dataset.categorical)"
    return f"its columns write numbers in different ways ({listed}); {ways}"
