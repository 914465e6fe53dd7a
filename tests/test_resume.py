"""A run that was stopped and resumed equals the one that nobody stopped, bit for bit; what would not is refused."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from test_loggers import wandb_records
from torture import differences, torture

from dltrain.config import earlier, nodes
from dltrain.config.earlier import as_text, locate_files, of_checkpoint, of_text
from dltrain.data import loader
from dltrain.data.shard_files.writing import write_shards
from dltrain.errors import CheckpointError, ConfigError
from dltrain.runs import checkpoint
from dltrain.runs.writer import Checkpoints
from dltrain.training.progress import View
from dltrain.training.trainer import Trainer

SHORT = ("trainer.epochs=4", "dataset.limit=100")  # 4 steps an epoch
CONFIGS = {
    "cnn": (*SHORT, "model.dropout=0.3", "dataset.augment={crop:1,flip:true,cutout:2}", "optim.momentum=0.9"),
    "lstm": (
        *("dataset=sunspots", "dataset.limit=256", "model.hidden_size=8", "model.dropout=0.1", "optim.lr=1.0"),
        *("scheduler=plateau", "scheduler.patience=1", "trainer.early_stopping.patience=3", "trainer.epochs=40"),
    ),
    "accumulate": (
        *(*SHORT, "trainer.accumulate=3", "trainer.ema_decay=0.9", "model.dropout=0.2", "model=mlp"),
        *("trainer.checkpoint.every_n_steps=3", "trainer.checkpoint.every_n_epochs=null"),
    ),
    "onecycle": (*SHORT, "optim=sgd", "scheduler=onecycle", "trainer.precision=fp32", "trainer.clip_norm=1"),
    "images": (
        *("dataset=image_folder", "dataset.root=images", "dataset.cache=none", "dataset.image_size=8"),
        *("dataset.batch_size=8", "trainer.epochs=3", "dataset.augment={crop:2,flip:true}", "model.dropout=0.2"),
    ),
}


class Killed(BaseException):
    """Ends a run as SIGKILL would, as far as its checkpoints are concerned."""


def behind_step(step: int) -> Callable[..., None]:
    """Makes a signal or a kill come while step ``step`` (from 1, of this process) is taken."""

    def arm(patch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
        real, taken = View.step, []

        def watched(self, total):
            real(self, total)
            taken.append(1)
            if len(taken) == step:
                happen()

        patch.setattr(View, "step", watched)

    arm.__name__ = f"after step {step}"
    return arm


def behind_epoch(epoch: int) -> Callable[..., None]:
    """Makes it come between two epochs."""

    def arm(patch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
        real = View.epoch

        def watched(self, row, best):
            real(self, row, best)
            if row["epoch"] == epoch:
                happen()

        patch.setattr(View, "epoch", watched)

    arm.__name__ = f"behind epoch {epoch}"
    return arm


def in_validation(epoch: int) -> Callable[..., None]:
    """Makes it come while the validation of an epoch begins."""

    def arm(patch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
        real = Trainer.validate

        def watched(self):
            if self.epoch == epoch - 1:
                happen()
            return real(self)

        patch.setattr(Trainer, "validate", watched)

    arm.__name__ = f"in validation {epoch}"
    return arm


def signalled() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def killed() -> None:
    raise Killed


@pytest.fixture
def interrupted(dltrain, monkeypatch) -> Callable[..., Path]:
    """Starts a run in the folder ``run`` and stops it at a point: by a signal, or as a kill would."""

    def start(*arguments: str, at: Callable[..., None], by: Callable[[], None] = signalled) -> Path:
        with monkeypatch.context() as patch:
            at(patch, by)
            assert dltrain(*arguments, "hydra.run.dir=run").code == (143 if by is signalled else 1)
        return Path("run")

    return start


@pytest.fixture
def each_written(monkeypatch) -> None:
    """Has every state written before the run goes on, where otherwise all but the newest may be left out."""
    real = Checkpoints.save_last

    def save_last(self, content):
        copied = real(self, content)
        self.wait()
        return copied

    monkeypatch.setattr(Checkpoints, "save_last", save_last)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Forty pictures in two classes."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(40):
        folder = root / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, images) -> Callable[[str], Path]:
    """The folder of the run of a configuration that nobody stopped."""
    known: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in known:
            from dltrain import cli

            folder = tmp_path_factory.mktemp("undisturbed") / name
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(images.parent)
                patch.setattr(loader, "core_count", lambda: 0)
                patch.setattr(sys, "argv", sys.argv)
                patch.setattr(sys, "path", list(sys.path))
                named = [f"dataset.root={images}" if word == "dataset.root=images" else word for word in CONFIGS[name]]
                assert cli.main([*named, "report=false", f"hydra.run.dir={folder}"]) == 0
            known[name] = folder
        return known[name]

    return run


def assert_equal_runs(one: Path, other: Path) -> None:
    allowed = ("config", "composed")  # a data folder that has moved, another cache
    found = [line for line in differences(one, other) if not line.endswith(allowed)]
    assert found == []


POINTS = [behind_step(1), behind_step(6), behind_step(8), behind_epoch(2), in_validation(2), behind_step(16)]


@pytest.mark.parametrize(
    ("name", "at", "by"),
    [
        (name, at, (signalled, killed)[(row + column) % 2])
        for row, name in enumerate(["cnn", "lstm", "accumulate", "onecycle"])
        for column, at in enumerate(POINTS)
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_stopped_and_resumed_run_equals_the_one_that_nobody_stopped(dltrain, interrupted, undisturbed, name, at, by):
    expected = undisturbed(name)
    run = interrupted(*CONFIGS[name], at=at, by=by)
    if any((run / "checkpoints").iterdir()):
        resumed = dltrain("resume", "run")
    else:  # killed before there was anything to go on from
        resumed = dltrain(*CONFIGS[name], "hydra.run.dir=run", "resume=auto")
    assert resumed.code == 0, resumed.stderr
    assert_equal_runs(expected, run)


def test_the_readmes_schedule_made_of_others_is_checked_and_goes_on_exactly(dltrain, interrupted):
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n# my_conf/scheduler/warm\.yaml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    Path("my_conf/scheduler").mkdir(parents=True)
    Path("my_conf/scheduler/warm.yaml").write_text(text)
    command = ("--config-dir", "my_conf", "scheduler=warm", *CONFIGS["cnn"])
    expected = [0.05 * factor for factor in (0.1, 0.4, 0.7, 1.0)]
    assert dltrain("check", *command).result["lr"] == pytest.approx(expected)
    assert dltrain(*command, "hydra.run.dir=whole").code == 0
    assert rates(Path("whole")) == pytest.approx(expected)
    for at in (behind_step(6), behind_epoch(3)):
        run = interrupted(*command, at=at)
        assert dltrain("resume", "run").code == 0
        assert_equal_runs(Path("whole"), run)
        shutil.rmtree(run)


def test_the_configurations_above_are_what_they_are_meant_to_be(undisturbed):
    lstm = checkpoint.load(undisturbed("lstm") / "checkpoints" / "last.pt")["trainer"]
    assert lstm["step"] >= 16
    assert 5 < lstm["epoch"] < 40  # stopped early
    assert len({row["lr"] for row in lstm["history"]}) > 1  # on a plateau
    for name in ("cnn", "accumulate", "onecycle"):
        assert checkpoint.load(undisturbed(name) / "checkpoints" / "last.pt")["trainer"]["step"] == 16


def test_a_run_that_is_stopped_again_and_again_still_equals_the_undisturbed_one(dltrain, undisturbed, monkeypatch):
    expected = undisturbed("cnn")
    codes = []
    for by in (signalled, killed, signalled, killed, signalled):
        with monkeypatch.context() as patch:
            behind_step(3)(patch, by)
            codes.append(dltrain(*CONFIGS["cnn"], "hydra.run.dir=run", "resume=auto").code)
    codes.append(dltrain("resume", "run").code)
    assert codes == [143, 1, 143, 1, 143, 0]
    assert_equal_runs(expected, Path("run"))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 1)])
def test_images_read_by_another_number_of_workers_give_the_same_run(
    dltrain, interrupted, undisturbed, images, monkeypatch, before, after
):
    expected = undisturbed("images")
    Path("images").symlink_to(images)
    monkeypatch.setattr(loader, "core_count", lambda: before)
    run = interrupted(*CONFIGS["images"], at=behind_step(6))
    monkeypatch.setattr(loader, "core_count", lambda: after)
    assert dltrain("resume", "run").code == 0
    assert_equal_runs(expected, run)


def test_images_from_another_cache_in_a_folder_that_has_moved_give_the_same_run(
    dltrain, interrupted, undisturbed, images
):
    expected = undisturbed("images")
    Path("images").symlink_to(images)
    run = interrupted(*CONFIGS["images"], at=behind_step(6))
    Path("images").rename("moved")
    assert dltrain("resume", "run").code == 2
    assert dltrain("resume", "run", "dataset.root=moved", "dataset.cache=memory").code == 0
    assert_equal_runs(expected, run)


def test_a_run_whose_network_draws_in_evaluation_too_goes_on_exactly(dltrain, interrupted, monkeypatch):
    Path("drawing.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def forward(self, inputs):\n"
        "        return super().forward(nn.functional.dropout(inputs, 0.2, training=True))\n\n"
        "def make(outputs):\n    return Net(nn.Flatten(), nn.Linear(64, outputs))\n"
    )
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/drawing.yaml").write_text("_target_: drawing.make\noutputs: ${data.num_outputs}\n")
    command = ("--config-dir", "conf", "model=drawing", *SHORT)
    monkeypatch.setattr(import_module("dltrain.build.make"), "_EVALUATION_BATCH", 32)
    assert dltrain(*command, "hydra.run.dir=undisturbed").code == 0
    real = Trainer._until_stopped

    def late(self, batches):
        for number, batch in enumerate(real(self, batches)):
            yield batch
            if self.epoch == 1 and number == 0:
                signalled()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_until_stopped", late)
        assert dltrain(*command, "hydra.run.dir=run").code == 143
    assert dltrain("resume", "run", "trust=[drawing]").code == 0
    assert_equal_runs(Path("undisturbed"), Path("run"))


def test_a_process_that_is_killed_for_real_loses_nothing(tmp_path):
    outcome = torture([*CONFIGS["accumulate"], "trainer.epochs=60"], 2, tmp_path, seed=3)
    assert outcome.kills >= 2
    assert outcome.differing == []


# How a run is named, and what the verb and the key say


def test_a_checkpoint_file_names_its_run_and_the_state_to_go_on_from(dltrain, undisturbed, interrupted, each_written):
    run = interrupted(*CONFIGS["cnn"], at=behind_step(14))
    resumed = dltrain("resume", "run/checkpoints/last-1.pt")
    assert resumed.code == 0
    assert "after step 12\n" in resumed.stderr
    assert_equal_runs(undisturbed("cnn"), run)


def test_resume_auto_starts_goes_on_and_then_says_that_it_is_finished(dltrain, interrupted, undisturbed):
    command = (*CONFIGS["cnn"], "resume=auto")
    interrupted(*command, at=behind_step(6))
    gone_on = dltrain(*command, "hydra.run.dir=run")
    assert gone_on.code == 0 and "after step 6" in gone_on.stderr
    assert [
        line for line in differences(undisturbed("cnn"), Path("run")) if not line.endswith(("config", "composed"))
    ] == []
    content = {path: path.read_bytes() for path in Path("run/checkpoints").iterdir()}
    finished = dltrain(*command, "hydra.run.dir=run")
    assert finished.code == 0
    assert "is finished: 4 of 4 epochs" in finished.stderr
    assert finished.stdout == gone_on.stdout
    assert {path: path.read_bytes() for path in Path("run/checkpoints").iterdir()} == content
    moved = Path("run").rename("moved").resolve()
    assert dltrain(*command, "hydra.run.dir=moved").result == finished.result | {"run": str(moved)}


def test_a_run_goes_on_in_another_folder_and_leaves_its_own_as_it_is(dltrain, interrupted, undisturbed):
    run = interrupted(*CONFIGS["cnn"], at=behind_step(6))
    content = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    other = dltrain(*CONFIGS["cnn"], "resume=run", "hydra.run.dir=other")
    assert other.code == 0
    assert other.folder.name == "other"
    assert_equal_runs(undisturbed("cnn"), other.folder)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == content


def test_going_on_elsewhere_with_a_finished_run_shows_its_result_and_leaves_no_folder(dltrain, undisturbed):
    done = undisturbed("cnn")
    outcome = dltrain(*CONFIGS["cnn"], f"resume={done}", "hydra.run.dir=other")
    assert outcome.code == 0
    assert outcome.result["run"] == str(done)
    assert not Path("other").exists()


def test_a_finished_run_that_is_resumed_says_so_and_prints_its_result(dltrain, undisturbed):
    run = shutil.copytree(undisturbed("lstm"), "run")
    outcome = dltrain("resume", str(run))
    assert outcome.code == 0
    assert "is finished" in outcome.stderr and "stopped early" in outcome.stderr
    assert outcome.result["status"] == "done"


def test_a_run_killed_in_its_test_is_tested_again(dltrain, interrupted, undisturbed, monkeypatch):
    import dltrain.trained.train as command

    def kill(parts):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(command, "_test", kill)
        assert dltrain(*CONFIGS["cnn"], "hydra.run.dir=run").code == 1
    assert dltrain("resume", "run").code == 0
    assert_equal_runs(undisturbed("cnn"), Path("run"))


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["RUN"]),
        (["trainer.epochs=3"], ["RUN"]),
        (["nowhere"], ["there is no run 'nowhere'"]),
        (["empty"], ["'empty' is no run folder"]),
        (["begun"], ["holds no checkpoint", "checkpoints/last.pt"]),
        (["loose.pt"], ["'loose.pt' is in no run folder"]),
        (["run/checkpoints/best.pt"], ["holds weights alone", "last.pt"]),
        (["run", "trainer.epoch=3"], ["trainer.epoch is no key", "did you mean 'epochs'?"]),
        (["run", "trainer.epochs=abc"], ["trainer.epochs='abc'"]),
        (["run", "model=lstm"], ["model=lstm", "cannot be chosen anew"]),
        (["run", "=="], ["=="]),
        (["run", "logger=tensorbord"], ["tensorbord", "did you mean 'tensorboard'?"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_mistake_with_resume_gets_one_message_and_exit_2(dltrain, undisturbed, arguments, fragments):
    shutil.copytree(undisturbed("cnn"), "run")
    Path("empty").mkdir()
    Path("begun/checkpoints").mkdir(parents=True)
    shutil.copy("run/checkpoints/last.pt", "loose.pt")
    there = sorted(Path().rglob("*"))
    outcome = dltrain("resume", *arguments)
    assert outcome.code == 2
    assert outcome.result["status"] == "invalid" and "Traceback" not in outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in fragments:
        assert fragment in outcome.stderr
    assert sorted(path for path in Path().rglob("*") if path.name != "train.log") == [
        path for path in there if path.name != "train.log"
    ]


# What may change, and what may not


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("seed=2", "seed"),
        ("deterministic=true", "deterministic"),
        ("dataset.batch_size=16", "dataset.batch_size"),
        ("dataset.limit=90", "dataset.limit"),
        ("dataset.split_seed=5", "dataset.split_seed"),
        ("optim.lr=0.001", "optim.lr"),
        ("optim.nesterov=true", "optim.nesterov"),
        ("model=mlp", "model._target_"),
        ("model.dropout=0.5", "model.dropout"),
        ("dataset.augment.crop=2", "dataset.augment.crop"),
        ("scheduler=step", "scheduler._target_"),
        ("loss.label_smoothing=0.1", "loss.label_smoothing"),
        ("trainer.accumulate=2", "trainer.accumulate"),
        ("trainer.ema_decay=0.5", "trainer.ema_decay"),
        ("trainer.clip_norm=1", "trainer.clip_norm"),
        ("trainer.precision=bf16", "trainer.precision"),
        ("trainer.checkpoint.monitor=val/accuracy", "trainer.checkpoint.monitor"),
        ("penalty.l2=0.1", "penalty.l2"),
    ],
)
def test_what_would_make_it_another_run_is_refused_by_name(dltrain, stopped, change, key):
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.suffix in (".pt", ".csv", ".json")}
    outcome = dltrain(*CONFIGS["cnn"], change, "hydra.run.dir=run", "resume=auto")
    assert outcome.code == 2
    assert f"{key} was " in outcome.stderr and "--force" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory) -> Path:
    """The run "cnn", stopped after step 6, in the second of four epochs."""
    from dltrain import cli

    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(sys, "path", list(sys.path))
        behind_step(6)(patch, signalled)
        assert cli.main([*CONFIGS["cnn"], "report=false", "hydra.run.dir=run"]) == 143
    return folder / "run"


@pytest.fixture
def stopped(stopped_once, dltrain) -> Path:
    """A copy of it, in the working directory."""
    return Path(shutil.copytree(stopped_once, "run"))


@pytest.mark.parametrize(
    "changes",
    [
        ["device=cpu"],
        ["trainer.checkpoint.every_n_steps=1", "trainer.checkpoint.keep=3", "trainer.checkpoint.every_n_epochs=null"],
        ["trainer.checkpoint.every_n_minutes=5"],
        ["trainer.early_stopping.patience=30", "trainer.early_stopping.monitor=val/accuracy"],
        ["logger=[csv,tensorboard]"],
        ["trainer.on_nonfinite=skip", "trainer.on_oom=stop"],
        ["report=true"],
    ],
    ids=" ".join,
)
def test_what_does_not_touch_the_weights_may_change(dltrain, stopped, undisturbed, changes):
    outcome = dltrain("resume", "run", *changes)
    assert outcome.code == 0, outcome.stderr
    assert_equal_runs(undisturbed("cnn"), stopped)


def test_early_stopping_asked_for_later_counts_the_epochs_before(dltrain, stopped, undisturbed):
    assert (
        dltrain(
            "resume", "run", "trainer.epochs=50", "trainer.early_stopping.patience=1", "optim.lr=0.0", "--force"
        ).code
        == 0
    )
    rows = read_metrics(stopped)
    losses = [float(row["val/loss"]) for row in rows]
    assert [later < earlier for earlier, later in pairwise(losses)] == [True] * (len(losses) - 2) + [False]


def read_metrics(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_more_epochs_equal_a_run_that_was_to_have_as_many_and_stay_in_force(dltrain, stopped):
    longer = [word for word in CONFIGS["cnn"] if not word.startswith("trainer.epochs")]
    assert dltrain(*longer, "trainer.epochs=7", "hydra.run.dir=longer").code == 0
    with pytest.MonkeyPatch.context() as patch:
        behind_step(12)(patch, signalled)
        assert dltrain("resume", "run", "trainer.epochs=7").code == 143
    outcome = dltrain("resume", "run")
    assert outcome.code == 0
    assert [row["epoch"] for row in read_metrics(stopped)] == ["1", "2", "3", "4", "5", "6", "7"]
    assert_equal_runs(Path("longer"), stopped)


def test_a_finished_run_goes_on_for_more_epochs(dltrain, undisturbed):
    run = Path(shutil.copytree(undisturbed("cnn"), "run"))
    assert dltrain("resume", "run", "trainer.epochs=6").code == 0
    assert [row["epoch"] for row in read_metrics(run)] == ["1", "2", "3", "4", "5", "6"]


def test_more_epochs_are_refused_where_the_schedule_is_laid_out_over_the_run(dltrain, interrupted):
    interrupted(*CONFIGS["onecycle"], at=behind_step(6))
    outcome = dltrain("resume", "run", "trainer.epochs=7")
    assert outcome.code == 2
    assert "scheduler.total_steps was 16 and is now 28" in outcome.stderr


def test_more_epochs_are_welcome_where_an_expression_is_the_schedule(dltrain, interrupted):
    command = (*CONFIGS["cnn"], "scheduler=lambda", "scheduler.interval=step", "scheduler.lr_lambda=0.9**step")
    assert dltrain(*command, "trainer.epochs=7", "hydra.run.dir=longer").code == 0
    run = interrupted(*command, at=behind_step(6))
    outcome = dltrain("resume", "run", "trainer.epochs=7")
    assert outcome.code == 0, outcome.stderr
    assert_equal_runs(Path("longer"), run)


@pytest.fixture
def own_data(dltrain, images) -> dict[str, tuple[str, ...]]:
    """The options for data of one's own, which lie in the working directory: table, series and image folder."""
    shutil.copytree(images, "images")
    write_shards(Path("images"), Path("sharded"), "tar", samples=10_000, seed=0)
    generator = np.random.default_rng(0)
    rows = [",".join(f"{value:.3f}" for value in row) for row in generator.normal(size=(60, 3))]
    Path("rows.csv").write_text("\n".join(["a,b,c", *rows]) + "\n")
    rows = ("dataset.path=rows.csv", "dataset.target=c", "trainer.epochs=3")
    return {
        "table": ("dataset=table", *rows),
        "series": ("dataset=series", "dataset.window=4", "dataset.horizon=1", *rows),
        "image_folder": ("dataset=image_folder", "dataset.root=images", "dataset.image_size=8", "trainer.epochs=3"),
        "shards": ("dataset=shards", "dataset.root=sharded", "dataset.image_size=8", "trainer.epochs=3"),
    }


