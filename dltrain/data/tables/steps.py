"""The step between the times of a series: recognised, described, and taken beyond their end."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Literal

import numpy as np

SECOND = 1_000_000  # microseconds
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND
_SIZES = {"hour": HOUR, "minute": 60 * SECOND, "second": SECOND, "millisecond": 1000, "microsecond": 1}
_EPOCH = datetime(1970, 1, 1)
_MOST_DIGITS = Decimal(10) ** 20
_DAYS_OF_WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WORKDAYS = "1111100"
TOLERANCE = 0.05  # of a step: 1750.083 and 1750.167 are months, and clocks are late now and then
_WEEKS = 3  # in which a day of the week must be missing to be none of the series'


@dataclass(frozen=True)
class Moments:
    """Times that can be reckoned with, by row.

    ``instants`` (rows,): microseconds since 1970 in UTC as int64, or plain numbers. ``wall`` (rows,) int64: the same
    by the clock on the wall in ``zone``; ``None`` for plain numbers, whose zone is of no meaning.
    """

    instants: np.ndarray
    wall: np.ndarray | None = None
    zone: tzinfo = UTC

    def __len__(self) -> int:
        return len(self.instants)


@dataclass(frozen=True)
class Step:
    """``count`` units between two times, in plain types.

    Units are numbers; microseconds between instants; and by the clock on the wall: days, days of the week (``on`` has
    a 1 for each that counts, from Monday), and months (``on`` is the day of the month: a number, or ``last``,
    ``first weekday``, ``last weekday``, where Saturday and Sunday are no weekdays).
    """

    unit: Literal["numbers", "microseconds", "days", "weekdays", "months"]
    count: float
    on: int | str | None = None

    def __str__(self) -> str:
        if self.unit == "numbers":
            return f"{self.count:.10g}"
        if self.unit == "microseconds":
            name, size = next((name, size) for name, size in _SIZES.items() if self.count % size == 0)
            return _counted(self.count / size, name)
        if self.unit == "days":
            return _counted(self.count / 7, "week") if self.count % 7 == 0 else _counted(self.count, "day")
        if self.unit == "weekdays":
            return f"1 day, {_named(str(self.on))}"
        months = _counted(self.count / 12, "year") if self.count % 12 == 0 else _counted(self.count, "month")
        return months if self.on == 1 else f"{months}, on the {_ordinal(self.on)} of the month"

    def places(self, moments: Moments) -> np.ndarray:
        """How many steps each time is after the first (rows,) float64; whole where it fits the step."""
        return np.asarray(self._units(moments) / self.count)

    def _units(self, moments: Moments) -> np.ndarray:
        if self.unit in ("numbers", "microseconds"):
            return np.asarray(moments.instants - moments.instants[0])
        assert moments.wall is not None
        days, clock = np.divmod(moments.wall, DAY)
        part = (clock - clock[0]) / DAY  # of a day: what is at another time of day is between two steps
        dates = days.astype("M8[D]")
        if self.unit == "days":
            return np.asarray(days - days[0] + part)
        if self.unit == "weekdays":
            counted = np.busday_count(dates[0], dates, str(self.on))
            return np.asarray(counted + part - ~np.is_busday(dates, str(self.on)) / 2)
        months = dates.astype("M8[M]").astype(np.int64)
        off = days - _days_of(months, self.on)
        return np.asarray(months - months[0] + (off + part) / 31)

    def even(self, moments: Moments) -> np.ndarray:
        """Whether each time but the first is a step after the time before (rows - 1,)."""
        return np.isclose(np.diff(self.places(moments)), 1, rtol=0, atol=TOLERANCE)

    def fits(self, moments: Moments) -> bool:
        """Whether most of the times are a step after the time before."""
        return (self.unit == "numbers") == (moments.wall is None) and bool(self.even(moments).mean() > 0.5)

    def after(self, moments: Moments, count: int) -> list[Any]:
        """The ``count`` times that follow the last: numbers, or :class:`datetime` in the zone of ``moments``."""
        last = moments.instants[-1].item()
        if self.unit == "numbers":
            step = Decimal(repr(self.count))
            return [_number(Decimal(repr(last)) + step * ahead) for ahead in range(1, count + 1)]
        if self.unit == "microseconds":
            instants = (_EPOCH + timedelta(microseconds=last + self.count * ahead) for ahead in range(1, count + 1))
            return [instant.replace(tzinfo=UTC).astimezone(moments.zone) for instant in instants]
        assert moments.wall is not None
        days, clock = divmod(int(moments.wall[-1]), DAY)
        walls = (_EPOCH + timedelta(days=day, microseconds=clock) for day in self._days_after(days, count))
        # By way of UTC: an hour that the change to summer time leaves out becomes the next hour.
        return [wall.replace(tzinfo=moments.zone).astimezone(UTC).astimezone(moments.zone) for wall in walls]

    def _days_after(self, day: int, count: int) -> list[int]:
        ahead = np.arange(1, count + 1)
        if self.unit == "days":
            days = day + ahead * int(self.count)
        elif self.unit == "weekdays":
            dates = np.full(count, day).astype("M8[D]")
            days = np.busday_offset(dates, ahead, "backward", str(self.on)).astype(np.int64)
        else:
            months = np.full(count, day).astype("M8[D]").astype("M8[M]").astype(np.int64)
            days = _days_of(months + ahead * int(self.count), self.on)
        return [int(each) for each in days]


def find_step(moments: Moments) -> Step:
    """The step of times that rise, two at least: the most frequent, in the largest unit that all of them fit."""
    if moments.wall is None:
        return Step("numbers", _most_frequent(np.diff(moments.instants)))
    days, clock = np.divmod(moments.wall, DAY)
    if len(np.unique(clock)) == 1:
        return _months(days) or _weekdays(days) or Step("days", _most_frequent(np.diff(days)))
    return Step("microseconds", _most_frequent(np.diff(moments.instants)))


def _most_frequent(steps: np.ndarray) -> Any:
    if steps.dtype.kind == "f":  # 0.1 is not the same number everywhere
        steps = np.array([float(f"{step:.9g}") for step in steps])
    values, counts = np.unique(steps, return_counts=True)
    return values[counts.argmax()].item()


def _months(days: np.ndarray) -> Step | None:
    """A step of months, where no two times lie in the same and all are on the same day of it."""
    months = days.astype("M8[D]").astype("M8[M]").astype(np.int64)
    if (np.diff(months) < 1).any():
        return None
    largest = int((days - _days_of(months, 1)).max()) + 1
    for on in (1, "last", largest, "last weekday", "first weekday"):
        if (_days_of(months, on) == days).all():
            return Step("months", _most_frequent(np.diff(months)), on)
    return None


def _days_of(months: np.ndarray, on: int | str | None) -> np.ndarray:
    """The days since 1970 that are ``on`` a day of the ``months`` since 1970; the last where there is no such."""
    first = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    last = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64) - 1
    if on == "last":
        return last
    if on == "last weekday":
        return np.busday_offset(last.astype("M8[D]"), 0, "backward").astype(np.int64)
    if on == "first weekday":
        return np.busday_offset(first.astype("M8[D]"), 0, "forward").astype(np.int64)
    return np.minimum(first + int(on or 1) - 1, last)


def _weekdays(days: np.ndarray) -> Step | None:
    """Every day but some of the week. That these are none of the series' takes a weekend, or a few weeks, to see."""
    counts = np.bincount((days + 3) % 7, minlength=7)  # 1970 began on a Thursday
    mask = "".join("01"[each] for each in (4 * counts > counts.max()).astype(int))  # the odd Saturday is an exception
    if days[-1] - days[0] < 7 * _WEEKS:
        mask = _WORKDAYS if not counts[5:].any() and (np.diff(days) > 1).any() else "1111111"
    step = Step("weekdays", 1, mask)
    return step if 2 <= mask.count("1") <= 6 and step.fits(Moments(days * DAY, days * DAY)) else None


def _counted(count: float, unit: str) -> str:
    return f"{count:g} {unit}{'s' if count != 1 else ''}"


def _named(mask: str) -> str:
    names = [name for name, counts in zip(_DAYS_OF_WEEK, mask, strict=True) if counts == "1"]
    return "Monday to Friday" if mask == _WORKDAYS else ", ".join(names)


def _ordinal(on: int | str | None) -> str:
    if isinstance(on, str):
        return f"{on} day" if on == "last" else on
    ending = "th" if on in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(int(on or 1) % 10, "th")
    return f"{on}{ending}"


def _number(number: Decimal) -> int | float:
    """Whole numbers of up to 20 digits as such: nanoseconds since 1970 are more than a float holds.

    Raises:
        OverflowError: it is larger than any float.
    """
    if abs(number) < _MOST_DIGITS and number == number.to_integral_value():
        return int(number)
    if math.isinf(value := float(number)):
        raise OverflowError(f"{number} is no float")
    return value
