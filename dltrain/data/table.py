"""Tables: one sample a row, columns of numbers and categories, one column to predict."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Facts, Task
from dltrain.data.frames import as_numbers, check_numbers, read_frame, require_columns
from dltrain.data.source import describe_file
from dltrain.data.splits import holdout, limited
from dltrain.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_MOSTLY = 0.5  # a text column in which more than this share are numbers is a numeric column with mistakes
_MAX_CLASSES = 20  # an integer target with at most this many values is read as classes


@dataclass(frozen=True)
class TableEncoder:
    """How rows become features, measured on the training rows alone; plain types, so that it can be stored.

    A number is standardised and, where training rows miss it, gets a second feature that says so (a missing value
    becomes the mean, 0). A category gets a feature for each of its training values and one for any other, which
    missing values share.
    """

    numeric: dict[str, dict[str, float]]  # column -> mean, std, missing (1.0 where a flag feature is added)
    categorical: dict[str, list[str]]  # column -> values, most frequent first

    @classmethod
    def fit(cls, frame: pl.DataFrame, numeric: Sequence[str], categorical: Sequence[str], max_categories: int) -> Self:
        """Measure ``frame``, the training rows, its numeric columns as Float64 and the others as text."""
        numbers = {}
        for name in numeric:
            values = frame[name]
            mean, std = cast(float | None, values.mean()), cast(float | None, values.std(ddof=0))
            missing = float(values.null_count() > 0)
            if values.min() == values.max():  # or no value at all: the column says nothing
                std = 1.0  # where rounding may leave a tiny deviation
            numbers[name] = {"mean": mean or 0.0, "std": std or 1.0, "missing": missing}
        categories = {}
        for name in categorical:
            counts = frame[name].drop_nulls().value_counts().sort("count", name, descending=[True, False])
            categories[name] = counts[name].head(max_categories).to_list()
        return cls(numbers, categories)

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
            codes = {value: code for code, value in enumerate(known)}
            code = frame[name].replace_strict(codes, default=len(known), return_dtype=pl.Int64).to_numpy()
            columns += [code == value for value in range(len(known) + 1)]
        return torch.from_numpy(np.stack(columns, 1, dtype=np.float32, casting="unsafe"))


def table(
    path: str,
    target: str,
    task: Task | None = None,
    categorical: Sequence[str] = (),
    ignore: Sequence[str] = (),
    max_categories: int = 50,
    separator: str = ",",
    name: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int | None = None,
    split_seed: int = 0,
) -> Data:
    """A CSV or Parquet file whose column ``target`` is predicted from the others.

    Args:
        task: ``classification`` or ``regression``; recognised when ``None``: text, true/false and whole numbers of
            at most 20 different values are classes, other numbers are a regression.
        categorical: columns of numbers that are names of categories all the same.
        ignore: columns that are not used.
        max_categories: the most frequent values of a column that get a feature of their own.

    The target of a regression is standardised by the training rows; metrics are reported in both units. Rows
    without a target are left out with a warning.

    Raises:
        DataError: the file, the target column, or a value in a row that is not what its column holds.
    """
    if max_categories < 1:
        raise ConfigError([f"dataset.max_categories must be at least 1, not {max_categories}"])
    frame = read_frame(path, separator)
    (target,) = require_columns(frame, [target], path, "dataset.target")
    categorical = require_columns(frame, categorical, path, "dataset.categorical")
    ignore = require_columns(frame, ignore, path, "dataset.ignore")
    numeric, texts, frame = _sort_columns(frame, path, [target, *ignore], categorical)
    if not numeric and not texts:
        raise DataError(f"'{path}' has no column to predict '{target}' from")
    rows = torch.from_numpy(frame[target].is_not_null().arg_true().to_numpy().astype(np.int64))
    if len(rows) < frame.height:
        log.warning("%s: %d rows without a value of '%s' are left out", path, frame.height - len(rows), target)
    if len(rows) < 3:
        raise DataError(f"'{path}' has {len(rows)} rows with a value of '{target}'; at least 3 are needed")
    values, class_names = _read_target(frame[target], path, task)

    parts = _split_rows(rows, values if class_names else None, val_fraction, test_fraction, limit, split_seed)
    encoder = TableEncoder.fit(frame[parts[0].numpy()], numeric, texts, max_categories)
    inputs = encoder.encode(frame)
    mean, std = 0.0, 1.0
    if not class_names:
        known = values[parts[0]]
        mean, std = float(known.mean()), float(known.std(correction=0)) if known.min() < known.max() else 1.0
        values = ((values - mean) / std).float().unsqueeze(1)
    facts = Facts(
        name=name or Path(path).stem,
        task="classification" if class_names else "regression",
        kind="table",
        input_shape=(inputs.shape[1],),
        num_outputs=len(class_names) or 1,
        class_names=class_names,
        feature_names=encoder.feature_names,
        target_name=target,
        target_mean=mean,
        target_std=std,
    )
    train, val, test = (Arrays(inputs[part], values[part]) for part in parts)
    return Data(
        facts,
        train,
        val if len(val) else None,
        test if len(test) else None,
        preprocessing=asdict(encoder),
        files=describe_file(Path(path).expanduser()),
    )


def _split_rows(
    rows: Tensor, labels: Tensor | None, val_fraction: float, test_fraction: float, limit: int | None, seed: int
) -> list[Tensor]:
    """Row numbers of the training, validation and test part."""

    def split(part: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        kept, held = holdout(len(part), fraction, seed, labels[part] if labels is not None else None)
        return part[kept], part[held]

    rest, test = split(rows, test_fraction)
    train, val = split(rest, val_fraction)
    return [limited(part, limit, seed) for part in (train, val, test)]


def _sort_columns(
    frame: pl.DataFrame, path: str, skip: Sequence[str], categorical: Sequence[str]
) -> tuple[list[str], list[str], pl.DataFrame]:
    """Names of the numeric and of the categorical columns, and the frame with these as Float64 and as text."""
    numeric, texts = [], []
    for column in frame.get_columns():
        if column.name in skip:
            continue
        _require_plain(column, path)
        numbers = as_numbers(column) if column.dtype.is_numeric() or column.dtype == pl.String else None
        present = len(column) - column.null_count()
        if not present:
            log.warning("%s: column '%s' is empty and left out", path, column.name)
        elif column.name in categorical or numbers is None or numbers.count() <= _MOSTLY * present:
            text = column.cast(pl.String)
            if text.n_unique() == len(text) > 20 and column.name not in categorical:
                log.warning("%s: column '%s' differs in every row and is left out", path, column.name)
                continue
            texts.append(column.name)
            frame = frame.with_columns(text)
        else:
            advice = f"mend it, or read the column as categories: 'dataset.categorical=[{column.name}]'"
            check_numbers(column, numbers, path, advice)
            numeric.append(column.name)
            frame = frame.with_columns(numbers)
    return numeric, texts, frame


def _require_plain(column: pl.Series, path: str) -> None:
    """Raise :class:`DataError` for what a Parquet column may hold and no row of features can."""
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(
            f"'{path}', column '{column.name}' is of type {column.dtype}; only numbers, texts, dates and true/false can"
            f" be used; leave other columns out with 'dataset.ignore=[{column.name}]'"
        )


def _read_target(column: pl.Series, path: str, task: Task | None) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers (rows,) int64 with their names, or values (rows,) float64 with none."""
    _require_plain(column, path)
    numbers = as_numbers(column) if column.dtype != pl.Boolean else pl.Series(column.name, [None] * len(column))
    present = len(column) - column.null_count()
    if task is None:
        if numbers.count() > _MOSTLY * present:
            check_numbers(column, numbers, path, "mend it, or set dataset.task=classification if these are classes")
        task = _recognise(column, numbers, present)
        log.info("%s: '%s' is read as %s (dataset.task)", path, column.name, task)
    if task == "regression":
        check_numbers(column, numbers, path, "a regression needs numbers, else set dataset.task=classification")
        return torch.from_numpy(numbers.fill_null(0.0).to_numpy().copy()), ()
    if task != "classification":
        raise ConfigError([f"dataset.task must be classification or regression, not '{task}'"])
    names = column.drop_nulls().cast(pl.String).unique().to_list()
    all_numbers = numbers.count() == present
    names.sort(key=(lambda name: (float(name), name)) if all_numbers else None)
    if len(names) < 2:
        raise DataError(f"'{path}', column '{column.name}': a classification needs at least two classes, found {names}")
    if len(names) == present > _MAX_CLASSES:
        raise DataError(
            f"'{path}', column '{column.name}': each of its {present:,} values is a class of its own; name another"
            " column with dataset.target, or set dataset.task=regression for numbers"
        )
    codes = {name: code for code, name in enumerate(names)}
    classes = column.cast(pl.String).replace_strict(codes, default=0, return_dtype=pl.Int64)
    return torch.from_numpy(classes.to_numpy().copy()), tuple(names)


def _recognise(column: pl.Series, numbers: pl.Series, present: int) -> Task:
    if numbers.count() <= _MOSTLY * present:
        return "classification"
    values = numbers.drop_nulls()
    whole = bool((values == values.round()).all())
    few = values.n_unique() <= min(_MAX_CLASSES, max(2, present // 2))
    return "classification" if whole and few else "regression"
