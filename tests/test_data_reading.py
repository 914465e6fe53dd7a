"""Tables and series as people's programs write them: every spelling of a file is read alike, by training and later."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from dltrain.data.base import Data, Fitted
from dltrain.data.inputs import read_inputs
from dltrain.data.series import series
from dltrain.data.table import table
from dltrain.data.tables.encoder import TableEncoder
from dltrain.errors import ConfigError, DataError, UserError

WHOLE = {"val_fraction": 0, "test_fraction": 0}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Data]:
    """The data set of a file of this content; all of it is for training."""

    def read_it(content: str | bytes | pl.DataFrame, target: str = "y", of: Any = table, **options: Any) -> Data:
        if isinstance(content, pl.DataFrame):
            content.write_parquet(tmp_path / "t.parquet")
            return of(str(tmp_path / "t.parquet"), target, **WHOLE, **options)
        (tmp_path / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
        return of(str(tmp_path / "t.csv"), target, **WHOLE, **options)

    return read_it


@pytest.fixture
def predicted(tmp_path: Path) -> Callable[..., tuple[torch.Tensor, list[tuple[str, str]]]]:
    """What predictions of a run on ``data`` are made from, for a file of this content, and what is wrong with it."""

    def inputs_of(data: Data, content: str | bytes | None = None, name: str = "t.csv", **stored: Any) -> Any:
        if content is not None:
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        bad: list[tuple[str, str]] = []
        fitted = Fitted(data.facts, {**data.preprocessing, **stored})
        pieces, _ = read_inputs([str(tmp_path / name)], fitted, 64, lambda name, cause: bad.append((name, cause)))
        batches = [inputs for piece in pieces for _, inputs in piece]
        told = [(name.removeprefix(f"{tmp_path}/"), cause) for name, cause in bad]
        return torch.cat(batches) if batches else torch.empty(0), told

    return inputs_of


def values(data: Data) -> list[float]:
    """The targets of a regression as the file has them, to six digits."""
    targets = data.train.take(torch.arange(len(data.train)))[1][:, 0].double()
    return [float(f"{value:.6g}") for value in targets * data.facts.target_std + data.facts.target_mean]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def rows(*columns: list) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


# A file without a header

_rng = np.random.default_rng(0)
COUNTS, SIZES = _rng.integers(0, 12, 60).tolist(), _rng.normal(30, 5, 60).round(1).tolist()
KINDS = ["Iris-setosa", "Iris-virginica", "Iris-setosa"] * 20
WITHOUT_HEADER = {
    "numbers": rows(COUNTS, SIZES, [row % 2 for row in range(60)]),
    "numbers and classes": rows(COUNTS, SIZES, KINDS),
    "two numbers that rise, among words": rows([5] * 60, [7] * 60, KINDS, ["a", "b"] * 30, ["no", "yes"] * 30),
    "a missing value, numbers that rise and words": rows(["", *COUNTS[1:]], [3] * 60, KINDS, [5] * 60, KINDS),
    "words": rows(["low", "high", "med"] * 20, ["a", "b"] * 30, ["yes", "no"] * 30),
    "numbers that come again": rows([0] * 60, [0, 5] * 30, [0, 1] * 30),
    "missing values in its first row": rows(["?", *COUNTS[1:]], SIZES, KINDS),
}


@pytest.mark.parametrize("content", WITHOUT_HEADER.values(), ids=WITHOUT_HEADER)
def test_a_first_row_of_data_is_not_taken_for_names(read, content):
    with pytest.raises(DataError, match=r"first row looks like data.*'dataset\.header=false'.*column_3"):
        read(content, content.splitlines()[0].split(",")[2])
    data = read(content, "column_3", header=False)
    assert len(data.train) == 60
    columns = {name.split("=")[0].removesuffix(" is missing") for name in data.facts.feature_names}
    assert columns <= {"column_1", "column_2", "column_4", "column_5"}


WITH_HEADER = {
    "years": "2020,2021,y\n" + rows([1, 2, 3], [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]),
    "years alone, above numbers of their size": "2020,2021,2022\n" + rows(*[[1500, 2500, 2000] * 9] * 3),
    "four numbers from 0": "0,1,2,3\n" + rows(*[COUNTS] * 4),
    "an index and a series of pandas": ",0\n" + rows(list(range(60)), COUNTS),
    "numbers from 0, as pandas writes them": "0,1,2,3,4,y\n" + rows(*[SIZES] * 5, SIZES),
    "an index without a name": ",0,1,y\n" + rows(list(range(60)), SIZES, COUNTS, SIZES),
    "words above words": "colour,shape,y\n" + rows(["red", "blue"] * 9, ["a", "b"] * 9, ["n", "m"] * 9),
    "a number above words": "1,2,y\n" + rows(["red", "blue"] * 9, ["a", "b"] * 9, ["n", "m"] * 9),
}


@pytest.mark.parametrize("content", WITH_HEADER.values(), ids=WITH_HEADER)
def test_names_that_are_numbers_or_empty_are_names(read, content):
    data = read(content, content.splitlines()[0].split(",")[-1])
    assert len(data.train) == content.count("\n") - 1
    assert data.preprocessing["header"] is True


def test_the_user_has_the_last_word_on_names(read):
    content = WITHOUT_HEADER["numbers"]
    name = content.splitlines()[0].split(",")[1]
    assert len(read(content, name, header=True).train) == 59


def test_predictions_read_a_file_without_a_header_as_training_did(read, predicted):
    data = read(rows([row % 2 for row in range(60)], COUNTS, SIZES), "column_1", header=False)
    whole, bad = predicted(data)
    assert bad == [] and torch.equal(whole, data.train.inputs)
    without_target, bad = predicted(data, rows(COUNTS, SIZES))
    assert bad == [] and torch.equal(without_target, data.train.inputs)
    inputs, bad = predicted(data, rows(COUNTS))
    assert len(inputs) == 0
    assert "has 1 columns, where the run's own file, which has no header either, had 3" in bad[0][1]


def test_a_series_may_have_no_header(read, predicted):
    content = rows(list(range(40)), [row**0.5 for row in range(40)])
    with pytest.raises(DataError, match=r"dataset\.header=false"):
        read(content, "column_2", series, window=3, horizon=1)
    data = read(content, "column_2", series, header=False, time="column_1", window=3, horizon=1)
    assert len(data.train) == 37
    inputs, bad = predicted(data)
    assert bad == [] and torch.equal(inputs[0], data.train.values[-3:])


def test_a_run_on_a_file_without_a_header_predicts_and_evaluates(dltrain, verb, tmp_path):
    (tmp_path / "t.csv").write_text(WITHOUT_HEADER["numbers"])
    keys = ("dataset=table", "dataset.path=t.csv", "trainer.epochs=1")
    refused = dltrain(*keys, "dataset.target=0")
    assert refused.code == 2 and "'dataset.header=false'" in refused.stderr
    run = dltrain(*keys, "dataset.target=column_3", "dataset.header=false").result["run"]
    assert len(verb("predict", run, "t.csv").stdout.splitlines()) == 61
    assert verb("evaluate", run, "split=all", "dataset.path=t.csv").result["samples"] == 60


# Names and rows


def test_quotes_in_names_are_kept_by_training_and_by_predictions(read, predicted):
    data = read('"width 12""","say ""hi""",y\n' + rows(SIZES, COUNTS, SIZES))
    assert data.facts.feature_names == ('width 12"', 'say "hi"')
    inputs, bad = predicted(data)
    assert bad == [] and torch.equal(inputs, data.train.inputs)


