"""Time series: windows of the past as inputs, the steps that follow as targets, split in time order."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.base import Data, Facts, Fitted, Windows
from dltrain.data.folders import describe_file
from dltrain.data.splits import Split
from dltrain.data.stated import Stated
from dltrain.data.tables.dates import read_dates
from dltrain.data.tables.dialect import Dialect, as_numbers, dialect_of, with_notation
from dltrain.data.tables.frames import (
    check_numbers,
    read_frame,
    require_columns,
    require_measured,
    require_near,
    row_name,
)
from dltrain.data.tables.steps import Step, find_step
from dltrain.data.tables.times import first_gap, rising_times
from dltrain.errors import DataError

log = logging.getLogger(__name__)

_ORDERS = {  # what 01/02/2023 could be
    **dict.fromkeys(("m/d/Y", "m/d/y", "m-d-Y"), "month, day, year"),
    **dict.fromkeys(("d/m/Y", "d/m/y", "d-m-Y"), "day, month, year"),
}


@Stated(task="regression", held_out=True, files={"path": "a CSV or Parquet file"})
def series(
    path: str,
    target: str | int,
    time: str | int | None = None,
    columns: Sequence[str | int] | None = None,
    window: int = 48,
    horizon: int = 12,
    separator: str = ",",
    header: bool | None = None,
    decimal: Literal[".", ","] | None = None,
    thousands: str | None = None,
    missing: Sequence[str | float] | None = None,
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
        header: whether the first row of a CSV file holds names; without a header columns are column_1, column_2, ...
        decimal: the decimal mark of a CSV file, recognised when ``None``.
        thousands: the mark between groups of three digits, recognised when ``None``.
        missing: what counts as no value, beside an empty field; the usual words of CSV files when ``None``.
        time: a column of times or numbers that must rise from row to row; it is checked and not used as an input.
        limit: the first so many windows of each part.
        fitted: what an earlier run measured, to read this file as that run would.

    Raises:
        DataError: a missing column or value, text where a number belongs, times that do not rise, or fewer rows
            than a window and its horizon in any part.
    """
    dialect = dialect_of(separator, header, decimal, thousands, missing)
    frame, dialect = read_frame(path, Dialect.of(fitted.preprocessing) if fitted else dialect, str(target))
    (target,) = require_columns(frame, [target], path, "dataset.target")
    times = require_columns(frame, [time] if time is not None else [], path, "dataset.time")
    earlier = fitted.preprocessing if fitted else {}
    others = [column for column in frame.columns if column not in times]
    columns = fitted.preprocessing["columns"] if fitted else columns
    if columns is not None:
        others = require_columns(frame, columns, path, "dataset.columns")
    features = list(dict.fromkeys([target, *others]))
    if time is None and (unused := _unused_times(frame, features)):
        advice = "name it with dataset.time, so that order and gaps of the rows are looked at"
        log.warning("'%s': column '%s' holds times and is not used: %s", path, unused, advice)
    dialect = with_notation(dialect, frame[list(dict.fromkeys([*features, *times]))], path)
    layout, step = "", None
    for column in times:
        layout, step = _read_times(frame, column, path, earlier.get("time_layout", ""), dialect)
    values = np.stack([_complete_numbers(frame[column], path, dialect) for column in features], 1)

    whole = _Steps(range(len(values)), window, horizon)
    pools = Split(val_fraction, test_fraction, limit).parts({"train": whole})
    for part, pool in pools.items():
        _require_window(part, pool, len(values), path)
    mean, std = _scaling(values[: pools["train"].rows.stop], features, path, fitted)
    for place, column in enumerate(features):
        require_near(values[:, place], mean[place], std[place], path, column, dialect)
    scaled = torch.from_numpy(((values - mean) / std).astype(np.float32))
    target_values = scaled[:, 0].contiguous()
    parts = {part: Windows(scaled, target_values, pool.starts, window, horizon) for part, pool in pools.items()}
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
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        preprocessing={
            "columns": features,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "time": times[0] if times else None,
            "time_layout": layout,
            "step": asdict(step) if step else None,
            **dialect.stored(),
        },
        files=describe_file(Path(os.path.expanduser(path))),
    )


