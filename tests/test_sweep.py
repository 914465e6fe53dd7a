"""Sweeps: the ledger, going on, failures of every kind, several jobs at once, what won."""

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
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from conftest import Outcome, fresh
from omegaconf import OmegaConf

from dltrain.errors import UserError
from dltrain.report.sweep import importance
from dltrain.runs import checkpoint
from dltrain.sweep.ledger import Ledger
from dltrain.sweep.pool import _latest
from dltrain.sweep.result import outcome
from tests.test_cli import SHORT

SWEEP = "hydra.sweep.dir=sweep"
TIMES = ("seconds", "run")


def ledger(folder: Path = Path("sweep")) -> list[dict[str, str]]:
    with open(folder / "sweep.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def timeless(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


GRID = ("-m", *SHORT, "seed=1,2,3", "optim.lr=0.05,0.0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Outcome:
    """The outcome of a finished sweep of the jobs of ``GRID``, which tests may read."""
    folder = tmp_path_factory.mktemp("finished") / "sweep"
    return Outcome(*fresh().run([*GRID, "report=false", f"hydra.sweep.dir={folder}"]))


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of that sweep as ``sweep``, which a test may change."""
    return Path(shutil.copytree(finished.result["sweep"], tmp_path / "sweep"))


@pytest.fixture
def fragile(tmp_path):
    """A model that goes well, or diverges, is killed, out of memory or wrong in itself, as ``model.how`` says; a file
    called ``mended`` makes all but the last go well.
    """
    (tmp_path / "fragile.py").write_text(
        """
import os, resource, signal
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs, how, seed=0):
        super().__init__()
        how = how if isinstance(how, str) else how.get(seed, "well")
        if how == "wrong":
            raise ValueError("no such width")
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
        self.how = "well" if os.path.exists("mended") else how
        self.steps = 0

    def forward(self, inputs):
        self.steps += 1
        if self.steps == 7 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 7 and self.how == "left":
            os._exit(0)
        if self.steps == 7 and self.how == "exit":
            raise SystemExit(0)
        if self.steps == 7 and self.how == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.steps >= 7 and self.how == "memory":  # in smaller micro-batches too
            resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
            bytearray(2**31)
        outputs = self.layers(inputs)
        return outputs * float("inf") if self.steps > 6 and self.how == "diverging" else outputs
"""
    )
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "fragile.yaml").write_text(
        "_target_: fragile.Net\noutputs: ${data.num_outputs}\nhow: well\n"
    )
    return ("--config-dir", "my_conf", "model=fragile", "trainer.epochs=3", "dataset.limit=64", SWEEP)


def test_every_job_is_a_row_with_its_settings_and_metrics(finished):
    assert finished.code == 0
    folder = Path(finished.result["sweep"])
    rows = ledger(folder)
    assert [row["job"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [(row["seed"], row["optim.lr"]) for row in rows] == [
        (seed, lr) for seed in ("1", "2", "3") for lr in ("0.05", "0.0")
    ]
    assert list(rows[0])[:4] == ["job", "status", "seed", "optim.lr"]
    assert list(rows[0])[-3:] == ["seconds", "run", "cause"]
    for row in rows:
        result = json.loads((folder / row["job"] / "result.json").read_text())
        assert row["status"] == "done" and row["cause"] == ""
        assert float(row["val/loss"]) == result["best"]["val"]["loss"]
        assert float(row["test/accuracy"]) == result["test"]["accuracy"]
        assert row["run"] == result["run"]


def test_a_job_equals_the_same_run_alone_bit_for_bit(dltrain, finished):
    alone, job = dltrain(*SHORT, "seed=2", "optim.lr=0.05").folder, Path(finished.result["sweep"], "2")
    assert (alone / "metrics.csv").read_bytes() == (job / "metrics.csv").read_bytes()
    for name in ("last.pt", "best.pt"):
        first, second = (checkpoint.load(folder / "checkpoints" / name)["model"] for folder in (alone, job))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_where_a_key_fits_some_of_the_options_the_others_fail_by_name(dltrain, tmp_path):
    swept = ["model=mlp,lstm", "model.hidden_size=8", "penalty={l1:0.001}", "penalty={l2:0.01}"]
    sweep = dltrain("-m", *SHORT, *swept, SWEEP)
    assert sweep.code == 1
    assert "job 0 failed before it began: model.hidden_size=8: dltrain.models.MLP has no argument" in sweep.stderr
    assert [(row["model"], row["status"]) for row in ledger()] == [("mlp", "failed"), ("lstm", "done")]
    config = OmegaConf.load(tmp_path / "sweep" / "1" / "config.yaml")
    assert (config.model.hidden_size, config.penalty) == (8, {"l1": 0.001, "l2": 0.01})


def test_stdout_is_one_line_with_means_over_the_seeds_and_the_best_command(dltrain, finished):
    assert len(finished.stdout.splitlines()) == 1
    assert {key: finished.result[key] for key in ("status", "jobs", "done", "failed")} == {
        "status": "done",
        "jobs": 6,
        "done": 6,
        "failed": 0,
    }
    best = finished.result["best"]
    assert best["settings"] == {"optim.lr": "0.05"}
    rows = ledger(Path(finished.result["sweep"]))
    losses = [float(row["val/loss"]) for row in rows if row["optim.lr"] == "0.05"]
    assert best["seeds"] == 3
    assert best["mean"]["val/loss"] == fmean(losses)
    assert best["std"]["val/loss"] == stdev(losses)
    again = dltrain(*best["command"].split()[1:])
    assert again.result["best"]["val"]["loss"] == min(losses)


CAUSES = {"diverging": "training diverged: ", "killed": "killed by signal 9 (SIGKILL)", "memory": "out of memory"}
CAUSES["wrong"] = "no such width"


def test_of_24_jobs_4_fail_in_4_ways_and_the_same_command_runs_these_only(dltrain, fragile, tmp_path):
    """Jobs 20 to 23 fail: how a job goes follows from its seed, which names it."""
    kinds = ", ".join(f"{number}: {how}" for number, how in enumerate(CAUSES, 20))
    (tmp_path / "my_conf" / "model" / "fragile.yaml").write_text(
        f"_target_: fragile.Net\noutputs: ${{data.num_outputs}}\nseed: ${{seed}}\nhow: {{{kinds}}}\n"
    )
    command = ("-m", *fragile, "seed=range(0,24)")
    first = dltrain(*command)
    assert first.code == 1
    assert (first.result["status"], first.result["done"], first.result["failed"]) == ("failed", 20, 4)
    rows = ledger()
    assert [row["status"] for row in rows] == ["done"] * 20 + ["failed"] * 4
    assert [bool(row["test/loss"]) for row in rows] == [True] * 20 + [False] * 4
    assert [row["cause"] for row in rows[:20]] == [""] * 20
    for row, cause in zip(rows[20:], CAUSES.values(), strict=True):
        assert row["cause"].startswith(cause)
    for number in range(20, 24):  # each at once
        assert re.search(rf"^warning: job {number} failed in ", first.stderr, re.M)
    (tmp_path / "mended").touch()
    results = [tmp_path / "sweep" / str(number) / "result.json" for number in range(20)]
    untouched = [result.stat().st_mtime_ns for result in results]
    second = dltrain(*command)
    assert (second.code, second.result["done"], second.result["failed"]) == (1, 23, 1)
    assert re.findall(r"^job (\d+)(?: again)?: ", second.stderr, re.M) == ["20", "21", "22", "23"]
    assert [row["status"] for row in ledger()] == ["done"] * 23 + ["failed"]
    assert timeless(ledger()[:20]) == timeless(rows[:20])
    assert [result.stat().st_mtime_ns for result in results] == untouched


def test_jobs_with_a_wrong_value_are_rows_and_the_others_run(dltrain, tmp_path):
    sweep = dltrain("-m", *SHORT, "optim.lr=0.01,-1", "model=cnn,cnnn", "trainer.epochs=1", SWEEP)
    assert (sweep.code, sweep.result["done"], sweep.result["failed"]) == (1, 1, 3)
    rows = ledger()
    assert [(row["optim.lr"], row["model"], row["status"]) for row in rows] == [
        ("0.01", "cnn", "done"),
        ("0.01", "cnnn", "failed"),
        ("-1", "cnn", "failed"),
        ("-1", "cnnn", "failed"),
    ]
    assert [row["cause"] for row in rows] == [
        "",
        (unknown := "model has no option cnnn; did you mean 'cnn'?"),
        "optim.lr=-1: must be a number of at least 0",
        unknown,
    ]
    lines = [line for line in sweep.stderr.splitlines() if line.startswith(("warning: job", "job"))]
    assert [line[:14] for line in lines[:3]] == ["warning: job 1", "warning: job 2", "warning: job 3"]  # before job 0
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0"]


def test_a_job_that_failed_is_tried_again_as_often_as_asked_for(dltrain, fragile):
    sweep = dltrain("-m", *fragile, "model.how=killed", "sweep.retries=2", "seed=1,2")
    assert sweep.code == 1
    assert sweep.stderr.count("job 0 failed") == 3
    assert sweep.stderr.count("it is tried again") == 4
    assert len(ledger()) == 2


def test_a_failure_stops_the_sweep_where_that_is_asked_for(dltrain, fragile):
    sweep = dltrain("-m", *fragile, "model.how=well,killed,wrong", "seed=1", "sweep.on_failure=stop")
    assert sweep.code == 1
    assert [(row["job"], row["status"]) for row in ledger()] == [("0", "done"), ("1", "failed")]


def test_jobs_are_known_by_their_overrides_and_not_by_their_place(dltrain, tmp_path):
    assert dltrain("-m", *SHORT, "seed=2,4", SWEEP).code == 0
    assert dltrain("-m", *SHORT, "seed=1,2,3,4", SWEEP, "sweep.retries=1").code == 0
    assert [(row["job"], row["seed"]) for row in ledger()] == [("0", "2"), ("1", "4"), ("2", "1"), ("3", "3")]


def test_a_file_that_has_changed_since_the_sweep_began_is_noticed(dltrain, fragile, tmp_path):
    assert dltrain("-m", *fragile, "seed=1,2").code == 0
    (tmp_path / "my_conf" / "model" / "fragile.yaml").write_text(
        "_target_: fragile.Net\noutputs: ${data.num_outputs}\nhow: fine\n"
    )
    before = (tmp_path / "sweep" / "sweep.csv").read_bytes()
    for seeds in ("1,2,3", "3"):  # with and without the jobs of before
        again = dltrain("-m", *fragile, f"seed={seeds}")
        assert again.code == 2
        assert "job 0: model.how was 'well', is 'fine'" in again.stderr
        assert (tmp_path / "sweep" / "sweep.csv").read_bytes() == before


def test_a_sweep_of_a_version_without_a_group_goes_on(dltrain, copied):
    book = json.loads((copied / "sweep.json").read_text())
    assert book["config"].pop("metric") == {}
    (copied / "sweep.json").write_text(json.dumps(book))
    again = dltrain(*GRID, SWEEP)
    assert again.code == 0, again.stderr
    assert "6 of 6 jobs are done already" in again.stderr


def test_a_job_that_was_killed_as_it_began_is_no_obstacle(dltrain, copied):
    """Hydra's file of its configuration is empty, or half written, at that moment."""
    book = json.loads((copied / "sweep.json").read_text())
    (copied / "1" / "result.json").unlink()
    shutil.rmtree(copied / "1" / "checkpoints")
    (copied / "1" / ".hydra" / "config.yaml").write_text("")
    assert [entry["job"] for entry in book["jobs"]] == list(range(6))
    again = dltrain(*GRID, SWEEP)
    assert again.code == 0, again.stderr
    assert [row["status"] for row in ledger()] == ["done"] * 6


def test_a_job_is_the_same_however_it_is_typed(dltrain, copied):
    again = dltrain("-m", "seed=1,2,3", "pruner=none", "++optim.lr=0.05,0.0", *reversed(SHORT), SWEEP)
    assert again.code == 0, again.stderr
    assert "6 of 6 jobs are done already" in again.stderr
    assert len(ledger()) == 6


def test_two_jobs_do_not_share_a_folder(dltrain):
    for subdir, message in (
        ("same", "the folder of every job"),
        ("${optim.lr}", "jobs 0 and 1 would share the folder"),
    ):
        refused = dltrain("-m", *SHORT, "seed=1,2", SWEEP, f"hydra.sweep.subdir={subdir}")
        assert (refused.code, message in refused.stderr) == (2, True), refused.stderr


ODD = {
    "left": "it ended without a result (exit code 0)",
    "exit": "its code called sys.exit(0)",
    "terminated": "a signal has ended it",
}


def test_jobs_that_end_oddly_have_failed(dltrain, fragile):
    sweep = dltrain("-m", *fragile, f"model.how={','.join(ODD)}", "seed=1")
    assert sweep.code == 1
    assert (sweep.result["status"], sweep.result["failed"]) == ("failed", 3)
    for row, cause in zip(ledger(), ODD.values(), strict=True):
        assert row["status"] == "failed" and row["cause"].endswith(cause)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_job_whose_result_is_there_is_done_whatever_ends_its_process(dltrain, tmp_path, number):
    """As Ctrl-C does while a job writes its page."""
    (tmp_path / "late.py").write_text(
        "import os, pathlib\n"
        "from dltrain.models import MLP\n"
        "class Net(MLP):\n"
        "    def forward(self, inputs):\n"
        "        result = pathlib.Path('sweep/0/result.json')\n"
        "        if result.exists() and '\"done\"' in result.read_text():\n"
        f"            os.kill(os.getpid(), {number})\n"
        "        return super().forward(inputs)\n"
    )
    sweep = dltrain("-m", *SHORT, "seed=1", SWEEP, "model=mlp", "model._target_=late.Net", report=True)
    assert [(row["status"], row["cause"]) for row in ledger()] == [("done", "")]
    assert (sweep.code, sweep.result["done"]) == (0, 1)
    assert json.loads((tmp_path / "sweep" / "0" / "result.json").read_text())["status"] == "done"


def test_two_jobs_at_once_give_what_one_after_the_other_does(dltrain, finished):
    assert dltrain(*GRID, SWEEP, "hydra/launcher=parallel", "hydra.launcher.n_jobs=2").code == 0
    assert timeless(ledger()) == timeless(ledger(Path(finished.result["sweep"])))


def test_a_value_that_is_given_twice_makes_one_job(dltrain):
    sweep = dltrain("-m", *SHORT, "seed=1,1", SWEEP)
    assert (sweep.code, sweep.result["jobs"]) == (0, 1)


def test_a_number_of_jobs_that_is_none_is_a_message(dltrain):
    outcome = dltrain("-m", *SHORT, "seed=1,2", SWEEP, "hydra.launcher.n_jobs=0")
    assert outcome.code == 2
    assert "hydra.launcher.n_jobs must be auto or a whole number from 1 on, not 0" in outcome.stderr


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dltrain", "-m", *arguments, "report=false", SWEEP]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(folder: Path, status: str, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while True:
        with_status = []
        if (folder / "sweep" / "sweep.csv").exists():
            with_status = [row for row in ledger(folder / "sweep") if row["status"] == status]
        if len(with_status) >= count:
            return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_sweep_that_is_killed_twice_ends_with_the_table_of_an_undisturbed_one(dltrain, tmp_path):
    command = ("model=mlp", "trainer.epochs=30", "dataset.limit=200", "seed=1,2,3,4")
    for done in (1, 2):
        process = started(tmp_path, *command)
        wait_for_rows(tmp_path, "done", done, process)
        process.kill()
        process.communicate()
    assert dltrain("-m", *command, SWEEP).code == 0
    undisturbed = dltrain("-m", *command, "hydra.sweep.dir=undisturbed")
    assert undisturbed.code == 0
    assert timeless(ledger()) == timeless(ledger(Path("undisturbed")))
    for number in range(4):
        left, right = (Path(name, str(number), "metrics.csv").read_bytes() for name in ("sweep", "undisturbed"))
        assert left == right


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_saves_the_running_job_and_goes_on_later(dltrain, tmp_path, number, code):
    command = ("model=mlp", "trainer.epochs=200000", "dataset.limit=64", "seed=1,2")
    process = started(tmp_path, *command)
    wait_for_rows(tmp_path, "running", 1, process)
    deadline = time.monotonic() + 120
    while not (tmp_path / "sweep" / "0" / "checkpoints" / "last.pt").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code
    assert [row["status"] for row in ledger(tmp_path / "sweep")] == ["interrupted"]
    assert json.loads(stdout)["status"] == "interrupted"
    assert f"the same command with hydra.sweep.dir={tmp_path}/sweep" in stderr
    assert (tmp_path / "sweep" / "sweep.html").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("epoch,step,train/loss,val/loss\n1,2,0.5,0.25\n2,4,0.25,0.125\n", ("2", "train/loss 0.25  val/loss 0.125")),
        ("epoch,train/loss\n" + "1,0.5\n" * 2000 + "2001,0.25\n", ("2001", "train/loss 0.25")),
        ("epoch,train/loss\n1,0.5\n2", ("", "")),  # it is being written
        ("epoch,train/loss\n", ("", "")),
        ("", ("", "")),
    ],
)
def test_the_live_view_shows_the_last_row_of_the_metrics(tmp_path, text, shown):
    (tmp_path / "metrics.csv").write_text(text)
    assert _latest(tmp_path / "metrics.csv") == shown