def change_a_value() -> None:
    *rows, _ = Path("rows.csv").read_text().splitlines()
    Path("rows.csv").write_text("\n".join([*rows, "0.5,0.5,0.5"]) + "\n")


def rename_an_image() -> None:
    Path("images/train/a/0.png").rename("images/train/a/00.png")


def replace_an_image() -> None:
    Image.new("RGB", (8, 8)).save("images/train/a/0.png")


def exchange_two_images_of_equal_size() -> None:
    paths = sorted(Path("images/train").rglob("*.png"), key=lambda path: path.stat().st_size)
    one, other = next(pair for pair in pairwise(paths) if pair[0].stat().st_size == pair[1].stat().st_size)
    before = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(before)


def change_a_label_in_a_shard() -> None:
    shard = Path("sharded/train/000000.tar")
    content = bytearray(shard.read_bytes())
    assert content[1024:].startswith(b"000000000.cls") and content[1536:1537] in (b"0", b"1")
    content[1536] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize(
    ("data", "change"),
    [
        *(("table", change_a_value), ("series", change_a_value)),
        *(("image_folder", rename_an_image), ("image_folder", replace_an_image)),
        *(("image_folder", exchange_two_images_of_equal_size), ("shards", change_a_label_in_a_shard)),
    ],
)
def test_files_that_have_changed_are_noticed(dltrain, interrupted, own_data, data, change):
    interrupted(*own_data[data], at=behind_step(1))
    change()
    refused = dltrain("resume", "run")
    assert refused.code == 2
    assert "data.files was " in refused.stderr and "data.samples" not in refused.stderr
    assert dltrain("resume", "run", "--force").code == 0