def _scaling(
    values: np.ndarray, names: Sequence[str], path: str, fitted: Fitted | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column of the training rows ``values``, or those of the earlier run.

    Raises:
        DataError: numbers of a column are so large that it has neither.
    """
    if fitted:
        return np.array(fitted.preprocessing["mean"]), np.array(fitted.preprocessing["std"])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = values.mean(0), values.std(0)
        std[np.ptp(values, 0) == 0] = 1  # rounding may leave a constant column a tiny deviation
    for name, *measured in zip(names, mean, std, strict=True):
        require_measured(path, name, measured)
    return mean, std


@dataclass(frozen=True)
class _Steps:
    """Rows of a series, of which the last ones are held out, and the windows whose targets lie in them."""

    rows: range
    window: int
    horizon: int
    most: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def hold_out(self, count: int, seed: int) -> tuple["_Steps", "_Steps"]:
        return replace(self, rows=self.rows[:-count]), replace(self, rows=self.rows[-count:])

    def limited(self, count: int, seed: int) -> "_Steps":
        """With the first ``count`` windows at most."""
        return replace(self, most=count)

    @property
    def starts(self) -> Tensor:
        """First rows of the windows; what these read may lie before the rows."""
        first = max(self.rows.start - self.window, 0)
        return torch.arange(first, max(self.rows.stop - self.window - self.horizon + 1, first))[: self.most]


def _require_window(part: str, steps: _Steps, rows: int, path: str) -> None:
    """Raise :class:`DataError` where a part has no window."""
    if len(steps.starts):
        return
    if part == "train":
        raise DataError(
            f"'{path}' has {rows} rows, {len(steps)} of them for training, and one sample takes"
            f" {steps.window + steps.horizon} (dataset.window={steps.window} + dataset.horizon={steps.horizon})"
        )
    raise DataError(
        f"'{path}': the {len(steps)} rows of the {part} part are fewer than dataset.horizon={steps.horizon};"
        f" raise dataset.{part}_fraction or set it to 0"
    )


def _complete_numbers(column: pl.Series, path: str, dialect: Dialect) -> np.ndarray:
    numbers = as_numbers(column, dialect)
    advice = "name the columns to use with dataset.columns=[...], the time column with dataset.time"
    check_numbers(column, numbers, path, advice, dialect)
    missing = numbers.is_null().arg_true()
    if len(missing):
        where = row_name(path, int(missing[0]), dialect)
        raise DataError(f"'{path}', column '{column.name}', {where}: no value; a series must not have gaps")
    return numbers.to_numpy()


def _read_times(frame: pl.DataFrame, name: str, path: str, layout: str, dialect: Dialect) -> tuple[str, Step]:
    """How the times of the column ``name`` are written, and the step between them; a gap is warned of.

    Raises:
        DataError: a time is missing, cannot be read, or is not later than the one before.
    """
    place = f"'{path}', column '{name}'"
    advice = "; leave dataset.time out where the rows have no times"
    times = rising_times(frame, name, path, lambda row: row_name(path, row, dialect), layout, dialect, advice)
    step = find_step(times.moments) if frame.height > 1 else Step("numbers", 1)
    order = f", dates read as {_ORDERS[times.layout]}" if times.layout in _ORDERS else ""
    log.info("%s: the times go by %s%s", place, step, order)
    if gap := first_gap(frame[name], times.moments, step):
        row, what = gap
        log.warning("%s, %s: %s; windows take all rows as evenly spaced", place, row_name(path, row, dialect), what)
    return times.layout, step


def _unused_times(frame: pl.DataFrame, features: Sequence[str]) -> str | None:
    """The first column with dates that is none of the ``features``."""
    for column in frame.get_columns():
        is_text = column.dtype == pl.String and as_numbers(column).count() == 0
        if column.name not in features and (column.dtype in (pl.Date, pl.Datetime) or (is_text and read_dates(column))):
            return column.name
    return None
