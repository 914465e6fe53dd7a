"""Texts read as dates in any usual notation, and dates written in the same notation."""

import calendar
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from dltrain.data.tables.steps import DAY, SECOND, Moments, find_step

# How dates are written: a letter for each part, all else as it stands. Where two orders are possible, the column tells.
LAYOUTS = (
    *("Y-m-d", "Y/m/d", "Y.m.d", "Y-m", "Y/m", "m/d/Y", "d/m/Y", "d.m.Y", "d-m-Y", "m-d-Y", "m/Y", "m/d/y", "d/m/y"),
    *("d.m.y", "b d, Y", "d b Y", "d-b-Y", "d-b-y", "b Y", "b-Y", "b-y", "Y-Wk-a", "Y-Wk", "YWk", "Y-Qq", "YQq"),
    *("Y Qq", "Qq Y", "Qq-Y", "Y-j"),
)
COMPACT = ("YMD", "YM")  # which could be numbers, too
_PARTS = {
    "Y": (r"(?<year>\d{4})", "{year:04}"),
    "y": (r"(?<short>\d\d)", "{short:02}"),
    "m": (r"(?<month>\d\d?)", "{month:02}"),
    "d": (r"(?<day>\d\d?)", "{day:02}"),
    "M": (r"(?<month>\d\d)", "{month:02}"),
    "D": (r"(?<day>\d\d)", "{day:02}"),
    "b": (r"(?<name>[A-Za-z]{3,9})", "{name}"),
    "q": (r"(?<quarter>[1-4])", "{quarter}"),
    "k": (r"(?<week>\d\d)", "{week:02}"),
    "a": (r"(?<weekday>[1-7])", "{weekday}"),
    "j": (r"(?<ordinal>\d{3})", "{ordinal:03}"),
}
_CLOCK = (
    r"(?:(?<gap>[T ])(?<hour>\d\d?):(?<minute>\d\d)(?::(?<second>\d\d)(?<fraction>\.\d{1,9})?)?"
    r"(?<half> ?[AaPp][Mm])?(?<zone> ?(?:Z|UTC|[+-]\d\d(?::?\d\d)?))?)?"
)
_NAMES = tuple(calendar.month_name)[1:]  # English: nothing here sets a locale
_YEARS = range(1700, 2200)  # 20240131 is a date, 10000101 a number
_TRIED = 200  # values that tell which notations are possible


def read_dates(texts: pl.Series, layouts: Sequence[str] = LAYOUTS, known: str = "") -> "DateTexts | None":
    """``texts`` in that of the ``layouts`` in which most of them are dates; ``None`` where there is none.

    Where several are possible, as for 01/02/2023, the layout that was ``known`` before is taken, or else that
    in which the times rise by the steadiest step.
    """
    filled = texts.drop_nulls()
    sample = filled.head(_TRIED)
    possible = [layout for layout in layouts if 2 * DateTexts(sample, layout).readable.sum() > len(sample) > 0]
    readings = [DateTexts(texts, layout) for layout in possible]
    if layouts is COMPACT:
        readings = [each for each in readings if each.readable.sum() == len(filled) and each.has_usual_years]
    readings = [each for each in readings if 2 * each.readable.sum() > len(filled)]
    return max(readings, key=lambda each: (each.readable.sum(), each.layout == known, *each.regularity), default=None)