@pytest.mark.parametrize("data", ["table", "series", "image_folder"])
def test_files_that_were_copied_elsewhere_are_the_same(dltrain, interrupted, own_data, data):
    assert dltrain(*own_data[data], "hydra.run.dir=whole").code == 0
    run = interrupted(*own_data[data], at=behind_step(1))
    shutil.copytree("images", "elsewhere")
    shutil.copy("rows.csv", "other.csv")
    place = "dataset.root=elsewhere" if data == "image_folder" else "dataset.path=other.csv"
    outcome = dltrain("resume", "run", place)
    assert outcome.code == 0, outcome.stderr
    assert [line for line in differences(Path("whole"), run) if not line.endswith(("config", "composed", "name"))] == []


@pytest.mark.parametrize("data", ["table", "series", "image_folder"])
def test_a_run_goes_on_from_another_directory_as_every_verb_does(
    dltrain, interrupted, own_data, data, tmp_path, monkeypatch
):
    run = interrupted(*own_data[data], at=behind_epoch(1)).absolute()
    assert dltrain(*own_data[data], "hydra.run.dir=whole").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = dltrain("resume", str(run))
    assert outcome.code == 0, outcome.stderr
    assert_equal_runs(tmp_path / "whole", run)
    for directory in ("elsewhere", "."):  # once more, now that the run was taken up elsewhere
        monkeypatch.chdir(tmp_path / directory)
        assert dltrain("evaluate", str(run), report=True).result["metrics"] == outcome.result["test"]


