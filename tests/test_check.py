"""``dltrain check``: what it says is what a run does, and it leaves nothing behind."""

import csv
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dltrain.build import build
from dltrain.commands.check import size
from dltrain.report.figures import plot
from dltrain.training.shapes import require_shapes

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("dataset.limit=64", "dataset.batch_size=16", "trainer.epochs=3")
TABLE = ("dataset=diabetes", "model=mlp", "dataset.limit=64", "dataset.batch_size=16", "trainer.epochs=3")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("dltrain.training.preflight._SECONDS", 0.0)


def own_code(folder: Path, code: str, group: str, keys: str) -> tuple[str, ...]:
    """A module ``checked`` of the user's, wired as option ``own`` of a group."""
    sys.modules.pop("checked", None)
    (folder / "checked.py").write_text("import torch\nfrom torch import nn\n\n" + code)
    (folder / "my_conf" / group).mkdir(parents=True)
    (folder / "my_conf" / group / "own.yaml").write_text(keys)
    return "--config-dir", "my_conf", f"{group}=own"


def test_check_leaves_nothing_behind(dltrain, tmp_path):
    before = torch.get_rng_state()
    outcome = dltrain("check", *SHORT)
    assert (outcome.code, outcome.result["status"]) == (0, "ok")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_is_bitwise_the_same_behind_a_check(dltrain):
    overrides = (*SHORT, "model.dropout=0.3")
    alone = (dltrain(*overrides).folder / "metrics.csv").read_text()
    dltrain("check", *overrides)
    assert (dltrain(*overrides).folder / "metrics.csv").read_text() == alone


def test_parameters_and_weights_are_those_of_the_network(dltrain):
    found = dltrain("check", *SHORT).result
    weights = {"features.0.0": 9 * 32, "features.0.1": 2 * 32, "features.1.0": 9 * 32 * 64, "features.1.1": 2 * 64}
    weights["classifier.1"] = 64 * 2 * 2 * 10 + 10
    layers = {layer["name"]: layer["parameters"] for layer in found["layers"] if layer["parameters"]}
    assert layers == weights
    assert found["parameters"] == found["trainable"] == sum(weights.values())
    statistics = 2 * 4 * (32 + 64) + 2 * 8
    assert found["memory"]["weights"] == 4 * sum(weights.values()) + statistics
    assert found["memory"]["gradients"] == 4 * sum(weights.values())


def test_shapes_are_those_of_each_layer(dltrain):
    found = dltrain("check", *TABLE, "model.hidden_sizes=[8,4]").result
    shapes = [layer["output_shape"] for layer in found["layers"] if layer["kind"] == "Linear"]
    assert shapes == [[16, 8], [16, 4], [16, 1]]
    assert (found["input_shape"][0], found["output_shape"]) == (16, [16, 1])


def test_adam_keeps_two_numbers_a_weight_and_sgd_with_momentum_one(dltrain):
    sgd, adam = (dltrain("check", *TABLE, f"optim={name}").result for name in ("sgd", "adam"))
    assert sgd["memory"]["optimizer"] == 4 * sgd["parameters"]
    assert 8 * adam["parameters"] <= adam["memory"]["optimizer"] < 8 * adam["parameters"] + 100


def test_activations_are_what_backward_keeps(dltrain):
    """Linear, ReLU, Linear: the ReLU's output, for itself and the second layer; the loss keeps outputs and targets."""
    found = dltrain("check", *TABLE, "model.hidden_sizes=[8]").result
    kept = {layer["kind"]: layer["activations"] for layer in found["layers"] if layer["activations"]}
    assert kept == {"ReLU": 16 * 8 * 4}
    assert found["memory"]["activations"] == 16 * 8 * 4 + 16 * 4


def test_micro_batches_need_the_activations_of_a_micro_batch(dltrain):
    whole = dltrain("check", *SHORT, "dataset.batch_size=8").result["memory"]
    halves = dltrain("check", *SHORT, "dataset.batch_size=16", "trainer.accumulate=2").result["memory"]
    assert halves["activations"] == whole["activations"]
    assert halves["batch"] == 2 * whole["batch"]


@pytest.mark.parametrize(
    "scheduler",
    ["none", "step", "cosine", "onecycle", "exponential", "random", "linear_warmup_cosine", "lambda"],
)
def test_the_learning_rates_are_those_that_the_run_will_log(dltrain, scheduler):
    overrides = (*TABLE, "trainer.epochs=5", f"scheduler={scheduler}")
    keys = {"step": ["scheduler.step_size=2"], "random": ["scheduler.boundary=2"]}.get(scheduler, [])
    foreseen = dltrain("check", *overrides, *keys).result["lr"]
    with open(dltrain(*overrides, *keys).folder / "metrics.csv", newline="") as file:
        logged = [float(row["lr"]) for row in csv.DictReader(file)]
    assert foreseen == logged


