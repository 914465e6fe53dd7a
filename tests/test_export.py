"""``dltrain export``: every format and model against the run's own network, and files that stand alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from made import write_table
from PIL import Image
from safetensors import safe_open
from test_predict import rows_of

from dltrain.data.bundled import digits, sunspots
from dltrain.data.tables.encoder import TableEncoder
from dltrain.system.extras import install_line
from dltrain.trained.deployed import made_up
from dltrain.trained.loaded import load_run

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SMALL = ("trainer.epochs=1", "dataset.limit=40", "dataset.batch_size=20")
TABLE = ("dataset=table", "dataset.path=t.csv")
SERIES = ("dataset=sunspots", "dataset.window=6", "dataset.horizon=3")
MODELS = {
    "cnn": ("model=cnn",),
    "cnn, average pool of odd sizes": (
        "model=cnn",
        "model.pool=average",
        "model.channels=[3,4]",
        "model.pool_kernel_size=3",
        "model.pool_ceil_mode=true",
        "model.activation=mish",
        "model.dropout=0.1",
        "model.hidden_sizes=[5]",
    ),
    "mlp": ("model=mlp", "model.batch_norm=true"),
    "resnet18": ("model=resnet18",),
    "rnn over rows": ("model=rnn", "model.nonlinearity=relu", "model.readout=mean"),
    "lstm over rows, against all others": ("model=lstm", "model.bidirectional=true", "loss=bce_with_logits"),
    "gru over rows": ("model=gru", "model.num_layers=2", "model.readout=max", "model.dropout=0.1"),
    "series, lstm": (*SERIES, "model=lstm", "model.num_layers=2", "model.bidirectional=true"),
    "table of numbers and categories": (*TABLE, "dataset.target=kind"),
    "table, regression": ("dataset=diabetes",),
}


def metadata_of(session):
    return {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}


@pytest.mark.parametrize("overrides", MODELS.values(), ids=MODELS)
def test_onnx_gives_what_the_network_gives_for_batches_of_any_size(dltrain, verb, tmp_path, overrides):
    write_table(tmp_path / "t.csv")
    run = dltrain(*SMALL, *overrides).result["run"]
    outcome = verb("export", run)
    assert outcome.code == 0, outcome.stderr
    answer = outcome.result
    assert (answer["format"], answer["out"]) == ("onnx", f"{run}/model.onnx")
    assert answer["difference"] <= 1e-5
    loaded = load_run(run)
    session = onnxruntime.InferenceSession(answer["out"])
    names = [entry.name for entry in session.get_inputs()]
    assert metadata_of(session)["inputs"] == names
    for count in (1, 3, 17):
        raw, prepared = made_up(loaded.facts, loaded.fitted.preprocessing, count)
        found = session.run(["outputs"], dict(zip(names, (part.numpy() for part in raw), strict=True)))[0]
        with torch.inference_mode():
            expected = loaded.model(loaded.transform(prepared)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_lenet_on_pictures_of_three_channels(dltrain, verb, tmp_path):
    from made import write_images

    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=32", "model=lenet", *SMALL[:1])
    answer = verb("export", run.result["run"]).result
    assert answer["difference"] <= 1e-5
    session = onnxruntime.InferenceSession(answer["out"])
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    assert metadata_of(session)["class_names"] == ["dark", "light"]


def test_probabilities_of_raw_images_are_those_of_the_run(dltrain, verb):
    run = dltrain(*SMALL).result["run"]
    images, _ = digits().test.take(torch.arange(50))
    session = onnxruntime.InferenceSession(verb("export", run).result["out"])
    loaded = load_run(run)
    with torch.inference_mode():
        expected = loaded.model(loaded.transform(images)).double().softmax(1).numpy()
    np.testing.assert_allclose(session.run(["probabilities"], {"images": images.numpy()})[0], expected, atol=1e-5)


def test_rows_in_their_own_units_give_the_values_that_predict_gives(dltrain, verb, tmp_path):
    """Numbers, gaps and categories go in as the metadata say, and nothing else of dltrain's is needed."""
    write_table(tmp_path / "t.csv", target="y")
    table = pl.read_csv(tmp_path / "t.csv").with_row_index("n")
    gaps = table.with_columns(pl.when(pl.col("n") % 7 == 0).then(None).otherwise(pl.col("x")).alias("x")).drop("n")
    gaps.write_csv(tmp_path / "gaps.csv")
    run = dltrain("dataset=table", "dataset.path=gaps.csv", "dataset.target=y", "trainer.epochs=2").result["run"]
    expected = [float(row["value"]) for row in rows_of(verb("predict", run, "gaps.csv"))]
    session = onnxruntime.InferenceSession(verb("export", run).result["out"])
    stored = metadata_of(session)["preprocessing"]
    numbers = gaps.select(list(stored["numeric"])).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    assert np.isnan(numbers).any()
    (known,) = stored["categorical"].values()
    codes = [[known.index(value)] for value in gaps["colour"]]
    (values,) = session.run(["values"], {"numbers": numbers, "categories": np.array(codes)})
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-5)