def test_files_that_are_named_on_resuming_are_named_from_there(dltrain, interrupted, own_data, tmp_path, monkeypatch):
    run = interrupted(*own_data["table"], at=behind_epoch(1)).absolute()
    (tmp_path / "elsewhere").mkdir()
    shutil.move("rows.csv", "elsewhere/moved.csv")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert dltrain("resume", str(run), "dataset.path=moved.csv").code == 0
    monkeypatch.chdir(tmp_path)
    assert dltrain("evaluate", str(run), report=True).code == 0


def test_a_file_of_the_same_name_here_is_not_taken_for_that_of_the_run(dltrain, own_data, tmp_path, monkeypatch):
    run = dltrain(*own_data["table"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rows.csv").write_text("a,b,c\n" + "1,2,3\n" * 30)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert dltrain("evaluate", str(run.folder), report=True).result["metrics"] == run.result["test"]


def test_loggers_stores_are_found_again_from_another_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlruns").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = []
    for uri in ("sqlite:///mlflow.db", "mlruns", "sqlite:///other.db", "http://server:5000", f"sqlite:///{tmp_path}/x"):
        cfg = OmegaConf.create({"dataset": {}, "logger": {"mlflow": {"tracking_uri": uri}}})
        locate_files(cfg, str(tmp_path))
        found.append(cfg.logger.mlflow.tracking_uri)
    here = [f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/mlruns"]
    assert found == [*here, "sqlite:///other.db", "http://server:5000", f"sqlite:///{tmp_path}/x"]


def test_a_run_that_looked_at_no_contents_goes_on_with_the_same_files(dltrain, interrupted, own_data):
    run = interrupted(*own_data["image_folder"], at=behind_step(1))
    path = run / "checkpoints" / "last.pt"
    state = checkpoint.load(path)
    before = re.sub(", contents [0-9a-f]{8}", "", state["config"])
    assert before != state["config"]
    checkpoint.save(path, {**state, "config": before})
    shutil.copytree("images", "kept")
    rename_an_image()
    assert dltrain("resume", "run").code == 2
    assert dltrain("resume", "run", "dataset.root=kept").code == 0


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_another_number_of_samples_is_noticed(dltrain, stopped, part):
    path = stopped / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    config = yaml.safe_load(content["config"])
    config["data"]["samples"][part] -= 1
    checkpoint.save(path, content | {"config": yaml.safe_dump(config)})
    refused = dltrain("resume", "run")
    assert refused.code == 2
    assert f"data.samples.{part} was " in refused.stderr


def rates(run: Path) -> list[float]:
    return [float(row["lr"]) for row in read_metrics(run)]


def test_a_forced_learning_rate_takes_effect(dltrain, stopped):
    outcome = dltrain("resume", "run", "--force", "optim.lr=0.001")
    assert outcome.code == 0
    assert rates(stopped) == [0.05, 0.001, 0.001, 0.001]
    assert "optim.lr was 0.05 and is now 0.001 (forced)" in outcome.stderr


@pytest.mark.parametrize("scheduler", ["exponential", "lambda"])
def test_a_forced_learning_rate_keeps_the_course_of_the_schedule(dltrain, interrupted, scheduler):
    run = interrupted(*CONFIGS["cnn"], f"scheduler={scheduler}", at=behind_step(6))
    assert dltrain(*CONFIGS["cnn"], f"scheduler={scheduler}", "hydra.run.dir=whole").code == 0
    assert dltrain("resume", "run", "optim.lr=0.005", "--force").code == 0
    expected = rates(Path("whole"))
    assert rates(run) == pytest.approx([expected[0], *(0.1 * rate for rate in expected[1:])])


def test_a_forced_schedule_starts_anew(dltrain, interrupted):
    run = interrupted(*CONFIGS["cnn"], "scheduler=exponential", at=behind_step(6))
    assert dltrain("resume", "run", "scheduler.gamma=0.5", "--force").code == 0
    assert rates(run) == [0.05, 0.05, 0.025, 0.0125]


LENGTHS = {  # schedules that know the length of the run
    "cosine": ("scheduler=cosine",),
    "cosine over steps": ("scheduler=cosine", "scheduler.interval=step"),
    "one cycle": ("scheduler=onecycle",),
    "warm-up": ("scheduler=linear_warmup_cosine",),
    "a length in a schedule within a schedule": (
        *("scheduler._target_=torch.optim.lr_scheduler.ChainedScheduler",),
        "+scheduler.schedulers=[{_target_:torch.optim.lr_scheduler.CosineAnnealingLR,T_max:'${data.schedule_length}'}]",
    ),
}


@pytest.mark.parametrize(
    ("schedule", "at"),
    [*((schedule, behind_step(6)) for schedule in LENGTHS.values()), (LENGTHS["cosine"], behind_step(16))],
    ids=[*LENGTHS, "cosine that has ended"],
)
def test_a_schedule_forced_over_more_epochs_is_where_one_of_that_length_would_be(dltrain, interrupted, schedule, at):
    command = [word for word in CONFIGS["cnn"] if not word.startswith("trainer.epochs")]
    run = interrupted(*command, "trainer.epochs=4", *schedule, at=at)
    assert dltrain("resume", "run", "trainer.epochs=8", "--force").code == 0
    assert dltrain(*command, "trainer.epochs=8", *schedule, "hydra.run.dir=whole").code == 0
    begun = 1 if at.__name__ == "after step 6" else 4
    assert rates(run)[begun:] == pytest.approx(rates(Path("whole"))[begun:], rel=1e-9)


def test_a_forced_schedule_keeps_the_halves_of_rollbacks(dltrain, interrupted):
    run = interrupted(*CONFIGS["cnn"], "scheduler=linear_warmup_cosine", at=behind_epoch(2))
    path = run / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["trainer"]["events"] = [{"event": "rollback", "step": 3, "to": 1, "cause": "made up"}] * 2
    checkpoint.save(path, content)
    assert dltrain("resume", "run", "trainer.epochs=8", "--force").code == 0
    longer = [word for word in CONFIGS["cnn"] if not word.startswith("trainer.epochs")]
    assert dltrain(*longer, "trainer.epochs=8", "scheduler=linear_warmup_cosine", "hydra.run.dir=whole").code == 0
    assert rates(run)[2:] == pytest.approx([rate / 4 for rate in rates(Path("whole"))[2:]])


def test_a_length_that_was_typed_counts_as_well(dltrain, interrupted):
    run = interrupted(*CONFIGS["cnn"], "scheduler=cosine", "scheduler.T_max=4", at=behind_step(6))
    assert dltrain("resume", "run", "scheduler.T_max=8", "--force").code == 0
    expected = [0.05, *(0.05 * (1 + math.cos(math.pi * epoch / 8)) / 2 for epoch in (1, 2, 3))]
    assert rates(run) == pytest.approx(expected)


def test_a_length_within_a_schedule_of_others_is_named_and_may_be_forced(dltrain, interrupted):
    command = (*CONFIGS["cnn"], *LENGTHS["a length in a schedule within a schedule"][:1])
    inner = "+scheduler.schedulers=[{_target_:torch.optim.lr_scheduler.CosineAnnealingLR,T_max:4}]"
    run = interrupted(*command, inner, at=behind_step(6))
    change = ("resume", "run", "scheduler.schedulers.0.T_max=8")
    refused = dltrain(*change)
    assert refused.code == 2 and "scheduler.schedulers.0.T_max was 4 and is now 8" in refused.stderr
    assert dltrain(*change, "--force").code == 0
    assert rates(run) == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 8)) / 2 for epoch in (0, 1, 2, 3)])