def test_a_second_sweep_in_the_folder_is_refused(dltrain, tmp_path):
    process = started(tmp_path, "model=mlp", "trainer.epochs=200000", "dataset.limit=64", "seed=1,2")
    try:
        wait_for_rows(tmp_path, "running", 1, process)
        refused = dltrain("-m", *SHORT, "seed=1,2", SWEEP)
        assert refused.code == 2
        assert "another process runs in" in refused.stderr
    finally:
        process.kill()
        process.communicate()


def test_choices_are_ranked_by_the_monitored_metric_and_those_without_a_result_come_last(tmp_path):
    def write(number: int, seed: int, lr: str, accuracy: float | None) -> None:
        job = book.plan(number, (f"optim.lr={lr}", f"seed={seed}"), tmp_path / str(number))
        job.begun = True
        if accuracy is None:
            job.cause = "killed"
            return
        best = {"epoch": 1, "monitor": "val/accuracy", "val": {"accuracy": accuracy}}
        job.result = {"status": "done", "best": best, "test": {}}

    book = Ledger(tmp_path)
    for number, (seed, lr, accuracy) in enumerate(
        [(1, "0.1", 0.5), (2, "0.1", 0.9), (1, "0.2", None), (1, "0.3", 0.8), (2, "0.3", 0.8)]
    ):
        write(number, seed, lr, accuracy)
    ranking = outcome(book)
    assert [choice.settings for choice in ranking.choices] == [{"optim.lr": lr} for lr in ("0.3", "0.1", "0.2")]
    assert ranking.choices[1].means == {"val/accuracy": pytest.approx(0.7)}
    assert ranking.choices[1].deviations == {"val/accuracy": pytest.approx(math.sqrt(0.08))}
    assert ranking.best is not None and ranking.best.number == 3
    book.write()
    assert Ledger(tmp_path).jobs.keys() == book.jobs.keys()


