"""Time series: windows against closed forms, nothing of the future in the past, and what a bad file gets told."""

import csv
import itertools
import json
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from dltrain.data.base import Data, Fitted, Samples
from dltrain.data.bundled import sunspots
from dltrain.data.rows import read_last_windows
from dltrain.data.series import series
from dltrain.data.table import table
from dltrain.data.tables.times import next_times
from dltrain.errors import ConfigError, DataError


def everything(part: Samples | None) -> tuple[Tensor, Tensor]:
    assert part is not None
    return part.take(torch.arange(len(part)))


def parts(data: Data) -> list[Samples]:
    return [part for part in (data.train, data.val, data.test) if part is not None]


def write_columns(folder: Path, name: str = "s.csv", **columns: list) -> str:
    frame = pl.DataFrame(columns)
    if name.endswith(".csv"):
        frame.write_csv(folder / name)
    else:
        frame.write_parquet(folder / name)
    return str(folder / name)


def row_numbers(data: Data, values: Tensor) -> list[list[int]]:
    """The rows that windows cover, where the target of row ``i`` is ``i``."""
    return (values.double() * data.facts.target_std + data.facts.target_mean).round().int().tolist()


@pytest.fixture
def counted(tmp_path: Path) -> Callable[..., Data]:
    """A series of 100 rows whose target is the number of the row."""
    path = write_columns(tmp_path, y=list(range(100)))
    return lambda window=6, horizon=3, **options: series(path, "y", window=window, horizon=horizon, **options)


# Windows


def test_a_sample_reads_a_window_of_rows_and_predicts_those_that_follow(counted):
    data = counted(window=4, horizon=2)
    inputs, targets = data.train.take(torch.tensor([0, 10]))
    assert row_numbers(data, inputs[:, :, 0]) == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert row_numbers(data, targets) == [[4, 5], [14, 15]]


@pytest.mark.parametrize(("window", "horizon"), [(1, 1), (6, 3), (3, 6), (20, 5)])
def test_the_inputs_of_every_window_lie_right_before_its_targets(counted, window, horizon):
    data = counted(window, horizon)
    for part in parts(data):
        inputs, targets = everything(part)
        rows = torch.tensor(row_numbers(data, inputs[:, :, 0]))
        following = torch.tensor(row_numbers(data, targets))
        assert torch.equal(torch.cat([rows, following], 1), rows[:, :1] + torch.arange(window + horizon))


@pytest.mark.parametrize(("window", "horizon"), [(1, 1), (6, 3), (3, 6), (20, 5)])
def test_no_row_is_a_target_in_two_parts_and_all_rows_behind_the_first_window_are_in_one(counted, window, horizon):
    data = counted(window, horizon)
    targets = [{row for rows in row_numbers(data, everything(part)[1]) for row in rows} for part in parts(data)]
    assert targets == [set(range(window, 72)), set(range(72, 80)), set(range(80, 100))]


def test_a_part_has_a_window_for_each_place_where_its_targets_fit(counted):
    assert [len(part) for part in parts(counted(window=6, horizon=3))] == [72 - 6 - 2, 8 - 2, 20 - 2]


def test_the_facts_are_those_of_the_windows(tmp_path):
    path = write_columns(tmp_path, "power.csv", a=list(range(50)), y=[row**0.5 for row in range(50)])
    facts = series(path, "y", window=5, horizon=2).facts
    assert (facts.name, facts.task, facts.kind) == ("power", "regression", "series")
    assert (facts.input_shape, facts.num_outputs) == ((5, 2), 2)
    assert (facts.feature_names, facts.target_name) == (("y", "a"), "y")


def test_limit_keeps_so_many_windows_of_every_part(counted):
    whole, few = counted(), counted(limit=4)
    for part, short in zip(parts(whole), parts(few), strict=True):
        assert len(short) == 4
        for got, wanted in zip(everything(short), everything(part), strict=True):
            assert torch.equal(got, wanted[:4])


def test_without_fractions_every_row_is_for_training(counted):
    data = counted(val_fraction=0, test_fraction=0)
    assert (data.val, data.test) == (None, None)
    assert len(data.train) == 100 - 6 - 2


def test_without_a_validation_fraction_the_test_part_stays_as_it_is(counted):
    data, other = counted(val_fraction=0), counted()
    assert data.val is None
    assert row_numbers(data, everything(data.test)[1]) == row_numbers(other, everything(other.test)[1])


def test_the_series_is_the_same_on_every_call_whatever_the_seed_of_torch(counted):
    torch.manual_seed(1)
    first = counted()
    torch.manual_seed(2)
    second = counted()
    assert first.facts == second.facts
    for left, right in zip(parts(first), parts(second), strict=True):
        for got, wanted in zip(everything(left), everything(right), strict=True):
            assert torch.equal(got, wanted)


# Scaling