def test_columns_without_names_are_told_apart_by_their_places(read, predicted):
    data = read(",,y\n" + rows(SIZES, COUNTS, SIZES))
    assert data.facts.feature_names == ("", "column_2")
    assert predicted(data)[1] == []


@pytest.mark.parametrize("name", ["*", "count", "rows", "text", "literal"])
def test_no_name_of_a_column_means_anything_else(read, predicted, name):
    words = ["a", "b", "c"] * 20
    data = read(f"{name},z,y\n" + rows(words, SIZES, SIZES))
    assert data.facts.feature_names == ("z", f"{name}=a", f"{name}=b", f"{name}=c", f"{name}=other")
    inputs, bad = predicted(data)
    assert bad == [] and torch.equal(inputs, data.train.inputs)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_make_no_difference(read, predicted, end, mark):
    data = read((mark + "a,y\n" + rows(SIZES, SIZES)).replace("\n", end))
    assert (data.facts.feature_names, values(data)) == (("a",), SIZES)
    assert predicted(data)[1] == []


DAMAGE = {
    # lines instead of one row, what is wrong with the first; of those behind it, how many are right, and how many not
    "a quote that does not end": (b'"1,2', "a quoted value does not end as it should", 0, 0),
    "a quote that ends within a value": (b'"1"5,2', "a quoted value does not end as it should", 0, 0),
    "a quote that ends in another row": (b'"1,2\n3,4\n5",6,7', "a quoted value does not end as it should", 1, 1),
    "a quote that ends far below": (
        b'"1,2\n' + b"3,4\n" * 20 + b'5",6',
        "a quoted value does not end as it should: it takes in 21 rows",
        20,
        1,
    ),
    "a value without end": (b"1" * 140_000 + b",2", "or is longer than 131,072 characters", 0, 0),
    "a byte that is no text": (b"\xe9,2", "this is not UTF-8 text; save the file as UTF-8", 0, 0),
    "a field too many": (b"1,2,3", "3 fields, where the header has 2", 0, 0),
}