def test_with_batches_of_another_size_a_forced_schedule_covers_the_run(dltrain, interrupted):
    run = interrupted(*CONFIGS["cnn"], "scheduler=linear_warmup_cosine", at=behind_epoch(2))
    assert dltrain("resume", "run", "dataset.batch_size=16", "--force").code == 0
    whole = (*CONFIGS["cnn"], "scheduler=linear_warmup_cosine", "dataset.batch_size=16", "hydra.run.dir=whole")
    assert dltrain(*whole).code == 0
    assert rates(run)[2:] == pytest.approx(rates(Path("whole"))[2:])


def test_a_forced_schedule_that_cannot_reach_as_far_is_refused_by_name(dltrain, interrupted):
    interrupted(*CONFIGS["onecycle"], at=behind_step(14))
    outcome = dltrain("resume", "run", "trainer.epochs=2", "--force")
    assert outcome.code == 2
    assert "OneCycleLR cannot go on over trainer.epochs=2: Tried to step" in outcome.stderr


def test_other_options_of_the_optimizer_take_effect_when_forced(dltrain, stopped):
    assert dltrain("resume", "run", "optim.momentum=0.5", "--force").code == 0
    (group,) = checkpoint.load(stopped / "checkpoints" / "last.pt")["trainer"]["optimizer"]["param_groups"]
    assert (group["momentum"], group["lr"]) == (0.5, 0.05)


@pytest.mark.parametrize(
    "change",
    [
        *("trainer.ema_decay=0.9", "trainer.accumulate=2", "dataset.batch_size=16", "trainer.precision=bf16"),
        *("trainer.checkpoint.monitor=val/accuracy", "optim._target_=torch.optim.AdamW"),
    ],
)
def test_what_is_forced_runs_to_the_end(dltrain, interrupted, change):
    run = interrupted(*SHORT, "optim=adam", at=behind_step(6))
    outcome = dltrain("resume", "run", change, "--force")
    assert outcome.code == 0, outcome.stderr
    assert len(read_metrics(run)) == 4


def test_an_average_that_is_forced_into_a_run_begins_with_the_weights_of_then(dltrain, stopped, monkeypatch):
    real, begun = Trainer.fit, []

    def watched(self):
        begun.append([torch.equal(*pair) for pair in zip(self.ema.model.parameters(), self.parameters, strict=True)])
        real(self)

    monkeypatch.setattr(Trainer, "fit", watched)
    assert dltrain("resume", "run", "trainer.ema_decay=0.9", "--force").code == 0
    assert begun and all(begun[0])


def test_a_run_of_an_earlier_version_which_did_not_count_its_averaged_steps_goes_on(dltrain, interrupted):
    run = interrupted(*CONFIGS["accumulate"], at=behind_step(6))
    path = run / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    assert content["trainer"].pop("ema_updates") == 6
    checkpoint.save(path, content)
    assert dltrain("resume", "run").code == 0
    assert checkpoint.load(path)["trainer"]["ema_updates"] == 16


def test_another_network_is_refused_even_when_forced(dltrain, stopped):
    outcome = dltrain("resume", "run", "model.channels=[4,4]", "--force")
    assert outcome.code == 2
    assert "does not fit this run" in outcome.stderr and "size mismatch" in outcome.stderr


# metrics.csv and the other loggers


@pytest.mark.parametrize("every", [1, 2, 3])
def test_metrics_are_never_doubled_or_cut_after_a_kill_behind_the_last_checkpoint(dltrain, interrupted, every):
    policy = f"trainer.checkpoint.every_n_epochs={every}"
    assert dltrain(*CONFIGS["cnn"], policy, "hydra.run.dir=whole").code == 0
    run = interrupted(*CONFIGS["cnn"], policy, at=behind_step(15), by=killed)
    assert [row["epoch"] for row in read_metrics(run)] == ["1", "2", "3"]
    assert dltrain("resume", "run").code == 0
    assert_equal_runs(Path("whole"), run)


