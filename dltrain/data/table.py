"""Tables: one sample a row, columns of numbers and categories, one column to predict."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Facts, Fitted, Task
from dltrain.data.folders import describe_file
from dltrain.data.splits import Shuffled, Split
from dltrain.data.stated import Stated
from dltrain.data.tables.columns import Categories, nothing_to_read, sort_columns, spellings
from dltrain.data.tables.dialect import MOSTLY, Dialect, as_numbers, dialect_of, selected, with_notation
from dltrain.data.tables.encoder import TableEncoder
from dltrain.data.tables.frames import (
    check_numbers,
    is_parquet,
    read_frame,
    require_columns,
    require_measured,
    require_near,
    require_plain,
)
from dltrain.errors import DataError

log = logging.getLogger(__name__)

_MAX_CLASSES = 20  # an integer target with at most this many values is read as classes


@Stated(held_out=True, files={"path": "a CSV or Parquet file"})
def table(
    path: str,
    target: str | int,
    task: Task | None = None,
    categorical: Sequence[str | int] = (),
    ignore: Sequence[str | int] = (),
    max_categories: int = 50,
    separator: str = ",",
    header: bool | None = None,
    decimal: Literal[".", ","] | None = None,
    thousands: str | None = None,
    missing: Sequence[str | float] | None = None,
    name: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int | None = None,
    split_seed: int = 0,
    fitted: Fitted | None = None,
) -> Data:
    """A CSV or Parquet file whose column ``target`` is predicted from the others.

    Args:
        task: ``classification`` or ``regression``; recognised when ``None``: text, true/false and whole numbers of
            at most 20 different values are classes, other numbers are a regression.
        categorical: columns of numbers that are names of categories all the same.
        ignore: columns that are not used.
        max_categories: the most frequent values of a column that get a feature of their own.
        header: whether the first row of a CSV file holds names; without a header columns are column_1, column_2, ...
        decimal: the decimal mark of a CSV file, recognised when ``None``.
        thousands: the mark between groups of three digits, recognised when ``None``.
        missing: what counts as no value, beside an empty field; the usual words of CSV files when ``None``.
        fitted: what an earlier run measured, to read this file as that run would.

    The target of a regression is standardised by the training rows; metrics are reported in both units. Rows
    without a target are left out with a warning.

    Raises:
        DataError: the file, the target column, or a value in a row that is not what its column holds.
    """
    dialect = dialect_of(separator, header, decimal, thousands, missing)
    frame, dialect = read_frame(path, Dialect.of(fitted.preprocessing) if fitted else dialect, str(target))
    (target,) = require_columns(frame, [target], path, "dataset.target")
    categorical = require_columns(frame, categorical, path, "dataset.categorical")
    ignore = require_columns(frame, ignore, path, "dataset.ignore")
    task = fitted.facts.task if fitted else task
    of_words = {*categorical, *ignore, *([target] if task == "classification" else [])}
    if fitted:  # which knows the columns of numbers
        of_words |= {*frame.columns} - {*fitted.preprocessing["numeric"], target}
    dialect = with_notation(dialect, selected(frame, [c for c in frame.columns if c not in of_words]), path)
    rows = torch.from_numpy(frame[target].is_not_null().arg_true().to_numpy().astype(np.int64))
    if len(rows) < frame.height:
        _warn_of_unlabelled(frame[target], path, dialect)
    least = 1 if fitted else 3
    if len(rows) < least:
        raise DataError(f"'{path}' has {len(rows)} rows with a value of '{target}'; at least {least} are needed")
    known = fitted.facts.class_names if fitted else ()
    values, class_names = _read_target(frame[target], path, dialect, task, known)
    pool = Shuffled(rows, values[rows] if class_names else None)
    pools = Split(val_fraction, test_fraction, limit, split_seed).parts({"train": pool})
    train = pools["train"].indices
    if fitted:
        encoder = TableEncoder.of(fitted.preprocessing | dialect.stored())
        typed = encoder.typed(frame, path)
        mean, std = fitted.facts.target_mean, fitted.facts.target_std
    else:
        skip = [target, *ignore]
        numeric, texts, typed = sort_columns(frame, path, skip, categorical, max_categories, dialect)
        if not numeric and not texts:
            raise nothing_to_read(frame, path, target, ignore, not class_names, dialect)
        encoder = TableEncoder.fit(typed[train.numpy()], numeric, texts, max_categories, dialect)
        mean, std = (0.0, 1.0) if class_names else _mean_and_std(values[train])
        for column, measured in (*encoder.numeric.items(), (target, {"mean": mean, "std": std})):
            require_measured(path, column, measured.values())
    for column, measured in encoder.numeric.items():
        require_near(typed[column].to_numpy(), measured["mean"], measured["std"], path, column, dialect)
    if not class_names:
        require_near(values.numpy(), mean, std, path, target, dialect)
        values = ((values - mean) / std).float().unsqueeze(1)
    inputs = encoder.encode(typed)
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
    parts = {part: Arrays(inputs[pool.indices], values[pool.indices]) for part, pool in pools.items()}
    return Data(
        facts,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        preprocessing=encoder.stored(),
        files=describe_file(Path(os.path.expanduser(path))),
    )


def _mean_and_std(values: Tensor) -> tuple[float, float]:
    """What standardises ``values`` (rows,) float64; those that are all alike are only shifted."""
    return float(values.mean()), float(values.std(correction=0)) if values.min() < values.max() else 1.0


def _warn_of_unlabelled(column: pl.Series, path: str, dialect: Dialect) -> None:
    """Say how many rows have no target, and which words were taken for a missing value by default."""
    hint = ""
    if dialect.missing is None and not is_parquet(Path(path)):
        written = read_frame(path, replace(dialect, missing=()))[0][column.name].head(len(column))
        words = written.filter(column.is_null()).drop_nulls().value_counts(sort=True, name="rows").rows()
        listed = ", ".join(f"{count} '{word}'" for word, count in words)
        ways = "where that is a class, 'dataset.missing=[]' lets only empty fields count as missing"
        hint = f", {listed} among them; {ways}" if words else ""
    log.warning("%s: %d rows without a value of '%s' are left out%s", path, column.null_count(), column.name, hint)


def _read_target(
    column: pl.Series, path: str, dialect: Dialect, task: Task | None, known: Sequence[str] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers (rows,) int64 with their names, ``known`` ones where given, or values (rows,) float64 with none."""
    require_plain(column, path)
    numbers = as_numbers(column, dialect) if column.dtype != pl.Boolean else column.cast(pl.Float64).clear(len(column))
    if task is None:
        if numbers.count() > MOSTLY * column.count():
            advice = "mend it, or set dataset.task=classification if these are classes"
            check_numbers(column, numbers, path, advice, dialect)
        task = _recognise(column, numbers)
        log.info("%s: '%s' is read as %s (dataset.task)", path, column.name, task)
    if task == "regression":
        advice = "a regression needs numbers, else set dataset.task=classification"
        check_numbers(column, numbers, path, advice, dialect)
        return torch.from_numpy(numbers.fill_null(0.0).to_numpy().copy()), ()
    names = known or _class_names(column, path, dialect)
    codes = Categories(names, dialect).codes(column)
    if known and len(unknown := column.drop_nulls().filter(codes[column.is_not_null().to_numpy()] == len(names))):
        raise DataError(f"'{path}', column '{column.name}': '{unknown[0]}' is no class of the run: {', '.join(known)}")
    return torch.from_numpy(np.where(codes == len(names), 0, codes).astype(np.int64)), tuple(names)


def _recognise(column: pl.Series, numbers: pl.Series) -> Task:
    if numbers.count() <= MOSTLY * column.count():
        return "classification"
    values = numbers.drop_nulls()
    whole = bool((values == values.round()).all())
    few = values.n_unique() <= min(_MAX_CLASSES, max(2, column.count() // 2))
    return "classification" if whole and few else "regression"


def _class_names(column: pl.Series, path: str, dialect: Dialect) -> list[str]:
    """The classes in ``column``, by size where all are numbers, else by name; each once, however it is spelled."""
    texts = column.drop_nulls().cast(pl.String).unique().to_list()
    names = list(set(spellings(texts, dialect).values()))
    numbers = {name: dialect.number(name) for name in names}
    ordered = sorted(names) if None in numbers.values() else sorted(names, key=lambda name: (numbers[name], name))
    if len(names) < 2:
        raise DataError(
            f"'{path}', column '{column.name}': a classification needs at least two classes, found {ordered}"
        )
    if len(names) == column.count() > _MAX_CLASSES:
        raise DataError(
            f"'{path}', column '{column.name}': each of its {len(names):,} values is a class of its own; name another"
            " column with dataset.target, or set dataset.task=regression for numbers"
        )
    return ordered