@pytest.mark.parametrize(("row", "cause", "others", "faults"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_row_is_named_and_costs_no_other(read, predicted, row, cause, others, faults):
    lines = [f"{number / 2},{number % 2}".encode() for number in range(1500)]
    data = read("a,y\n" + rows(COUNTS, [row % 2 for row in range(60)]))
    damaged = b"a,y\n" + b"\n".join([*lines[:1199], row, *lines[1199:]]) + b"\n"
    with pytest.raises(DataError, match=rf"row 1200 \(line 1201\): .*{cause}"):
        read(damaged)
    inputs, bad = predicted(data, damaged)
    assert bad[0][0] == "t.csv, row 1200" and cause in bad[0][1]
    assert len(inputs) == 1500 + others
    assert len(bad) == 1 + faults


def test_a_text_of_many_lines_is_a_value(read, predicted):
    texts = ['"' + "a, b, and c\nno more\n\n" * 10 + '"', '"d\n\n"', "e"] * 20
    data = read("a,z,y\n" + rows(texts, SIZES, SIZES))
    assert data.facts.feature_names[:2] == ("z", "a=" + texts[0].strip('"').strip())
    assert predicted(data)[1] == []


# Numbers

PRICES = [2700, 993, 15500, 1049, 480, 7300, 120, 3480, 9999, 61250] * 6


def written(number: float, decimal: str, thousands: str, digits: int) -> str:
    return f"{number:,.{digits}f}".translate(str.maketrans({",": thousands, ".": decimal}))


@pytest.mark.parametrize("separator", [",", ";"])
def test_commas_before_three_digits_alone_are_refused_until_they_are_explained(read, predicted, separator):
    lines = [f'{size}{separator}"{price:,}"\n' for size, price in zip(SIZES, PRICES, strict=True)]
    content = f"a{separator}y\n" + "".join(lines)
    with pytest.raises(DataError, match=r"column 'y'.*'2,700' may be 2\.7 .*decimal=\",\".* or 2700 .*thousands=\",\""):
        read(content, separator=separator)
    data = read(content, separator=separator, task="regression", thousands=",")
    assert data.facts.task == "regression" and values(data) == PRICES
    inputs, bad = predicted(data)
    assert bad == [] and torch.equal(inputs, data.train.inputs)
    assert (
        values(read(content, separator=separator, task="regression", decimal=".")) == PRICES
    )  # a point leaves commas one meaning
    as_decimals = read(content.replace(".", ""), separator=separator, task="regression", decimal=",")
    assert values(as_decimals) == pytest.approx([p if p < 1000 else p / 1000 for p in PRICES], rel=1e-4)


def test_points_that_seem_to_part_thousands_are_warned_of(read, caplog):
    prices = [*PRICES, *range(1200, 1260, 7)]
    content = "a,y\n" + rows(prices, [f"{price:,}".replace(",", ".") for price in prices])
    read(content)
    (message,) = [text for text in warnings(caplog) if "column 'y'" in text]
    assert "'2.700' is read as 2.7, and '993' is there too" in message and "'dataset.thousands=\".\"'" in message
    assert values(read(content, thousands=".", task="regression")) == prices
    caplog.clear()
    for decimals in ([f"{price / 1000:.3f}" for price in prices], [f"{price / 1000:g}" for price in prices]):
        read("a,y\n" + rows(decimals, decimals))
    read(content, decimal=".")
    assert not [text for text in warnings(caplog) if "thousands" in text]


NOTATIONS = [
    # decimal mark, mark of thousands, digits behind the decimal mark, the dialect recognised
    (",", "", 2, (",", "")),
    (",", ".", 2, (",", ".")),
    (".", ",", 2, (".", ",")),
    (",", " ", 1, (",", " ")),
    (".", "'", 2, (".", "'")),
    (",", "\u202f", 2, (",", "\u202f")),
]


@pytest.mark.parametrize(("decimal", "thousands", "digits", "recognised"), NOTATIONS)
def test_marks_that_can_mean_one_thing_are_recognised_and_kept_for_predictions(
    read, predicted, caplog, decimal, thousands, digits, recognised
):
    caplog.set_level(logging.INFO)
    numbers = [price + 0.25 for price in PRICES]
    plain = read("a;y\n" + rows(numbers, numbers).replace(",", ";"), separator=";")
    texts = [written(number, decimal, thousands, digits) for number in numbers]
    data = read("a;y\n" + "".join(f"{text};{text}\n" for text in texts), separator=";")
    assert (data.preprocessing["decimal"], data.preprocessing["thousands"]) == recognised
    assert "in a, y" in caplog.text
    if digits == 2:
        assert data.facts == plain.facts and torch.equal(data.train.inputs, plain.train.inputs)
    inputs, bad = predicted(data)
    assert bad == [] and torch.equal(inputs, data.train.inputs)
    one, bad = predicted(data, f"a\n{texts[0]}\n{texts[1]}\n")
    assert bad == [] and torch.equal(one, data.train.inputs[:2])


def test_columns_that_write_numbers_differently_are_refused(read):
    content = "a;b;y\n" + "".join(f"{row}.5;{row},25;{row % 2}\n" for row in range(40))
    with pytest.raises(DataError, match=r"different ways \('0,25' in 'b', '0\.5' in 'a'\)"):
        read(content, separator=";")
    assert read(content, separator=";", ignore=["b"]).preprocessing["decimal"] == "."


def test_a_decimal_comma_read_once_is_read_in_every_later_file(dltrain, verb, tmp_path):
    lines = "".join(f"{number:.2f};{2 * number + 1:.2f}\n".replace(".", ",") for number in SIZES)
    (tmp_path / "t.csv").write_text("x;y\n" + lines)
    keys = ("dataset=table", "dataset.path=t.csv", "dataset.target=y", 'dataset.separator=";"')
    run = dltrain(*keys, "trainer.epochs=1").result["run"]
    assert len(verb("predict", run, "t.csv").stdout.splitlines()) == 61
    (tmp_path / "points.csv").write_text("x\n" + rows(SIZES))
    refused = verb("predict", run, "points.csv")
    assert refused.code == 2 and "is no finite number" in refused.stderr
    told = verb("predict", run, "points.csv", 'dataset.separator=","', "dataset.decimal=.")

    def answers(text: str) -> list[str]:
        return [line.split(",")[2] for line in text.splitlines()]

    assert answers(told.stdout) == answers(verb("predict", run, "t.csv").stdout)


def test_words_with_commas_that_an_earlier_version_learned_are_no_numbers(read, predicted):
    content = "v,x,y\n" + rows([f'"{row % 3},{row % 2}00"' for row in range(60)], SIZES, SIZES)
    with pytest.raises(DataError, match=r"different ways.*\(dataset\.categorical\)"):
        read(content)
    data = read(content, categorical=["v"])
    stored = {name: data.preprocessing[name] for name in ("numeric", "categorical", "others", "separator")}
    again = read(content, fitted=Fitted(data.facts, stored))
    assert torch.equal(again.train.inputs, data.train.inputs)
    assert predicted(data, None)[1] == []


def test_times_may_have_decimal_commas_as_other_numbers(read, predicted):
    lines = [f"{row / 10:.1f};{size}".replace(".", ",") for row, size in enumerate(SIZES)]
    data = read("t;y\n" + "\n".join(lines), of=series, time="t", separator=";", window=3, horizon=2)
    assert data.preprocessing["step"]["count"] == 0.1
    inputs, bad = predicted(data)
    assert bad == [] and torch.equal(inputs[0], data.train.values[-3:])


def test_what_runs_of_earlier_versions_stored_is_still_read(read, predicted):
    lines = "".join(f"{number};{number}\n".replace(".", ",") for number in SIZES)
    data = read("x;y\n" + lines, separator=";")
    stored = {name: data.preprocessing[name] for name in ("numeric", "categorical", "others", "separator")}
    earlier = Data(data.facts, data.train, None, None, preprocessing=stored)
    inputs, bad = predicted(earlier)
    assert bad == [] and torch.equal(inputs, data.train.inputs)
    again = read("x;y\n" + lines, fitted=Fitted(data.facts, stored))
    assert torch.equal(again.train.targets, data.train.targets)


# One value, several spellings

CODES = ["4", "5", "6"] * 20
TRUTH = [True, False] * 30


def test_codes_are_the_same_with_and_without_decimals(read, predicted):
    data = read("code,y\n" + rows(CODES, SIZES), categorical=["code"])
    assert data.facts.feature_names == ("code=4", "code=5", "code=6", "code=other")
    inputs, bad = predicted(data, "code,z\n4.0,1\n5.0,1\n06,1\n7.0,1\n")
    assert torch.equal(inputs, data.train.inputs[:3])
    assert [name for name, _ in bad] == ["t.csv, row 4"]


def test_codes_of_whole_numbers_in_floats_are_those_of_a_csv_file(read, predicted):
    data = read(pl.DataFrame({"code": [4.0, 5.0, 6.0] * 20, "y": SIZES}), categorical=["code"])
    inputs, bad = predicted(data, "code\n4\n5\n6.00\n")
    assert bad == [] and torch.equal(inputs, data.train.inputs[:3])


def test_shards_read_codes_of_any_type_as_other_files_do():
    pyarrow = pytest.importorskip("pyarrow")
    from dltrain.data.shard_files.parquet import encoded

    encoder = TableEncoder({}, {"code": ["4", "5"], "flag": ["True", "False"]})
    shard = pyarrow.table({"code": [4.0, 5.0, None, 7.0], "flag": [True, False, None, True]})
    as_text = pl.DataFrame({"code": ["4", "5", None, "7"], "flag": ["True", "False", None, "True"]})
    assert torch.equal(encoded(shard, encoder, str), encoder.encode(as_text))


def test_spellings_within_a_file_are_one_value_and_other_texts_stay_apart(read):
    data = read("code,y\n" + rows(["4", "4.0", "04", "1.1", "1.10", "4.00"] * 10, SIZES), categorical=["code"])
    assert data.facts.feature_names == ("code=4", "code=04", "code=1.1", "code=1.10", "code=other")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "0.0", "1", "1.0"] * 15, ("0", "1")),
        (["True", "true", "FALSE", "false"] * 15, ("FALSE", "True")),
        (["1.0", "2.0"] * 30, ("1.0", "2.0")),
        (["+1", "-1"] * 30, ("-1", "+1")),
    ],
)
def test_labels_are_one_class_however_they_are_spelled(read, labels, names):
    data = read("x,y\n" + rows(SIZES, labels))
    assert data.facts.class_names == names
    assert data.train.targets.bincount().tolist() == [30, 30]


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (["0", "1"] * 30, ["0.0", "1.0"] * 30),
        (["0.0", "1.0"] * 30, ["0", "1"] * 30),
        (["true", "false"] * 30, ["True", "False"] * 30),
        (["a", "b"] * 30, ["a", "b"] * 30),
    ],
)
def test_labels_of_another_file_are_the_classes_of_the_run(read, own, other):
    data = read("x,y\n" + rows(SIZES, own))
    again = read("x,y\n" + rows(SIZES, other), fitted=Fitted(data.facts, data.preprocessing))
    assert again.facts == data.facts and torch.equal(again.train.targets, data.train.targets)