class DateTexts:
    """Texts (rows,) read as dates in a layout.

    ``readable`` (rows,) tells which are such dates; ``wall`` and ``instants`` (rows,) are microseconds since 1970, by
    the clock that the text names and in UTC, where ``offset`` (rows,) is between them.
    """

    def __init__(self, column: pl.Series, layout: str):
        self.layout = layout
        pattern = "".join(_PARTS[part][0] if part in _PARTS else part.replace(".", r"\.") for part in layout)
        pattern = f"^{pattern}{'' if layout in COMPACT else _CLOCK}$"
        self.parts = column.alias("text").to_frame().select(pl.col("text").str.extract_groups(pattern)).unnest("text")
        days, in_range = self._days()
        micros, in_day = self._clock()
        self.offset = self._offset()
        self.readable = in_range & in_day
        self.wall = np.where(self.readable, days * DAY + micros, 0)
        self.instants = self.wall - np.where(self.readable, self.offset, 0)

    @property
    def has_usual_years(self) -> bool:
        years = self._numbers("year")
        return bool(((years >= _YEARS.start) & (years < _YEARS.stop))[self.readable].all())

    @property
    def regularity(self) -> tuple[bool, float]:
        """Whether the times rise, and the share of the steps that are the usual step."""
        instants, walls = self.instants[self.readable], self.wall[self.readable]
        if len(instants) < 2 or (np.diff(instants) <= 0).any():
            return False, 0.0
        moments = Moments(instants, walls)
        return True, float(find_step(moments).even(moments).mean())

    @property
    def moments(self) -> Moments:
        """In the zone of the last time: where offsets change, only that of the last time is known to hold."""
        last = int(self.offset[np.flatnonzero(self.readable)[-1]])
        return Moments(self.instants, self.wall, timezone(timedelta(microseconds=last)))

    @property
    def write(self) -> Callable[[datetime], str]:
        """What writes a time as these are written."""
        return partial(_written, template=self._template())

    def _numbers(self, name: str, default: int = 0) -> np.ndarray:
        if name not in self.parts.columns:
            return np.full(self.parts.height, default)
        return self.parts[name].cast(pl.Int64, strict=False).fill_null(default).to_numpy()

    def _days(self) -> tuple[np.ndarray, np.ndarray]:
        """Days since 1970 (rows,), and which of them there are."""
        short = self._numbers("short", -1)
        year = np.where(short < 0, self._numbers("year"), short + np.where(short < 69, 2000, 1900))
        month, day = self._numbers("month", 1), self._numbers("day", 1)
        if "name" in self.parts.columns:
            month = self._months_by_name()
        if "quarter" in self.parts.columns:
            month = 3 * self._numbers("quarter", 1) - 2
        there = self.parts[:, 0].is_not_null().to_numpy() & (year > 0) & (month >= 1) & (month <= 12) & (day >= 1)
        months = 12 * (np.where(there, year, 1970) - 1970) + np.where(there, month, 1) - 1
        days = months.astype("M8[M]").astype("M8[D]").astype(np.int64) + day - 1
        if "week" in self.parts.columns:  # the first week has the year's first Thursday
            fourth = days + 3
            days = fourth - (fourth + 3) % 7 + 7 * (self._numbers("week", 1) - 1) + self._numbers("weekday", 1) - 1
            thursday = days - (days + 3) % 7 + 3
            return days, there & (_years_of(thursday) == year)
        if "ordinal" in self.parts.columns:
            days = days + self._numbers("ordinal", 1) - 1
            return days, there & (_years_of(days) == year)
        return days, there & (days.astype("M8[D]").astype("M8[M]").astype(np.int64) == months)

    def _months_by_name(self) -> np.ndarray:
        names = self.parts["name"].str.to_lowercase()
        numbers = names.str.head(3).replace_strict({name[:3].lower(): n for n, name in enumerate(_NAMES, 1)}, default=0)
        whole = names.is_in([name.lower() for name in _NAMES]) | (names.str.len_chars() == 3) | (names == "sept")
        return (numbers.fill_null(0).cast(pl.Int64) * whole.fill_null(False).cast(pl.Int64)).to_numpy()

    def _clock(self) -> tuple[np.ndarray, np.ndarray]:
        """Microseconds of the day (rows,), and which of them there are."""
        hour, minute, second = (self._numbers(name) for name in ("hour", "minute", "second"))
        fits = (hour < 24) & (minute < 60) & (second < 60)
        micros = np.zeros(len(hour), dtype=np.int64)
        if "fraction" in self.parts.columns:
            digits = self.parts["fraction"].str.tail(-1).str.pad_end(6, "0").str.head(6)
            micros = digits.cast(pl.Int64, strict=False).fill_null(0).to_numpy()
        if "half" in self.parts.columns:
            half = self.parts["half"].str.strip_chars().str.to_lowercase()
            halved, late = (each.fill_null(False).to_numpy() for each in (half.is_not_null(), half == "pm"))
            fits &= ~halved | ((hour >= 1) & (hour <= 12))
            hour = np.where(halved, hour % 12 + 12 * late, hour)
        return ((hour * 60 + minute) * 60 + second) * SECOND + micros, fits

    def _offset(self) -> np.ndarray:
        """Microseconds that each clock is ahead of UTC (rows,)."""
        if "zone" not in self.parts.columns:
            return np.zeros(self.parts.height, dtype=np.int64)
        digits = self.parts["zone"].str.replace_all(r"[^0-9]", "").str.pad_end(4, "0").cast(pl.Int64, strict=False)
        minutes = digits.fill_null(0).to_numpy() // 100 * 60 + digits.fill_null(0).to_numpy() % 100
        is_west = self.parts["zone"].str.contains("-", literal=True).fill_null(False).to_numpy()
        return np.asarray(np.where(is_west, -1, 1) * minutes * 60 * SECOND)

    def _template(self) -> str:
        """How a time is written: as the last time that names an hour, or else as the last."""
        frame = self.parts.filter(pl.Series(self.readable))
        timed = frame.filter(pl.col("hour").is_not_null()) if "hour" in frame.columns else frame
        last: Mapping[str, Any] = (timed if timed.height else frame).row(-1, named=True)
        text = "".join(_PARTS[part][1] if part in _PARTS else part for part in self.layout)
        if any((frame[name].str.len_chars() == 1).any() for name in ("month", "day") if name in frame.columns):
            text = text.replace("{month:02}", "{month}").replace("{day:02}", "{day}")
        if last.get("name"):
            whole = (frame["name"].str.len_chars() > 4).any()
            text = text.replace("{name}", "{name}" if whole else "{abbreviation}")
        return text + _clock_template(frame, last)


