"""Time series: windows against closed forms, nothing of the future in the past, and what a bad file gets told."""

import csv
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from dltrain.data.base import Data, Samples
from dltrain.data.bundled import sunspots
from dltrain.data.series import series
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


@pytest.mark.parametrize("options", [{"window": 0}, {"horizon": 0}, {"window": 2.5}, {"test_fraction": 1}])
def test_sizes_that_no_window_can_have_are_refused(counted, options):
    with pytest.raises(ConfigError, match=r"dataset\.window and dataset\.horizon|fraction"):
        counted(**options)


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
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in fragments:
        assert fragment in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