def test_every_column_is_scaled_by_its_training_rows(tmp_path):
    columns = {"y": [row**1.5 for row in range(100)], "a": [np.sin(row) for row in range(100)]}
    path = write_columns(tmp_path, **columns)
    data = series(path, "y", window=1, horizon=1)
    inputs = everything(data.train)[0][:, 0]
    for feature, values in enumerate(columns.values()):
        train = np.array(values)[:72]
        expected = (train[:71] - train.mean()) / train.std()
        np.testing.assert_allclose(inputs[:, feature].numpy(), expected, atol=1e-6)
    train = np.array(columns["y"])[:72]
    assert (data.facts.target_mean, data.facts.target_std) == pytest.approx((train.mean(), train.std()))


def test_what_the_rows_behind_the_training_part_hold_does_not_change_it(tmp_path):
    wave = [np.sin(row) for row in range(100)]
    before = series(write_columns(tmp_path, y=wave), "y", window=6, horizon=3)
    after = series(write_columns(tmp_path, y=wave[:72] + [1e6 + row for row in range(28)]), "y", window=6, horizon=3)
    assert after.facts.target_mean == before.facts.target_mean
    assert after.facts.target_std == before.facts.target_std
    for got, wanted in zip(everything(after.train), everything(before.train), strict=True):
        assert torch.equal(got, wanted)
    assert everything(after.test)[1].min() > 1e5


def test_a_constant_column_becomes_zero(tmp_path):
    data = series(write_columns(tmp_path, y=list(range(50)), c=[0.1] * 50), "y", window=3, horizon=1)
    assert everything(data.train)[0][:, :, 1].abs().max() < 1e-9


def test_a_constant_target_keeps_its_units(tmp_path):
    data = series(write_columns(tmp_path, y=[7] * 50), "y", window=3, horizon=1)
    assert row_numbers(data, everything(data.test)[1])[0] == [7]


def test_errors_are_reported_in_scaled_and_in_original_units(dltrain, tmp_path):
    path = write_columns(tmp_path, y=[1000 + 50 * np.sin(row) for row in range(100)])
    std = series(path, "y", window=6, horizon=3).facts.target_std
    outcome = dltrain(
        "dataset=series", "dataset.path=s.csv", "dataset.target=y", "dataset.window=6", "dataset.horizon=3",
        "trainer.epochs=1",
    )  # fmt: skip
    test = outcome.result["test"]
    for name in ("mae", "rmse"):
        assert test[name] == pytest.approx(test[f"{name}_scaled"] * std, rel=1e-5)
    assert test["rmse_scaled"] ** 2 == pytest.approx(test["loss"], rel=1e-5)


# Columns


def test_all_other_columns_are_inputs_unless_some_are_named(tmp_path):
    path = write_columns(tmp_path, a=list(range(50)), y=list(range(50)), b=list(range(50)), t=list(range(50)))

    def names(**options) -> tuple[str, ...]:
        return series(path, "y", window=3, horizon=1, **options).facts.feature_names

    assert names() == ("y", "a", "b", "t")
    assert names(time="t") == ("y", "a", "b")
    assert names(columns=["b"]) == ("y", "b")
    assert names(columns=[]) == ("y",)
    assert names(columns=["a", "y", "a"]) == ("y", "a")


def test_a_text_column_that_is_not_named_does_no_harm(tmp_path):
    path = write_columns(tmp_path, y=list(range(50)), note=["-"] * 50)
    assert series(path, "y", columns=[], window=3, horizon=1).facts.feature_names == ("y",)


TIMES = {
    "dates": [f"{2000 + row // 12}-{row % 12 + 1:02}-15" for row in range(50)],
    "numbers": [8.5 + row for row in range(50)],
    "numbers that fall as texts": list(range(980, 1030)),
    "nanoseconds since 1970": [1_700_000_000_000_000_000 + row for row in range(50)],
    "uneven steps": [row**2 for row in range(50)],
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_times_that_rise_are_accepted(tmp_path, times, name):
    path = write_columns(tmp_path, name, t=times, y=list(range(50)))
    assert len(series(path, "y", time="t", window=3, horizon=1).train) == 36 - 3


def test_a_parquet_file_with_true_dates_equals_the_csv_file(tmp_path):
    columns = {
        "t": pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 2, 19), eager=True),
        "y": [row**0.5 for row in range(50)],
    }
    one, other = (
        series(write_columns(tmp_path, name, **columns), "y", time="t", window=3, horizon=2)
        for name in ("s.csv", "s.parquet")
    )
    assert one.facts == other.facts
    for got, wanted in zip(everything(one.train), everything(other.train), strict=True):
        assert torch.equal(got, wanted)


# Times, as they are trained with and as they go on beyond the end