def test_true_and_false_of_parquet_are_those_of_a_csv_file(read, predicted):
    data = read(pl.DataFrame({"flag": TRUTH, "y": TRUTH}))
    assert data.facts.class_names == ("false", "true")
    inputs, bad = predicted(data, "flag\nTrue\nFALSE\n")
    assert bad == [] and torch.equal(inputs, data.train.inputs[:2])
    again = read("flag,y\n" + rows(TRUTH, TRUTH), fitted=Fitted(data.facts, data.preprocessing))
    assert torch.equal(again.train.targets, data.train.targets)


def test_classes_that_an_earlier_version_told_apart_stay_apart(read):
    data = read("x,y\n" + rows(SIZES, ["0", "1"] * 30))
    facts = data.facts.__class__(**{**vars(data.facts), "class_names": ("0", "0.0", "1", "1.0"), "num_outputs": 4})
    again = read("x,y\n" + rows(SIZES, ["0", "0.0", "1", "1.0"] * 15), fitted=Fitted(facts, data.preprocessing))
    assert again.train.targets.tolist() == [0, 1, 2, 3] * 15


# What counts as missing

STATES = ["None", "mild", "NA", "severe"] * 15


def test_words_that_count_as_missing_are_named_where_they_cost_rows(read, caplog):
    assert len(read("x,y\n" + rows(SIZES, STATES)).train) == 30
    assert "30 rows without a value of 'y' are left out, 15 'NA', 15 'None' among them" in caplog.text.replace(
        "15 'None', 15 'NA'", "15 'NA', 15 'None'"
    )
    assert "'dataset.missing=[]'" in caplog.text


