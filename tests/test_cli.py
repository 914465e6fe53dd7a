"""The command line as a stranger uses it: results, exit codes, messages, and what is left behind."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made import on_terminal
from omegaconf import OmegaConf

from dltrain.data.base import Arrays

SHORT = ("trainer.epochs=2", "dataset.limit=40")


def test_dltrain_alone_learns_the_digits(dltrain):
    outcome = dltrain()
    assert outcome.code == 0
    assert outcome.result["test"]["accuracy"] >= 0.98


def test_the_run_folder_is_as_documented(dltrain, tmp_path):
    outcome = dltrain(*SHORT, report=True)
    folder = outcome.folder
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\w+", str(folder.relative_to(tmp_path / "outputs")))
    assert {path.name for path in folder.iterdir()} == {
        ".hydra",
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "result.json",
        "checkpoints",
        "train.log",
        "curves.png",
        "report.html",
    }
    # The state of the first epoch is left out where that of the second came before it was written.
    written = {path.name for path in (folder / "checkpoints").iterdir()} - {"last-1.pt"}
    assert written == {"last.pt", "best.pt"}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")

    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["epoch", "step", "lr", "train/loss"]
    assert {"val/loss", "val/accuracy", "val/f1"} <= set(rows[0])
    assert [row["epoch"] for row in rows] == ["1", "2"]

    result = json.loads((folder / "result.json").read_text())
    assert {name: result[name] for name in outcome.result} == outcome.result
    assert result["command"].startswith("dltrain trainer.epochs=2")
    assert sum(map(sum, result["confusion_matrix"])) == 40
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"command", "git_commit", "device", "threads", "seed"} <= set(environment)

    config = OmegaConf.load(folder / "config.yaml")
    assert config.trainer.epochs == 2
    assert config.model.num_outputs == 10
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    assert OmegaConf.create(best["config"]) == config
    assert best["facts"]["class_names"] == tuple("0123456789")
    log = (folder / "train.log").read_text()
    assert "epoch 2/2" in log


def test_the_result_nests_the_metrics(dltrain):
    result = dltrain(*SHORT).result
    assert list(result) == ["status", "run", "best", "test", "seconds"]
    assert result["status"] == "done"
    assert {"loss", "accuracy"} <= set(result["test"]) & set(result["best"]["val"])
    assert result["best"]["epoch"] in (1, 2)


def test_the_last_line_of_stdout_is_json_and_progress_goes_to_stderr(shell):
    run = shell(*SHORT, "report=false")
    assert run.returncode == 0
    (line,) = run.stdout.splitlines()
    assert 0 <= json.loads(line)["test"]["accuracy"] <= 1
    assert len([line for line in run.stderr.splitlines() if line.startswith("epoch ")]) == 2


def test_the_same_seed_gives_bitwise_the_same_run_and_another_one_does_not(dltrain):
    runs = [dltrain(*SHORT, f"seed={seed}", "model.dropout=0.2") for seed in (3, 3, 4)]
    tables = [(run.folder / "metrics.csv").read_text() for run in runs]
    states = [torch.load(run.folder / "checkpoints" / "last.pt", weights_only=True)["model"] for run in runs]
    assert tables[0] == tables[1] != tables[2]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_test_data_do_not_reach_training_or_the_choice_of_the_best(dltrain, monkeypatch):
    """Other test images and labels: the history, the best epoch and the weights stay the same bit for bit."""
    from dltrain.data import bundled

    def scrambled(*arguments, **keywords):
        data = real(*arguments, **keywords)
        inputs, targets = data.test.take(torch.arange(len(data.test)))
        return dataclasses.replace(data, test=Arrays(255 - inputs, 9 - targets))

    before = dltrain(*SHORT)
    real = bundled.digits
    monkeypatch.setattr(bundled, "digits", scrambled)
    after = dltrain(*SHORT)
    assert before.result["test"] != after.result["test"]
    assert before.result["best"] == after.result["best"]
    tables = [(run.folder / "metrics.csv").read_text() for run in (before, after)]
    assert tables[0] == tables[1]


def test_a_series_reports_errors_in_scaled_and_in_original_units(dltrain):
    test = dltrain("dataset=sunspots", *SHORT).result["test"]
    assert test["mae"] / test["mae_scaled"] == pytest.approx(test["rmse"] / test["rmse_scaled"])
    assert test["mae"] > test["mae_scaled"]


def test_the_loss_of_a_table_follows_the_task_that_the_data_have(dltrain, tmp_path):
    (tmp_path / "t.csv").write_text("x,kind,y\n" + "".join(f"{n},{'ab'[n % 2]},{n * 1.5}\n" for n in range(60)))
    common = ("dataset=table", "dataset.path=t.csv", "trainer.epochs=1")
    assert "accuracy" in dltrain(*common, "dataset.target=kind").result["test"]
    assert "mae" in dltrain(*common, "dataset.target=y").result["test"]


def test_without_validation_data_the_training_loss_says_which_epoch_is_best(dltrain):
    outcome = dltrain(*SHORT, "dataset.val_fraction=0")
    assert outcome.code == 0
    assert outcome.result["best"] == {"epoch": 2, "monitor": "train/loss", "val": {}}
    header = (outcome.folder / "metrics.csv").read_text().splitlines()[0]
    assert header == "epoch,step,lr,train/loss"


def test_two_runs_that_start_in_the_same_second_have_folders_of_their_own(dltrain):
    folders = {dltrain("trainer.epochs=1", "dataset.limit=8").folder for _ in range(3)}
    assert len(folders) == 3


def test_a_mistake_spares_what_is_already_in_the_folder(dltrain, tmp_path):
    folder = tmp_path / "mine"
    first = dltrain(*SHORT, "hydra.run.dir=mine")
    before = sorted(path.name for path in folder.iterdir())
    assert dltrain("model.activation=rellu", "hydra.run.dir=mine").code == 2
    assert sorted(path.name for path in folder.iterdir()) == before
    assert first.result["status"] == "done"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert dltrain("model.activation=rellu", "hydra.run.dir=other").code == 2
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_training_that_diverges_is_exit_1_with_a_result_that_says_so(dltrain, tmp_path):
    outcome = dltrain(*SHORT, "optim.lr=1e30")
    assert outcome.code == 1
    assert "Traceback" not in outcome.stderr
    assert "diverged" in outcome.stderr
    assert outcome.result["status"] == "failed"
    result = json.loads((outcome.folder / "result.json").read_text())
    assert "diverged" in result["error"]


def test_a_bug_in_the_users_class_keeps_its_traceback_and_is_exit_1(dltrain, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\nclass Net(torch.nn.Linear):\n    def forward(self, inputs):\n        return inputs.nonsense\n"
    )
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "mine.yaml").write_text(
        "_target_: mine.Net\nin_features: 64\nout_features: ${data.num_outputs}\n"
    )
    outcome = dltrain("--config-dir", "my_conf", "model=mine", *SHORT)
    assert outcome.code == 1
    assert "Traceback" in outcome.stderr
    assert "AttributeError" in outcome.stderr


def test_the_users_own_model_is_one_target_away(dltrain, tmp_path):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n\n\nclass MyNet(nn.Sequential):\n    def __init__(self, num_classes, width):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "own.yaml").write_text(
        "_target_: own_net.MyNet\nnum_classes: ${data.num_outputs}\nwidth: 32\n"
    )
    outcome = dltrain("--config-dir", "my_conf", "model=own", "trainer.epochs=5")
    assert outcome.code == 0
    assert outcome.result["test"]["accuracy"] > 0.8


def test_a_terminal_gets_the_live_view_and_a_table(tmp_path):
    code, text = on_terminal(tmp_path, *SHORT, "report=false")
    assert code == 0
    assert "2/2" in text and "best val/loss" in text
    assert "accuracy" in text and "done in" in text
    assert "{" not in text and "epoch 1/2" not in text


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_cannot_redraw_gets_a_line_an_epoch(tmp_path, term):
    code, text = on_terminal(tmp_path, *SHORT, "report=false", term=term)
    assert code == 0
    assert [line[:9] for line in text.splitlines() if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert "best val/loss" not in text and "done in" in text and "\x1b" not in text


def test_version_and_list(shell):
    from dltrain import __version__

    assert shell("--version").stdout == f"dltrain {__version__}\n"
    assert "plateau" in shell("list", "scheduler").stdout
    wrong = shell("list", "schedulers")
    assert wrong.returncode == 2
    assert "did you mean 'scheduler'?" in wrong.stderr


def test_the_installed_package_works_from_any_directory(tmp_path):
    """A wheel is built and unpacked elsewhere; nothing of the checkout is on the path."""
    root = Path(__file__).parent.parent
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "dltrain", "conf"):
        subprocess.run(["cp", "-r", root / name, source], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    target = tmp_path / "site"
    subprocess.run([*pip, "--no-build-isolation", "--target", target, source], check=True, timeout=300)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p != {str(root)!r}]; sys.meta_path[:] = "
        "[f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "import dltrain; from dltrain.cli import main\n"
        f"assert dltrain.__file__.startswith({str(target)!r}), dltrain.__file__\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    for dataset in ("digits", "diabetes", "sunspots"):
        run = subprocess.run(
            [sys.executable, "-c", code, f"dataset={dataset}", "trainer.epochs=1", "dataset.limit=64", "report=false"],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        assert Path(json.loads(run.stdout)["run"]).is_relative_to(elsewhere / "outputs")


def test_a_closed_stdout_takes_nothing_from_a_run(tmp_path):
    command = f"{sys.executable} -m dltrain {' '.join(SHORT)} report=false hydra.run.dir=run | true"
    run = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "done"


def test_relative_paths_are_those_of_the_directory_of_the_command_also_with_chdir(dltrain, tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{row},{row * row}\n" for row in range(40)))
    for name, group, text in (
        ("my_conf", "optim", "_target_: torch.optim.SGD\nlr: 0.001\n"),
        ("more", "model", LINEAR),
    ):
        (tmp_path / name / group).mkdir(parents=True)
        (tmp_path / name / group / "mine.yaml").write_text(text)
    command = (
        *("--config-dir", "my_conf", "hydra.searchpath=[file://more]", "hydra.job.chdir=true", "optim=mine"),
        *("model=mine", "dataset=table", "dataset.path=rows.csv", "dataset.target=b", "trainer.epochs=1"),
    )
    outcome = dltrain(*command, "hydra.run.dir=runs/a")
    assert outcome.code == 0, outcome.stderr
    assert outcome.folder == tmp_path / "runs" / "a"
    assert outcome.stderr.count("hydra.job.chdir=true has no effect") == 1
    assert json.loads((outcome.folder / "environment.json").read_text())["working_directory"] == str(tmp_path)
    on = dltrain(*command, "resume=runs/a", "hydra.run.dir=runs/b", "trainer.epochs=2")
    assert on.code == 0, on.stderr
    sweep = dltrain("-m", *command, "seed=1,2", "hydra.sweep.dir=sweep")
    assert sweep.code == 0, sweep.stderr
    assert Path.cwd() == tmp_path
    missing = dltrain(*command, "dataset.path=none.csv")
    assert missing.code == 2 and "there is no such file" in missing.stderr


LINEAR = """\
_target_: dltrain.models.MLP
input_shape: ${data.input_shape}
num_outputs: ${data.num_outputs}
hidden_sizes: []
"""
