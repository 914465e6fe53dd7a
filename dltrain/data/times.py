"""Times that go on as they have gone so far."""

import calendar
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import pairwise
from typing import Any

from dltrain.errors import DataError

_FORMATS = (
    *("%Y-%m-%d", "%Y-%m", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"),
    *("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f", "%Y/%m/%d"),
    *("%Y%m%d", "%Y%m"),
)
_YEARS = range(1700, 2200)  # 20240131 is a date, 1000 a number


def next_times(times: Sequence[Any], count: int, name: str) -> list[Any]:
    """The ``count`` times that follow ``times`` (text, numbers, dates), in the same notation and by the usual step.

    The step is the same number of months where each time is the same day of its month, or its last one; otherwise it
    is the most frequent difference.

    Raises:
        DataError: fewer than two times, or some that are neither dates nor numbers, or do not rise.
    """
    if len(times) < 2:
        raise DataError(f"'{name}': two rows at least are needed to tell the step of the time column")
    moments, write = _parsed(times, name)
    if any(later <= earlier for earlier, later in pairwise(moments)):
        raise DataError(f"'{name}': the times of the last rows do not rise; sort the file by time")
    months = _month_step(moments) if isinstance(moments[0], date) else 0
    if months:
        at_end = all(moment.day == _days(moment.year, moment.month) for moment in moments)
        return [write(_months_later(moments[-1], months * ahead, at_end)) for ahead in range(1, count + 1)]
    steps = Counter(later - earlier for earlier, later in pairwise(moments))
    step = steps.most_common(1)[0][0]
    return [write(moments[-1] + step * ahead) for ahead in range(1, count + 1)]


def _parsed(times: Sequence[Any], name: str) -> tuple[list[Any], Callable[[Any], Any]]:
    """The times as moments to reckon with, and how such a moment is written."""
    if isinstance(times[0], date):
        return list(times), lambda moment: moment.isoformat()
    if isinstance(times[0], timedelta):
        return list(times), str
    texts = [str(time) for time in times]
    for notation in _FORMATS:
        try:
            moments = [datetime.strptime(text, notation) for text in texts]
        except ValueError:
            continue
        # strptime takes 2024-1-5 and more; only what is written back alike is this notation.
        if moments[0].year in _YEARS and all(m.strftime(notation) == t for m, t in zip(moments, texts, strict=True)):
            return moments, partial(_text, notation=notation)
    try:
        return [Decimal(text) for text in texts], _number
    except InvalidOperation as error:
        raise DataError(f"'{name}': the time '{texts[-1]}' is no date such as 2024-01-31, and no number") from error


def _text(moment: datetime, notation: str) -> str:
    return moment.strftime(notation)


def _number(number: Decimal) -> int | float:
    return int(number) if number == number.to_integral_value() else float(number)


def _month_step(moments: Sequence[date]) -> int:
    """How many months lie between the times, 0 where it is not the same number everywhere."""
    same_day = len({moment.day for moment in moments}) == 1
    at_end = all(moment.day == _days(moment.year, moment.month) for moment in moments)
    if not (same_day or at_end) or len({getattr(moment, "hour", 0) for moment in moments}) > 1:
        return 0
    counted = [12 * moment.year + moment.month for moment in moments]
    steps = {later - earlier for earlier, later in pairwise(counted)}
    return steps.pop() if len(steps) == 1 else 0


def _months_later(moment: Any, months: int, at_end: bool) -> Any:
    year, month = divmod(12 * moment.year + moment.month - 1 + months, 12)
    last = _days(year, month + 1)
    return moment.replace(year=year, month=month + 1, day=last if at_end else min(moment.day, last))


def _days(year: int, month: int) -> int:
    return calendar.monthrange(year, month)[1]
