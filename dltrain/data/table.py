"""Tables: one sample a row, columns of numbers and categories, one column to predict."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.base import Arrays, Data, Facts, Fitted, Task
from dltrain.data.encoder import TableEncoder
from dltrain.data.frames import as_numbers, check_numbers, read_frame, require_columns, require_plain
from dltrain.data.source import describe_file
from dltrain.data.splits import holdout, limited
from dltrain.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_MOSTLY = 0.5  # a text column in which more than this share are numbers is a numeric column with mistakes
_MAX_CLASSES = 20  # an integer target with at most this many values is read as classes


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
    fitted: Fitted | None = None,
) -> Data:
    """A CSV or Parquet file whose column ``target`` is predicted from the others.

    Args:
        task: ``classification`` or ``regression``; recognised when ``None``: text, true/false and whole numbers of
            at most 20 different values are classes, other numbers are a regression.
        categorical: columns of numbers that are names of categories all the same.
        ignore: columns that are not used.
        max_categories: the most frequent values of a column that get a feature of their own.
        fitted: what an earlier run measured, to read this file as that run would.

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
    rows = torch.from_numpy(frame[target].is_not_null().arg_true().to_numpy().astype(np.int64))
    if len(rows) < frame.height:
        log.warning("%s: %d rows without a value of '%s' are left out", path, frame.height - len(rows), target)
    least = 1 if fitted else 3
    if len(rows) < least:
        raise DataError(f"'{path}' has {len(rows)} rows with a value of '{target}'; at least {least} are needed")
    known = fitted.facts.class_names if fitted else ()
    values, class_names = _read_target(frame[target], path, fitted.facts.task if fitted else task, known)
    parts = _split_rows(rows, values if class_names else None, val_fraction, test_fraction, limit, split_seed)
    if fitted:
        encoder = TableEncoder.of(fitted.preprocessing)
        frame = encoder.typed(frame, path)
        mean, std = fitted.facts.target_mean, fitted.facts.target_std
    else:
        numeric, texts, frame = sort_columns(frame, path, [target, *ignore], categorical)
        if not numeric and not texts:
            raise DataError(f"'{path}' has no column to predict '{target}' from")
        encoder = TableEncoder.fit(frame[parts[0].numpy()], numeric, texts, max_categories)
        mean, std = (0.0, 1.0) if class_names else _mean_and_std(values[parts[0]])
    if not class_names:
        values = ((values - mean) / std).float().unsqueeze(1)
    inputs = encoder.encode(frame)
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
        preprocessing={**asdict(encoder), "separator": separator},
        files=describe_file(Path(path).expanduser()),
    )


def _mean_and_std(values: Tensor) -> tuple[float, float]:
    """What standardises ``values`` (rows,) float64; those that are all alike are only shifted."""
    return float(values.mean()), float(values.std(correction=0)) if values.min() < values.max() else 1.0


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


def sort_columns(
    frame: pl.DataFrame, path: str, skip: Sequence[str], categorical: Sequence[str]
) -> tuple[list[str], list[str], pl.DataFrame]:
    """Names of the numeric and of the categorical columns, and the frame with these as Float64 and as text."""
    numeric, texts = [], []
    for column in frame.get_columns():
        if column.name in skip:
            continue
        require_plain(column, path)
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


def _read_target(
    column: pl.Series, path: str, task: Task | None, known: Sequence[str] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers (rows,) int64 with their names, ``known`` ones where given, or values (rows,) float64 with none."""
    require_plain(column, path)
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
    names = _require_known(column, known, path) if known else _class_names(column, numbers.count() == present, path)
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


def _class_names(column: pl.Series, are_numbers: bool, path: str) -> list[str]:
    names: list[str] = column.drop_nulls().cast(pl.String).unique().to_list()
    names.sort(key=(lambda name: (float(name), name)) if are_numbers else None)
    if len(names) < 2:
        raise DataError(f"'{path}', column '{column.name}': a classification needs at least two classes, found {names}")
    if len(names) == len(column) - column.null_count() > _MAX_CLASSES:
        raise DataError(
            f"'{path}', column '{column.name}': each of its {len(names):,} values is a class of its own; name another"
            " column with dataset.target, or set dataset.task=regression for numbers"
        )
    return names


def _require_known(column: pl.Series, known: Sequence[str], path: str) -> list[str]:
    """``known``, unless ``column`` has a class that is not among them."""
    unknown = [name for name in column.drop_nulls().cast(pl.String).unique().sort() if name not in known]
    if unknown:
        raise DataError(f"'{path}', column '{column.name}': '{unknown[0]}' is no class of the run: {', '.join(known)}")
    return list(known)
