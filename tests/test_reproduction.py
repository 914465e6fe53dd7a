"""What a run leaves is enough to repeat it, bit for bit."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

pytestmark = pytest.mark.usefixtures("one_thread")

RUNS = {
    "plain": ["dataset.limit=64", "model.dropout=0.3", "scheduler=onecycle", "optim=adamw", "seed=7"],
    "series": ["dataset=sunspots", "dataset.limit=64", "scheduler=plateau", "trainer.clip_norm=1", "penalty.l2=1e-4"],
    "own": ["--config-dir", "my_conf", "model=mine", "dataset.limit=64", "model.width=8"],
    "recipe": ["experiment=digits_best", "dataset.limit=64", "trainer.ema_decay=0.9"],
}


@pytest.fixture
def finished(dltrain, tmp_path, request) -> Path:
    """The folder of a run of two epochs."""
    (tmp_path / "repeated_net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, num_classes, width):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.Dropout(), nn.Linear(width, num_classes))\n"
    )
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "mine.yaml").write_text(
        "_target_: repeated_net.Net\nnum_classes: ${data.num_outputs}\nwidth: 32\n"
    )
    outcome = dltrain(*RUNS[request.param], "trainer.epochs=2")
    assert outcome.code == 0, outcome.stderr
    return outcome.folder


def require_equal(first: Path, second: Path) -> None:
    """The same metrics, weights, state of the optimizer and result, bit for bit, in two folders."""
    assert first != second
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    one, other = (torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in (first, second))
    torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
    torch.testing.assert_close(one["trainer"]["optimizer"], other["trainer"]["optimizer"], rtol=0, atol=0)
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    assert results[0]["test"] == results[1]["test"]
    assert OmegaConf.load(first / "config.yaml") == OmegaConf.load(second / "config.yaml")


@pytest.mark.parametrize("finished", RUNS, indirect=True)
def test_a_runs_own_configuration_repeats_it(dltrain, finished, tmp_path):
    again = dltrain("--config-dir", str(finished), "--config-name", "config")
    assert again.code == 0, again.stderr
    require_equal(finished, again.folder)


@pytest.mark.parametrize("finished", ["own"], indirect=True)
def test_the_command_in_the_result_repeats_the_run(dltrain, finished):
    program, *arguments = shlex.split(json.loads((finished / "result.json").read_text())["command"])
    assert program == "dltrain"
    assert json.loads((finished / "environment.json").read_text())["command"] == shlex.join([program, *arguments])
    require_equal(finished, dltrain(*arguments).folder)


@pytest.mark.parametrize("finished", ["own"], indirect=True)
def test_the_command_of_a_repeated_run_repeats_it_again(dltrain, finished):
    folders = [dltrain("--config-dir", str(finished), "--config-name", "config").folder]
    _, *arguments = shlex.split(json.loads((folders[0] / "result.json").read_text())["command"])
    assert arguments[:4] == ["--config-dir", str(finished), "--config-name", "config"]
    require_equal(folders[0], dltrain(*arguments).folder)


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
def test_a_repeated_run_has_a_new_folder_like_any_other(dltrain, finished, tmp_path):
    before = sorted(finished.rglob("*"))
    folder = dltrain("--config-dir", str(finished), "--config-name", "config").folder
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\w+", str(folder.relative_to(tmp_path / "outputs")))
    assert sorted(finished.rglob("*")) == before
    # The state of the first epoch is left out where that of the second came before it was written.
    names, wanted = ({path.name for path in paths} - {"last-1.pt"} for paths in (folder.rglob("*"), before))
    assert names == wanted
    assert "epoch 2/2" in (folder / "train.log").read_text()


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
def test_overrides_change_a_repeated_run(dltrain, finished):
    arguments = ("--config-dir", str(finished), "--config-name", "config.yaml", "seed=8", "hydra.run.dir=other")
    again = dltrain(*arguments)
    assert again.folder.name == "other"
    config = OmegaConf.load(again.folder / "config.yaml")
    assert (config.seed, config.optim.lr, config.dataset.limit) == (8, 0.001, 64)


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
def test_a_run_can_be_swept_and_checked(dltrain, finished, tmp_path):
    run = ("--config-dir", str(finished), "--config-name", "config")
    assert dltrain("check", *run).result["status"] == "ok"
    assert dltrain("check", "-m", *run, "seed=7,8").result["count"] == 2
    sweep = dltrain("-m", *run, "seed=7,8", "hydra.sweep.dir=sweep")
    assert sweep.code == 0, sweep.stderr
    require_equal(finished, tmp_path / "sweep" / "0")


def test_the_command_of_a_job_runs_it_alone(dltrain, tmp_path):
    sweep = dltrain("-m", "dataset.limit=64", "trainer.epochs=1", "seed=1,2", "hydra.sweep.dir=sweep")
    assert sweep.code == 0
    _, *arguments = shlex.split(json.loads((tmp_path / "sweep" / "1" / "result.json").read_text())["command"])
    require_equal(tmp_path / "sweep" / "1", dltrain(*arguments).folder)


def test_the_command_of_a_job_names_the_users_folder(dltrain, tmp_path):
    (tmp_path / "my_conf" / "optim").mkdir(parents=True)
    (tmp_path / "my_conf" / "optim" / "slow.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.001\n")
    arguments = ("dataset.limit=32", "trainer.epochs=1", "optim=slow", "seed=1,2", "hydra.sweep.dir=sweep")
    assert dltrain("-m", "--config-dir", "my_conf", *arguments).code == 0
    command = json.loads((tmp_path / "sweep" / "0" / "result.json").read_text())["command"]
    assert command.startswith("dltrain --config-dir my_conf ")
    require_equal(tmp_path / "sweep" / "0", dltrain(*shlex.split(command)[1:]).folder)


def test_flags_may_stand_behind_overrides(dltrain):
    assert dltrain("check", "seed=1,2", "-m", "trainer.epochs=1").result["count"] == 2
    assert "epochs: 3" in dltrain("trainer.epochs=3", "--cfg", "job").stdout


def test_a_file_of_the_users_own_that_dltrains_would_hide_is_refused(dltrain, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("defaults:\n  - model: cnn\n")
    outcome = dltrain("--config-dir", "mine", "--config-name", "config")
    assert outcome.code == 2
    assert "mine/config.yaml" in outcome.stderr and "another name" in outcome.stderr


def test_a_primary_file_of_the_users_own_builds_on_dltrains(dltrain, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "long.yaml").write_text("defaults:\n  - config\n  - _self_\ntrainer:\n  epochs: 99\n")
    outcome = dltrain("--config-dir", "mine", "--config-name", "long", "--cfg", "job")
    assert outcome.code == 0, outcome.stderr
    assert "epochs: 99" in outcome.stdout