def test_tensorboard_shows_each_epoch_once_after_a_kill_behind_the_last_checkpoint(dltrain, interrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    policy = ("trainer.checkpoint.every_n_epochs=2", "logger=[csv,tensorboard]")
    run = interrupted(*CONFIGS["cnn"], *policy, at=behind_step(15), by=killed)
    assert dltrain("resume", "run").code == 0
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    expected = [(int(row["epoch"]), pytest.approx(float(row["val/loss"]))) for row in read_metrics(run)]
    assert [(event.step, event.value) for event in events.Scalars("val/loss")] == expected


@pytest.mark.filterwarnings("ignore")  # mlflow's own imports warn
def test_mlflow_goes_on_with_its_run_and_has_each_epoch_once(dltrain, interrupted):
    from mlflow.tracking import MlflowClient

    policy = ("trainer.checkpoint.every_n_epochs=2", "logger=[csv,mlflow]")
    run = interrupted(*CONFIGS["cnn"], *policy, at=behind_step(15), by=killed)
    assert dltrain("resume", "run", "trust=[mlflow]").code == 0
    client = MlflowClient("sqlite:///mlflow.db")
    (logged,) = client.search_runs([client.get_experiment_by_name("dltrain").experiment_id])
    assert logged.info.status == "FINISHED"
    history = client.get_metric_history(logged.info.run_id, "val/loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (int(row["epoch"]), float(row["val/loss"])) for row in read_metrics(run)
    ]


@pytest.mark.filterwarnings("ignore")  # wandb's own imports warn
def test_wandb_goes_on_with_its_run_and_has_the_same_values_for_an_epoch_that_comes_again(dltrain, interrupted):
    from wandb.proto import wandb_internal_pb2

    policy = ("trainer.checkpoint.every_n_epochs=2", "logger=[csv,wandb]")
    run = interrupted(*CONFIGS["cnn"], *policy, at=behind_step(15), by=killed)
    assert dltrain("resume", "run", "trust=[wandb]").code == 0
    ids, logged = set(), {}
    files = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    for path in files:
        records = [wandb_internal_pb2.Record.FromString(content) for content in wandb_records(path)]
        ids |= {record.run.run_id for record in records if record.HasField("run")}
        for record in records:
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "val/loss" in items:
                logged.setdefault(int(items["_step"]), []).append(float(items["val/loss"]))
    assert len(files) == 2 and ids == {(run / "wandb" / "run_id").read_text()}
    expected = {int(row["epoch"]): float(row["val/loss"]) for row in read_metrics(run)}
    assert logged == {1: [expected[1]], 2: [expected[2]], 3: [expected[3]] * 2, 4: [expected[4]]}


def test_the_log_goes_on_and_has_no_line_twice(dltrain, stopped):
    assert dltrain("resume", "run").code == 0
    epochs = re.findall(r" epoch (\d/4) ", (stopped / "train.log").read_text())
    assert epochs == ["1/4", "2/4", "3/4", "4/4"]


def test_the_run_says_who_went_on_with_it_and_keeps_the_command_that_began_it(dltrain, stopped):
    assert dltrain("resume", "run", "device=cpu").code == 0
    environment = json.loads((stopped / "environment.json").read_text())
    assert environment["command"].startswith("dltrain trainer.epochs=4")
    assert [entry["command"] for entry in environment["resumed"]] == ["dltrain resume run device=cpu report=false"]
    assert json.loads((stopped / "result.json").read_text())["command"] == environment["command"]


def test_the_seconds_of_all_processes_count(dltrain, stopped):
    path = stopped / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["trainer"]["seconds"] = 1000.0
    checkpoint.save(path, content)
    result = dltrain("resume", "run").result
    assert result["seconds"] > 1000


# Damage


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(dltrain, interrupted, undisturbed, each_written):
    run = interrupted(*CONFIGS["cnn"], at=behind_epoch(3))
    damage(run / "checkpoints" / "last.pt")
    outcome = dltrain("resume", "run")
    assert outcome.code == 0
    assert outcome.stderr.count("does not match its checksum") == 1
    assert outcome.stderr.count("going on from the checkpoint before it") == 1
    assert_equal_runs(undisturbed("cnn"), run)


def test_a_missing_last_checkpoint_gives_way_to_the_one_before_it(dltrain, interrupted, undisturbed, each_written):
    run = interrupted(*CONFIGS["cnn"], at=behind_epoch(3))
    (run / "checkpoints" / "last.pt").unlink()
    assert dltrain("resume", "run").code == 0
    assert_equal_runs(undisturbed("cnn"), run)


@pytest.mark.parametrize("spoil", [damage, Path.unlink], ids=["damaged", "missing"])
def test_best_weights_that_are_lost_come_back_from_the_state(dltrain, interrupted, undisturbed, spoil):
    run = interrupted(*CONFIGS["cnn"], at=behind_epoch(3))
    spoil(run / "checkpoints" / "best.pt")
    assert dltrain("resume", "run").code == 0
    assert_equal_runs(undisturbed("cnn"), run)


def test_best_weights_that_are_newer_than_the_state_are_not_taken_for_its_own(dltrain, interrupted, undisturbed):
    """The run goes back to an older state and ends there: its best weights are those of that state."""
    run = interrupted(*CONFIGS["cnn"], at=behind_epoch(3), by=killed)
    older = checkpoint.load(run / "checkpoints" / "last.pt")
    assert dltrain("resume", "run/checkpoints/last.pt", f"trainer.epochs={older['epoch']}").code == 0
    best = checkpoint.load(run / "checkpoints" / "best.pt")
    assert best["epoch"] == older["best"]["epoch"]
    assert all(torch.equal(best["model"][name], older["best"]["model"][name]) for name in best["model"])


@pytest.mark.parametrize("command", [("resume", "run"), (*CONFIGS["cnn"], "hydra.run.dir=run", "resume=auto")])
def test_where_all_checkpoints_are_damaged_nothing_is_trained_or_lost(dltrain, interrupted, each_written, command):
    run = interrupted(*CONFIGS["cnn"], at=behind_epoch(3))
    for name in ("last.pt", "last-1.pt"):
        damage(run / "checkpoints" / name)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".pt", ".csv", ".json")}
    outcome = dltrain(*command)
    assert outcome.code == 2
    assert "none of the checkpoints" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "change", [{"trainer": {}}, {"trainer": 5}, {"config": "a: ["}, {"config": None}, {"composed": 1}, {"best": 3}]
)
def test_a_state_that_is_none_gets_a_message(dltrain, stopped, change):
    path = stopped / "checkpoints" / "last.pt"
    checkpoint.save(path, checkpoint.load(path) | change)
    outcome = dltrain("resume", str(path))
    assert outcome.code == 2, outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    assert str(path) in outcome.stderr and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("resume", ["resume=off", "resume=other"])
def test_a_new_run_does_not_take_the_place_of_an_older_one(dltrain, stopped, undisturbed, resume):
    shutil.copytree(undisturbed("cnn"), "other")
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.suffix in (".pt", ".csv", ".json")}
    refused = dltrain(*CONFIGS["cnn"], "hydra.run.dir=run", resume)
    assert refused.code == 2
    assert "holds the checkpoints of an older run; resume=auto goes on with it" in refused.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert dltrain(*CONFIGS["cnn"], "hydra.run.dir=run", "resume=run").code == 0  # the run itself
    assert_equal_runs(undisturbed("cnn"), stopped)
    shutil.rmtree(stopped / "checkpoints")
    assert dltrain(*CONFIGS["cnn"], "hydra.run.dir=run", resume).code == 0