def test_the_user_says_what_counts_as_missing(read, predicted, caplog):
    data = read("x,y\n" + rows(SIZES, STATES), missing=[])
    assert data.facts.class_names == ("NA", "None", "mild", "severe")
    assert not warnings(caplog)
    data = read("x,w,y\n" + rows([-999, *SIZES[1:]], ["NA", "-"] * 30, SIZES), missing=["-", -999])
    assert data.facts.feature_names == ("x", "x is missing", "w=NA", "w=other")
    inputs, bad = predicted(data, "x,w\n-999.0,NA\n")
    assert bad == [] and torch.equal(inputs[0], data.train.inputs[0])


def test_numbers_that_stand_for_missing_do_so_in_parquet_files_too(read):
    data = read(pl.DataFrame({"x": [1.0, -999.0, 3.0] * 10, "n": [-999, 1, 2] * 10, "y": SIZES[:30]}), missing=[-999])
    assert data.facts.feature_names == ("x", "x is missing", "n", "n is missing")


BAD_KEYS = [
    ({"decimal": ";"}, r"dataset\.decimal must be"),
    ({"thousands": ",,"}, r"dataset\.thousands must be"),
    ({"thousands": ",", "decimal": ","}, r"dataset\.thousands must be"),
    ({"thousands": "1"}, r"dataset\.thousands must be"),
    ({"missing": "NA"}, r"dataset\.missing=\[NA\]"),
    ({"header": "no"}, r"dataset\.header must be true or false"),
]