def _clock_template(frame: pl.DataFrame, last: Mapping[str, Any]) -> str:
    if not last.get("gap"):
        return ""
    name = "half_hour" if last["half"] else "hour"
    hour = f"{{{name}}}" if (frame["hour"].str.len_chars() == 1).any() else f"{{{name}:02}}"
    digits = max(map(len, frame["fraction"].tail(50).drop_nulls()), default=1) - 1  # without the point
    second = (":{second:02}" if last["second"] else "") + (f".{{fraction:.{digits}}}" if digits else "")
    half = re.sub("[AP]M", "{HALF}", re.sub("[ap]m", "{half}", last["half"] or ""))
    zone = last["zone"] or ""
    if zone.strip()[:1] in ("+", "-"):
        zone = re.sub(r"\d\d", "{minutes}", re.sub(r"[+-]\d\d", "{hours}", zone, count=1), count=1)
    return f"{last['gap']}{hour}:{{minute:02}}{second}{half}{zone}"


def _written(moment: datetime, template: str) -> str:
    week = moment.isocalendar()
    offset = moment.utcoffset() or timedelta()
    minutes = int(abs(offset).total_seconds()) // 60
    half = "am" if moment.hour < 12 else "pm"
    return template.format(
        year=week.year if "{week" in template else moment.year,
        short=moment.year % 100,
        month=moment.month,
        day=moment.day,
        name=_NAMES[moment.month - 1],
        abbreviation=_NAMES[moment.month - 1][:3],
        quarter=(moment.month + 2) // 3,
        week=week.week,
        weekday=week.weekday,
        ordinal=moment.timetuple().tm_yday,
        hour=moment.hour,
        half_hour=(moment.hour + 11) % 12 + 1,
        minute=moment.minute,
        second=moment.second,
        fraction=f"{moment.microsecond:06}000",
        half=half,
        HALF=half.upper(),
        hours=f"{'-' if offset < timedelta() else '+'}{minutes // 60:02}",
        minutes=f"{minutes % 60:02}",
    )


def _years_of(days: np.ndarray) -> np.ndarray:
    return days.astype("M8[D]").astype("M8[Y]").astype(np.int64) + 1970
