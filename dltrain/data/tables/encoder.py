"""How rows of a table become features: measured once, stored with the run, used for every file after it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.tables.columns import Categories, spellings
from dltrain.data.tables.dialect import PLAIN, Dialect, numbers_in, selected, with_notation
from dltrain.data.tables.frames import TOO_FAR, check_numbers, require_columns, require_plain, too_far

_LISTED = 8  # categories, in a message


@dataclass(frozen=True)
class TableEncoder:
    """How rows become features, measured on the training rows alone; plain types, so that it can be stored.

    A number is standardised and, where training rows miss it, gets a second feature that says so (a missing value
    becomes the mean, 0). A category gets a feature for each of its training values and another for all others
    and missing values.
    """

    numeric: dict[str, dict[str, float]]  # column -> mean, std, missing (1.0 where a flag feature is added)
    categorical: dict[str, list[str]]  # column -> values, most frequent first
    others: list[str] = field(default_factory=list)  # columns of which training rows had further values, or none
    dialect: Dialect = PLAIN

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame,
        numeric: Sequence[str],
        categorical: Sequence[str],
        max_categories: int,
        dialect: Dialect = PLAIN,
    ) -> Self:
        """Measure ``frame``, the training rows, its numeric columns as Float64 and the others as text."""
        numbers = {}
        for name in numeric:
            values = frame[name]
            mean, std = cast(float | None, values.mean()), cast(float | None, values.std(ddof=0))
            missing = float(values.null_count() > 0)
            if values.min() == values.max():  # or no value at all: the column says nothing
                std = 1.0  # where rounding may leave a tiny deviation
            numbers[name] = {"mean": mean or 0.0, "std": std or 1.0, "missing": missing}
        categories, others = {}, []
        for name in categorical:
            counts = _counts(frame[name], dialect)
            categories[name] = sorted(counts, key=lambda value: (-counts[value], value))[:max_categories]
            others += [name] if frame[name].null_count() or len(counts) > max_categories else []
        return cls(numbers, categories, others, dialect)

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> Self:
        """The encoder that an earlier run stored."""
        numeric, categorical = preprocessing["numeric"], preprocessing["categorical"]
        return cls(numeric, categorical, preprocessing["others"], Dialect.of(preprocessing))

    def stored(self) -> dict[str, Any]:
        """Plain types for :meth:`of`."""
        measured = {"numeric": self.numeric, "categorical": self.categorical, "others": self.others}
        return {**measured, **self.dialect.stored()}

    def settled(self, frame: pl.DataFrame, path: str) -> Self:
        """Itself, with the marks that the numbers in ``frame`` have where its run stored none, as earlier versions."""
        dialect = with_notation(self.dialect, selected(frame, self.numeric), path)
        return self if dialect == self.dialect else replace(self, dialect=dialect)

    @cached_property
    def categories(self) -> dict[str, Categories]:
        """The known values of each column of categories."""
        return {name: Categories(known, self.dialect) for name, known in self.categorical.items()}

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        return [*self.numeric, *self.categorical]

    def typed(self, frame: pl.DataFrame, path: str) -> pl.DataFrame:
        """``frame`` with its columns as :meth:`encode` takes them.

        Raises:
            DataError: a column is missing, or holds no number where a number belongs.
        """
        require_columns(frame, self.columns, path, "columns of the run")
        for name in self.columns:
            require_plain(frame[name], path)
        typed = self.cast(frame)
        for name in self.numeric:
            check_numbers(frame[name], typed[name], path, "the run reads numbers in this column", self.dialect)
        return typed

    def cast(self, frame: pl.DataFrame) -> pl.DataFrame:
        """``frame`` with numbers as Float64, null where there is none, and categories as text."""
        numbers = numbers_in(selected(frame, self.numeric), self.dialect)
        return frame.with_columns(*numbers, *(frame[name].cast(pl.String) for name in self.categorical))

    def faults(self, frame: pl.DataFrame, typed: pl.DataFrame) -> dict[int, str]:
        """Rows of ``frame``, ``typed`` by :meth:`cast`, from which nothing can be predicted, each with a sentence.

        They hold no finite number where a number belongs, a number that is too far off, or a category of which nothing
        was learned: where training rows had further values than those with a feature, these stand for any other.
        """
        faults: dict[int, str] = {}
        for name, measured in self.numeric.items():
            for row in (frame[name].is_not_null() & typed[name].is_null()).arg_true().to_list():
                faults.setdefault(row, f"column '{name}' holds '{frame[name][row]}', which is no finite number")
            for row in too_far(typed[name].to_numpy(), measured["mean"], measured["std"]).tolist():
                faults.setdefault(row, f"column '{name}': {typed[name][row]:g} {TOO_FAR}")
        for name, known in self.categorical.items():
            if name in self.others:
                continue
            values = typed[name]
            unknown = self.categories[name].codes(values) == len(known)
            for row in np.flatnonzero(unknown & values.is_not_null().to_numpy()).tolist():
                listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
                faults.setdefault(row, f"column '{name}' holds '{values[row]}', which training rows do not: {listed}")
        return faults

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name a feature, in the order of :meth:`encode`: ``age``, ``age is missing``, ``sex=f``, ``sex=other``."""
        names = []
        for name, measured in self.numeric.items():
            names += [name, f"{name} is missing"] if measured["missing"] else [name]
        for name, values in self.categorical.items():
            names += [f"{name}={value}" for value in values] + [f"{name}=other"]
        return tuple(names)

    def encode(self, frame: pl.DataFrame) -> Tensor:
        """Features (rows, len(feature_names)) float32."""
        columns: list[np.ndarray] = []
        for name, measured in self.numeric.items():
            values = frame[name]
            columns.append(((values - measured["mean"]) / measured["std"]).fill_null(0.0).to_numpy())
            if measured["missing"]:
                columns.append(values.is_null().to_numpy())
        for name, known in self.categorical.items():
            code = self.categories[name].codes(frame[name])
            columns += [code == value for value in range(len(known) + 1)]
        return torch.from_numpy(np.stack(columns, 1, dtype=np.float32, casting="unsafe"))


def _counts(column: pl.Series, dialect: Dialect) -> Counter[str]:
    """How often each value of a column of text comes, under the shortest of its spellings."""
    frequencies = column.drop_nulls().alias("text").value_counts(name="rows")
    texts = frequencies["text"].to_list()
    spelled = spellings(texts, dialect)
    counts: Counter[str] = Counter()
    for text, count in zip(texts, frequencies["rows"].to_list(), strict=True):
        counts[spelled[text]] += count
    return counts