def test_a_series_in_its_own_units_gives_the_forecast_that_predict_gives(dltrain, verb, tmp_path):
    run = dltrain(*SERIES, *SMALL).result["run"]
    source = Path(sunspots.__code__.co_filename).parent / "files" / "sunspots.csv"
    expected = [float(row["value"]) for row in rows_of(verb("predict", run, str(source)))]
    session = onnxruntime.InferenceSession(verb("export", run).result["out"])
    columns = metadata_of(session)["preprocessing"]["columns"]
    window = pl.read_csv(source).select(columns).tail(6).cast(pl.Float64).to_numpy()
    np.testing.assert_allclose(session.run(["values"], {"series": window[None]})[0][0], expected, rtol=1e-5)


@pytest.mark.parametrize("overrides", [(), SERIES, (*TABLE, "dataset.target=kind")], ids=["images", "series", "table"])
def test_the_other_formats_load_without_dltrain_and_are_equal(dltrain, verb, tmp_path, overrides):
    write_table(tmp_path / "t.csv")
    run = dltrain(*SMALL, *overrides).result["run"]
    loaded = load_run(run)
    raw, prepared = made_up(loaded.facts, loaded.fitted.preprocessing, 4)
    with torch.no_grad():
        expected = loaded.model(loaded.transform(prepared))
    for format in ("torch_export", "state_dict", "safetensors"):
        assert verb("export", run, f"format={format}").result["difference"] == 0

    extra = {"metadata.json": ""}
    program = torch.export.load(f"{run}/model.pt2", extra_files=extra)
    assert torch.equal(program.module()(*raw)[1], expected)
    beside = json.loads(Path(f"{run}/model.pt.json").read_text())
    weights = torch.load(f"{run}/model.pt", weights_only=True)
    with safe_open(f"{run}/model.safetensors", "pt") as file:
        header = {name: json.loads(value) for name, value in file.metadata().items()}
        assert list(file.keys()) and all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)
    assert json.loads(extra["metadata.json"]) == beside == header
    assert beside["target_mean"] == loaded.facts.target_mean
    assert beside["preprocessing"] == json.loads(json.dumps(loaded.fitted.preprocessing))
    loaded.model.load_state_dict(weights)


def test_made_up_rows_have_the_gaps_and_the_unknown_categories_of_real_ones():
    stored = {
        "numeric": {"a": {"mean": 5.0, "std": 2.0, "missing": 1.0}, "b": {"mean": 0.0, "std": 1.0, "missing": 0.0}},
        "categorical": {"c": ["x", "y"]},
        "others": ["c"],
    }
    (numbers, codes), features = made_up(load_facts(TableEncoder.of(stored)), stored, 50)
    assert torch.equal(numbers[:, 0].isnan(), features[:, 1] == 1)
    assert set(codes[:, 0].tolist()) == {0, 1, 2}
    assert torch.equal(features[:, 5] == 1, codes[:, 0] == 2)


def load_facts(encoder):
    from dltrain.data.base import Facts

    return Facts("made", "regression", "table", (len(encoder.feature_names),), 1)


def test_a_file_that_gives_other_outputs_is_not_left(dltrain, verb, monkeypatch):
    from dltrain.trained import export

    run = dltrain(*SMALL).result["run"]
    right = export._with_weights

    def wrong(deployed, weights):
        return right(deployed, {name: value * 1.001 for name, value in weights.items()})

    monkeypatch.setattr(export, "_with_weights", wrong)
    outcome = verb("export", run, "format=state_dict")
    assert outcome.code == 1
    assert "differs from the run's" in outcome.stderr
    assert not list(Path(run).glob("model*"))