def test_a_plateau_is_said_to_depend_on_its_metric(dltrain):
    found = dltrain("check", *SHORT, "scheduler=plateau", "scheduler.monitor=val/accuracy").result
    assert (found["scheduler_monitor"], found["lr"]) == ("val/accuracy", [0.05] * 3)


def test_the_metrics_are_those_that_the_run_will_log(dltrain):
    found = dltrain("check", *SHORT).result
    header = (dltrain(*SHORT).folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert found["metrics"] == header[3:]
    assert found["monitor"] == "val/loss"


def test_the_room_for_checkpoints_suffices_and_is_not_much_more(dltrain):
    foreseen = dltrain("check", *SHORT, "model.channels=[64,128]").result["disk"]["checkpoints"]
    folder = dltrain(*SHORT, "model.channels=[64,128]").folder / "checkpoints"
    best, last = (folder.joinpath(name).stat().st_size for name in ("best.pt", "last.pt"))
    assert 0.9 < foreseen / (best + 2 * last) < 1.1


def test_a_full_disk_is_refused(dltrain, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    outcome = dltrain("check", *SHORT)
    assert outcome.code == 2
    assert "1000 B are free" in outcome.stderr and "hydra.run.dir" in outcome.stderr


def test_a_layer_that_is_left_out_is_named(dltrain, tmp_path):
    code = (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.used, self.idle = nn.Linear(64, 10), nn.Linear(3, 3)\n"
        "    def forward(self, inputs):\n        return self.used(inputs.flatten(1))\n"
    )
    found = dltrain("check", *own_code(tmp_path, code, "model", "_target_: checked.Net\n"), *SHORT).result
    assert found["without_gradient"] == ["idle.weight", "idle.bias"]
    assert [layer["output_shape"] for layer in found["layers"]] == [[16, 10], None]


def test_check_finds_the_mistakes_that_a_run_finds(dltrain, tmp_path):
    for arguments, fragment in [
        (["trainer.epochs=0"], "trainer.epochs=0"),
        (["model=cnnn"], "cnnn"),
        (["model=lenet"], "lenet"),
        (["scheduler=plateau", "scheduler.monitor=val/acc"], "val/accuracy"),
        (["dataset=table", "dataset.path=no.csv", "dataset.target=x"], "no.csv"),
    ]:
        outcome = dltrain("check", *arguments)
        assert (outcome.code, outcome.result["status"]) == (2, "invalid")
        assert fragment in outcome.stderr
        assert "Traceback" not in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_hydras_flags_work_behind_check(dltrain, tmp_path):
    assert "epochs: 7" in dltrain("check", "--cfg", "job", "trainer.epochs=7").stdout
    assert dltrain("check", "experiment=digits_best", "dataset.limit=32").result["epochs"] == 40


WRONG_SHAPES = [
    ("return outputs[:, :9]", ["outputs of shape (2, 9)", "(2, 10)", "data.num_outputs"]),
    ("return outputs[0]", ["outputs of shape (10,)", "(2, 10)"]),
    ("return outputs, inputs", ["returns a tuple"]),
]


@pytest.mark.parametrize(("line", "fragments"), WRONG_SHAPES, ids=[line for line, _ in WRONG_SHAPES])
@pytest.mark.parametrize("verb", [[], ["check"]], ids=["run", "check"])
def test_a_network_whose_output_does_not_fit_is_one_message(dltrain, tmp_path, verb, line, fragments):
    code = (
        "class Net(nn.Linear):\n    def forward(self, inputs):\n"
        f"        outputs = super().forward(inputs.flatten(1))\n        {line}\n"
    )
    keys = "_target_: checked.Net\nin_features: 64\nout_features: 10\n"
    outcome = dltrain(*verb, *own_code(tmp_path, code, "model", keys), *SHORT)
    assert outcome.code == 2
    assert "Traceback" not in outcome.stderr
    for fragment in ["model Net", *fragments]:
        assert fragment in outcome.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_loss_that_is_no_single_number_is_one_message(dltrain, tmp_path):
    (tmp_path / "own_loss.py").write_text(
        "from torch import nn\n\n\nclass Each(nn.Module):\n    def forward(self, outputs, targets):\n"
        "        return outputs.sum(1)\n"
    )
    (tmp_path / "my_conf" / "loss").mkdir(parents=True)
    (tmp_path / "my_conf" / "loss" / "each.yaml").write_text("_target_: own_loss.Each\n")
    outcome = dltrain("--config-dir", "my_conf", "loss=each", *SHORT)
    assert outcome.code == 2
    assert "Each returns a tensor of shape (2,)" in outcome.stderr


def test_trying_two_samples_changes_nothing(composed, tmp_path):
    parts = build(composed([*SHORT, "model.dropout=0.5"]), tmp_path)
    model = parts.trainer.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    require_shapes(model, nn.CrossEntropyLoss(), parts.trainer.train, parts.data.facts, parts.trainer.precision)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)


def test_the_first_samples_of_a_loader_are_those_of_its_samples(composed, tmp_path):
    loader = build(composed(SHORT), tmp_path).trainer.train
    raw, labels = loader.samples.take(torch.arange(2))
    inputs, targets = loader.first(2)
    assert torch.equal(inputs, loader.transform(raw))
    assert torch.equal(targets, labels)


def test_the_jobs_of_a_sweep_are_those_that_run(dltrain, tmp_path):
    sweep = ("-m", *TABLE, "optim.lr=0.01,0.1", "seed=range(1,4)", "trainer.epochs=1")
    listed = dltrain("check", *sweep).result
    assert list(tmp_path.iterdir()) == []
    assert listed["count"] == 6
    assert dltrain(*sweep, "hydra.sweep.dir=sweep").code == 0
    for job in listed["jobs"]:
        ran = OmegaConf.load(tmp_path / "sweep" / str(job["job"]) / ".hydra" / "overrides.yaml")
        assert list(ran) == job["overrides"]


def test_every_wrong_value_of_a_sweep_is_named(dltrain):
    outcome = dltrain("check", "-m", "optim.lr=0.1,-1", "model=cnn,cnnn")
    assert outcome.code == 2
    for fragment in ("model has no option cnnn", "optim.lr=-1"):
        assert fragment in outcome.stderr


@pytest.mark.parametrize("verb", [["sweep.on_failure=stop"], ["check"]], ids=["run", "check"])
def test_a_job_whose_values_do_not_go_together_is_named_before_any_job_runs(dltrain, tmp_path, verb):
    outcome = dltrain(*verb, "-m", "seed=1,2", "scheduler=none,plateau", "scheduler.interval=epoch,step")
    assert outcome.code == 2
    assert outcome.stderr.count("scheduler.interval='step'") == 1
    assert re.search(r"job 3 \(.*seed=1 scheduler=plateau scheduler.interval=step", outcome.stderr)
    assert "(and 1 more jobs)" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_values_that_the_sweepers_own_configuration_names_are_checked(dltrain, tmp_path):
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    lines = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      optim.lr: 0.1,-1\n"
    (tmp_path / "my_conf" / "experiment" / "sweep.yaml").write_text(lines)
    outcome = dltrain("check", "--config-dir", "my_conf", "-m", "experiment=sweep", "seed=1,2")
    assert outcome.code == 2
    assert "optim.lr=-1" in outcome.stderr


def test_of_a_very_large_sweep_the_first_jobs_are_checked(dltrain, monkeypatch):
    monkeypatch.setattr("dltrain.config.sweeps.TRIED", 5)
    found = dltrain("check", "-m", "seed=range(1,1000)", "trainer.epochs=1,2").result
    assert (found["count"], found["checked"]) == (1998, 5)


def test_jobs_of_options_that_a_pattern_chooses_are_listed(dltrain):
    found = dltrain("check", "-m", "model=glob(l*)").result
    assert [job["overrides"][0] for job in found["jobs"]] == ["model=lenet", "model=lstm"]


def test_a_terminal_gets_a_report(dltrain, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    report = dltrain("check", *SHORT, "scheduler=cosine").stdout
    for fragment in ("digits: 64 train", "16×1×8×8 → 16×10", "Conv2d", "16×32×8×8", "21,482", "an epoch", "val/loss"):
        assert fragment in report
    assert re.search("[\u2801-\u28ff]", report)
    assert "{" not in report


def test_a_terminal_gets_the_jobs_of_a_sweep(dltrain, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = dltrain("check", "-m", "seed=1,2").stdout.splitlines()
    assert lines[0].split() == ["0", "seed=1", "report=False"]
    assert lines[2].startswith("2 jobs")


def test_a_curve_has_a_dot_for_each_column_and_its_largest_value_on_top():
    assert plot([1.0], width=2, height=1) == ["        1 ⠉⠉"]
    assert plot([0.0, 0.0], width=1, height=2) == ["        1 ⠀", "        0 ⣀"]
    assert plot([3.0, 2.0, 1.0, 0.0], width=2, height=1) == ["        3 ⠑⢄"]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * 1024, "200 KiB"), (5 * 1024**3, "5.0 GiB")],
)
def test_sizes_are_given_in_the_unit_that_suits_them(nbytes, text):
    assert size(nbytes) == text
