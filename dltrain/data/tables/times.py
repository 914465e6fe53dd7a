"""Times as a column holds them: read as instants, and those that follow written in the same notation."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from dltrain.data.tables.dates import COMPACT, DateTexts, read_dates
from dltrain.data.tables.dialect import PLAIN, Dialect, as_numbers
from dltrain.data.tables.frames import require_plain
from dltrain.data.tables.steps import DAY, HOUR, SECOND, TOLERANCE, Moments, Step, find_step
from dltrain.errors import DataError

log = logging.getLogger(__name__)

_EPOCH = date(1970, 1, 1).toordinal()
_PER_DAY = {"d": 1, "ms": 86_400_000, "us": DAY, "ns": 86_400_000_000_000}
_DAYS = (date.min.toordinal() - _EPOCH, date.max.toordinal() - _EPOCH)  # since 1970, that Python has


@dataclass(frozen=True)
class Times:
    """A column of times, by row: ``order`` (rows,) tells which comes first, ``readable`` (rows,) which are times.

    ``layout`` is how the dates of texts are written (:data:`~.dates.LAYOUTS`), and empty for other columns;
    ``write`` makes of a number, or of a :class:`datetime`, what the column would hold.
    """

    moments: Moments
    order: np.ndarray
    readable: np.ndarray
    write: Callable[[Any], Any]
    layout: str = ""


def read_times(column: pl.Series, layout: str = "", dialect: Dialect = PLAIN) -> Times:
    """The times in a column of texts, dates or numbers; ``layout`` is how an earlier run has read its dates.

    ``dialect`` is how numbers are written.

    Raises:
        DataError: they are neither dates nor numbers.
    """
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype in (pl.Date, pl.Datetime):
        return _dates(column)
    if column.dtype == pl.Duration:
        seconds = column.dt.total_microseconds() / SECOND
        return _plain(seconds, column.to_physical(), lambda number: str(timedelta(seconds=number)))
    numbers = as_numbers(column, dialect)
    if numbers.count() and 2 * numbers.count() > column.count():
        whole = column.cast(pl.Int64, strict=False) if column.dtype == pl.String or column.dtype.is_integer() else None
        if whole is None or whole.null_count() > column.null_count():
            return _plain(numbers, numbers, lambda number: number)
        texts = read_dates(column.cast(pl.String), COMPACT)
        # Not as Float64, which has no room for nanoseconds since 1970.
        return _of_texts(texts) if texts else _plain(whole, whole, lambda number: number)
    if column.dtype == pl.String and (texts := read_dates(column, known=layout)):
        return _of_texts(texts)
    value = next(iter(column.drop_nulls()), None)
    raise DataError(f"column '{column.name}': '{value}' is no date such as 2024-01-31, and no number")


def rising_times(
    frame: pl.DataFrame,
    name: str,
    path: str,
    row_name: Callable[[int], str],
    layout: str = "",
    dialect: Dialect = PLAIN,
    advice: str = "",
) -> Times:
    """The times in the column ``name`` of a series, read as :func:`read_times` does.

    ``row_name`` names a row, from 0, in a message; ``advice`` ends the message about a column without times.

    Raises:
        DataError: a time is missing, cannot be read, or is not later than that of the row before.
    """
    column, place = frame[name], f"'{path}', column '{name}'"
    require_plain(column, path)
    if column.null_count():
        row = int(column.is_null().arg_true()[0])
        raise DataError(f"{place}, {row_name(row)}: no value; every row needs its time")
    try:
        times = read_times(column, layout, dialect)
    except DataError as error:
        raise DataError(f"'{path}', {error}{advice}") from error
    unreadable = np.flatnonzero(~times.readable)
    if len(unreadable):
        row = int(unreadable[0])
        kind = "number" if times.moments.wall is None else "date"
        cause = f"the time {shown(column, row)} is not a {kind} as the others are"
        raise DataError(f"{place}, {row_name(row)}: {cause}; every row needs its time")
    falls = np.flatnonzero(np.diff(times.order) <= 0)
    if len(falls):
        row = int(falls[0]) + 1
        fall = f"{shown(column, row)} does not come after {shown(column, row - 1)}"
        raise DataError(f"{place}, {row_name(row)}: {fall}; {_advice(frame, name, times, falls)}")
    return times


def _advice(frame: pl.DataFrame, name: str, times: Times, falls: np.ndarray) -> str:
    """What to do about times that do not rise from the rows ``falls`` to those after them."""
    copies = np.unique(times.order, return_counts=True)[1]
    for key in frame.columns:
        if key == name or frame[key].n_unique() > frame.height // 2:
            continue
        come_in_turn = np.array_equal(frame[key].ne_missing(frame[key].shift(1))[1:].arg_true(), falls)
        side_by_side = (copies > 1).mean() > 0.5 and not frame.select(name, key).is_duplicated().any()
        if come_in_turn or side_by_side:
            return (
                f"column '{key}' tells several series apart: write the rows of one of them to a file of their own,"
                " sorted by time"
            )
    if copies.max() == 1:
        as_text = frame[name].dtype == pl.String and frame[name].is_sorted()
        return "the rows are sorted as text, sort them by time" if as_text else "sort the rows by time"
    first = falls[0]
    wall = times.moments.wall
    has_clock = wall is not None and np.array_equal(wall, times.moments.instants) and bool(np.any(wall % DAY))
    if has_clock and times.order[first] - times.order[first + 1] < HOUR:
        return (
            "sort the rows by time, with one row a time; where clocks go back an hour, write times with their offset,"
            " 2024-10-27T02:00+01:00, or in UTC"
        )
    several = int((copies > 1).sum())
    return f"leave one row a time; {several:,} time{'s are' if several > 1 else ' is'} there more than once"


def first_gap(column: pl.Series, moments: Moments, step: Step) -> tuple[int, str] | None:
    """The first row, from 0, that is not a ``step`` after the row before, and a sentence on such rows."""
    uneven = np.flatnonzero(~step.even(moments))
    if not len(uneven):
        return None
    steps = np.diff(step.places(moments))
    row = int(uneven[0]) + 1
    between = f"{shown(column, row - 1)} and {shown(column, row)}"
    missing = round(float(steps[row - 1])) - 1
    if missing >= 1 and abs(steps[row - 1] - missing - 1) < TOLERANCE:
        what = f"{missing:,} step{'s' if missing > 1 else ''} of {step} missing between {between}"
    else:
        what = f"another step than {step} between {between}"
    more = f", and {len(uneven) - 1:,} more such place{'s' if len(uneven) > 2 else ''}" if len(uneven) > 1 else ""
    return row, what + more


def next_times(
    column: Sequence[Any] | pl.Series,
    count: int,
    name: str,
    layout: str = "",
    step: Step | None = None,
    dialect: Dialect = PLAIN,
    first: int = 1,
) -> list[Any]:
    """The ``count`` times that follow those of ``column``, the end of a series, in the same notation.

    They go on by ``step``, that of the training series, where it fits, and else by the step of these times. The first
    of them is that of row ``first`` of the file ``name``, counted from 1.

    Raises:
        DataError: fewer than two times, or some that are neither dates nor numbers, or do not rise.
    """
    column = column if isinstance(column, pl.Series) else pl.Series(name, column, strict=False)
    if len(column) < 2:
        raise DataError(f"'{name}': two rows at least are needed to tell the step of the time column")
    times = rising_times(column.to_frame(), column.name, name, lambda row: f"row {first + row}", layout, dialect)
    fitting = step if step and step.fits(times.moments) else find_step(times.moments)
    log.info("%s: the times go on by %s", name, fitting)
    if step and fitting != step:
        log.warning("%s: the run was trained on times that go by %s, and these go by %s", name, step, fitting)
    try:
        return [times.write(moment) for moment in fitting.after(times.moments, count)]
    except OverflowError as error:
        raise DataError(f"'{name}': no time can be written that follows {shown(column, -1)} by {fitting}") from error


def shown(column: pl.Series, row: int) -> str:
    """A value for a message, in quotes."""
    if column.dtype in (pl.Date, pl.Datetime) and _is_of_python(column)[row] is False:
        return "of a year outside 1 to 9999"
    return f"'{column[row]}'"


def _is_of_python(column: pl.Series) -> pl.Series:
    """Which dates of a column lie in the years 1 to 9999; polars cannot show others."""
    days = column.to_physical() // _PER_DAY[getattr(column.dtype, "time_unit", "d")]
    return days.is_between(*_DAYS)


def _plain(values: pl.Series, order: pl.Series, write: Callable[[Any], Any]) -> Times:
    readable = values.is_not_null().to_numpy()
    instants, ranks = (series.fill_null(0).to_numpy() for series in (values, order))
    return Times(Moments(instants), ranks, readable, write)


def _dates(column: pl.Series) -> Times:
    """A column of dates, or of datetimes with a zone or without."""
    zone = getattr(column.dtype, "time_zone", None)
    column = pl.select(pl.when(_is_of_python(column)).then(column).alias(column.name)).to_series()
    datetimes = column.cast(pl.Datetime("us", zone))
    walls = datetimes.dt.replace_time_zone(None)
    instants, wall, order = (each.to_physical().fill_null(0).to_numpy() for each in (datetimes, walls, column))

    def write(moment: datetime) -> str:
        moment = moment if zone else moment.replace(tzinfo=None)
        return moment.date().isoformat() if column.dtype == pl.Date else moment.isoformat()

    moments = Moments(instants.astype(np.int64), wall.astype(np.int64), ZoneInfo(zone) if zone else UTC)
    return Times(moments, order, column.is_not_null().to_numpy(), write)


def _of_texts(texts: DateTexts) -> Times:
    return Times(texts.moments, texts.instants, texts.readable, texts.write, texts.layout)
