"""``dltrain predict``: rows that agree with the test part, formats, broken inputs, and what cannot be predicted."""

import csv
import io
import json
import os
import re
import shutil
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from made import on_terminal, write_images, write_table
from PIL import Image

from dltrain.data.bundled import digits, sunspots
from dltrain.data.inputs import find_files
from dltrain.data.tables.times import next_times
from dltrain.errors import DataError
from dltrain.runs import checkpoint
from dltrain.trained.loaded import load_run

SHORT = ("trainer.epochs=2", "dataset.limit=300")


def rows_of(outcome):
    assert outcome.code == 0, outcome.stderr
    return list(csv.DictReader(io.StringIO(outcome.stdout)))


def write_digits(folder, images, scale):
    folder.mkdir()
    for number, image in enumerate(images):
        pixels = (image[0].int() * scale).clamp(max=255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{number:04}.png")


@pytest.mark.parametrize("scale", [1, 16], ids=["values 0 to 16", "values 0 to 255"])
def test_digits_as_png_files_get_the_classes_that_their_tensors_get(dltrain, verb, tmp_path, scale):
    run = dltrain(*SHORT).result["run"]
    data = digits()
    images, labels = data.test.take(torch.arange(len(data.test)))
    write_digits(tmp_path / "png", images, scale)
    loaded = load_run(run)
    with torch.inference_mode():
        expected = loaded.model(loaded.transform(images)).softmax(1)
    rows = rows_of(verb("predict", run, "png"))
    assert [int(row["class"]) for row in rows] == expected.argmax(1).tolist()
    found = torch.tensor([[float(row[f"p_{name}"]) for name in range(10)] for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert np.mean([int(row["class"]) for row in rows] == labels.numpy()) > 0.5


def test_predictions_of_the_test_images_have_the_accuracy_of_the_test_part(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos", classes=("dark", "grey", "light"), parts=("train", "test"), step=40)
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=2").result
    rows = rows_of(verb("predict", run["run"], "photos/test"))
    right = [row["class"] == row["input"].split("/")[2] for row in rows]
    assert np.mean(right) == run["test"]["accuracy"]
    assert all(float(row["confidence"]) == max(float(row[f"p_{n}"]) for n in ("dark", "grey", "light")) for row in rows)


def test_predictions_of_rows_have_the_errors_of_the_test_part_in_original_units(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv", target="y")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=y", "trainer.epochs=2").result["run"]
    table = pl.read_csv(tmp_path / "t.csv")
    table.drop("y").write_csv(tmp_path / "new.csv")
    values = np.array([float(row["value"]) for row in rows_of(verb("predict", run, "new.csv"))])
    metrics = verb("evaluate", run, "split=all", "dataset.path=t.csv").result["metrics"]
    assert np.abs(values - table["y"].to_numpy()).mean() == pytest.approx(metrics["mae"], rel=1e-5)
    assert np.sqrt(np.square(values - table["y"].to_numpy()).mean()) == pytest.approx(metrics["rmse"], rel=1e-5)


def test_columns_may_come_in_another_order_with_others_between_and_as_parquet(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=2").result["run"]
    table = pl.read_csv(tmp_path / "t.csv")
    mixed = table.select("colour", pl.lit("?").alias("note"), "x")
    mixed.write_csv(tmp_path / "mixed.csv")
    mixed.write_parquet(tmp_path / "mixed.parquet")
    answers = [rows_of(verb("predict", run, name)) for name in ("t.csv", "mixed.csv", "mixed.parquet")]
    plain = [[{**row, "input": ""} for row in rows] for rows in answers]
    assert plain[0] == plain[1] == plain[2]
    assert [int(row["row"]) for row in answers[0]] == list(range(1, 91))


def test_a_category_that_training_did_not_see_is_named_and_its_row_left_out(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=2").result["run"]
    (tmp_path / "new.csv").write_text("x,colour\n0.5,purple\n0.5,red\n")
    outcome = verb("predict", run, "new.csv")
    assert outcome.code == 1 and [line.split(",")[:2] for line in outcome.stdout.splitlines()[1:]] == [["new.csv", "2"]]
    assert "new.csv, row 1: column 'colour' holds 'purple', which training rows do not: " in outcome.stderr
    (tmp_path / "none.csv").write_text("x,colour\n0.5,purple\n")
    assert verb("predict", run, "none.csv").code == 2


def test_a_category_counts_as_other_where_training_had_others(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv")
    options = ("dataset.path=t.csv", "dataset.target=kind", "dataset.max_categories=2", "trainer.epochs=2")
    run = dltrain("dataset=table", *options).result["run"]
    (tmp_path / "new.csv").write_text("x,colour\n0.5,purple\n0.5,\n" + "0.5,red\n0.5,green\n0.5,blue\n")
    purple, missing, *colours = (float(row["p_a"]) for row in rows_of(verb("predict", run, "new.csv")))
    # Equal rows of one batch may differ in their last digit, by where they stand in it.
    assert missing == pytest.approx(purple, rel=1e-6)
    assert colours.count(pytest.approx(purple, rel=1e-6)) == 1  # the rarest of the three


def test_a_series_goes_on_beyond_its_end(dltrain, verb, tmp_path):
    run = dltrain("dataset=sunspots", *SHORT).result["run"]
    from dltrain.data.bundled import _FILES

    rows = rows_of(verb("predict", run, str(_FILES / "sunspots.csv")))
    assert [row["time"] for row in rows] == [f"1984-{month:02}" for month in range(1, 13)]
    loaded, data = load_run(run), sunspots()
    with torch.inference_mode():
        outputs = loaded.model(data.test.values[-48:].unsqueeze(0))[0].double()
    expected = outputs * data.facts.target_std + data.facts.target_mean
    assert [float(row["value"]) for row in rows] == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_series_without_times_goes_on_by_the_number_of_its_rows(dltrain, verb, tmp_path):
    (tmp_path / "s.csv").write_text("v\n" + "".join(f"{50 + 40 * np.sin(n / 5)}\n" for n in range(3000)))
    keys = ("dataset=series", "dataset.path=s.csv", "dataset.target=v", "dataset.window=12", "dataset.horizon=2")
    run = dltrain(*keys, "trainer.epochs=1").result["run"]
    assert [row["time"] for row in rows_of(verb("predict", run, "s.csv"))] == ["3001", "3002"]


TIMES = {
    "months": (["2023-10", "2023-11"], ["2023-12", "2024-01", "2024-02"]),
    "first days of months": (["2023-11-01", "2023-12-01"], ["2024-01-01", "2024-02-01", "2024-03-01"]),
    "last days of months": (["2023-11-30", "2023-12-31"], ["2024-01-31", "2024-02-29", "2024-03-31"]),
    "quarters": (["2023-07-01", "2023-10-01"], ["2024-01-01", "2024-04-01", "2024-07-01"]),
    "days": (["2024-02-27", "2024-02-28"], ["2024-02-29", "2024-03-01", "2024-03-02"]),
    "hours": (["2024-01-31 22:00", "2024-01-31 23:00"], ["2024-02-01 00:00", "2024-02-01 01:00", "2024-02-01 02:00"]),
    "a gap": (
        ["2024-01-01", "2024-01-02", "2024-01-05", "2024-01-06"],
        ["2024-01-07", "2024-01-08", "2024-01-09"],
    ),
    "days as numbers": (["20240227", "20240228"], ["20240229", "20240301", "20240302"]),
    "whole numbers": (["10", "20"], [30, 40, 50]),
    "decimal numbers": (["0.1", "0.2"], [0.3, 0.4, 0.5]),
    "dates": ([date(2024, 1, 30), date(2024, 1, 31)], ["2024-02-01", "2024-02-02", "2024-02-03"]),
    "datetimes": (
        [datetime(2024, 1, 1, 0, 0), datetime(2024, 1, 1, 0, 30)],
        ["2024-01-01T01:00:00", "2024-01-01T01:30:00", "2024-01-01T02:00:00"],
    ),
}


@pytest.mark.parametrize(("times", "expected"), TIMES.values(), ids=TIMES)
def test_times_go_on_by_their_step_in_their_notation(times, expected):
    assert next_times(times, 3, "s.csv") == expected


@pytest.mark.parametrize("times", [["2024-01"], ["2024-02", "2024-01"], ["Monday", "Tuesday"]], ids=str)
def test_times_without_a_step_are_refused(times):
    with pytest.raises(DataError, match=r"s\.csv"):
        next_times(times, 3, "s.csv")


@pytest.fixture
def photos(dltrain, tmp_path):
    """A run on images of two classes."""
    write_images(tmp_path / "photos")
    return dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1").result[
        "run"
    ]


def test_files_folders_and_globs_name_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", count=2)
    (tmp_path / "photos" / "notes.txt").write_text("none")
    (tmp_path / "photos" / ".hidden.png").write_text("none")
    folder = find_files(["photos"], (".png",))
    assert [str(path) for path in folder] == [
        "photos/train/dark/00.png",
        "photos/train/dark/01.png",
        "photos/train/light/00.png",
        "photos/train/light/01.png",
    ]
    assert find_files(["photos/**/*.png"], (".png",)) == folder
    assert find_files([str(path) for path in folder], (".png",)) == folder


def test_predict_reads_what_training_reads(verb, dltrain, tmp_path):
    write_images(tmp_path / "elsewhere", ("more",), count=3)
    write_images(tmp_path / "photos", count=3)
    folder = tmp_path / "photos" / "train" / "dark"
    (folder / "linked").symlink_to(tmp_path / "elsewhere" / "train" / "more")
    (folder / "loop").symlink_to(tmp_path / "photos")
    (folder / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/00-checkpoint.png", "scan.tif", "drawn.GIF", "old.TIFF"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "notes.txt").write_text("none")
    os.mkfifo(folder / "pipe.png")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.test_fraction=0", "trainer.epochs=1")
    parts = yaml.safe_load((run.folder / "config.yaml").read_text())["data"]["samples"]
    left_out = "files that are no images are left out: 1 link to a folder above, 1 .txt, 1 .png"
    for words in (["photos"], ["photos/train/dark", "photos/train/light"]):
        predicted = verb("predict", str(run.folder), *words)
        assert left_out in run.stderr and left_out in predicted.stderr
        assert len(rows_of(predicted)) == parts["train"] + parts["val"] == 3 + 3 + 3 + 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_name_that_is_no_utf_8_costs_no_row(verb, photos, tmp_path, suffix):
    folder = tmp_path / "photos" / "train" / "dark"
    (folder / "00.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    (folder / "01.png").write_bytes(b"no image")
    (folder / "01.png").rename(folder / os.fsdecode(b"b\xff.png"))
    assert verb("predict", photos, str(folder), f"out=p.{suffix}").result["broken"] == [f"{folder}/b\\xff.png"]
    read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[suffix]
    names = read(tmp_path / f"p.{suffix}")["input"].to_list()
    assert len(names) == 11 and f"{folder}/caf\\xe9.png" in names


def test_a_table_whose_name_is_no_utf_8_is_predicted_as_well(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1").result["run"]
    odd, other = (tmp_path / os.fsdecode(b"caf\xe9" + suffix) for suffix in (b".csv", b".parquet"))
    odd.write_bytes((tmp_path / "t.csv").read_bytes())
    rows = rows_of(verb("predict", run, str(odd)))
    assert {row["input"] for row in rows} == {f"{tmp_path}/caf\\xe9.csv"} and len(rows) == 90
    other.write_bytes(b"PAR1")  # which no reader of Parquet opens by such a name
    refused = verb("predict", run, str(odd), str(other), "out=p.csv")
    assert (refused.code, refused.result["rows"]) == (1, 90)
    assert "the name of a Parquet file must be UTF-8 text; rename it" in refused.stderr


def test_an_image_that_pillow_stumbles_over_is_named_and_the_others_are_predicted(verb, photos, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "odd.gif")

    def load(image):
        raise KeyError("tag")

    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.load", load)
    outcome = verb("predict", photos, "photos", "out=p.csv")
    assert (outcome.code, outcome.result["rows"], outcome.result["broken"]) == (1, 24, ["photos/odd.gif"])
    assert "photos/odd.gif: 'tag'" in outcome.stderr and "Traceback" not in outcome.stderr


def test_new_images_are_decoded_as_the_run_decoded_its_own(dltrain, verb, tmp_path):
    shapes = np.random.default_rng(0).integers(0, 2, (12, 8, 8), dtype=np.uint8) * 255
    for number, alpha in enumerate(shapes):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        ink = np.zeros((8, 8, 3), np.uint8)
        Image.fromarray(np.dstack([ink, alpha])).save(folder / f"{number:02}.png")
        Image.fromarray(alpha.astype(np.uint16) << 4 | 15).save(folder / f"{number:02}-deep.png")
    (tmp_path / "single").mkdir()
    words = ("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    run = dltrain(*words, "dataset.background=red", "dataset.test_fraction=0.5").result["run"]
    loaded = load_run(run)
    assert (loaded.fitted.preprocessing["background"], loaded.fitted.preprocessing["white"]) == ("#ff0000", 4095)
    data = loaded.data()
    with torch.no_grad():
        outputs = loaded.model(data.transform(data.test.take(torch.arange(len(data.test)))[0]))
    confidences = sorted(outputs.double().softmax(1).amax(1).tolist())
    predicted = sorted(float(row["confidence"]) for row in rows_of(verb("predict", run, "photos")))
    assert all(any(found == pytest.approx(wanted, abs=1e-6) for found in predicted) for wanted in confidences)
    assert loaded.data().preprocessing == loaded.fitted.preprocessing
    for word, own in (("dataset.background=blue", "#ff0000"), ("dataset.white=255", "4095")):
        other = verb("evaluate", run, word)
        assert (other.code, f"{word}: the run was trained with {own}" in other.stderr) == (2, True)


def test_a_run_of_an_earlier_version_still_reads_what_lies_beneath_transparent_pixels(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    for path in (run.folder / "checkpoints").glob("*.pt"):
        content = checkpoint.load(path)
        content["preprocessing"] = {name: content["preprocessing"][name] for name in ("mean", "std", "levels")}
        for name in ("config", "composed"):
            lines = content[name].splitlines(keepends=True)
            content[name] = "".join(line for line in lines if not re.match("  (background|white):", line))
        checkpoint.save(path, content)
    clear = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(clear[..., :3]).save(tmp_path / "black.png")
    first, second = rows_of(verb("predict", str(run.folder), "clear.png", "black.png"))
    assert first["confidence"] == second["confidence"]
    assert verb("evaluate", str(run.folder)).result["metrics"] == run.result["test"]


def test_the_formats_hold_the_same_rows(verb, photos, tmp_path):
    rows = rows_of(verb("predict", photos, "photos"))
    for suffix in ("csv", "jsonl", "parquet"):
        answer = verb("predict", photos, "photos", f"out=p.{suffix}").result
        assert (answer["status"], answer["rows"], answer["broken"]) == ("done", 24, [])
    assert list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines())) == rows
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [{name: str(value) for name, value in line.items()} for line in lines] == rows
    assert pl.read_parquet(tmp_path / "p.parquet").to_dicts() == lines
    assert not list(tmp_path.glob("*.tmp"))


def test_a_broken_image_among_many_is_named_the_others_are_predicted_and_it_is_exit_1(verb, photos, tmp_path):
    (tmp_path / "photos" / "train" / "dark" / "03.png").write_bytes(b"no image")
    outcome = verb("predict", photos, "photos", "out=p.csv")
    assert outcome.code == 1
    assert "photos/train/dark/03.png: cannot identify" in outcome.stderr
    assert outcome.result["broken"] == ["photos/train/dark/03.png"]
    names = [row["input"] for row in csv.DictReader((tmp_path / "p.csv").read_text().splitlines())]
    assert len(names) == 23 and "photos/train/dark/03.png" not in names


def test_pillow_warns_nobody_of_what_is_read_all_the_same(verb, photos, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 50)  # it warns of more, and refuses twice as many
    outcome = verb("predict", photos, "photos/train/dark/03.png", "out=p.csv")
    assert outcome.code == 0 and "Warning" not in outcome.stderr
    assert outcome.result["rows"] == 1


def test_broken_rows_among_many_are_named_and_the_others_are_predicted(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1").result["run"]
    (tmp_path / "new.csv").write_text("x,colour\n1,red\nhigh,red\n2,red,blue\n,\n3,green\n,\n\n")
    outcome = verb("predict", run, "new.csv")
    assert outcome.code == 1
    for fragment in (
        "row 2: column 'x' holds 'high'",
        "row 3: 3 fields",
        "row 4: no value",
        "out: 3; rows predicted: 2",
    ):
        assert fragment in outcome.stderr
    assert [row["row"] for row in csv.DictReader(io.StringIO(outcome.stdout))] == ["1", "5"]


def test_a_file_of_rows_is_read_in_parts(dltrain, verb, tmp_path):
    """What does not depend on how much is read at a time: every row, once, in its order."""
    write_table(tmp_path / "t.csv", rows=700)
    keys = ("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1")
    run = dltrain(*keys).result["run"]
    whole = rows_of(verb("predict", run, "t.csv", "dataset.batch_size=1000"))
    parts = rows_of(verb("predict", run, "t.csv"))
    assert [row["row"] for row in parts] == [row["row"] for row in whole] == [str(n) for n in range(1, 701)]
    assert [float(row["p_a"]) for row in parts] == pytest.approx([float(row["p_a"]) for row in whole], rel=1e-5)


def test_a_failure_leaves_the_file_of_before(verb, photos, tmp_path):
    (tmp_path / "p.csv").write_text("mine")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert verb("predict", photos, "broken.png", "out=p.csv").code == 2
    assert (tmp_path / "p.csv").read_text() == "mine"


def test_a_mistake_is_one_message_and_exit_2(verb, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    for arguments, fragment in (
        ((), "a run folder or a checkpoint comes first"),
        (("RUN",), "there is nothing to predict from"),
        (("RUN", "nowhere.png"), "there is no file or folder 'nowhere.png'"),
        (("RUN", "photos", "nowhere.png"), "there is no file or folder 'nowhere.png'"),
        (("RUN", "empty"), "'empty' holds no file that ends with .bmp"),
        (("RUN", "none*.png"), "'none*.png' holds no file"),
        (("RUN", "broken.png"), "broken.png: cannot identify image file"),
        (("RUN", "photos", "out=p.xlsx"), "must end with .csv, .jsonl, .parquet"),
        (("RUN", "photos", "out=nowhere/p.csv"), "there is no folder 'nowhere'"),
        (("RUN", "photos", "devise=cpu"), "did you mean 'device'?"),
        (("empty", "photos"), "'empty' is no run folder"),
        (("photos/train/dark/00.png", "photos"), "is in no run folder"),
    ):
        outcome = verb("predict", *(photos if word == "RUN" else word for word in arguments))
        assert (outcome.code, outcome.result["status"]) == (2, "invalid"), arguments
        assert fragment in outcome.stderr
        assert outcome.stderr.count("dltrain: ") == 1 and "Traceback" not in outcome.stderr


def test_rows_and_series_that_do_not_fit_are_exit_2(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv")
    table = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1").result["run"]
    series = dltrain("dataset=sunspots", *SHORT).result["run"]
    (tmp_path / "column.csv").write_text("x\n1\n")
    (tmp_path / "header.csv").write_text("x,colour\n")
    (tmp_path / "short.csv").write_text("month,sunspots\n2024-01,3\n2024-02,4\n")
    (tmp_path / "gap.csv").write_text("month,sunspots\n" + "".join(f"{1900 + n}-01,\n" for n in range(60)))
    for run, name, fragment in (
        (table, "column.csv", "has no column 'colour'"),
        (table, "header.csv", "the inputs have no rows"),
        (series, "column.csv", "has no column 'sunspots'"),
        (series, "short.csv", "has 2 rows; the run reads 48"),
        (series, "gap.csv", "no value among the last 48 rows"),
    ):
        outcome = verb("predict", run, name)
        assert (outcome.code, outcome.result["status"]) == (2, "invalid"), name
        assert fragment in outcome.stderr


def test_what_reads_no_training_data_needs_none(dltrain, verb, tmp_path):
    """Nor what trained the network: its logger, its pruner."""
    write_images(tmp_path / "photos")
    write_table(tmp_path / "t.csv")
    Image.new("RGB", (8, 8)).save(tmp_path / "new.png")
    shutil.copy(tmp_path / "t.csv", tmp_path / "new.csv")
    folder = ("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8")
    table = ("dataset=table", "dataset.path=t.csv", "dataset.target=kind")
    for name, data in (("new.png", folder), ("new.csv", table)):
        dltrain(*data, "trainer.epochs=1", "model=mlp", f"hydra.run.dir={name}.run")
    shutil.rmtree(tmp_path / "photos")
    (tmp_path / "t.csv").unlink()
    for name, key in (("new.png", "dataset.root"), ("new.csv", "dataset.path")):
        run = f"{name}.run"
        rows_of(verb("predict", run, name))
        for words in (("export", run, "out=net.pt"), ("explain", run, name)):
            answer = verb(*words)
            assert answer.code == 0, answer.stderr
        refused = verb("evaluate", run)
        assert refused.code == 2 and refused.stderr.startswith(f"dltrain: {key}=")
        (problem,) = refused.result["problems"]
        assert problem.startswith(f"{key}=") and "there is no such" in problem


def test_a_logger_and_a_pruner_are_no_business_of_predict(dltrain, verb, tmp_path):
    """They may come from packages that this machine has not, or that nobody trusts here."""
    (tmp_path / "their_code.py").write_text(
        "class Quiet:\n"
        "    def __init__(self, folder, config, history=()): ...\n"
        "    def log(self, row): ...\n"
        "    def close(self, result): ...\n"
    )
    run = dltrain(*SHORT, "logger.csv._target_=their_code.Quiet").result["run"]
    (tmp_path / "their_code.py").unlink()
    write_digits(tmp_path / "png", digits().test.take(torch.arange(3))[0], 1)
    assert len(rows_of(verb("predict", run, "png"))) == 3


def test_a_terminal_gets_the_first_rows(photos, tmp_path):
    code, text = on_terminal(tmp_path, "predict", photos, "photos")
    assert code == 0
    assert "photos/train/dark/00.png" in text
    assert "24 rows, 20 of them shown here; keep all of them with out=FILE.csv" in text
    _, text = on_terminal(tmp_path, "predict", photos, "photos", "out=rows.csv")
    assert "24 rows in rows.csv, 20 of them shown here\r\n" in text
