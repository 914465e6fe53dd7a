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
from dltrain.data.tables.steps import DAY, SECOND, Moments, Step, find_step
from dltrain.errors import DataError

log = logging.getLogger(__name__)

_EPOCH = date(1970, 1, 1).toordinal()
_PER_DAY = {"d": 1, "ms": 86_400_000, "us": DAY, "ns": 86_400_000_000_000}
_DAYS = (date.min.toordinal() - _EPOCH, date.max.toordinal() - _EPOCH)  # since 1970, that Python has


@dataclass(frozen=True)
class Times:
    """A column of times, by row: ``order`` (rows,) tells which comes first, ``readable`` (rows,) which are times.

    ``layout`` is how the dates of texts are written, one of :data:`~.dates.LAYOUTS`, and empty for other columns;
    ``write`` makes of a number, or of a :class:`datetime`, what the column would hold.
    """

    moments: Moments
    order: np.ndarray
    readable: np.ndarray
    write: Callable[[Any], Any]
    layout: str = ""

    @property
    def first_unreadable(self) -> int | None:
        """The first row that holds no time."""
        return next(iter(np.flatnonzero(~self.readable).tolist()), None)


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


def next_times(
    column: Sequence[Any] | pl.Series,
    count: int,
    name: str,
    layout: str = "",
    step: Step | None = None,
    dialect: Dialect = PLAIN,
) -> list[Any]:
    """The ``count`` times that follow those of ``column``, the end of a series, in the same notation.

    They go on by ``step``, that of the training series, where it fits, and else by what the times themselves tell.

    Raises:
        DataError: fewer than two times, or some that are neither dates nor numbers, or do not rise.
    """
    column = column if isinstance(column, pl.Series) else pl.Series(name, column, strict=False)
    if len(column) < 2:
        raise DataError(f"'{name}': two rows at least are needed to tell the step of the time column")
    try:
        times = read_times(column, layout, dialect)
    except DataError as error:
        raise DataError(f"'{name}', {error}") from error
    if (row := times.first_unreadable) is not None:
        raise DataError(f"'{name}': the time {shown(column, row)} is not written as the others are")
    if (np.diff(times.order) <= 0).any():
        raise DataError(f"'{name}': the times of the last rows do not rise; sort the file by time")
    own = step if step and step.fits(times.moments) else find_step(times.moments)
    log.info("%s: the times go on by %s", name, own)
    if step and own != step:
        log.warning("%s: the run was trained on times that go by %s, and these go by %s", name, step, own)
    try:
        return [times.write(moment) for moment in own.after(times.moments, count)]
    except OverflowError as error:
        raise DataError(f"'{name}': no time can be written that follows {shown(column, -1)} by {own}") from error


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