def hours(first: str, count: int, zone: str) -> pl.Series:
    """Hours from ``first`` in UTC on, by the clock of ``zone``."""
    start = datetime.fromisoformat(first)
    every = pl.datetime_range(start, start + timedelta(hours=count - 1), "1h", eager=True, time_zone="UTC")
    return every.dt.convert_time_zone(zone)


def written(times: pl.Series, notation: str) -> list[str]:
    return times.dt.strftime(notation).to_list()


def days(first: date, keep: Callable[[date], bool] = lambda day: True, count: int = 60) -> list[date]:
    every = (first + timedelta(days=number) for number in itertools.count())
    return list(itertools.islice(filter(keep, every), count))


def is_last_weekday_of_its_month(day: date) -> bool:
    ahead = (day + timedelta(days=number) for number in range(1, 4))
    return day.weekday() < 5 and all(each.weekday() >= 5 or each.month != day.month for each in ahead)


def is_the_30th_or_the_last(day: date) -> bool:
    return day.day == 30 or (day.month == 2 and (day + timedelta(days=1)).month == 3)


# The end of March and of October 2024 are changes of the clock in Berlin; so many hours end right before it.
SPRING, AUTUMN = hours("2024-03-28T14:00", 59, "Europe/Berlin"), hours("2024-10-24T14:00", 59, "Europe/Berlin")
WORKDAYS = days(date(2024, 3, 1), lambda day: day.weekday() < 5)  # to Thursday 23 May
CONTINUED = {
    # the times of the training, with the three that follow
    "hours in UTC, Z": (
        written(SPRING.dt.convert_time_zone("UTC"), "%Y-%m-%dT%H:%M:%SZ"),
        ["2024-03-31T01:00:00Z", "2024-03-31T02:00:00Z", "2024-03-31T03:00:00Z"],
    ),
    "hours in UTC, +00:00": (
        written(SPRING.dt.convert_time_zone("UTC"), "%Y-%m-%d %H:%M:%S+00:00"),
        ["2024-03-31 01:00:00+00:00", "2024-03-31 02:00:00+00:00", "2024-03-31 03:00:00+00:00"],
    ),
    "milliseconds": (
        [f"2024-01-31 00:00:{second:02}.000" for second in range(60)],
        ["2024-01-31 00:01:00.000", "2024-01-31 00:01:01.000", "2024-01-31 00:01:02.000"],
    ),
    "hours with offsets before summer time": (
        written(SPRING, "%Y-%m-%dT%H:%M%:z"),
        ["2024-03-31T02:00+01:00", "2024-03-31T03:00+01:00", "2024-03-31T04:00+01:00"],  # the instants are right
    ),
    "hours with offsets across the change to summer time": (
        written(hours("2024-03-29T14:00", 60, "Europe/Berlin"), "%Y-%m-%dT%H:%M%:z"),
        ["2024-04-01T04:00+02:00", "2024-04-01T05:00+02:00", "2024-04-01T06:00+02:00"],
    ),
    "hours with offsets across the change back": (
        written(hours("2024-10-25T14:00", 60, "Europe/Berlin"), "%Y-%m-%dT%H:%M%z"),
        ["2024-10-28T03:00+0100", "2024-10-28T04:00+0100", "2024-10-28T05:00+0100"],
    ),
    "a zone, at the change to summer time": (
        SPRING,
        ["2024-03-31T03:00:00+02:00", "2024-03-31T04:00:00+02:00", "2024-03-31T05:00:00+02:00"],
    ),
    "a zone, at the change back": (
        AUTUMN,
        ["2024-10-27T02:00:00+01:00", "2024-10-27T03:00:00+01:00", "2024-10-27T04:00:00+01:00"],
    ),
    "a zone, across the change back": (
        hours("2024-10-25T14:00", 60, "Europe/Berlin"),
        ["2024-10-28T03:00:00+01:00", "2024-10-28T04:00:00+01:00", "2024-10-28T05:00:00+01:00"],
    ),
    "days in a zone, at midnight": (
        pl.Series(days(date(2024, 1, 31))).cast(pl.Datetime("ns")).dt.replace_time_zone("Europe/Berlin"),
        ["2024-03-31T00:00:00+01:00", "2024-04-01T00:00:00+02:00", "2024-04-02T00:00:00+02:00"],
    ),
    "weeks by their number": (
        [f"2020-W{week:02}" for week in range(1, 54)],
        ["2021-W01", "2021-W02", "2021-W03"],
    ),
    "the month first": (
        [day.strftime("%m/%d/%Y") for day in days(date(2023, 9, 1))],
        ["10/31/2023", "11/01/2023", "11/02/2023"],
    ),
    "the month first, without zeros": (
        [f"{day.month}/{day.day}/{day:%y}" for day in days(date(2020, 1, 22))],
        ["3/22/20", "3/23/20", "3/24/20"],
    ),
    "the day first, in the first days of months": (
        [f"01/{month % 12 + 1:02}/{2000 + month // 12}" for month in range(60)],
        ["01/01/2005", "01/02/2005", "01/03/2005"],
    ),
    "points": (
        [day.strftime("%d.%m.%Y") for day in days(date(2023, 1, 1))],
        ["02.03.2023", "03.03.2023", "04.03.2023"],
    ),
    "names of months": (
        [f"{day:%b} {day.year}" for day in days(date(2020, 1, 1), lambda day: day.day == 1)],
        ["Jan 2025", "Feb 2025", "Mar 2025"],
    ),
    "a clock of twelve hours": (
        written(SPRING.dt.convert_time_zone("UTC"), "%m/%d/%Y %I:%M %p"),
        ["03/31/2024 01:00 AM", "03/31/2024 02:00 AM", "03/31/2024 03:00 AM"],
    ),
    "quarters": ([f"{2000 + n // 4}-Q{n % 4 + 1}" for n in range(58)], ["2014-Q3", "2014-Q4", "2015-Q1"]),
    "Monday to Friday": ([str(day) for day in WORKDAYS], ["2024-05-24", "2024-05-27", "2024-05-28"]),
    "Monday to Friday, as dates": (WORKDAYS, ["2024-05-24", "2024-05-27", "2024-05-28"]),
    "Monday to Friday without holidays": (
        [str(day) for day in WORKDAYS if day not in (date(2024, 3, 29), date(2024, 4, 1))],
        ["2024-05-24", "2024-05-27", "2024-05-28"],
    ),
    "all days but Sunday": (
        [str(day) for day in days(date(2024, 3, 1), lambda day: day.weekday() != 6)],
        ["2024-05-10", "2024-05-11", "2024-05-13"],
    ),
    "ends of months": (
        [str(day) for day in days(date(2019, 1, 31), lambda day: (day + timedelta(days=1)).day == 1)],
        ["2024-01-31", "2024-02-29", "2024-03-31"],
    ),
    "a month is missing": (
        [str(day) for day in days(date(2019, 1, 1), lambda day: day.day == 1) if day != date(2021, 4, 1)],
        ["2024-01-01", "2024-02-01", "2024-03-01"],
    ),
    "the 30th, or the last": (
        [str(day) for day in days(date(2019, 2, 28), is_the_30th_or_the_last, 59)],
        ["2024-01-30", "2024-02-29", "2024-03-30"],
    ),
    "last weekdays of months": (
        [str(day) for day in days(date(2019, 1, 31), is_last_weekday_of_its_month)],
        ["2024-01-31", "2024-02-29", "2024-03-29"],
    ),
    "time that has passed": (
        pl.Series([timedelta(hours=n) for n in range(60)]),
        [f"2 days, {h}:00:00" for h in (12, 13, 14)],
    ),
    "nanoseconds since 1970": (
        [1_700_000_000_000_000_001 + 250 * n for n in range(60)],
        [1_700_000_000_000_000_001 + 250 * n for n in (60, 61, 62)],
    ),
}