@pytest.mark.parametrize(
    ("file", "commands"),
    [
        ("checkpoints/last.pt", [("resume", "run"), ("hydra.run.dir=run", "resume=auto"), ("resume", "run/{}")]),
        ("checkpoints/best.pt", [("evaluate", "run"), ("evaluate", "run/{}")]),
        ("environment.json", [("resume", "run"), ("evaluate", "run"), ("report", "run")]),
        ("result.json", [("resume", "run"), ("report", "run"), ("compare", "run", "run")]),
    ],
)
def test_a_file_of_another_run_is_noticed(verb, stopped, file, commands):
    assert verb(*CONFIGS["cnn"], "seed=5", "report=false", "hydra.run.dir=other").code == 0
    shutil.copy(Path("other", file), stopped / file)
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.suffix in (".pt", ".csv", ".json")}
    for command in commands:
        outcome = verb(*(word.format(file) for word in command))
        assert outcome.code == 2, outcome.stderr
        assert outcome.stderr.count("is of another run") == 1 and "Traceback" not in outcome.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_has_an_identity_that_it_keeps(dltrain, stopped):
    def ids(run: Path) -> set[str]:
        states = [checkpoint.load(path)["run_id"] for path in (run / "checkpoints").glob("*.pt")]
        files = [json.loads((run / name).read_text())["run_id"] for name in ("environment.json", "result.json")]
        return {*states, *files}

    (before,) = ids(stopped)
    assert dltrain("resume", "run").code == 0
    assert ids(stopped) == {before}
    elsewhere = dltrain(*CONFIGS["cnn"], "trainer.epochs=5", "resume=run")
    assert elsewhere.code == 0, elsewhere.stderr
    (other,) = ids(elsewhere.folder)
    assert other != before


def test_a_run_of_an_earlier_version_has_none_and_gets_one(dltrain, stopped):
    for path in stopped.glob("*.json"):
        content = json.loads(path.read_text())
        del content["run_id"]
        path.write_text(json.dumps(content))
    for path in (stopped / "checkpoints").glob("*.pt"):
        content = checkpoint.load(path)
        del content["run_id"]
        checkpoint.save(path, content)
    assert dltrain("resume", "run").code == 0
    assert checkpoint.load(stopped / "checkpoints" / "last.pt")["run_id"]
    assert dltrain("resume", "run", "trainer.epochs=5").code == 0


def test_weights_without_a_state_are_not_mixed_with_a_new_run(dltrain, undisturbed, interrupted):
    shutil.copytree(undisturbed("onecycle"), "run")
    for path in Path("run/checkpoints").glob("last*.pt"):
        path.unlink()
    run = interrupted(*CONFIGS["cnn"], "resume=auto", at=behind_step(1), by=killed)
    assert list((run / "checkpoints").iterdir()) == []


# Trust


def foreign(run: Path, tmp_path: Path, **keys: str) -> None:
    """Rewrite the configuration in a run's checkpoints, as somebody could who sends them."""
    from omegaconf import OmegaConf

    for path in (run / "checkpoints").glob("last*.pt"):
        content = checkpoint.load(path)
        for part in ("composed", "config"):
            cfg = OmegaConf.create(content[part])
            for key, value in keys.items():
                OmegaConf.update(cfg, key.replace("__", ".", 1), value, force_add=True)
            content[part] = OmegaConf.to_yaml(cfg)
        checkpoint.save(path, content)


@pytest.fixture
def stranger(tmp_path) -> None:
    """A module in the working directory that leaves a file behind when it is imported."""
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath(__file__).with_name('ran').touch()\n"
        "from dltrain.models import CNN\n"
    )


def test_a_foreign_class_is_refused_without_running_its_code_and_allowed_by_name(dltrain, stopped, stranger, tmp_path):
    foreign(stopped, tmp_path, model___target_="stranger.CNN")
    refused = dltrain("resume", "run")
    assert refused.code == 2
    assert "model._target_=stranger.CNN" in refused.stderr and "trust=[stranger]" in refused.stderr
    assert not (tmp_path / "ran").exists()
    allowed = dltrain("resume", "run", "trust=[stranger]")
    assert allowed.code == 0, allowed.stderr
    assert (tmp_path / "ran").exists()
    sys.modules.pop("stranger")


def test_a_checkpoint_does_not_vouch_for_itself(dltrain, stopped, stranger, tmp_path):
    foreign(stopped, tmp_path, model___target_="stranger.CNN", trust=["stranger"])
    assert dltrain("resume", "run").code == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "target",
    [
        *("os.mkdir", "torch.os.mkdir", "torch.hub.os.mkdir", "torch.nn.functional.torch.os.mkdir", "torch.hub.load"),
        *("torch.load", "torch.nn.functional.torch.hub.load", "dltrain.runs.folder.shutil.rmtree", "dltrain.cli.main"),
        *("dltrain.data.cache.shutil.rmtree", "hydra.utils.call", "builtins.eval", "torch.nn.${seed}", "torch"),
    ],
)
def test_what_can_merely_be_reached_through_a_trusted_package_is_refused(dltrain, stopped, tmp_path, target):
    foreign(stopped, tmp_path, model___target_=target)
    outcome = dltrain("resume", "run")
    assert outcome.code == 2
    assert "would run code of" in outcome.stderr


@pytest.mark.parametrize(
    ("target", "package"),
    [
        *(("dltrain.data.cache.clear", "dltrain"), ("dltrain.loggers.mlflow.MLflowLogger", "mlflow")),
        *((f"torch.nn.{name}", "torch") for name in ("DataParallel", "functional.relu", "init.zeros_")),
        *((f"torchvision.{name}", "torchvision") for name in ("datasets.FakeData", "io.write_file")),
    ],
)
def test_what_writes_deletes_or_connects_is_refused_at_any_depth(dltrain, stopped, tmp_path, target, package):
    foreign(stopped, tmp_path, model__x={"y": [{"_target_": target}]})
    outcome = dltrain("resume", "run")
    assert outcome.code == 2
    assert f"would run code of '{package}'" in outcome.stderr


def test_loggers_that_write_elsewhere_are_refused_unless_this_user_names_them(dltrain, stopped, tmp_path):
    uri = {"_target_": "dltrain.loggers.mlflow.MLflowLogger", "tracking_uri": "sqlite:///stolen.db"}
    foreign(stopped, tmp_path, logger={"mlflow": uri})
    refused = dltrain("resume", "run")
    assert refused.code == 2 and "'trust=[mlflow]', or choose loggers, logger=csv" in refused.stderr
    assert not (tmp_path / "stolen.db").exists()
    assert dltrain("resume", "run", "logger=[csv,tensorboard]").code == 0


def test_whose_a_configuration_is_stays_known_until_its_objects_are_made():
    cfg = OmegaConf.create({"trust": [], "model": {"_target_": "torch.nn.Flatten"}, "logger": {"csv": {}}})
    cfg.logger._set_flag("foreign", False)
    earlier.require_trusted(cfg)
    cfg.model._target_ = "torch.nn.DataParallel"
    for each in (cfg, earlier.of_text(earlier.as_text(cfg))):
        with pytest.raises(ConfigError, match="would run code of 'torch'"):
            nodes.settled(each, "model")
    cfg.logger.csv._target_ = "dltrain.loggers.mlflow.MLflowLogger"
    nodes.settled(cfg, "logger.csv")