def test_importance_is_the_share_of_variance_that_the_groups_explain():
    assert importance(["a", "a", "b", "b"], [1.0, 1.0, 3.0, 3.0]) == 1.0
    assert importance(["a", "b", "a", "b"], [1.0, 1.0, 3.0, 3.0]) == 0.0
    # Within each group a sum of squares of 0.5 remains of 4.5 + 0.5 in all: means 1.5 and 3.5, of all 2.5.
    assert importance(["a", "a", "b", "b"], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(4 / 5)
    assert importance(["a", "b"], [2.0, 2.0]) == 0.0
    ranks = [str(10**number) for number in range(10)]  # ten numbers fall into five groups of two
    assert importance(ranks, [float(number // 2) for number in range(10)]) == 1.0


def test_the_page_of_a_sweep_shows_what_won_and_is_written_anew_by_report(dltrain, verb, fragile, tmp_path):
    assert dltrain("-m", *fragile, "model.how=well,wrong", "optim.lr=0.01,0.02", "seed=1,2").code == 1
    page = (tmp_path / "sweep" / "sweep.html").read_text()
    for words in (
        "Sweep of 8 jobs",
        "4 done, 4 failed",
        "Importance for val/loss",
        "val/loss by optim.lr",
        "no such width",
    ):
        assert words in page
    assert outcome(Ledger(tmp_path / "sweep")).summary()["best"]["command"].replace("'", "&#x27;") in page
    (tmp_path / "sweep" / "sweep.html").unlink()
    again = verb("report", "sweep")
    assert again.code == 0 and again.result["jobs"] == 8
    assert (tmp_path / "sweep" / "sweep.html").read_text() == page


def test_a_sweep_without_a_single_result_has_its_page(dltrain, fragile, tmp_path):
    assert dltrain("-m", *fragile, "model.how=wrong", "seed=1,2").code == 1
    assert "2 failed" in (tmp_path / "sweep" / "sweep.html").read_text()


def test_a_ledger_of_another_format_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text('{"format": 99, "jobs": []}')
    with pytest.raises(UserError, match="has format 99"):
        Ledger(tmp_path)