@pytest.mark.parametrize(
    ("name", "times", "expected"),
    [
        pytest.param(name, times, expected, id=f"{name}, {what}")
        for what, (times, expected) in CONTINUED.items()
        for name in (["s.parquet"] if isinstance(times, pl.Series) else ["s.csv", "s.parquet"])
    ],
)
def test_whatever_trains_goes_on_by_its_own_step_in_its_own_notation(tmp_path, name, times, expected):
    path = write_columns(tmp_path, name, t=times, y=list(range(len(times))))
    data = series(path, "y", time="t", window=5, horizon=3)
    fitted = Fitted(data.facts, checked(data.preprocessing))
    ((((_, found),), _),) = read_last_windows([Path(path)], fitted, refused)
    assert found == expected


def checked(preprocessing: dict) -> dict:
    """As a checkpoint gives it back: of plain types."""
    return json.loads(json.dumps(preprocessing))


def refused(name: str, cause: str) -> None:
    raise AssertionError(f"{name}: {cause}")


def test_a_file_too_short_to_tell_goes_on_as_the_training_did(tmp_path):
    path = write_columns(tmp_path, t=[str(day) for day in WORKDAYS], y=list(range(60)))
    data = series(path, "y", time="t", window=5, horizon=3)
    week = write_columns(tmp_path, "week.csv", t=[f"2024-06-0{day}" for day in range(3, 8)], y=list(range(5)))
    ((((_, found),), _),) = read_last_windows([Path(week)], Fitted(data.facts, data.preprocessing), refused)
    assert found == ["2024-06-10", "2024-06-11", "2024-06-12"]


