"""What a run leaves is enough to repeat it, bit for bit."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CONF
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


def changed(dltrain, *overrides):
    """The configuration of a repeated run with ``overrides``."""
    outcome = dltrain("--config-dir", "run", "--config-name", "config", *overrides)
    assert outcome.code == 0, outcome.stderr
    return OmegaConf.load(outcome.folder / "config.yaml")


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
def test_another_option_takes_the_place_of_what_a_repeated_run_had(dltrain, finished, tmp_path):
    (tmp_path / "run").symlink_to(finished)
    before = OmegaConf.load(finished / "config.yaml")
    after = changed(dltrain, "optim=nadam", "optim.lr=0.004", "logger=none", "scheduler=none")
    assert after.optim._target_ == "torch.optim.NAdam" and after.optim.lr == 0.004
    assert set(after.optim) == set(OmegaConf.load(CONF / "optim" / "nadam.yaml"))
    assert "csv" not in (after.get("logger") or {})
    for group in ("model", "dataset", "loss", "trainer"):
        assert after[group] == before[group]


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
def test_an_option_that_picks_others_picks_them_for_a_repeated_run_as_well(dltrain, finished, tmp_path):
    (tmp_path / "run").symlink_to(finished)
    assert changed(dltrain, "dataset=sunspots", "dataset.limit=32").model._target_ == "dltrain.models.LSTM"
    recipe = changed(dltrain, "experiment=digits_best", "trainer.epochs=1", "dataset.limit=32")
    assert recipe.model.dropout == 0.2 and recipe.trainer.ema_decay == 0.99
    sweep = dltrain("-m", "--config-dir", "run", "--config-name", "config", "optim=adam,nadam", "hydra.sweep.dir=sweep")
    assert sweep.code == 0, sweep.stderr
    targets = [OmegaConf.load(tmp_path / "sweep" / str(job) / "config.yaml").optim._target_ for job in (0, 1)]
    assert targets == ["torch.optim.Adam", "torch.optim.NAdam"]


def test_the_line_of_the_readme_repeats_a_run_with_a_change(dltrain):
    run = dltrain("trainer.epochs=1", "dataset.limit=16").folder
    readme = (CONF.parent / "README.md").read_text(encoding="utf-8")
    (line,) = (line for line in readme.splitlines() if "--config-name config optim=adam" in line)
    assert line.startswith("    dltrain --config-dir outputs/")
    _, *arguments = shlex.split(line.replace("outputs/2026-01-31/12-00-00-1f2e3d4c", str(run)), comments=True)
    assert OmegaConf.load(dltrain(*arguments).folder / "config.yaml").optim._target_ == "torch.optim.Adam"


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("  lr:", "  lrr:", "torch.optim.AdamW has no argument lrr"),
        ("epochs: 2", "epochs: two", "trainer.epochs='two' (run/config.yaml, line"),
        ("model:\n", "modle:\n", "modle="),
        ("seed: ", "seed:", "a colon takes a space"),
        ("seed: ", "\tseed: ", "there is a tab"),
        ("\ndevice: auto", "\ndevice: ${nothing}", "device='${nothing}' (run/config.yaml, line"),
    ],
    ids=["argument", "type", "group", "colon", "tab", "reference"],
)
def test_a_fault_in_the_file_of_a_copied_run_is_told_with_its_line(dltrain, finished, tmp_path, before, after, told):
    shutil.copytree(finished, "run")
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert before in text
    (tmp_path / "run" / "config.yaml").write_text(text.replace(before, after, 1))
    outcome = dltrain("--config-dir", "run", "--config-name", "config")
    assert outcome.code == 2 and "Traceback" not in outcome.stderr
    assert told in outcome.stderr and "run/config.yaml, line" in outcome.stderr
    assert "job_logging" not in outcome.stderr and "dltrain_complete" not in outcome.stderr


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
def test_a_fault_in_what_a_copied_run_says_of_hydra_is_told_with_the_file_alone(dltrain, finished, tmp_path):
    shutil.copytree(finished, "run")
    with open(tmp_path / "run" / "config.yaml", "a") as file:
        file.write("hydra: {job: {chdir: 3x}}\n")
    (problem,) = dltrain("--config-dir", "run", "--config-name", "config").result["problems"]
    assert problem.startswith("run/config.yaml: ") and "'3x' is not a valid bool" in problem
    assert "dltrain_complete" not in problem


@pytest.mark.parametrize("finished", ["plain"], indirect=True)
def test_a_run_of_an_earlier_version_has_the_keys_that_are_new_by_default(dltrain, finished, tmp_path):
    shutil.copytree(finished, "run")
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    del config["pruner"], config["sweep"], config.trainer["on_oom"]
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    assert changed(dltrain).trainer.on_oom == "halve"


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
