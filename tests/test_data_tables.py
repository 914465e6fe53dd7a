"""Tables against scikit-learn and closed forms, and what is said about a file that cannot be read."""

import logging
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from dltrain.data.base import Data, Samples
from dltrain.data.bundled import diabetes
from dltrain.data.table import table
from dltrain.errors import ConfigError, DataError, UserError

WHOLE = {"val_fraction": 0, "test_fraction": 0}


def everything(part: Samples | None) -> tuple[Tensor, Tensor]:
    assert part is not None
    return part.take(torch.arange(len(part)))


def parts(data: Data) -> list[Samples]:
    return [part for part in (data.train, data.val, data.test) if part is not None]


def original(data: Data, part: Samples | None) -> Tensor:
    """The targets of a regression in the units of the file (rows,)."""
    return everything(part)[1][:, 0].double() * data.facts.target_std + data.facts.target_mean


def row_numbers(data: Data, part: Samples | None) -> list[int]:
    """The rows of a part, where the target of row ``i`` is ``i``."""
    return original(data, part).round().int().tolist()


def write(folder: Path, text: str, encoding: str = "utf-8", name: str = "t.csv") -> str:
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


def write_columns(folder: Path, name: str = "t.csv", **columns: list) -> str:
    frame = pl.DataFrame(columns)
    frame.write_csv(folder / name) if name.endswith(".csv") else frame.write_parquet(folder / name)
    return str(folder / name)


def features(data: Data, part: Samples | None = None) -> dict[str, list[float]]:
    """Each feature of a part, the training part if none is named, by its name."""
    inputs = everything(part or data.train)[0]
    return dict(zip(data.facts.feature_names, inputs.T.tolist(), strict=True))


def standardised(values: list[float]) -> list[float]:
    return pytest.approx(((np.array(values) - np.mean(values)) / np.std(values)).tolist(), abs=1e-6)


# diabetes


def test_the_targets_of_diabetes_are_those_of_scikit_learn():
    data = diabetes(**WHOLE)
    expected = load_diabetes(scaled=False).target
    np.testing.assert_allclose(original(data, data.train).numpy(), expected, rtol=1e-5)