def test_the_order_of_day_and_month_is_that_of_the_training(tmp_path):
    path = write_columns(tmp_path, t=[f"{day:%d/%m/%Y}" for day in days(date(2023, 1, 1))], y=list(range(60)))
    data = series(path, "y", time="t", window=5, horizon=3)
    short = write_columns(tmp_path, "short.csv", t=[f"0{day}/06/2023" for day in range(1, 7)], y=list(range(6)))
    ((((_, found),), _),) = read_last_windows([Path(short)], Fitted(data.facts, data.preprocessing), refused)
    assert found == ["07/06/2023", "08/06/2023", "09/06/2023"]


def test_another_step_than_in_training_is_told(tmp_path, caplog):
    path = write_columns(tmp_path, t=[str(day) for day in days(date(2023, 1, 1))], y=list(range(60)))
    data = series(path, "y", time="t", window=5, horizon=2)
    other = write_columns(tmp_path, "o.csv", t=[str(day) for day in days(date(2023, 1, 1))[::7]], y=list(range(9)))
    ((((_, found),), _),) = read_last_windows([Path(other)], Fitted(data.facts, data.preprocessing), refused)
    assert found == ["2023-03-05", "2023-03-12"]
    assert "trained on times that go by 1 day, and these go by 1 week" in caplog.text


def test_a_run_of_an_earlier_version_goes_on_by_what_the_file_tells(tmp_path):
    path = write_columns(tmp_path, t=[str(day) for day in WORKDAYS], y=list(range(60)))
    data = series(path, "y", time="t", window=5, horizon=2)
    earlier = {key: value for key, value in data.preprocessing.items() if key not in ("time_layout", "step")}
    ((((_, found),), _),) = read_last_windows([Path(path)], Fitted(data.facts, earlier), refused)
    assert found == ["2024-05-24", "2024-05-27"]


SAID = {
    "hours": (written(SPRING, "%Y-%m-%dT%H:%M%:z"), "the times go by 1 hour"),
    "weekdays": ([str(day) for day in WORKDAYS], "the times go by 1 day, Monday to Friday"),
    "weeks": ([str(day) for day in days(date(2023, 1, 1), count=420)[::7]], "the times go by 1 week"),
    "months": (
        [str(day) for day in days(date(2023, 1, 15), lambda d: d.day == 15)],
        "1 month, on the 15th of the month",
    ),
    "ends": (
        [str(day) for day in days(date(2019, 1, 31), is_last_weekday_of_its_month)],
        "1 month, on the last weekday of the month",
    ),
    "numbers": ([0.1 * n for n in range(60)], "the times go by 0.1"),
    "years with fractions": ([round(1749 + n / 12, 3) for n in range(60)], "the times go by 0.083"),
    "day first": ([f"{day:%d/%m/%Y}" for day in days(date(2023, 1, 1))], "1 day, dates read as day, month, year"),
}


@pytest.mark.parametrize(("times", "said"), SAID.values(), ids=SAID)
def test_the_step_that_was_found_is_said_and_an_even_series_gets_no_warning(tmp_path, caplog, times, said):
    caplog.set_level("INFO")
    series(write_columns(tmp_path, t=times, y=list(range(len(times)))), "y", time="t", window=5, horizon=3)
    assert f"column 't': the times go by {said.removeprefix('the times go by ')}" in caplog.text
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def without(times: list, *rows: int) -> list:
    return [time for row, time in enumerate(times) if row not in rows]


GAPS = {
    "one": (
        without([f"2024-01-{day:02}" for day in range(1, 32)], 7),
        "row 8 (line 9): 1 step of 1 day missing between '2024-01-07' and '2024-01-09';",
    ),
    "several": (
        without([f"{2000 + n // 12}-{n % 12 + 1:02}" for n in range(60)], 7, 8, 20),
        "row 8 (line 9): 2 steps of 1 month missing between '2000-07' and '2000-10', and 1 more such place;",
    ),
    "between two steps": (
        [n + 0.5 * (n == 20) for n in range(60)],
        "row 21 (line 22): another step than 1 between '19.0' and '20.5', and 1 more such place;",
    ),
    "a holiday": (
        without([str(day) for day in WORKDAYS], 21),
        "1 step of 1 day, Monday to Friday missing between '2024-03-29' and '2024-04-02';",
    ),
    "the clock goes forward, without offsets": (
        written(hours("2024-03-29T14:00", 60, "Europe/Berlin"), "%Y-%m-%d %H:%M"),
        "1 step of 1 hour missing between '2024-03-31 01:00' and '2024-03-31 03:00';",
    ),
    "as far as another series": (
        [*range(2000, 2030), *range(2040, 2070)],
        "row 31 (line 32): 10 steps of 1 missing between '2029' and '2040';",
    ),
}


@pytest.mark.parametrize(("times", "said"), GAPS.values(), ids=GAPS)
def test_times_that_are_missing_are_told_with_their_row(tmp_path, caplog, times, said):
    path = write_columns(tmp_path, t=times, y=list(range(len(times))))
    series(path, "y", time="t", window=5, horizon=1)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said in warning and "windows take all rows as evenly spaced" in warning


