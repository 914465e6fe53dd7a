"""Values that are names, of a class or in a column of categories, recognised however a file spells them."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from dltrain.data.tables.dialect import Dialect

_TRUTH = {"true", "false"}


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
