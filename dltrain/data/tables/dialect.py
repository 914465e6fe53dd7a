"""How the file of a table is written: its fields, its numbers, and the words that stand for no value."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import polars as pl
from polars import selectors

from dltrain.errors import ConfigError

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


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
