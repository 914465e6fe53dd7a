"""Time series: windows of the past as inputs, the steps that follow as targets, split in time order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.base import Data, Facts, Fitted, Windows
from dltrain.data.frames import as_numbers, check_numbers, read_frame, require_columns, row_name
from dltrain.data.source import describe_file
from dltrain.data.splits import held_size
from dltrain.errors import ConfigError, DataError


def series(
    path: str,
    target: str,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    window: int = 48,
    horizon: int = 12,
    separator: str = ",",
    name: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int | None = None,
    fitted: Fitted | None = None,
) -> Data:
    """A CSV or Parquet file, one row a time step, whose column ``target`` is forecast.

    A sample reads ``window`` rows of the target and of ``columns`` (all other columns when ``None``) and predicts
    the next ``horizon`` values of the target. The last ``test_fraction`` of the rows are the test part, the last
    ``val_fraction`` of the rows before it the validation part: no row is a target in two parts, and what a window
    reads always lies before what it predicts. Scaling is measured on the training rows alone.

    Args:
        time: a column of times or numbers that must rise from row to row; it is checked and not used as an input.
        limit: the first so many windows of each part.
        fitted: what an earlier run measured, to read this file as that run would.

    Raises:
        DataError: a missing column or value, text where a number belongs, times that do not rise, or fewer rows
            than a window and its horizon in any part.
    """
    if not all(isinstance(steps, int) and steps >= 1 for steps in (window, horizon)):
        raise ConfigError([f"dataset.window and dataset.horizon must be whole, at least 1, not {window}, {horizon}"])
    frame = read_frame(path, separator)
    (target,) = require_columns(frame, [target], path, "dataset.target")
    times = require_columns(frame, [time] if time is not None else [], path, "dataset.time")
    for column in times:
        _check_time(frame[column], path)
    others = [column for column in frame.columns if column not in times]
    columns = fitted.preprocessing["columns"] if fitted else columns
    if columns is not None:
        others = require_columns(frame, columns, path, "dataset.columns")
    features = list(dict.fromkeys([target, *others]))
    values = np.stack([_complete_numbers(frame[column], path) for column in features], 1)

    bounds = _part_bounds(len(values), val_fraction, test_fraction)
    first = _starts(0, bounds[0], window, horizon)
    if not len(first):
        raise DataError(
            f"'{path}' has {len(values)} rows, {bounds[0]} of them for training, and one sample takes"
            f" {window + horizon} (dataset.window={window} + dataset.horizon={horizon})"
        )
    mean, std = _scaling(values[: bounds[0]], fitted)
    scaled = torch.from_numpy(((values - mean) / std).astype(np.float32))
    target_values = scaled[:, 0].contiguous()

    def part(lower: int, upper: int, label: str) -> Windows | None:
        starts = _starts(lower, upper, window, horizon)
        if lower < upper and not len(starts):
            raise DataError(
                f"'{path}': the {upper - lower} rows of the {label} part are fewer than dataset.horizon={horizon};"
                f" raise dataset.{label}_fraction or set it to 0"
            )
        return Windows(scaled, target_values, starts[:limit], window, horizon) if len(starts) else None

    facts = Facts(
        name=name or Path(path).stem,
        task="regression",
        kind="series",
        input_shape=(window, len(features)),
        num_outputs=horizon,
        feature_names=tuple(features),
        target_name=target,
        target_mean=float(mean[0]),
        target_std=float(std[0]),
    )
    return Data(
        facts,
        Windows(scaled, target_values, first[:limit], window, horizon),
        part(bounds[0], bounds[1], "val"),
        part(bounds[1], bounds[2], "test"),
        preprocessing={
            "columns": features,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "time": time,
            "separator": separator,
        },
        files=describe_file(Path(path).expanduser()),
    )


def _scaling(values: np.ndarray, fitted: Fitted | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column of the training rows ``values``, or those of the earlier run."""
    if fitted:
        return np.array(fitted.preprocessing["mean"]), np.array(fitted.preprocessing["std"])
    std = values.std(0)
    std[np.ptp(values, 0) == 0] = 1  # rounding may leave a constant column a tiny deviation
    return values.mean(0), std


def _part_bounds(rows: int, val_fraction: float, test_fraction: float) -> tuple[int, int, int]:
    """Where the training, the validation and the test rows end."""
    test = rows - held_size(rows, test_fraction)
    return test - held_size(test, val_fraction), test, rows


def _starts(lower: int, upper: int, window: int, horizon: int) -> Tensor:
    """First rows of the windows whose targets lie in rows ``lower`` to ``upper``; their inputs may lie before."""
    first = max(lower - window, 0)
    return torch.arange(first, max(upper - window - horizon + 1, first))


def _complete_numbers(column: pl.Series, path: str) -> np.ndarray:
    numbers = as_numbers(column)
    advice = "name the columns to use with dataset.columns=[...], the time column with dataset.time"
    check_numbers(column, numbers, path, advice)
    missing = numbers.is_null().arg_true()
    if len(missing):
        where = row_name(path, int(missing[0]))
        raise DataError(f"'{path}', column '{column.name}', {where}: no value; a series must not have gaps")
    return numbers.to_numpy()


def _check_time(column: pl.Series, path: str) -> None:
    """Raise :class:`DataError` where a time is missing or not later than the one before."""
    times = as_numbers(column)
    text = column.dtype == pl.String and 2 * times.count() <= column.count()
    if text:
        times = column  # ISO dates rise as text does
    elif column.dtype.is_temporal():
        times = column.to_physical()
    elif column.dtype == pl.String or column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        # Float64 cannot tell neighbouring nanoseconds since 1970 apart.
        times = whole if whole.null_count() == column.null_count() else times
    bad = (times.is_null() | (times <= times.shift(1)).fill_null(False)).arg_true()
    if len(bad):
        row = int(bad[0])
        where = f"'{path}', column '{column.name}', {row_name(path, row)}"
        if times[row] is None:
            found = "no value" if column[row] is None else f"'{column[row]}' is not a number as the others are"
            raise DataError(f"{where}: {found}; every row needs its time")
        advice = ", written as 2024-01-31 if these are dates" if text else ""
        raise DataError(
            f"{where}: '{column[row]}' does not come after '{column[row - 1]}';"
            f" sort the file by time, with one row a time{advice}"
        )
