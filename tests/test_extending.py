"""docs/extending.md: its code blocks, written where they say, add one of each kind from outside."""

import ast
import csv
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dltrain.commands import verbs
from dltrain.losses import Description, describe, predictions
from dltrain.report.metrics import all_names, declare, declared_metrics_restored, lower_is_better
from dltrain.trained.loaded import load_run

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|yaml)\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMAND = shlex.split(re.search(r"^    dltrain (.*)$", PAGE, re.MULTILINE)[1])
GROUPS = ("dataset", "model", "loss", "optim", "scheduler", "metric", "logger")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The page's files in the working directory, but for the verb, which is dltrain's."""
    for _, name, text in BLOCKS:
        if not name.startswith("dltrain/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_adds_one_of_each_kind_with_a_file_and_a_yaml_file():
    names = [name for _, name, _ in BLOCKS if not name.startswith("dltrain/")]
    assert sorted(re.findall(r"^my_conf/(\w+)/", "\n".join(names), re.MULTILINE)) == sorted(GROUPS)
    assert len(names) == 2 * len(GROUPS)
    assert {word.partition("=")[0] for word in COMMAND} >= set(GROUPS)


def test_one_of_each_kind_is_added_from_outside(dltrain, verb, outside):
    run = dltrain(*COMMAND, "trainer.epochs=5")
    assert run.code == 0, run.stderr
    assert run.result["best"]["monitor"] == "val/calibration"
    history = rows(run.folder)
    errors = [float(row["val/calibration"]) for row in history]
    assert run.result["best"]["epoch"] == errors.index(min(errors)) + 1  # lower is better
    assert [float(row["lr"]) for row in history] == [0.001, 0.001, 0.0005, 0.0005, 0.00025]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["val/calibration"] for line in lines] == errors

    evaluated = verb("evaluate", str(run.folder), "trust=[my_code]")
    assert evaluated.result["metrics"] == run.result["test"]
    assert 0 < run.result["test"]["calibration"] < 1
    compared = verb("compare", str(run.folder), str(run.folder))
    assert "test/calibration" in compared.result["metrics"]
    assert verb("report", str(run.folder), "trust=[my_code]").code == 0
    assert '"title":"calibration"' in (run.folder / "report.html").read_text(encoding="utf-8")


def test_processes_merge_what_a_metric_has_gathered(dltrain, shell, outside):
    run = dltrain(*COMMAND, "trainer.epochs=1")
    shared = shell("evaluate", str(run.folder), "trust=[my_code]", "trainer.devices=2")
    assert shared.returncode == 0, shared.stderr
    assert json.loads(shared.stdout)["metrics"] == pytest.approx(run.result["test"], rel=1e-5)
    path = outside / "my_code" / "calibration.py"
    path.write_text(path.read_text().replace("def merge", "def gather"))
    refused = shell("evaluate", str(run.folder), "trust=[my_code]", "trainer.devices=2")
    assert refused.returncode == 2
    assert "metric.calibration: CalibrationError has no method merge(process_group)" in refused.stderr


def test_a_loss_says_how_outputs_become_predictions(dltrain, verb, outside):
    table = "".join(f"{number},{7 - number},{'ab'[number > 3]}\n" for number in range(8))
    (outside / "t.csv").write_text("x,y,kind\n" + 9 * table)
    chosen = ["--config-dir", "my_conf", "loss=evidence", "dataset=table", "dataset.path=t.csv", "dataset.target=kind"]
    run = dltrain(*chosen, "model=mlp", "trainer.epochs=1")
    assert run.code == 0, run.stderr
    trust = "trust=[my_code]"
    assert verb("predict", str(run.folder), "t.csv", "out=p.csv", trust).code == 0
    with open(outside / "p.csv", newline="") as file:
        predicted = torch.tensor([[float(row["p_a"]), float(row["p_b"])] for row in csv.DictReader(file)]).double()
    loaded = load_run(str(run.folder), [trust])
    inputs = next(iter(loaded.loader("all")[0]))[0]
    outputs = loaded.model(inputs).detach().double()
    evidence = torch.nn.functional.softplus(outputs) + 1e-3
    assert torch.allclose(predicted[: len(inputs)], evidence / evidence.sum(1, keepdim=True), atol=1e-6)
    assert not torch.allclose(predicted[: len(inputs)], outputs.softmax(1), atol=1e-3)


def test_a_loss_without_a_word_of_itself_is_taken_as_usual():
    outputs = torch.randn(4, 3)
    unknown = torch.nn.MultiMarginLoss()
    assert describe(unknown) == Description()
    assert torch.equal(predictions(unknown, outputs, "classification"), outputs.softmax(1))
    assert predictions(unknown, outputs, "regression") is outputs
    assert torch.equal(predictions(torch.nn.BCEWithLogitsLoss(), outputs, "classification"), outputs.sigmoid())


def test_a_loss_says_which_task_it_is_for(dltrain, outside):
    refused = dltrain("--config-dir", "my_conf", "dataset=diabetes", "loss=evidence", "trainer.epochs=1")
    assert refused.code == 2
    assert "loss Evidence is for classification" in refused.stderr


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (
            {"better: lower": "better: smaller"},
            "better='smaller' (my_conf/metric/calibration.yaml, line 4): must be one of",
        ),
        (
            {"  better: lower": "  # better: lower"},
            "better (my_conf/metric/calibration.yaml, line 2): is missing",
        ),
        ({"calibration:\n": "accuracy:\n"}, "give it another name: a word that no metric of a task has"),
        ({"bins": "cells"}, "metric.calibration.cells"),
        ({"calibration.CalibrationError": "evidence.Evidence"}, "with the methods update(predictions, targets)"),
        ({"calibration:\n": "'not a word':\n"}, "give it another name: a word"),
    ],
)
def test_a_metric_with_a_mistake_is_refused_before_training(dltrain, outside, change, fragment):
    path = outside / "my_conf" / "metric" / "calibration.yaml"
    for old, new in change.items():
        path.write_text(path.read_text().replace(old, new))
    refused = dltrain("--config-dir", "my_conf", "metric=calibration", "trainer.epochs=1")
    assert refused.code == 2
    assert fragment in refused.stderr


@pytest.mark.parametrize(
    ("change", "overrides", "fragments"),
    [
        (
            {},
            ["dataset=diabetes"],
            [
                "metric.calibration: CalibrationError does not take the predicted and true values of this data set",
                "calibration.py, line ",
                "RuntimeError: stack expects",
            ],
        ),
        (
            {"(confidence - right).abs().sum() / samples.sum()": "samples"},
            ["dataset=rings", "model=wide"],
            ["compute() returns a Tensor of shape (10,), but a metric is a number"],
        ),
    ],
)
def test_a_metric_that_does_not_fit_the_data_is_refused_before_training(dltrain, outside, change, overrides, fragments):
    path = outside / "my_code" / "calibration.py"
    for old, new in change.items():
        path.write_text(path.read_text().replace(old, new))
    refused = dltrain("--config-dir", "my_conf", "metric=calibration", *overrides, "trainer.epochs=1")
    assert refused.code == 2 and not list(outside.glob("outputs/*/*"))
    assert all(fragment in refused.stderr for fragment in fragments), refused.stderr


def test_a_sweep_is_ranked_by_the_metric_in_the_direction_that_it_says(dltrain, verb, outside):
    chosen = ["metric=calibration", "trainer.checkpoint.monitor=val/calibration", "trainer.epochs=1"]
    sweep = dltrain("-m", "--config-dir", "my_conf", "dataset=rings", "model=wide", *chosen, "optim.lr=0.5,0.001")
    assert sweep.code == 0, sweep.stderr
    reported = verb("report", sweep.result["sweep"])
    values = [float(rows(folder)[0]["val/calibration"]) for folder in sorted(Path(sweep.result["sweep"]).glob("[0-9]"))]
    assert reported.result["best"]["mean"]["val/calibration"] == pytest.approx(min(values))


def test_a_command_does_not_know_the_metrics_of_another(dltrain, outside):
    assert dltrain(*COMMAND, "trainer.epochs=1").code == 0
    assert "calibration" not in all_names()
    with declared_metrics_restored():
        declare({"calibration": {"better": "lower"}})
        dltrain("list")
        assert lower_is_better("val/calibration")
    assert not lower_is_better("val/calibration")


def test_a_verb_is_a_function_and_an_entry(verb, dltrain, monkeypatch):
    code = next(text for _, name, text in BLOCKS if name == "dltrain/commands/epochs.py")
    module = ModuleType("dltrain.commands.epochs")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    diff = re.search(r"^```diff\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1].splitlines()[2:]
    source = Path(verbs.__file__).read_text(encoding="utf-8")
    assert all(f"\n{line[1:]}\n" in source for line in diff if line.startswith(" "))
    added = ast.parse("{" + "\n".join(line[1:] for line in diff if line.startswith("+")) + "}", mode="eval")
    entries = eval(compile(added, "verbs.py", "eval"), vars(verbs))
    for name, entry in entries.items():
        monkeypatch.setitem(verbs.VERBS, name, entry)
    run = dltrain("trainer.epochs=2", "dataset=diabetes", "metric=none")
    assert verb("epochs", str(run.folder)).result == {"status": "done", "epochs": 2}
    assert "how many epochs a run has done" in verb("--help").stdout