def test_the_numbers_of_diabetes_are_those_of_scikit_learn_standardised():
    found, expected = features(diabetes(**WHOLE)), load_diabetes(scaled=False)
    names = ["age", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu"]
    for name, column in zip(names, expected.data.T[[0, *range(2, 10)]], strict=True):
        np.testing.assert_allclose(found[name], (column - column.mean()) / column.std(), atol=1e-5)


def test_sex_is_a_category_in_diabetes():
    found, column = features(diabetes(**WHOLE)), load_diabetes(scaled=False).data[:, 1]
    categories = {name: values for name, values in found.items() if name.startswith("sex=") and any(values)}
    assert sorted(sum(values) for values in categories.values()) == sorted(np.unique(column, return_counts=True)[1])


def test_diabetes_states_its_facts():
    data = diabetes()
    assert (data.facts.name, data.facts.task, data.facts.kind) == ("diabetes", "regression", "table")
    assert data.facts.target_name == "progression"
    assert (data.facts.num_outputs, data.facts.class_names) == (1, ())
    assert data.facts.input_shape == (len(data.facts.feature_names),)
    assert [len(part) for part in parts(data)] == [319, 35, 88]


# Which row is in which part


def numbered(folder: Path, rows: int = 100, **columns: list) -> str:
    return write_columns(folder, x=[float(7 * row % 10) for row in range(rows)], **columns, y=list(range(rows)))


def test_every_row_is_in_exactly_one_part(tmp_path):
    data = table(numbered(tmp_path), "y")
    assert [len(part) for part in parts(data)] == [72, 8, 20]
    assert sorted(row for part in parts(data) for row in row_numbers(data, part)) == list(range(100))


def test_the_split_is_the_same_on_every_call_whatever_the_seed_of_torch(tmp_path):
    path = numbered(tmp_path)
    torch.manual_seed(1)
    first = table(path, "y")
    torch.manual_seed(2)
    second = table(path, "y")
    assert [row_numbers(first, part) for part in parts(first)] == [row_numbers(second, part) for part in parts(second)]


def test_the_split_seed_chooses_another_split(tmp_path):
    first, second = (table(numbered(tmp_path), "y", split_seed=seed) for seed in (0, 1))
    assert row_numbers(first, first.test) != row_numbers(second, second.test)


def test_each_class_gives_its_share_to_each_part(tmp_path):
    path = write_columns(tmp_path, x=list(range(100)), y=["rare"] * 10 + ["common"] * 90)
    counts = [torch.bincount(everything(part)[1]).tolist() for part in parts(table(path, "y"))]
    assert counts == [[65, 7], [7, 1], [18, 2]]


def test_limit_bounds_every_part_and_keeps_rows_of_that_part(tmp_path):
    path = numbered(tmp_path)
    whole, few = table(path, "y"), table(path, "y", limit=5)
    for part, short in zip(parts(whole), parts(few), strict=True):
        assert len(short) == 5
        assert set(row_numbers(few, short)) <= set(row_numbers(whole, part))


def test_without_a_validation_fraction_there_is_no_validation_part_and_its_rows_are_trained_on(tmp_path):
    path = numbered(tmp_path)
    data, other = table(path, "y", val_fraction=0), table(path, "y")
    assert data.val is None
    assert row_numbers(data, data.test) == row_numbers(other, other.test)
    assert len(data.train) == 80


def test_take_gives_the_rows_in_the_order_asked_for_with_repeats(tmp_path):
    part = table(numbered(tmp_path), "y").train
    picks = torch.tensor([5, 0, 5])
    for got, whole in zip(part.take(picks), everything(part), strict=True):
        assert torch.equal(got, whole[picks])


# What a row becomes


def test_numbers_and_the_target_are_standardised_by_the_training_rows(tmp_path):
    data = table(numbered(tmp_path), "y")
    trained = row_numbers(data, data.train)
    assert features(data)["x"] == standardised([float(7 * row % 10) for row in trained])
    assert everything(data.train)[1][:, 0].tolist() == standardised(trained)
    assert (data.facts.target_mean, data.facts.target_std) == pytest.approx((np.mean(trained), np.std(trained)))


def test_what_the_other_rows_hold_does_not_change_a_training_row(tmp_path):
    path = numbered(tmp_path, word=["a", "b"] * 50)
    before = table(path, "y")
    trained = row_numbers(before, before.train)
    frame = pl.read_csv(path)
    foreign = ~frame["y"].is_in(trained)
    changes = {"x": 1e6, "word": "unseen", "y": 10_000}
    changed = frame.with_columns(
        [pl.when(foreign).then(pl.lit(new)).otherwise(pl.col(name)).alias(name) for name, new in changes.items()]
    )
    changed.write_csv(path)
    after = table(path, "y")
    assert after.facts == before.facts
    assert everything(after.test)[0][0, 0] > 1e4
    for got, wanted in zip(everything(after.train), everything(before.train), strict=True):
        assert torch.equal(got, wanted)


def test_a_missing_number_becomes_the_mean_and_a_feature_that_says_so(tmp_path):
    path = write_columns(tmp_path, x=[1.0, None, 3.0, 8.0], y=[0.5, 1.5, 2.5, 3.5])
    found = features(table(path, "y", **WHOLE))
    mean, std = 4.0, np.std([1, 3, 8])
    assert found["x"] == pytest.approx([-3 / std, 0, -1 / std, (8 - mean) / std], abs=1e-6)
    assert found["x is missing"] == [0, 1, 0, 0]


def test_a_number_that_is_missing_outside_the_training_part_alone_becomes_the_mean(tmp_path):
    path = numbered(tmp_path)
    before = table(path, "y")
    row = row_numbers(before, before.test)[3]
    write_columns(
        tmp_path, x=[None if index == row else float(7 * index % 10) for index in range(100)], y=list(range(100))
    )
    after = table(path, "y")
    assert after.facts == before.facts
    assert everything(after.test)[0][3].tolist() == [0]


@pytest.mark.parametrize("missing", ["", " ", "NA", "N/A", "NaN", "nan", "null", "None", "?", '""'])
def test_every_usual_word_for_missing_is_read_as_missing(tmp_path, missing):
    path = write(tmp_path, f"x,w,y\n1,a,0.1\n{missing},{missing},0.2\n3,b,0.3\n")
    found = features(table(path, "y", **WHOLE))
    assert found["x is missing"] == [0, 1, 0]
    assert found["w=other"] == [0, 1, 0]


def test_a_category_is_one_feature_a_value_the_most_frequent_first_and_one_for_the_others(tmp_path):
    path = write_columns(tmp_path, w=["b", "a", "b", None], y=[0.1, 0.2, 0.3, 0.4])
    expected = {"w=b": [1, 0, 1, 0], "w=a": [0, 1, 0, 0], "w=other": [0, 0, 0, 1]}
    found = features(table(path, "y", **WHOLE))
    assert found == expected
    assert list(found) == list(expected)


def test_a_category_that_no_training_row_has_is_an_other_one(tmp_path):
    words = ["a", "b"] * 50
    path = numbered(tmp_path, word=words)
    data = table(path, "y")
    row = row_numbers(data, data.test)[2]
    numbered(tmp_path, word=[*words[:row], "unseen", *words[row + 1 :]])
    data = table(path, "y")
    found = features(data, data.test)
    assert [found[f"word={word}"][2] for word in ("a", "b", "other")] == [0, 0, 1]
    assert sum(found["word=other"]) == 1
    assert "word=unseen" not in found


def test_categories_beyond_max_categories_are_other_ones(tmp_path):
    path = write_columns(tmp_path, w=["a", "a", "b", "b", "c"], y=[0.1, 0.2, 0.3, 0.4, 0.5])
    found = features(table(path, "y", max_categories=2, **WHOLE))
    assert found == {"w=a": [1, 1, 0, 0, 0], "w=b": [0, 0, 1, 1, 0], "w=other": [0, 0, 0, 0, 1]}


def test_numbers_are_categories_where_the_user_says_so(tmp_path):
    path = write_columns(tmp_path, code=[10, 20, 10], y=[0.1, 0.2, 0.3])
    found = features(table(path, "y", categorical=["code"], **WHOLE))
    assert found == {"code=10": [1, 0, 1], "code=20": [0, 1, 0], "code=other": [0, 0, 0]}


def test_columns_to_ignore_are_no_features_whatever_they_hold(tmp_path):
    path = write(tmp_path, "x,note,y\n1,1,0.1\n2,2,0.2\n3,3,0.3\n4,oops,0.4\n")
    assert table(path, "y", ignore=["note"], **WHOLE).facts.feature_names == ("x",)


def test_a_constant_column_becomes_zero(tmp_path):
    path = write_columns(tmp_path, x=[0.1] * 7, y=[float(row) for row in range(7)])
    assert features(table(path, "y", **WHOLE)) == {"x": pytest.approx([0] * 7, abs=1e-9)}


def test_a_constant_target_keeps_its_units(tmp_path):
    data = table(write_columns(tmp_path, x=[1, 2, 3], y=[0.7] * 3), "y", task="regression", **WHOLE)
    assert original(data, data.train).tolist() == pytest.approx([0.7] * 3)


@pytest.mark.parametrize(
    ("column", "values"), [("empty", [None] * 30), ("person", [f"name {row}" for row in range(30)])]
)
def test_a_column_that_says_nothing_is_left_out_with_a_warning(tmp_path, caplog, column, values):
    path = numbered(tmp_path, 30, **{column: values})
    assert table(path, "y").facts.feature_names == ("x",)
    assert f"column '{column}'" in caplog.text
    assert "left out" in caplog.text


def test_rows_without_a_target_are_left_out_with_a_warning(tmp_path, caplog):
    path = write_columns(tmp_path, x=[1, 2, 3, 4], y=[0.1, None, 0.3, 0.4])
    data = table(path, "y", **WHOLE)
    assert original(data, data.train).tolist() == pytest.approx([0.1, 0.3, 0.4])
    assert features(data)["x"] == standardised([1, 3, 4])
    assert "1 rows without a value of 'y' are left out" in caplog.text


# Classification or regression

TARGETS = [
    # the column, the task recognised, the classes in their order
    (["no", "yes", "no", "maybe"] * 3, "classification", ("maybe", "no", "yes")),
    ([10, 2, 10, 1] * 3, "classification", ("1", "2", "10")),
    ([0, 1] * 6, "classification", ("0", "1")),
    ([True, False] * 6, "classification", ("false", "true")),
    ([1.0, 2.0] * 6, "classification", ("1.0", "2.0")),
    ([0.5, 1.5] * 6, "regression", ()),
    (list(range(12)), "regression", ()),
    ([row // 2 for row in range(42)], "regression", ()),
    ([row // 2 for row in range(40)], "classification", tuple(map(str, range(20)))),
]


@pytest.mark.parametrize(("values", "task", "class_names"), TARGETS)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_the_task_is_recognised_by_the_target(tmp_path, caplog, values, task, class_names, name):
    path = write_columns(tmp_path, name, x=[float(row % 5) for row in range(len(values))], y=values)
    caplog.set_level(logging.INFO)
    data = table(path, "y", **WHOLE)
    assert (data.facts.task, data.facts.class_names) == (task, class_names)
    assert data.facts.num_outputs == (len(class_names) or 1)
    assert f"'y' is read as {task}" in caplog.text


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path):
    path = write_columns(tmp_path, x=[1, 2, 3, 4], y=["b", "c", "a", "b"])
    targets = everything(table(path, "y", **WHOLE).train)[1]
    assert targets.dtype == torch.int64
    assert targets.tolist() == [1, 2, 0, 1]


def test_the_user_can_have_few_whole_numbers_read_as_a_regression(tmp_path):
    path = write_columns(tmp_path, x=[1, 2, 3, 4], y=[0, 1, 1, 0])
    data = table(path, "y", task="regression", **WHOLE)
    assert (data.facts.task, data.facts.num_outputs) == ("regression", 1)
    assert everything(data.train)[1].tolist() == [[-1], [1], [1], [-1]]


def test_the_user_can_have_many_numbers_read_as_classes(tmp_path):
    path = write_columns(tmp_path, x=list(range(60)), y=[row // 2 for row in range(60)])
    assert table(path, "y", task="classification", **WHOLE).facts.num_outputs == 30


@pytest.mark.parametrize(("target", "metric"), [(["a", "b"] * 20, "accuracy"), ([0.1, 0.7] * 20, "mae")])
def test_a_table_trains_for_the_task_that_its_target_turns_out_to_have(dltrain, tmp_path, target, metric):
    write_columns(tmp_path, x=list(range(40)), y=target)
    outcome = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=y", "trainer.epochs=1")
    assert outcome.code == 0
    assert metric in outcome.result["test"]


# The file


def assert_equal_tables(one: Data, other: Data) -> None:
    assert one.facts == other.facts
    for left, right in zip(parts(one), parts(other), strict=True):
        for got, wanted in zip(everything(left), everything(right), strict=True):
            assert torch.equal(got, wanted)


def test_a_parquet_file_equals_the_csv_file_of_the_same_rows(tmp_path):
    columns = {
        "number": [None if row % 7 == 0 else row / 3 for row in range(50)],
        "whole": list(range(50)),
        "word": [None if row % 5 == 0 else "abc"[row % 3] for row in range(50)],
        "flag": [row % 2 == 0 for row in range(50)],
        "y": ["yes" if row % 3 else "no" for row in range(50)],
    }
    csv, parquet = write_columns(tmp_path, **columns), write_columns(tmp_path, "t.parquet", **columns)
    assert_equal_tables(table(csv, "y"), table(parquet, "y"))


PLAIN = "x,word,y\n1,a,0.1\n2,b,0.2\n4,a,0.3\n"
WRITTEN_ANOTHER_WAY = {
    "with a byte order mark": (PLAIN, "utf-8-sig"),
    "with Windows line ends": (PLAIN.replace("\n", "\r\n"), "utf-8"),
    "without a last line end": (PLAIN.rstrip("\n"), "utf-8"),
    "with quotes": (re.sub(r"([^,\n]+)", r'"\1"', PLAIN), "utf-8"),
    "with space around values and names": (PLAIN.replace(",", " , "), "utf-8"),
    "with empty rows at its end": (PLAIN + "\n,,\n", "utf-8"),
    "with empty lines above": ("\n" + PLAIN, "utf-8"),
}


@pytest.mark.parametrize(("text", "encoding"), WRITTEN_ANOTHER_WAY.values(), ids=WRITTEN_ANOTHER_WAY)
def test_a_csv_file_written_another_way_is_the_same_table(tmp_path, text, encoding):
    plain = table(write(tmp_path, PLAIN), "y", name="t", **WHOLE)
    assert_equal_tables(table(write(tmp_path, text, encoding, "other.csv"), "y", name="t", **WHOLE), plain)


@pytest.mark.parametrize(("separator", "key"), [(";", ";"), ("\t", "\t"), ("\t", "\\t"), ("|", "|")])
def test_the_separator_can_be_chosen(tmp_path, separator, key):
    plain = table(write(tmp_path, PLAIN), "y", **WHOLE)
    assert_equal_tables(table(write(tmp_path, PLAIN.replace(",", separator)), "y", separator=key, **WHOLE), plain)


@pytest.mark.parametrize("separator", ["", ";;", "é"])
def test_a_separator_that_is_no_single_character_is_refused(tmp_path, separator):
    with pytest.raises(ConfigError, match=r"dataset\.separator"):
        table(write(tmp_path, PLAIN), "y", separator=separator)


def test_a_quoted_value_may_hold_separators_quotes_and_line_breaks(tmp_path):
    path = write(tmp_path, 'w,y\n"a,b\nc",0.1\n"say ""hi""",0.2\n"a,b\nc",0.3\n')
    assert table(path, "y", **WHOLE).facts.feature_names == ("w=a,b\nc", 'w=say "hi"', "w=other")


@pytest.mark.parametrize("separator", [",", ";"])
def test_the_line_of_a_bad_value_counts_the_line_breaks_within_values(tmp_path, separator):
    path = write(tmp_path, 'x,w,y\n1,"a\nb\nc",1\n2,b,2\n\n3,c,3\noops,d,4\n5,e,5\n'.replace(",", separator))
    with pytest.raises(DataError, match=r"column 'x', row 5 \(line 8\): 'oops' is not a finite number"):
        table(path, "y", separator=separator)


def test_values_that_are_not_ascii_are_kept(tmp_path):
    path = write_columns(tmp_path, größe=[1, 2, 3], y=["é", "日本", "é"])
    facts = table(path, "y", **WHOLE).facts
    assert (facts.feature_names, facts.class_names) == (("größe",), ("é", "日本"))


def test_a_column_whose_name_is_a_number_can_be_the_target(tmp_path):
    path = write(tmp_path, "2020,2021\n1,0.1\n2,0.2\n3,0.3\n")
    assert table(path, 2021, **WHOLE).facts.target_name == "2021"


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5])
def test_a_fraction_that_leaves_nothing_is_refused(tmp_path, fraction):
    with pytest.raises(ConfigError, match="fraction"):
        table(write(tmp_path, PLAIN), "y", test_fraction=fraction)


def test_a_column_of_a_parquet_file_that_holds_lists_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"x": [[1], [2], [3]], "y": [0.1, 0.2, 0.3]}).write_parquet(path)
    with pytest.raises(DataError, match=r"column 'x' is of type List.*dataset\.ignore=\[x\]"):
        table(str(path), "y")


# Bad input

ROWS = "".join(f"{row},{row % 3},{row / 4}\n" for row in range(2, 30))
GOOD = f"a,b,y\n{ROWS}"
REFUSED_TABLES = {
    # what is wrong: the content of t.csv, further options, fragments that the message must have
    "missing ignored column": (GOOD, {"ignore": ["q"]}, ["dataset.ignore", "t.csv", "no column 'q'"]),
    "missing categorical column": (GOOD, {"categorical": ["q"]}, ["dataset.categorical", "no column 'q'"]),
    "a word for a list": (GOOD, {"ignore": "a"}, ["dataset.ignore=[a]"]),
    "a text target for a regression": (
        "a,y\n1,x\n2,y\n3,x\n",
        {"task": "regression"},
        ["column 'y', row 1 (line 2)", "dataset.task=classification"],
    ),
    "a number that is not finite": (GOOD + "9,1e999,1\n", {}, ["column 'b', row 29 (line 30)", "'1e999'"]),
    "a row too short amid others": ("a,b,y\n1,2\n" + ROWS, {}, ["row 1 (line 2): 2 fields"]),
    "a column twice but for space": ("a, a,y\n" + ROWS, {}, ["2 columns named 'a'"]),
    "two rows": ("a,b,y\n1,2,3\n4,5,6\n", {}, ["t.csv", "2 rows", "at least 3"]),
    "a target that is never there": ("a,y\n1,\n2,\n3,\n", {}, ["t.csv", "0 rows with a value of 'y'"]),
    "no column but the target": ("y\n1\n2\n3\n", {}, ["t.csv", "no column to predict 'y' from"]),
    "a single class": ("a,y\n1,x\n2,x\n3,x\n", {}, ["column 'y'", "at least two classes", "'x'"]),
    "a class a row": (
        "a,y\n" + "".join(f"1,n{row}\n" for row in range(30)),
        {},
        ["column 'y'", "each of its 30 values", "dataset.target"],
    ),
}


@pytest.mark.parametrize(("content", "options", "fragments"), REFUSED_TABLES.values(), ids=REFUSED_TABLES)
def test_what_cannot_be_trained_on_is_refused_with_its_cause(tmp_path, content, options, fragments):
    with pytest.raises(UserError) as raised:
        table(write(tmp_path, content), "y", **options)
    for fragment in fragments:
        assert fragment in str(raised.value)


BAD_TABLES = {
    # what is wrong: the content of t.csv, further words of the user, fragments that the one message must have
    "missing target column": (
        GOOD,
        ["dataset.target=Z"],
        ["dataset.target", "t.csv", "no column 'Z'", "'a', 'b', 'y'"],
    ),
    "target column misspelt": (GOOD, ["dataset.target=Y"], ["no column 'Y'", "did you mean 'y'?"]),
    "text in a numeric column": (GOOD + "9,ten,1.5\n", [], ["t.csv", "column 'b', row 29 (line 30)", "'ten'"]),
    "text in a numeric target": (GOOD + "9,1,high\n", [], ["t.csv", "column 'y', row 29 (line 30)", "'high'"]),
    "a row too short": (GOOD + "9,1\n", [], ["t.csv", "row 29 (line 30): 2 fields", "header has 3"]),
    "a row too long": (GOOD + "9,1,2,3\n", [], ["t.csv", "row 29 (line 30): 4 fields", "header has 3"]),
    "a column twice": ("a,a,y\n" + ROWS, [], ["t.csv", "2 columns named 'a'"]),
    "a quote that does not end": (GOOD + '9,"1,2\n', [], ["t.csv", "row 29", "quoted value"]),
    "an empty file": ("", [], ["t.csv", "empty"]),
    "a header alone": ("a,b,y\n", [], ["t.csv", "no rows"]),
    "another separator": (GOOD.replace(",", ";"), [], ["t.csv", "no column 'y'", "dataset.separator"]),
}


def assert_one_message(outcome, fragments: list[str]) -> None:
    assert outcome.code == 2
    assert outcome.result["status"] == "invalid"
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in fragments:
        assert fragment in outcome.stderr


@pytest.mark.parametrize(("content", "words", "fragments"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_gets_one_message_exit_2_and_leaves_nothing(dltrain, tmp_path, content, words, fragments):
    write(tmp_path, content)
    assert_one_message(dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=y", *words), fragments)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


BAD_FILES = [
    # the name and the bytes of the file, fragments that the one message must have
    ("latin.csv", "a,y\n1,2\n3,é\n".encode("latin-1"), ["latin.csv", "line 3", "UTF-8"]),
    ("header.csv", "größe,y\n1,2\n3,4\n".encode("latin-1"), ["header.csv", "line 1", "UTF-8"]),
    ("wide.csv", "a,y\n1,2\n".encode("utf-16"), ["wide.csv", "line 1", "UTF-8"]),
    ("book.xlsx", b"PK\x03\x04\xff\xfe\x00", ["book.xlsx", "UTF-8"]),
    ("cut.parquet", b"PAR1\x00\x00", ["cut.parquet", "cannot be read"]),
    ("text.parquet", b"a,y\n1,2\n3,4\n5,6\n7,8\n", ["text.parquet", "cannot be read"]),
]


@pytest.mark.parametrize(("name", "content", "fragments"), BAD_FILES, ids=[row[0] for row in BAD_FILES])
def test_a_file_that_is_no_table_is_named(dltrain, tmp_path, name, content, fragments):
    (tmp_path / name).write_bytes(content)
    assert_one_message(dltrain("dataset=table", f"dataset.path={name}", "dataset.target=y"), fragments)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_parquet_file_that_polars_panics_over_is_named(dltrain, tmp_path):
    path = tmp_path / "t.parquet"
    frame = pl.DataFrame({"x": ["red", "blue"] * 20, "y": [0, 1] * 20})
    frame.write_parquet(path, compression="uncompressed", statistics=False)
    content = bytearray(path.read_bytes())
    content[53] ^= 0x55
    path.write_bytes(content)
    outcome = dltrain("dataset=table", "dataset.path=t.parquet", "dataset.target=y")
    assert_one_message(outcome, ["t.parquet", "cannot be read"])


@pytest.mark.parametrize(("path", "told"), [("no.csv", "no such file"), (".", "that is a folder")])
def test_a_path_that_is_no_file_is_named(dltrain, tmp_path, path, told):
    outcome = dltrain("dataset=table", f"dataset.path={path}", "dataset.target=y")
    assert_one_message(outcome, [f"dataset.path='{path}' (command line)", told])
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_file_names_the_row_of_a_bad_value_without_a_line(dltrain, tmp_path):
    write_columns(tmp_path, "t.parquet", a=["1", "2", "3", "x"], y=[0.1, 0.2, 0.3, 0.4])
    outcome = dltrain("dataset=table", "dataset.path=t.parquet", "dataset.target=y")
    assert_one_message(outcome, ["t.parquet', column 'a', row 4: 'x' is not a finite number"])


def test_decimal_commas_under_another_separator_are_numbers(tmp_path):
    rows = [(number * 0.5, number % 3) for number in range(40)]
    (tmp_path / "point.csv").write_text("x,y\n" + "".join(f"{x},{y}.25\n" for x, y in rows))
    comma = "".join(f"{x};{y}.25\n" for x, y in rows).replace(".", ",")
    (tmp_path / "comma.csv").write_text("x;y\n" + comma)
    point = table(str(tmp_path / "point.csv"), "y")
    other = table(str(tmp_path / "comma.csv"), "y", separator=";")
    assert other.facts.task == "regression"
    everything = torch.arange(len(point.train))
    for one, two in zip(point.train.take(everything), other.train.take(everything), strict=True):
        assert torch.equal(one, two)


def test_commas_in_text_stay_as_they_are(tmp_path):
    (tmp_path / "t.csv").write_text("x;y\n" + "".join(f"{'1,5' if n % 2 else 'a,b'};{n % 2}\n" for n in range(20)))
    assert table(str(tmp_path / "t.csv"), "y", separator=";").facts.feature_names == ("x=1,5", "x=a,b", "x=other")


def test_text_among_the_numbers_of_a_target_is_refused_unless_they_are_classes(tmp_path):
    rows = "".join(f"{n},{'l' if n == 30 else n % 2}\n" for n in range(60))
    (tmp_path / "t.csv").write_text(f"x,y\n{rows}")
    with pytest.raises(DataError, match=r"column 'y', row 31 .*'l' .*dataset\.task=classification"):
        table(str(tmp_path / "t.csv"), "y")
    assert table(str(tmp_path / "t.csv"), "y", task="classification").facts.class_names == ("0", "1", "l")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("column", ["x", "y"])
@pytest.mark.parametrize("part", ["val", "test"])
def test_a_number_too_far_from_the_training_rows_is_named_with_its_row(tmp_path, name, column, part):
    columns = {"x": [float(row % 7) for row in range(60)], "y": [float(row) for row in range(60)]}
    data = table(write_columns(tmp_path, name, **columns), "y", task="regression")
    row = row_numbers(data, getattr(data, part))[0]
    columns[column][row] = 1e39
    where = rf"column '{column}', row {row + 1}{rf' .line {row + 2}.' if name == 't.csv' else ''}: 1e\+39 is too far"
    with pytest.raises(DataError, match=where):
        table(write_columns(tmp_path, name, **columns), "y", task="regression")