@pytest.mark.parametrize("times", [[f"{day:%d.%m.%Y}" for day in WORKDAYS], WORKDAYS], ids=["texts", "dates"])
def test_times_that_nobody_has_named_are_pointed_out(tmp_path, caplog, times):
    path = write_columns(tmp_path, "s.parquet", t=times, note=["-"] * 60, load=[1.5] * 60, y=list(range(60)))
    series(path, "y", columns=["load"], window=5, horizon=1)
    assert "column 't' holds times and is not used: name it with dataset.time" in caplog.text


MONTHS = [f"{2000 + n // 12}-{n % 12 + 1:02}" for n in range(30)]
UNSORTED = {
    # columns, what is told, and rows that following the advice leaves
    "one series below the other": (
        {"shop": ["a"] * 30 + ["b"] * 30, "t": MONTHS * 2},
        "row 31 (line 32): '2000-01' does not come after '2002-06'; column 'shop' tells several series apart",
        lambda frame: frame.filter(pl.col("shop") == "a").sort("t"),
    ),
    "several series side by side": (
        {"t": sorted(MONTHS * 2), "shop": ["a", "b"] * 30},
        "row 2 (line 3): '2000-01' does not come after '2000-01'; column 'shop' tells several series apart",
        lambda frame: frame.filter(pl.col("shop") == "b").sort("t"),
    ),
    "series of different times": (
        {"t": [*MONTHS[10:], *MONTHS[:10]], "shop": ["a"] * 20 + ["b"] * 10},
        "column 'shop' tells several series apart",
        lambda frame: frame.filter(pl.col("shop") == "a"),
    ),
    "newest first": (
        {"t": MONTHS[::-1]},
        "row 2 (line 3): '2002-05' does not come after '2002-06'; sort the rows by time",
        lambda frame: frame.sort("t"),
    ),
    "sorted as text": (
        {"t": sorted(f"{day.month}/{day.day}/2023" for day in days(date(2023, 9, 20)))},
        "'10/2/2023' does not come after '10/19/2023'; the rows are sorted as text, sort them by time",
        lambda frame: frame.sort(pl.col("t").str.to_date("%m/%d/%Y")),
    ),
    "a time twice": (
        {"t": [*MONTHS[:8], *MONTHS[7:]], "load": [n % 7 for n in range(31)]},
        "row 9 (line 10): '2000-08' does not come after '2000-08'; leave one row a time; 1 time is there",
        lambda frame: frame.unique("t", keep="first").sort("t"),
    ),
    "the clock goes back, without offsets": (
        {"t": written(hours("2024-10-25T14:00", 60, "Europe/Berlin"), "%Y-%m-%d %H:%M")},
        "where clocks go back an hour, write times with their offset",
        None,
    ),
    "the same instant written twice": (
        {"t": ["2024-01-01T00:00Z", "2024-01-01T01:00+01:00", *(f"2024-01-01T{n:02}:00Z" for n in range(1, 24))]},
        "'2024-01-01T01:00+01:00' does not come after '2024-01-01T00:00Z'; leave one row a time",
        None,
    ),
}


@pytest.mark.parametrize(("columns", "said", "follow"), UNSORTED.values(), ids=UNSORTED)
def test_the_advice_for_times_that_do_not_rise_works_when_it_is_followed(tmp_path, columns, said, follow):
    columns = {**columns, "y": list(range(len(columns["t"])))}
    path = write_columns(tmp_path, **columns)
    with pytest.raises(DataError) as caught:
        series(path, "y", time="t", columns=[], window=3, horizon=1)
    assert said in str(caught.value)
    if follow:
        follow(pl.DataFrame(columns)).write_csv(path)
        series(path, "y", time="t", columns=[], window=3, horizon=1, val_fraction=0, test_fraction=0)


def test_hours_of_a_zone_train_and_are_continued_by_the_command(dltrain, verb, tmp_path):
    write_columns(tmp_path, "s.parquet", t=SPRING, y=[np.sin(n) for n in range(59)])
    keys = ("dataset=series", "dataset.path=s.parquet", "dataset.target=y", "dataset.time=t", "dataset.window=6")
    run = dltrain(*keys, "dataset.horizon=2", "trainer.epochs=1", "model.hidden_size=4")
    assert run.code == 0 and "column 't': the times go by 1 hour" in run.stderr
    outcome = verb("predict", run.result["run"], "s.parquet")
    assert outcome.code == 0 and "s.parquet: the times go on by 1 hour" in outcome.stderr
    rows = csv.DictReader(outcome.stdout.splitlines())
    assert [row["time"] for row in rows] == ["2024-03-31T03:00:00+02:00", "2024-03-31T04:00:00+02:00"]


# sunspots