def test_rows_to_predict_from_with_numbers_out_of_range_are_named(read, predicted):
    data = read("x,y\n" + rows([row % 7 for row in range(60)], list(range(60))), task="regression")
    inputs, faults = predicted(data, "x\n1\n1e39\n2\ninf\n-1e300\n")
    assert len(inputs) == 2
    cause = "is too far from the values of the training rows to compute with"
    assert faults == [
        ("t.csv, row 2", f"column 'x': 1e+39 {cause}"),
        ("t.csv, row 4", "column 'x' holds 'inf', which is no finite number"),
        ("t.csv, row 5", f"column 'x': -1e+300 {cause}"),
    ]


@pytest.mark.parametrize(("options", "message"), BAD_KEYS)
def test_keys_with_impossible_values_are_refused(read, options, message):
    with pytest.raises(ConfigError, match=message):
        read("x,y\n1,2\n", **options)


# Columns that had better be left out

DOUBTFUL = {
    # the name of a column, its values, what is said of it, what to type
    "an index": ("", list(range(60)), "numbers the rows", "'dataset.ignore=[\"\"]'"),
    "numbers from 1": ("id", list(range(1, 61)), "numbers the rows", "'dataset.ignore=[id]'"),
    "a code a row": ("no 1", [7919 * row % 104729 for row in range(60)], "numbers the rows", '["no 1"]'),
    "free text": ("note", [f"text {row % 55}" for row in range(60)], "is free text", "'dataset.ignore=[note]'"),
    "dates": ("when", [f"2024-01-{row % 9 + 1:02}" for row in range(60)], "holds dates", "'dataset.ignore=[when]'"),
    "months": ("when", [f"2024-{row % 9 + 1:02}" for row in range(60)], "holds dates", "'dataset.ignore=[when]'"),
    "dates as written": ("when", [f"{row % 9 + 1}.1.24" for row in range(60)], "holds dates", "dataset.ignore"),
}


