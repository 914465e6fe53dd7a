"""``dltrain evaluate``: the run's own figures, other parts, other data, and what cannot be evaluated."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
import yaml
from made import on_terminal, write_images, write_table
from omegaconf import OmegaConf
from PIL import Image

from dltrain.build.make import make
from dltrain.config.interpolation import escaped, runs_resolver
from dltrain.training.metrics import by_class

SHORT = ("trainer.epochs=2", "dataset.limit=60")


RUNS = {
    "digits": (),
    "diabetes": ("dataset=diabetes",),
    "sunspots": ("dataset=sunspots",),
    "averaged weights": ("trainer.ema_decay=0.9",),
    "bf16": ("trainer.precision=bf16",),
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_the_test_part_has_the_figures_of_the_run_to_the_last_digit(dltrain, verb, overrides):
    run = dltrain(*SHORT, *overrides)
    answer = verb("evaluate", run.result["run"]).result
    assert answer["metrics"] == run.result["test"]


def test_an_image_folder_and_a_table_have_the_figures_of_the_run_as_well(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos", parts=("train", "test"))
    write_table(tmp_path / "t.csv")
    for overrides in (
        ("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8"),
        ("dataset=table", "dataset.path=t.csv", "dataset.target=kind"),
    ):
        run = dltrain("trainer.epochs=2", *overrides)
        assert verb("evaluate", run.result["run"]).result["metrics"] == run.result["test"]


def of_a_rare_class(path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1100, 2))
    kinds = np.where(x[:, 0] + 0.5 * rng.normal(size=1100) > 1.5, "rare", "usual")
    rows = [f"{a:.6f},{b:.6f},{kind}" for (a, b), kind in zip(x, kinds, strict=True)]
    path.write_text("\n".join(["a,b,kind", *rows]) + "\n")


@pytest.mark.parametrize("data", [["dataset=table", "dataset.path=t.csv", "dataset.target=kind"], ["dataset=digits"]])
def test_a_loss_by_weights_of_classes_is_torchs_of_the_whole_part_and_needs_no_trust(dltrain, verb, tmp_path, data):
    """Given as a list, or as the call that torch's users write, for the data set's usual loss or for cross entropy."""
    from dltrain.trained.loaded import load_run

    of_a_rare_class(tmp_path / "t.csv")
    weight = "[10,1]" if "dataset=table" in data else "[9,1,1,1,1,1,1,1,1,0.1]"
    ways = [f"+loss.weight={weight}", f"+loss.weight={{_target_:torch.tensor,data:{weight}}}"]
    runs = [dltrain(*data, "trainer.epochs=2", "dataset.val_fraction=0.4", way) for way in ways]
    assert [run.code for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    assert runs[0].result["best"] == runs[1].result["best"]
    loaded = load_run(runs[0].result["run"])
    assert loaded.cfg.loss.weight == json.loads(weight)
    loader, _ = loaded.loader("val")
    batches = list(loader)
    assert len(batches) > 1
    with torch.no_grad():
        value = loaded.loss(loaded.model(torch.cat([x for x, _ in batches])), torch.cat([y for _, y in batches]))
    assert runs[0].result["best"]["val"]["loss"] == pytest.approx(float(value), rel=1e-6)
    for run in runs:
        assert verb("evaluate", run.result["run"], "split=val").result["metrics"] == run.result["best"]["val"]
    if "dataset=table" in data:
        assert verb("predict", runs[1].result["run"], "t.csv").code == 0


def test_the_validation_part_has_the_figures_of_the_best_epoch(dltrain, verb):
    run = dltrain(*SHORT)
    answer = verb("evaluate", run.result["run"], "split=val").result
    assert answer["metrics"] == run.result["best"]["val"]
    assert answer["split"] == "val"


def test_the_metrics_say_which_class_a_part_has_no_sample_of(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos", ("dark", "light", "mid"), step=70)
    write_images(tmp_path / "photos", ("dark", "mid"), parts=("test",), step=140)
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    assert "test: no image of light" in run.stderr
    answer = verb("evaluate", run.result["run"]).result
    assert answer["metrics"] == run.result["test"]
    assert [(row["name"], row["support"]) for row in answer["classes"]] == [("dark", 12), ("light", 0), ("mid", 12)]


def test_another_folder_is_known_by_any_spelling_of_its_test_part(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos")
    write_images(tmp_path / "other", count=5)
    write_images(tmp_path / "other", count=3, parts=("Testing",))
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    answer = verb("evaluate", run.result["run"], "dataset.root=other").result
    assert (answer["split"], answer["samples"]) == ("test", 6)


NAMES = ["${oc.env:SECRET}", "${x}", "\\\\${y}", "${", "a\\${b"]


@pytest.mark.parametrize("kind", ["folders", "labels"])
def test_class_names_are_never_resolved(dltrain, verb, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("SECRET", "a secret")
    write_images(tmp_path / "photos", NAMES, count=4, step=20)
    rows = [f"{number},{NAMES[number % 5]}" for number in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["${oc.env:SECRET},kind", *rows]) + "\n")
    words = {
        "folders": ("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8"),
        "labels": ("dataset=table", "dataset.path=t.csv", "dataset.target=kind"),
    }[kind]
    run = dltrain(*words, "trainer.epochs=1", report=True)
    assert run.code == 0, run.stderr
    path = str(run.folder)
    names = sorted(NAMES)
    for epochs in (1, 2):
        config = yaml.safe_load((run.folder / "config.yaml").read_text())
        assert config["data"]["class_names"] == names
        assert [row["name"] for row in verb("evaluate", path).result["classes"]] == names
        inputs = "photos/train" if kind == "folders" else "t.csv"
        predicted = verb("predict", path, inputs)
        assert predicted.code == 0 and f"p_{names[0]}" in predicted.stdout
        assert verb("report", path).code == 0
        assert verb("export", path, "format=state_dict").code == 0
        assert json.loads((run.folder / "model.pt.json").read_text())["class_names"] == names
        written = [file.read_bytes() for file in run.folder.rglob("*") if file.is_file()]
        assert not any(b"a secret" in content for content in written)
        if epochs == 1:
            assert verb("resume", path, "trainer.epochs=2").code == 0


def given(**keywords):
    return keywords


def test_a_class_of_the_users_gets_the_names_as_they_are(monkeypatch):
    monkeypatch.setenv("SECRET", "a secret")
    model = {"_target_": "test_evaluate.given", "names": "${data.class_names}", "first": "${data.class_names[0]}"}
    cfg = OmegaConf.create({"data": {"class_names": escaped(NAMES)}, "model": model})
    assert make(cfg, "model") == {"names": NAMES, "first": NAMES[0]}


def test_escaped_text_comes_back_as_it_was():
    draw = random.Random(0)
    pieces = ["\\", "$", "{", "}", "${", "\\${", "${x}", "a", ":", "'", '"', " "]
    texts = ["".join(draw.choices(pieces, k=draw.randrange(8))) for _ in range(2000)]
    cfg = OmegaConf.create({"texts": escaped(texts), "inner": {text: escaped(text) for text in texts}})
    assert OmegaConf.to_container(cfg, resolve=True) == {"texts": texts, "inner": {text: text for text in texts}}
    assert not any(runs_resolver(escaped(text)) for text in texts)


def test_a_checkpoint_file_can_be_named_instead_of_its_run(dltrain, verb):
    run = dltrain("trainer.epochs=3", "dataset.limit=60")
    answer = verb("evaluate", str(run.folder / "checkpoints" / "last.pt"), "split=val").result
    assert answer["epoch"] == 3
    assert answer["checkpoint"].endswith("last.pt")


def test_the_confusion_matrix_and_the_classes_belong_to_the_metrics(dltrain, verb):
    run = dltrain(*SHORT)
    answer = verb("evaluate", run.result["run"]).result
    assert answer["confusion_matrix"] == json.loads((run.folder / "result.json").read_text())["confusion_matrix"]
    assert [row["name"] for row in answer["classes"]] == list("0123456789")
    assert sum(row["support"] for row in answer["classes"]) == answer["samples"] == 60
    assert np.mean([row["f1"] for row in answer["classes"]]) == pytest.approx(answer["metrics"]["f1"])


def test_figures_by_class_are_those_of_scikit_learn():
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    rows = by_class(confusion_matrix(true, predicted).tolist(), "abc")
    expected = precision_recall_fscore_support(true, predicted)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[key] for row in rows] == pytest.approx(values.tolist())


def test_a_series_has_its_errors_by_step_in_original_units(dltrain, verb):
    run = dltrain("dataset=sunspots", *SHORT)
    answer = verb("evaluate", run.result["run"]).result
    assert len(answer["steps"]) == 12
    assert np.mean([step["mae"] for step in answer["steps"]]) == pytest.approx(answer["metrics"]["mae"])


def test_all_samples_of_another_folder_are_evaluated_with_the_scaling_of_the_run(dltrain, verb, tmp_path):
    """Brighter images must look brighter to the network, not be scaled to look like the ones it knows."""
    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=3")
    other = tmp_path / "other" / "light"
    other.mkdir(parents=True)
    for number in range(5):
        Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(other / f"{number}.png")
    answer = verb("evaluate", run.result["run"], "dataset.root=other").result
    assert answer["samples"] == 5 and answer["split"] == "all"
    assert answer["confusion_matrix"] == [[0, 0], [0, 5]]


def test_the_test_folder_of_another_folder_is_its_test_part(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    write_images(tmp_path / "other", count=3, parts=("train", "test"))
    answer = verb("evaluate", run.result["run"], "dataset.root=other").result
    assert answer["samples"] == 6 and answer["split"] == "test"


def test_all_samples_of_data_in_parts_of_their_own_are_refused(dltrain, verb, tmp_path):
    """They would be those of train/ alone."""
    write_images(tmp_path / "photos", count=4, parts=("train", "test"))
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    outcome = verb("evaluate", run.result["run"], "split=all")
    assert outcome.code == 2 and "split=all: photos comes in parts; use split=train, val or test" in outcome.stderr


def test_another_file_that_is_the_same_gives_what_the_same_file_gives(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv", target="y")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=y", "trainer.epochs=2")
    shutil.copy(tmp_path / "t.csv", tmp_path / "copy.csv")
    answers = [
        verb("evaluate", run.result["run"], f"dataset.path={name}", f"split={split}").result["metrics"]
        for name, split in (("t.csv", "all"), ("copy.csv", "all"), ("copy.csv", "test"))
    ]
    assert answers[0] == answers[1] != answers[2] == run.result["test"]


def test_rows_of_another_file_are_encoded_as_in_training(dltrain, verb, tmp_path):
    """One row alone: nothing can be measured on it, and its category is one the run has not seen."""
    write_table(tmp_path / "t.csv", target="y")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=y", "trainer.epochs=2")
    (tmp_path / "one.csv").write_text("colour,y,x\npurple,104.5,0.5\n")
    answer = verb("evaluate", run.result["run"], "dataset.path=one.csv").result
    best = torch.load(run.folder / "checkpoints" / "best.pt", weights_only=True)
    assert answer["metrics"]["mae"] / answer["metrics"]["mae_scaled"] == pytest.approx(best["facts"]["target_std"])
    assert answer["samples"] == 1


def test_another_series_is_scaled_as_in_training(dltrain, verb, tmp_path):
    waves = [50 + 40 * np.sin(step / 5) for step in range(400)]
    (tmp_path / "a.csv").write_text("t,v\n" + "".join(f"{n},{value}\n" for n, value in enumerate(waves)))
    (tmp_path / "b.csv").write_text("t,v\n" + "".join(f"{n},{value + 30}\n" for n, value in enumerate(waves)))
    keys = ("dataset=series", "dataset.target=v", "dataset.time=t", "dataset.window=12", "dataset.horizon=2")
    run = dltrain(*keys, "dataset.path=a.csv", "trainer.epochs=2")
    same = verb("evaluate", run.result["run"], "dataset.path=a.csv", "split=all").result
    shifted = verb("evaluate", run.result["run"], "dataset.path=b.csv").result
    assert shifted["samples"] == same["samples"] == 400 - 12 - 2 + 1
    assert shifted["metrics"]["mae"] != pytest.approx(same["metrics"]["mae"], rel=1e-3)


def test_a_run_is_evaluated_from_another_directory_than_it_was_started_in(dltrain, verb, tmp_path, monkeypatch):
    write_table(tmp_path / "t.csv")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert verb("evaluate", run.result["run"]).result["metrics"] == run.result["test"]


def test_evaluation_writes_nothing_into_the_run(dltrain, verb):
    run = dltrain(*SHORT)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    verb("evaluate", run.result["run"])
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_code_of_a_strangers_package_is_not_run_unless_trusted(dltrain, verb, tmp_path):
    (tmp_path / "net_of_a_stranger.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "own.yaml").write_text("_target_: net_of_a_stranger.Net\n")
    run = dltrain("--config-dir", "my_conf", "model=own", *SHORT)
    refused = verb("evaluate", run.result["run"])
    assert refused.code == 2 and "trust=[net_of_a_stranger]" in refused.stderr
    trusted = verb("evaluate", run.result["run"], "trust=[net_of_a_stranger]")
    assert trusted.result["metrics"] == run.result["test"]


def test_a_data_set_of_ones_own_has_the_figures_of_the_run_in_another_process(dltrain, shell, tmp_path):
    """Where nothing but trust= says that classes of the working directory may be used."""
    (tmp_path / "ours.py").write_text(
        "import torch\n\n\nclass Points:\n    def __init__(self, count):\n"
        "        values = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))\n"
        "        self.train = [(value, value.sum()) for value in values]\n"
    )
    (tmp_path / "my_conf" / "dataset").mkdir(parents=True)
    keys = "_target_: ours.Points\ncount: 90\nbatch_size: 16\nval_fraction: 0.2\ntest_fraction: 0.2\n"
    (tmp_path / "my_conf" / "dataset" / "ours.yaml").write_text(keys)
    options = ("dataset=ours", "model=mlp", "loss=mse", "trainer.epochs=2")
    result = dltrain("--config-dir", "my_conf", *options).result
    answer = json.loads(shell("evaluate", result["run"], "trust=[ours]").stdout)
    assert answer["metrics"] == result["test"]
    answer = json.loads(shell("evaluate", result["run"], "trust=[ours]", "split=all").stdout)
    assert answer["samples"] == 90  # its file has no key limit
    refused = shell("predict", result["run"], "ours.py", "trust=[ours]")
    assert refused.returncode == 2 and "has not stored its preprocessing" in refused.stderr


def damage(folder, how):
    """Do to a run folder what should be noticed."""
    best = folder / "checkpoints" / "best.pt"
    if how == "no checkpoint":
        best.unlink()
    elif how == "cut short":
        best.write_bytes(best.read_bytes()[:-500])
    elif how == "newer format":
        from dltrain.runs import checkpoint

        content = torch.load(best, weights_only=True)
        checkpoint.FORMAT, kept = 99, checkpoint.FORMAT
        try:
            checkpoint.save(best, {name: value for name, value in content.items() if name != "format"})
        finally:
            checkpoint.FORMAT = kept


@pytest.mark.parametrize(
    ("how", "fragment"),
    [
        ("no checkpoint", "has no checkpoints/best.pt yet"),
        ("cut short", "cut short"),
        ("newer format", "format 99, of a newer dltrain"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_exit_2(dltrain, verb, how, fragment):
    run = dltrain(*SHORT)
    damage(run.folder, how)
    outcome = verb("evaluate", run.result["run"])
    assert (outcome.code, outcome.result["status"]) == (2, "invalid")
    assert fragment in outcome.stderr and outcome.stderr.count("dltrain: ") == 1


MISTAKES = [
    ((), "a run folder or a checkpoint comes first"),
    (("split=test",), "a run folder or a checkpoint comes first"),
    (("nowhere",), "there is no run 'nowhere'"),
    ((".",), "is no run folder"),
    (("RUN", "split=tset"), "split=tset"),
    (("RUN", "dataset.batchsize=3"), "did you mean 'batch_size'?"),
    (("RUN", "model=lstm"), "a group cannot be chosen anew"),
    (("RUN", "model.channels=[8]"), "do not fit its configuration"),
    (("RUN", "device=cuda:99"), "no such device"),
]


def test_a_mistake_is_one_message_and_exit_2(dltrain, verb):
    run = dltrain(*SHORT).result["run"]
    for arguments, fragment in MISTAKES:
        outcome = verb("evaluate", *(run if word == "RUN" else word for word in arguments))
        assert (outcome.code, outcome.result["status"]) == (2, "invalid"), arguments
        assert fragment in outcome.stderr
        assert outcome.stderr.count("dltrain: ") == 1 and "Traceback" not in outcome.stderr


def test_data_that_do_not_fit_are_exit_2(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1").result["run"]
    write_table(tmp_path / "new_class.csv", kinds="abc")
    (tmp_path / "no_column.csv").write_text("x,kind\n1,a\n2,b\n")
    (tmp_path / "text.csv").write_text("x,colour,kind\nhigh,red,a\n2,red,b\n")
    for name, fragment in (
        ("new_class.csv", "'c' is no class of the run: a, b"),
        ("no_column.csv", "no column 'colour'"),
        ("text.csv", "'high' is not a finite number"),
        ("missing.csv", "dataset.path='missing.csv': there is no such file"),
    ):
        outcome = verb("evaluate", run, f"dataset.path={name}")
        assert outcome.code == 2
        assert fragment in outcome.stderr


def test_images_of_an_unknown_class_are_exit_2(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    write_images(tmp_path / "other", classes=("dark", "lite"), count=2)
    outcome = verb("evaluate", run.result["run"], "dataset.root=other/train")
    assert outcome.code == 2
    assert "did you mean 'light'?" in outcome.stderr


def test_a_terminal_gets_tables(dltrain, tmp_path):
    run = dltrain(*SHORT).result["run"]
    code, text = on_terminal(tmp_path, "evaluate", run)
    assert code == 0
    for word in ("accuracy", "support", "predicted class", "60 samples", "best.pt"):
        assert word in text
    assert "{" not in text