def test_sunspots_are_the_numbers_of_the_file_in_windows_of_four_years_and_forecasts_of_one():
    with (files("dltrain.data") / "files" / "sunspots.csv").open(encoding="utf-8") as file:
        values = [float(row["sunspots"]) for row in csv.DictReader(file)]
    data = sunspots(val_fraction=0, test_fraction=0)
    assert (len(values), len(data.train)) == (2820, 2820 - 48 - 11)
    inputs, targets = data.train.take(torch.tensor([0, len(data.train) - 1]))
    found = torch.cat([inputs[:, :, 0], targets], 1).double() * data.facts.target_std + data.facts.target_mean
    np.testing.assert_allclose(found.numpy(), [values[:60], values[-60:]], atol=1e-4)


def test_sunspots_state_their_facts():
    facts = sunspots(window=24, horizon=6).facts
    assert (facts.name, facts.task, facts.kind) == ("sunspots", "regression", "series")
    assert (facts.input_shape, facts.num_outputs, facts.target_name) == ((24, 1), 6, "sunspots")


# Bad input


def test_a_fraction_that_leaves_nothing_is_refused(counted):
    with pytest.raises(ConfigError, match="fraction"):
        counted(test_fraction=1)


@pytest.mark.parametrize(
    ("rows", "options", "fragment"),
    [
        (12, {}, "'.*' has 12 rows, 9 of them for training, and one sample takes 10"),
        (9, {"val_fraction": 0, "test_fraction": 0}, "has 9 rows, 9 of them"),
        (30, {}, "the 2 rows of the val part are fewer than dataset.horizon=3"),
        (30, {"val_fraction": 0, "test_fraction": 0.05}, "the 2 rows of the test part are fewer"),
    ],
)
def test_too_few_rows_for_a_window_are_counted_by_part(tmp_path, rows, options, fragment):
    path = write_columns(tmp_path, y=list(range(rows)))
    with pytest.raises(DataError, match=fragment):
        series(path, "y", window=7, horizon=3, **options)


def test_as_many_rows_as_one_window_and_its_horizon_are_enough(tmp_path):
    path = write_columns(tmp_path, y=list(range(10)))
    assert len(series(path, "y", window=7, horizon=3, val_fraction=0, test_fraction=0).train) == 1


def text(*changes: tuple[int, str], rows: int = 60) -> str:
    """A file of months, loads and values, with some of its lines replaced (line 2 is the first row)."""
    lines = ["month,load,y", *(f"{2000 + row // 12}-{row % 12 + 1:02},{row % 7},{row}" for row in range(rows))]
    for line, change in changes:
        lines[line - 1] = change
    return "\n".join(lines) + "\n"


BAD_SERIES = {
    # what is wrong: the content of s.csv, further words of the user, fragments that the one message must have
    "fewer rows than a window": (text(rows=20), [], ["s.csv", "20 rows", "dataset.window=48 + dataset.horizon=12"]),
    "fewer rows than a horizon": (
        text(),
        ["dataset.window=2", "dataset.horizon=9"],
        ["s.csv", "the 5 rows of the val part", "dataset.val_fraction"],
    ),
    "missing target column": (text(), ["dataset.target=z"], ["dataset.target", "s.csv", "no column 'z'"]),
    "missing input column": (text(), ["dataset.columns=[lod]"], ["dataset.columns", "'lod'", "did you mean 'load'?"]),
    "no time column named": (text(), ["dataset.time=null"], ["column 'month', row 1 (line 2)", "dataset.time"]),
    "text in the target": (text((9, "2000-08,0,high")), [], ["s.csv", "column 'y', row 8 (line 9)", "'high'"]),
    "text in an input": (text((9, "2000-08,low,7")), [], ["column 'load', row 8 (line 9)", "'low'"]),
    "a gap in the target": (text((9, "2000-08,0,")), [], ["column 'y', row 8 (line 9)", "gaps"]),
    "an empty line": (text((9, "")), ["dataset.time=month"], ["row 8 (line 9)"]),
    "a time that falls": (
        text((9, "1999-08,0,7")),
        [],
        ["s.csv", "column 'month', row 8 (line 9)", "'1999-08' does not come after '2000-07'"],
    ),
    "a time twice": (text((9, "2000-07,0,7")), [], ["column 'month', row 8 (line 9)", "does not come after"]),
    "a time missing": (text((9, ",0,7")), [], ["column 'month', row 8 (line 9)", "no value"]),
    "ragged rows": (text((9, "2000-08,7")), [], ["s.csv", "row 8 (line 9): 2 fields", "header has 3"]),
    "an empty file": ("", [], ["s.csv", "empty"]),
}