@pytest.mark.parametrize(("name", "column", "said", "to_type"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_should_hardly_be_learned_from_is_warned_of(read, caplog, name, column, said, to_type):
    read(f"{name},x,y\n" + rows(column, SIZES, SIZES))
    (message,) = warnings(caplog)
    assert f"column '{name}' {said}" in message and to_type in message
    caplog.clear()
    read(f"{name},x,y\n" + rows(column, SIZES, SIZES), ignore=[name])
    assert not warnings(caplog)


def test_nothing_is_said_of_usual_columns(read, caplog):
    read("x,word,n,version,y\n" + rows(SIZES, ["a", "b"] * 30, COUNTS, ["1.12.0", "1.2.3"] * 30, SIZES))
    assert not warnings(caplog)


@pytest.mark.parametrize("name", ["Month", "the month"])
def test_a_table_of_a_date_and_a_number_is_sent_to_series(read, tmp_path, name):
    months = [f"{1949 + row // 12}-{row % 12 + 1:02}" for row in range(60)]
    with pytest.raises(UserError) as raised:
        read(f"{name},Passengers\n" + rows(months, SIZES), "Passengers")
    time = f"'dataset.time=\"{name}\"'" if " " in name else f"dataset.time={name}"
    path = f"dataset.path={tmp_path}/t.csv"
    assert str(raised.value).endswith(
        f"has no column to predict 'Passengers' from; if its rows follow each other in time, forecast it: dltrain"
        f" dataset=series {path} dataset.target=Passengers {time}"
    )


@pytest.mark.parametrize(
    ("separator", "options", "told"),
    [
        (";", {}, "'dataset.separator=\";\"'"),
        ("\t", {}, "'dataset.separator=\"\\t\"'"),
        (",", {"header": False}, "dataset.header=false"),
        (";", {"thousands": ","}, "'dataset.separator=\";\"' 'dataset.thousands=\",\"'"),
    ],
)
def test_the_series_that_a_table_is_sent_to_is_read_alike(read, separator, options, told):
    number = "{:,}" if "thousands" in options else "{}"
    lines = [f"{1949 + row // 12}-{row % 12 + 1:02}{separator}{number.format(1000 + row)}" for row in range(60)]
    target = "column_2" if options.get("header") is False else "n"
    content = "\n".join(lines if target == "column_2" else [f"t{separator}n", *lines])
    with pytest.raises(UserError) as raised:
        read(content, target, separator=separator, **options)
    assert str(raised.value).endswith(told)


def test_many_columns_are_read(read):
    """Some time ago each of them cost as much as there are columns."""
    names = ",".join(f"f{place}" for place in range(3000))
    data = read(f"{names},y\n" + "".join(f"{','.join([str(size)] * 3000)},{size}\n" for size in SIZES[:6]))
    assert data.facts.input_shape == (3000,)
