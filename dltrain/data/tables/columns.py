"""The columns of a table: numbers, categories however a file spells them, and what had better be left out."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from dltrain.data.tables.dates import read_dates
from dltrain.data.tables.dialect import MOSTLY, PLAIN, Dialect, numbers_in, selected
from dltrain.data.tables.frames import check_numbers, require_plain
from dltrain.errors import DataError, to_type

log = logging.getLogger(__name__)

_FEW = 20  # so many rows may differ in any column
_TRUTH = {"true", "false"}


def sort_columns(
    frame: pl.DataFrame,
    path: str,
    skip: Sequence[str],
    categorical: Sequence[str],
    max_categories: int,
    dialect: Dialect = PLAIN,
) -> tuple[list[str], list[str], pl.DataFrame]:
    """Names of the numeric and of the categorical columns, and a frame of these as Float64 and as text.

    Columns without information are left out; doubtful ones (numbers of rows, dates, free texts) are warned of.
    """
    numeric: dict[str, pl.Series] = {}
    texts: dict[str, pl.Series] = {}
    empty, different = [], []
    left_out = {*skip}
    frame = selected(frame, [name for name in frame.columns if name not in left_out])
    for column in frame:
        require_plain(column, path)
    for column, numbers in zip(frame, numbers_in(frame, dialect), strict=True):
        chosen = column.name in categorical
        may_be_numbers = not chosen and (column.dtype.is_numeric() or column.dtype == pl.String)
        if column.null_count() == len(column):
            empty.append(column.name)
        elif may_be_numbers and numbers.count() > MOSTLY * column.count():
            ways = f"mend it, or read the column as categories: {to_type('dataset.categorical', [column.name])}"
            check_numbers(column, numbers, path, ways, dialect)
            numeric[column.name] = numbers
        elif not chosen and column.n_unique() == len(column) > _FEW:
            different.append(column.name)
        else:
            texts[column.name] = column.cast(pl.String)
    _warn(path, empty, "is empty and left out")
    _warn(path, different, "differs in every row and is left out")
    free = [text for name, text in texts.items() if name not in categorical]
    _warn_of_doubtful(path, list(numeric.values()), free, max_categories)
    return list(numeric), list(texts), pl.DataFrame({**numeric, **texts})


def nothing_to_read(
    frame: pl.DataFrame, path: str, target: str, ignore: Sequence[str], is_number: bool, dialect: Dialect = PLAIN
) -> DataError:
    """The error of a table that has no column to predict ``target`` from; a number a row may still be a series."""
    cause = f"'{path}' has no column to predict '{target}' from"
    if not is_number:
        return DataError(cause)
    words = ["dltrain", "dataset=series", to_type("dataset.path", path), to_type("dataset.target", target)]
    times = [column.name for column in frame.get_columns() if column.name not in (target, *ignore) and column.count()]
    words += [to_type("dataset.time", name) for name in times[:1]]
    if dialect.separator != ",":
        words.append(to_type("dataset.separator", dialect.separator.replace("\t", "\\t")))
    words += ["dataset.header=false"] if dialect.header is False else []
    words += [to_type("dataset.decimal", dialect.decimal)] if dialect.decimal == "," else []
    words += [to_type("dataset.thousands", dialect.thousands)] if dialect.thousands else []
    return DataError(f"{cause}; if its rows follow each other in time, forecast it: {' '.join(words)}")


def _warn_of_doubtful(path: str, numeric: Sequence[pl.Series], texts: Sequence[pl.Series], most: int) -> None:
    advice = "leave out what should not be learned from: {}"
    _warn(path, [c.name for c in numeric if _is_identifier(c)], "numbers the rows, as an identifier does", advice)
    dates = [column for column in texts if column.str.contains(r"\d\d").any() and read_dates(column.unique())]
    _warn(path, [c.name for c in dates], "holds dates, which are read as categories", advice)
    free = [c for c in texts if all(c is not other for other in dates) and _is_free(c, most)]
    cut = f"is free text, of which the {most} most frequent values become a feature each (dataset.max_categories)"
    _warn(path, [c.name for c in free], cut, advice)


def _is_identifier(numbers: pl.Series) -> bool:
    """Whether a column of whole numbers has a different number in every row."""
    whole = numbers.count() == len(numbers) > _FEW and bool((numbers == numbers.round()).all())
    return whole and numbers.n_unique() == len(numbers)


def _is_free(text: pl.Series, most: int) -> bool:
    different = text.drop_nulls().n_unique()
    return different > most or different > max(_FEW, text.count() / 2)


def _warn(path: str, names: Iterable[str], what: str, advice: str = "") -> None:
    """Warn of all ``names`` in a single line; ``advice`` has a place for what to type."""
    names = list(names)
    if names:
        listed = ", ".join(f"'{name}'" for name in names[:8]) + (", ..." if len(names) > 8 else "")
        subject = f"column {listed}" if len(names) == 1 else f"{len(names)} columns ({listed}), each of which"
        hint = "; " + advice.format(to_type("dataset.ignore", names)) if advice else ""
        log.warning("%s: %s %s%s", path, subject, what, hint)


class Categories:
    """The known values of a column, in their order, and which of them a text is.

    A text that is none of them stands for the name of the same value, if exactly one has it: 4.0 is 4, True is true;
    where all are numbers, 4.50 is 4.5.
    """

    def __init__(self, names: Sequence[str], dialect: Dialect):
        self.names = names
        self._dialect = dialect
        self._are_numbers = all(dialect.number(_whole(name, dialect)) is not None for name in names)
        self._are_truth = _are_truth(names)
        values = [self._value(name) for name in names]
        counts = Counter(values)
        by_value = {value: code for code, value in enumerate(values) if counts[value] == 1}
        self._by_value: dict[str | float | None, int] = by_value
        self._by_name = {name: code for code, name in enumerate(names)}

    def code(self, text: str) -> int | None:
        """The place of the value ``text`` among the names, ``None`` where it is none of them."""
        code = self._by_name.get(text)
        return self._by_value.get(self._value(text)) if code is None else code

    def codes(self, column: pl.Series) -> np.ndarray:
        """The place of each value (rows,) int64; the number of names for one that is none of them, or missing."""
        texts = column.cast(pl.String)
        known = {text: self.code(text) for text in texts.drop_nulls().unique().to_list()}
        places = {text: code for text, code in known.items() if code is not None}
        if not places:
            return np.full(len(column), len(self.names))
        return texts.replace_strict(places, default=len(self.names), return_dtype=pl.Int64).to_numpy()

    def _value(self, text: str) -> str | float | None:
        whole = _whole(text, self._dialect)
        if self._are_numbers:
            return self._dialect.number(whole)
        return whole.lower() if self._are_truth else whole


def spellings(texts: Iterable[str], dialect: Dialect) -> dict[str, str]:
    """Each of the different ``texts`` of a column with the shortest of those that are spellings of the same value."""
    texts = sorted(texts, key=lambda text: (len(text), text))
    lower = _are_truth(texts)
    shortest: dict[str, str] = {}
    return {
        text: shortest.setdefault(whole.lower() if lower else whole, text)
        for text in texts
        for whole in [_whole(text, dialect)]
    }


def _are_truth(texts: Iterable[str]) -> bool:
    return {text.strip().lower() for text in texts} <= _TRUTH


def _whole(text: str, dialect: Dialect) -> str:
    """``text`` without the decimals of a whole number: pandas writes 4 as 4.0 where a value is missing beside it."""
    marks = {".", dialect.decimal or "."} - {dialect.thousands}
    match = re.fullmatch(r"([+-]?\d+)([.,])0+", text.strip())
    return match[1] if match and match[2] in marks else text.strip()