@pytest.mark.parametrize(("content", "words", "fragments"), BAD_SERIES.values(), ids=BAD_SERIES)
def test_a_bad_series_gets_one_message_exit_2_and_leaves_nothing(dltrain, tmp_path, content, words, fragments):
    (tmp_path / "s.csv").write_text(content)
    outcome = dltrain("dataset=series", "dataset.path=s.csv", "dataset.target=y", "dataset.time=month", *words)
    assert outcome.code == 2
    assert outcome.result["status"] == "invalid"
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in fragments:
        assert fragment in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


@pytest.mark.parametrize("value", ["inf", "-inf", "sNaN", "1e400", "99999-01-01", "nan"])
@pytest.mark.parametrize("times", ["dates", "numbers"])
def test_a_time_that_is_none_is_named_with_its_row(tmp_path, value, times):
    rows = [f"2024-01-{day:02}" if times == "dates" else str(day) for day in range(1, 29)]
    rows[5] = value
    path = tmp_path / "t.csv"
    path.write_text("when,y\n" + "".join(f"{when},{number}\n" for number, when in enumerate(rows)))
    with pytest.raises(DataError, match=r"t\.csv', column 'when', row 6 \(line 7\): "):
        series(str(path), target="y", time="when", window=3, horizon=1)


def test_dates_beyond_those_of_python_are_named_with_their_row(tmp_path):
    for days in (2932896 - 20, 2**31 - 29, -800_000):
        when = pl.Series("when", [days + row for row in range(28)], pl.Int32).cast(pl.Date)
        path = tmp_path / "t.parquet"
        pl.DataFrame([when, pl.Series("y", range(28))]).write_parquet(path)
        row = 22 if days == 2932896 - 20 else 1
        with pytest.raises(DataError, match=rf"column 'when', row {row}: the time of a year outside 1 to 9999 is not"):
            series(str(path), target="y", time="when", window=3, horizon=1)
        with pytest.raises(DataError, match="the time of a year outside 1 to 9999"):
            next_times(when, 2, "t")


@pytest.mark.parametrize(
    "times",
    [
        [f"9999-12-{day:02}" for day in range(4, 32)],
        [f"{year}-01-01" for year in range(9980, 10000)],
        [f"9999-12-31 {hour:02}:00" for hour in range(24)],
        [f"9999-12-{day:02} 23:00-10:00" for day in range(20, 32)],
        [f"{number}e307" for number in range(1, 18)],
    ],
    ids=["days", "years", "hours", "zone", "numbers"],
)
def test_times_that_nobody_can_write_are_one_message(times):
    with pytest.raises(DataError, match=f"no time can be written that follows '{re.escape(times[-1])}' by"):
        next_times(times, 2, "t")


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ((70, "t", ""), "'{}', column 't', row 71: no value; every row needs its time"),
        ((70, "t", "68"), "'{}', column 't', row 71: '68' does not come after '70'; leave one row a time"),
        ((78, "y", "1e39"), "'{}', column 'y', row 79: 1e+39 is too far from the values of the training rows"),
    ],
    ids=["missing", "falling", "too large"],
)
def test_the_end_of_a_series_to_predict_from_is_refused_with_the_row_in_the_file(tmp_path, changed, cause):
    columns = {"t": [str(row + 1) for row in range(80)], "y": [str(row % 9) for row in range(80)]}
    path = write_columns(tmp_path, **columns)
    data = series(path, "y", time="t", window=5, horizon=3)
    row, column, value = changed
    columns[column][row] = value
    write_columns(tmp_path, **columns)
    causes = []
    fitted = Fitted(data.facts, data.preprocessing)
    assert list(read_last_windows([Path(path)], fitted, lambda name, cause: causes.append(cause))) == []
    assert [each[: len(cause) + len(path) - 2] for each in causes] == [cause.format(path)]


def test_large_numbers_go_on_in_full_as_long_as_they_are_counted_in():
    assert next_times([str(2**62 + row) for row in range(9)], 1, "t") == [2**62 + 9]
    assert next_times([f"{row}e300" for row in range(9)], 1, "t") == [9e300]


@pytest.mark.parametrize("large", [1e308, 1e150], ids=str)
def test_numbers_too_large_to_measure_or_to_compute_with_are_named(tmp_path, large):
    rows = [float(row % 5) for row in range(60)]
    path = write_columns(tmp_path, other=rows, value=[large if row == 3 else -row for row in rows])
    with pytest.raises(DataError, match="column 'value': its numbers are too large to take their mean"):
        series(path, "value", window=4, horizon=2)
    path = write_columns(tmp_path, value=[*rows[:-1], large])  # of the test part
    with pytest.raises(DataError, match=r"column 'value', row 60 \(line 61\): 1e\+\d+ is too far"):
        series(path, "value", window=4, horizon=2)
    path = write_columns(tmp_path, other=[large if row == 3 else row for row in rows], value=rows)
    with pytest.raises(DataError, match="column 'other': its numbers are too large"):
        table(path, "value", task="regression", val_fraction=0, test_fraction=0)