def test_classes_are_looked_for_at_any_depth(dltrain, stopped, tmp_path):
    foreign(stopped, tmp_path, dataset__limit=[{"x": {"_target_": "stranger.CNN"}}])
    outcome = dltrain("resume", "run")
    assert outcome.code == 2
    assert "stranger.CNN" in outcome.stderr


RESOLVERS = [
    "${oc.env:SECRET}",
    "a/${oc.env:SECRET}/${optim.lr}",
    "${oc.decode:${oc.env:SECRET}}",
    "${oc.create:{_target_:stranger.CNN}}",
    "${oc.decode:'{_target_: stranger.CNN}'}",
    "${oc.${oc.env:NAME,create}:{_target_:stranger.CNN}}",
    "${oc.select:nothing,${oc.create:{_target_:stranger.CNN}}}",
    "${oc.dict.values:optim}",
    "${hydra:runtime.cwd}",
    "${now:%Y}",
    "${ oc.env : SECRET }",
    "\\\\${oc.env:SECRET}",
    "\\${x}${oc.env:SECRET}",
    "${x.\\${oc.env:SECRET}}",
    "${${optim.key}:SECRET}",
]


@pytest.mark.parametrize("text", RESOLVERS)
def test_no_resolver_of_a_checkpoint_is_run(stopped, stranger, tmp_path, monkeypatch, text):
    """What it came to in the run stands in its place, and is text, whatever it looks like."""
    monkeypatch.setenv("SECRET", "a secret")
    path = stopped / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    composed, resolved = (yaml.safe_load(content[part]) for part in ("composed", "config"))
    composed["optim"]["key"], composed["model"]["dropout"] = "oc.env", text
    for value in (0.5, text, {"a": [text]}):
        resolved["model"]["dropout"] = value
        cfg = of_checkpoint(path, yaml.safe_dump(resolved), yaml.safe_dump(composed))
        again = of_text(as_text(cfg))  # as the other processes of the run that goes on have it
        for one in (cfg, again, of_checkpoint(path, yaml.safe_dump(resolved), OmegaConf.to_yaml(cfg))):
            assert OmegaConf.to_container(one.model, resolve=True)["dropout"] == value
        evaluated = of_checkpoint(path, yaml.safe_dump(resolved)).model
        assert OmegaConf.to_container(evaluated, resolve=True) == resolved["model"]
    del resolved["model"]["dropout"]
    with pytest.raises(CheckpointError, match=r"model.dropout=.* was resolved, and what came of it is missing"):
        of_checkpoint(path, yaml.safe_dump(resolved), yaml.safe_dump(composed))


def test_a_configuration_within_a_text_is_none(verb, stopped, monkeypatch):
    """OmegaConf would read it once more, and resolve what only then can be seen."""
    monkeypatch.setenv("SECRET", "0.5")
    path = stopped / "checkpoints" / "best.pt"
    content = checkpoint.load(path)
    hidden = re.sub("dropout: .*", r'dropout: "\\u0024{oc.decode:\\u0024{oc.env:SECRET}}"', content["config"])
    checkpoint.save(path, content | {"config": json.dumps(hidden)})
    outcome = verb("evaluate", "run")
    assert outcome.code == 2, outcome.stderr
    assert "best.pt' holds no configuration of a run: it is no mapping" in outcome.stderr


def test_references_to_other_keys_follow_an_override_and_the_environment_does_not_count(dltrain, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMIT", "32")
    keys = ('dataset.limit="${oc.decode:${oc.env:LIMIT}}"', "scheduler=step", "scheduler.gamma=${optim.lr}")
    begun = dltrain(*keys, "trainer.epochs=1", "optim.lr=0.02", "hydra.run.dir=run")
    assert begun.code == 0, begun.stderr
    monkeypatch.setenv("LIMIT", "a secret")
    resumed = dltrain("resume", "run", "--force", "trainer.epochs=2", "optim.lr=0.05")
    assert resumed.code == 0, resumed.stderr
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["dataset"]["limit"], config["scheduler"]["gamma"]) == (32, 0.05)
    refused = dltrain("resume", "run", "trainer.epochs=3", "dataset.limit=16")  # the key itself can be overridden
    assert refused.code == 2 and "dataset.limit was 32 and is now 16" in refused.stderr


def test_every_class_that_dltrain_itself_offers_is_trusted_but_for_loggers_that_write_elsewhere():
    from conftest import CONF
    from omegaconf import OmegaConf

    from dltrain.config import earlier

    for path in CONF.rglob("*.yaml"):
        if "hydra" not in path.parts:
            trust = [path.stem] if path.stem in ("mlflow", "wandb") else []
            cfg = OmegaConf.create({"trust": trust, "node": OmegaConf.load(path)})
            earlier.require_trusted(cfg)


# Two processes on one folder


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "dltrain",
        *arguments,
        "trainer.epochs=100000",
        "report=false",
        "hydra.run.dir=run",
    ]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_process_is_refused_and_disturbs_nothing_and_the_lock_goes_with_a_killed_process(dltrain, tmp_path):
    first = start(tmp_path, "dataset.limit=40")
    try:
        wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, first)
        for command in (
            ["resume", "run"],
            ["hydra.run.dir=run", "resume=auto"],
            ["hydra.run.dir=run", "dataset.limit=9"],
        ):
            refused = dltrain(*command)
            assert refused.code == 2
            assert "another process runs in" in refused.stderr
        assert dltrain("hydra.run.dir=run", "trainer.epochs=0").code == 2
        before = len(read_metrics(Path("run")))
        wait_for(lambda: len(read_metrics(Path("run"))) > before, first)
        assert {"config.yaml", "train.log", "checkpoints", ".hydra"} <= {path.name for path in Path("run").iterdir()}
    finally:
        first.kill()
        first.communicate()
    epochs = len(read_metrics(Path("run"))) + 1
    assert dltrain("resume", "run", f"trainer.epochs={epochs}").code == 0


def test_the_lock_goes_with_a_killed_process_also_where_others_read_its_data(dltrain, images, tmp_path):
    Path("images").symlink_to(images)
    first = start(tmp_path, *CONFIGS["images"])
    try:
        wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, first)
    finally:
        first.kill()
        first.wait()
    epochs = checkpoint.load(Path("run/checkpoints/last.pt"))["epoch"]
    assert dltrain("resume", "run", f"trainer.epochs={epochs + 1}").code == 0
    first.communicate()


def test_a_refused_process_deletes_nothing_of_one_that_is_still_starting_up(dltrain, tmp_path):
    from dltrain.runs.folder import RunFolder

    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / "train.log").touch()
    first = RunFolder(tmp_path / "run", "")
    first.lock()
    assert dltrain("hydra.run.dir=run").code == 2
    assert dltrain("hydra.run.dir=run", "trainer.epochs=0").code == 2
    assert {".hydra", "train.log"} <= {path.name for path in (tmp_path / "run").iterdir()}
    first.release()
    assert dltrain("hydra.run.dir=run", *SHORT).code == 0


def test_a_file_system_without_locks_is_used_without_one(dltrain, monkeypatch):
    import errno
    import fcntl

    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert dltrain(*SHORT).code == 0
