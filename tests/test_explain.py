"""``dltrain explain``: closed forms, completeness, pictures and messages."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from made import write_images, write_table
from PIL import Image
from test_predict import rows_of

from dltrain.data.bundled import digits
from dltrain.system.extras import install_line
from dltrain.trained.explaining import attribute, explain
from dltrain.trained.loaded import load_run

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
FILES = Path(digits.__code__.co_filename).parent / "files"
SHORT = ("trainer.epochs=2", "dataset.limit=100")


def lines_of(folder):
    return [json.loads(line) for line in (Path(folder) / "attributions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient"])
def test_of_a_linear_network_the_attributions_are_weight_times_input(dltrain, verb, tmp_path, method):
    run = dltrain("dataset=diabetes", "model.hidden_sizes=[]", *SHORT).result["run"]
    pl.read_csv(FILES / "diabetes.csv", infer_schema_length=None).drop("progression").head(5).write_csv(
        tmp_path / "new.csv"
    )
    answer = verb("explain", run, "new.csv", "out=why", f"method={method}").result
    loaded = load_run(run)
    (layer,) = [module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear)]
    weight, bias = (part.detach().double() * loaded.facts.target_std for part in (layer.weight[0], layer.bias[0]))
    from dltrain.data.inputs import read_inputs

    pieces, _ = read_inputs(["new.csv"], loaded.fitted, 5, print)
    (((_, inputs),),) = pieces
    lines = lines_of(tmp_path / "why")
    assert list(lines[0]["attributions"]) == list(loaded.facts.feature_names)
    found = torch.tensor([list(line["attributions"].values()) for line in lines], dtype=torch.float64)
    torch.testing.assert_close(found, inputs * weight, rtol=1e-4, atol=1e-4)
    assert lines[0]["baseline"] == pytest.approx(float(bias) + loaded.facts.target_mean)
    assert answer["largest_error"] < 1e-3
    values = [float(row["value"]) for row in rows_of(verb("predict", run, "new.csv"))]
    assert [line["output"] for line in lines] == pytest.approx(values)


def test_a_name_with_dollar_signs_is_no_formula_in_a_picture(dltrain, verb, tmp_path):
    names = ["a_{$", "$b_{$"]
    rows = [f"{number},{number * 7 % 11},{'$x_{$' if number % 2 else 'y'}" for number in range(40)]
    (tmp_path / "$t_{$.csv").write_text("\n".join([",".join([*names, "kind"]), *rows]) + "\n")
    words = ("dataset=table", "dataset.path='$t_{$.csv'", "dataset.target=kind", "trainer.epochs=1")
    run = dltrain(*words, report=True)
    assert run.code == 0 and (run.folder / "curves.png").exists(), run.stderr
    explained = verb("explain", str(run.folder), "$t_{$.csv", "out=why")
    assert explained.code == 0, explained.stderr
    assert list(lines_of(tmp_path / "why")[0]["attributions"]) == names


def test_attributions_add_up_to_what_they_explain_but_for_the_error(dltrain):
    loaded = load_run(dltrain(*SHORT, "trainer.epochs=4").result["run"])
    images, _ = digits().test.take(torch.arange(12))
    found = list(explain(loaded, [([(str(number),) for number in range(12)], images)]))
    with torch.no_grad():
        outputs = loaded.model(loaded.transform(images))
        baseline = loaded.model(torch.zeros(1, 1, 8, 8))[0]
    for number, explained in enumerate(found):
        best = int(outputs[number].argmax())
        assert explained.prediction == str(best)
        assert explained.output == pytest.approx(float(outputs[number, best]), abs=1e-5)
        assert explained.baseline == pytest.approx(float(baseline[best]), abs=1e-5)
        total = explained.output - explained.baseline + explained.error
        assert explained.attributions.astype(np.float64).sum() == pytest.approx(total, abs=1e-6)
        assert abs(explained.error) < 0.02 * np.abs(explained.attributions).sum()


def test_what_a_pixel_does_not_change_is_not_credited_to_it(dltrain):
    """A network that reads one pixel: its attribution is the whole difference, all others have none."""
    loaded = load_run(dltrain(*SHORT, "model=mlp", "model.hidden_sizes=[6]").result["run"])
    with torch.no_grad():
        first = next(module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear))
        first.weight[:, torch.arange(64) != 20] = 0
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([1, 2, 3])
    found = attribute(loaded, inputs, classes, "integrated_gradients").flatten(1)
    with torch.no_grad():
        moved = loaded.model(inputs) - loaded.model(torch.zeros_like(inputs))
    assert not found[:, torch.arange(64) != 20].any()
    torch.testing.assert_close(found[:, 20], moved.gather(1, classes.unsqueeze(1))[:, 0], rtol=0.02, atol=1e-3)


def test_images_get_a_picture_each_and_broken_ones_a_warning(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    run = run.result["run"]
    outcome = verb("explain", run, "photos/train/dark")
    assert outcome.result["inputs"] == outcome.result["pictures"] == 12
    lines = lines_of(Path(run) / "explain")
    assert np.shape(lines[0]["attributions"]) == (3, 8, 8)
    pictures = sorted((Path(run) / "explain").glob("*.png"))
    assert [path.name for path in pictures][:2] == ["001-00.png", "002-01.png"]
    with Image.open(pictures[0]) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50

    (tmp_path / "photos/train/dark/99.png").write_text("no picture")
    (tmp_path / "predicted.png").write_bytes(b"no image")
    nothing = verb("explain", run, "predicted.png")
    assert nothing.code == 2 and "nothing can be explained:\npredicted.png: " in nothing.stderr
    broken = verb("explain", run, "photos/train/dark", "out=why")
    assert broken.code == 1
    assert "99.png" in broken.stderr and "12 inputs are explained" in broken.stderr
    assert broken.result["broken"] == ["photos/train/dark/99.png"]
    nothing = verb("explain", run, "photos/train/dark/99.png", "out=none")
    assert (nothing.code, (tmp_path / "none").exists()) == (2, False)
    assert "nothing can be explained" in nothing.stderr


def test_file_names_that_are_no_utf_8_are_explained(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    (tmp_path / "photos/train/dark/00.png").rename(odd)
    answer = verb("explain", run.result["run"], str(odd)).result
    assert [line["input"] for line in lines_of(answer["out"])] == [f"{tmp_path}/caf\\xe9.png"]
    assert [path.name for path in Path(answer["out"]).glob("*.png")] == ["001-caf_xe9.png"]


def test_a_series_has_an_attribution_for_each_step_of_its_window(dltrain, verb):
    run = dltrain("dataset=sunspots", "model.readout=mean", "dataset.window=10", *SHORT).result["run"]
    source = str(FILES / "sunspots.csv")
    answer = verb("explain", run, source).result
    (line,) = lines_of(answer["out"])
    (steps,) = line["attributions"].values()
    assert len(steps) == 10
    assert sum(steps) == pytest.approx(line["output"] - line["baseline"] + line["error"], abs=1e-4)
    values = [float(row["value"]) for row in rows_of(verb("predict", run, source))]
    assert line["output"] == pytest.approx(np.mean(values), rel=1e-6)
    assert [path.name for path in Path(answer["out"]).glob("*.png")] == ["001-sunspots.png"]


def test_what_cannot_be_explained_gives_one_message(dltrain, verb, tmp_path, monkeypatch):
    write_table(tmp_path / "t.csv")
    write_table(tmp_path / "new.csv", rows=3)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1").result["run"]
    wanted = {
        ("other.csv",): "columns of the run",
        ("nowhere.csv",): "there is no file or folder 'nowhere.csv'",
        ("t.csv", "method=integrated_gradient"): "did you mean 'integrated_gradients'",
        (): "there is nothing to explain",
    }
    for words, message in wanted.items():
        outcome = verb("explain", run, *words)
        assert (outcome.code, outcome.result["status"]) == (2, "invalid")
        assert message in outcome.stderr and "Traceback" not in outcome.stderr
    assert not (Path(run) / "explain").exists()
    assert verb("explain", run, "new.csv").result["inputs"] == 3
    (Path(run) / "checkpoints/best.pt").unlink()
    assert "no checkpoints/best.pt" in verb("explain", run, "t.csv").stderr
    monkeypatch.setitem(sys.modules, "captum", None)
    missing = verb("explain", run, "t.csv")
    assert (missing.code, install_line("explain") in missing.stderr) == (2, True)