def test_a_network_that_cannot_be_translated_gives_one_message_and_no_file(dltrain, verb, tmp_path):
    (tmp_path / "odd_net.py").write_text(
        "import torch\n\n\nclass Odd(torch.nn.Module):\n"
        "    def __init__(self, outputs):\n        super().__init__()\n"
        "        self.linear = torch.nn.Linear(64, outputs)\n\n"
        "    def forward(self, inputs):\n"
        "        flat = inputs.flatten(1)\n"
        "        return self.linear(flat if flat.sum().item() > 0 else -flat)\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf/model/odd.yaml").write_text("_target_: odd_net.Odd\noutputs: ${data.num_outputs}\n")
    run = dltrain("--config-dir", "conf", "model=odd", *SMALL).result["run"]
    outcome = verb("export", run, "trust=[odd_net]")
    assert outcome.code == 2
    assert "cannot be written as onnx" in outcome.stderr and "format=state_dict" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not list(Path(run).glob("model*"))
    assert verb("export", run, "trust=[odd_net]", "format=safetensors").code == 0


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_file_that_does_not_run_gives_one_message(dltrain, verb):
    """torch translates an LSTM with projections to one that onnxruntime cannot run."""
    run = dltrain(*SMALL, *SERIES, "model=lstm", "+model.proj_size=3").result["run"]
    outcome = verb("export", run)
    assert outcome.code == 2
    assert "cannot be written as onnx" in outcome.stderr and "Traceback" not in outcome.stderr
    assert not list(Path(run).glob("model*"))
    assert verb("export", run, "format=torch_export").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=onyx"], "did you mean 'onnx'"),
        (["format=onnx", "out=model.pt"], "must end with .onnx"),
        (["out=nowhere/model.onnx"], "there is no folder 'nowhere'"),
        (["format=state_dict", "out=RUN/checkpoints/best.pt"], "for checkpoints"),
    ],
)
def test_what_cannot_be_written_gives_one_message(dltrain, verb, arguments, message):
    run = dltrain(*SMALL).result["run"]
    outcome = verb("export", run, *(word.replace("RUN", run) for word in arguments))
    assert (outcome.code, outcome.result["status"]) == (2, "invalid")
    assert message in outcome.stderr


def test_a_run_without_a_checkpoint_or_of_a_newer_format_gives_one_message(dltrain, verb, tmp_path):
    run = dltrain(*SMALL).result["run"]
    best = Path(run) / "checkpoints/best.pt"
    from dltrain.runs import checkpoint

    content = checkpoint.load(best)
    checkpoint.save(best, {**content, "format": checkpoint.FORMAT + 1})
    newer = verb("export", run)
    best.unlink()
    without = verb("export", run)
    assert (newer.code, without.code, verb("export").code) == (2, 2, 2)
    assert "a newer dltrain" in newer.stderr
    assert "no checkpoints/best.pt" in without.stderr


def test_a_missing_extra_gives_the_line_that_installs_it(verb, monkeypatch, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = verb("export", "run")
    assert outcome.code == 2
    assert f"format=onnx needs the package onnxruntime: {install_line('onnx')}" in outcome.stderr


def test_the_script_of_the_readme_predicts_an_image_without_dltrain(dltrain, verb, tmp_path):
    section = re.search(r"^## Take it elsewhere\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1]
    (script,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert "dltrain" not in re.sub(r"#.*", "", script)
    run = dltrain("trainer.epochs=3").result["run"]
    verb("export", run, "out=digits.onnx")
    image, _ = digits().test.take(torch.arange(1))
    pixels = (image[0, 0].int() * 15).byte().numpy()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.dstack([pixels * 0] * 3 + [pixels])).save(tmp_path / "transparent.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    names = ["photo.png", "turned.png", "transparent.png", "deep.png"]
    rows = rows_of(verb("predict", run, *names))
    assert len({row["confidence"] for row in rows[:3]}) == 3
    (tmp_path / "classify.py").write_text(script)
    for name, row in zip(names, rows, strict=True):
        command = [sys.executable, "classify.py", "digits.onnx", name]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
        best, *_ = found.splitlines()
        assert best.split() == [row["class"], f"{float(row['confidence']):.1%}"], name
