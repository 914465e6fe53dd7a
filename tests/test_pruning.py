"""Pruning: jobs end where Optuna's pruners end them, no break nor second run changes that, and tables say so."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from conftest import fresh

from dltrain.errors import UserError
from dltrain.report.metrics import lower_is_better
from dltrain.sweep.ledger import Ledger
from dltrain.sweep.result import outcome
from dltrain.sweep.study import FILE, Study, open_grid
from dltrain.system.extras import install_line
from dltrain.training.monitor import Pruning
from tests.made import on_terminal
from tests.test_search import LR, study
from tests.test_sweep import SWEEP, ledger, started, timeless, wait_for_rows

EPOCHS = 5
QUICK = ("model=mlp", f"trainer.epochs={EPOCHS}", "dataset.limit=200")
RATES = "optim.lr=0.05,0.02,0.0001,0.1,0.001,0.03"
JOBS = 6
MONITOR = "trainer.checkpoint.monitor=val/accuracy"
MEDIAN = ("pruner=median", "pruner.n_startup_trials=2", "pruner.n_warmup_steps=0")
PRUNERS = {
    "median": (MEDIAN, optuna.pruners.MedianPruner(n_startup_trials=2)),
    "hyperband": (("pruner=hyperband",), optuna.pruners.HyperbandPruner(max_resource=EPOCHS)),
    "successive_halving": (
        ("pruner=successive_halving",),
        optuna.pruners.SuccessiveHalvingPruner(1, reduction_factor=3),
    ),
}


def values(folder: Path, metric: str) -> list[float]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return [float(row[metric]) for row in csv.DictReader(file)]


def ends_by_hand(pruner: optuna.pruners.BasePruner, curves: list[list[float]], metric: str) -> list[int]:
    """At which epoch Optuna ends each job, in another study that is fed these values, one job after the other."""
    direction = "minimize" if lower_is_better(metric) else "maximize"
    by_hand = optuna.create_study(study_name="dltrain", direction=direction, pruner=pruner)
    best = min if lower_is_better(metric) else max
    ends = []
    for curve in curves:
        trial = by_hand.ask()
        for epoch, value in enumerate(curve, 1):
            trial.report(value, epoch)
            if epoch < EPOCHS and trial.should_prune():
                by_hand.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            by_hand.tell(trial, best(curve))
        ends.append(epoch)
    return ends


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Runs the same sweep of 6 jobs with further arguments, once for each; its folder."""
    root = tmp_path_factory.mktemp("sweeps")

    @cache
    def run(*arguments: str) -> Path:
        folder = root / re.sub(r"\W", "-", " ".join(arguments) or "whole")
        code, _, errors = fresh().run(["-m", *QUICK, RATES, *arguments, "report=false", f"hydra.sweep.dir={folder}"])
        assert code == 0, errors
        return folder

    return run


@pytest.mark.parametrize(("pruner", "metric"), [*((name, "val/loss") for name in PRUNERS), ("median", "val/accuracy")])
def test_jobs_end_where_optuna_fed_by_hand_ends_them(swept, pruner, metric):
    chosen, real = PRUNERS[pruner]
    wanted = chosen if metric == "val/loss" else (*chosen, MONITOR)
    whole, pruned = ([values(folder / str(job), metric) for job in range(JOBS)] for folder in (swept(), swept(*wanted)))
    assert [len(curve) for curve in pruned] == ends_by_hand(real, whole, metric)
    assert 0 < sum(len(curve) == EPOCHS for curve in pruned) < JOBS
    for short, long in zip(pruned, whole, strict=True):
        assert short == long[: len(short)]


@pytest.fixture
def pruned_sweep(swept, tmp_path):
    """The folder of a sweep of 6 jobs, some of them pruned, which each test may change."""
    folder = swept(*MEDIAN)
    return Path(shutil.copytree(folder, tmp_path / "sweep"))


def test_a_pruned_job_is_done_with_its_cause_and_without_a_test_result(pruned_sweep):
    pruned = [row for row in ledger(pruned_sweep) if row["cause"]]
    assert {row["optim.lr"] for row in pruned} >= {"0.0001", "0.001"}
    for row in pruned:
        result = json.loads((pruned_sweep / row["job"] / "result.json").read_text())
        curve = values(pruned_sweep / row["job"], "val/loss")
        assert row["status"] == result["status"] == "done"
        assert row["cause"] == f"pruned at epoch {len(curve)}: MedianPruner ended it at val/loss {curve[-1]:.4g}"
        assert float(row["val/loss"]) == min(curve)
        assert row["test/loss"] == "" and result["test"] == {}


def test_pruned_jobs_are_not_run_again_and_the_study_knows_them(pruned_sweep, dltrain):
    before = ledger()
    again = dltrain("-m", *QUICK, RATES, *MEDIAN, SWEEP)
    assert (again.code, again.result["done"]) == (0, JOBS)
    assert again.result["pruned"] == sum(bool(row["cause"]) for row in before) > 0
    assert "6 of 6 jobs are done already" in again.stderr
    assert [{**row, "run": ""} for row in ledger()] == [{**row, "run": ""} for row in before]
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"sweep/{FILE}"))
    trials = optuna.load_study(study_name="dltrain", storage=storage).trials
    states = ["PRUNED" if row["cause"] else "COMPLETE" for row in before]
    assert [trial.state.name for trial in trials] == states
    for number, trial in enumerate(trials):
        curve = values(Path("sweep", str(number)), "val/loss")
        assert trial.intermediate_values == dict(enumerate(curve, 1))


def test_a_pruned_job_ranks_behind_those_that_ran_to_their_end(pruned_sweep, dltrain):
    flags = [choice.pruned for choice in outcome(Ledger(pruned_sweep)).choices]
    assert flags == sorted(flags) and sum(flags) > 0
    code, shown = on_terminal(pruned_sweep.parent, "report", "sweep")
    assert code == 0
    assert f"{sum(flags)} jobs were pruned, and rank behind" in shown
    assert "6 of 6 jobs done" in shown
    page = (pruned_sweep / "sweep.html").read_text()
    assert f"{JOBS - sum(flags)} done, {sum(flags)} pruned" in page
    assert "Pruned jobs rank behind" in page


def test_seeds_that_a_pruner_has_left_over_do_not_lift_their_setting(tmp_path):
    book = Ledger(tmp_path)
    for number, (lr, seed, loss, pruned) in enumerate(
        [("1", 1, 0.1, ""), ("1", 2, 9.0, "pruned"), ("2", 1, 0.2, ""), ("2", 2, 0.4, ""), ("3", 1, 0.0, "pruned")]
    ):
        added = book.plan(number, (f"optim.lr={lr}", f"seed={seed}"), tmp_path / str(number))
        added.begun, best = True, {"epoch": 1, "monitor": "val/loss", "val": {"loss": loss}}
        added.result = {"status": "done", "best": best, "test": {}, "pruned": pruned}
    result = outcome(book)
    ranked = [(choice.settings["optim.lr"], choice.pruned) for choice in result.choices]
    assert ranked == [("2", 0), ("1", 1), ("3", 1)]
    assert result.choices[1].means == {"val/loss": 0.1}
    assert result.best is not None and result.best.number == 2


def test_a_pruned_run_goes_on_to_its_end_by_itself(pruned_sweep, dltrain):
    number = next(row["job"] for row in ledger(pruned_sweep) if row["cause"])
    went_on = dltrain("resume", str(pruned_sweep / number))
    assert went_on.code == 0 and went_on.result["test"]
    assert "the pruner has no effect here" in went_on.stderr
    assert len(values(pruned_sweep / number, "val/loss")) == EPOCHS


def test_two_jobs_at_once_are_pruned_too(dltrain):
    wanted = (*MEDIAN, "hydra/launcher=parallel", "hydra.launcher.n_jobs=2")
    assert dltrain("-m", *QUICK, "optim.lr=0.05,0.02,0.03,0.0001", *wanted, SWEEP).code == 0
    assert "0.0001" in [row["optim.lr"] for row in ledger() if row["cause"]]


SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.n_startup_trials=3", *MEDIAN, LR)


def test_a_search_tells_optuna_what_was_pruned(dltrain, tmp_path):
    command = ("-m", *QUICK, *SEARCH, "hydra.sweeper.metrics=val/accuracy", "hydra.sweeper.n_trials=7", SWEEP)
    assert dltrain(*command).code == 0
    trials = study().trials
    curves = [values(tmp_path / "sweep" / str(number), "val/accuracy") for number in range(7)]
    assert [trial.state.name for trial in trials] == ["PRUNED" if row["cause"] else "COMPLETE" for row in ledger()]
    assert 0 < sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials) < 7
    assert [trial.intermediate_values for trial in trials] == [dict(enumerate(curve, 1)) for curve in curves]


def killed(folder: Path, done: int, *command: str) -> None:
    """Start a sweep and kill it once so many jobs are done."""
    process = started(folder, *command)
    wait_for_rows(folder, "done", done, process)
    process.kill()
    process.communicate()


def test_a_sweep_with_a_pruner_that_is_killed_ends_with_the_table_of_an_undisturbed_one(dltrain, swept, tmp_path):
    command = (*QUICK, RATES, *MEDIAN)
    killed(tmp_path, 2, *command)
    assert dltrain("-m", *command, SWEEP).code == 0
    assert timeless(ledger()) == timeless(ledger(swept(*MEDIAN)))


def test_a_search_that_is_killed_ends_with_the_table_of_an_undisturbed_one(dltrain, tmp_path):
    command = (*QUICK, *SEARCH, "hydra.sweeper.n_trials=6")
    killed(tmp_path, 4, *command)
    assert dltrain("-m", *command, SWEEP).code == 0
    assert dltrain("-m", *command, "hydra.sweep.dir=undisturbed").code == 0
    assert timeless(ledger()) == timeless(ledger(Path("undisturbed")))


def test_a_search_that_is_interrupted_goes_on_with_the_trial_that_it_had_begun(dltrain, tmp_path):
    command = (*QUICK, "trainer.epochs=30", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", LR)
    process = started(tmp_path, *command)
    wait_for_rows(tmp_path, "running", 1, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    again = dltrain("-m", *command, SWEEP)
    assert (again.code, again.result["done"], again.result["jobs"]) == (0, 2, 2), again.stderr


# --- the study itself -------------------------------------------------------------------------------------------------


def job(number: int, *overrides: str, folder: Path = Path(), **result: object) -> SimpleNamespace:
    plain = {"pruned": "", "reason": "", "status": "running", "monitor": "val/loss", "metrics": {}}
    return SimpleNamespace(number=number, overrides=overrides, folder=folder, **(plain | result))


def last_epoch(grid: Study, trained: SimpleNamespace, curve: list[float]) -> int:
    """The epoch at which a job with these values ends."""
    grid.begin(trained)
    for epoch, value in enumerate(curve, 1):
        if grid.prunes(trained, epoch, value, asks=True):
            trained.pruned = "pruned"
            break
    trained.status, trained.metrics = "done", {"val/loss": min(curve)}
    grid.end(trained)
    return epoch


def test_repeats_with_other_seeds_are_no_rivals(tmp_path):
    grid = open_grid(tmp_path, optuna.pruners.MedianPruner(n_startup_trials=1), "val/loss")
    assert last_epoch(grid, job(0, "optim.lr=1", "seed=1"), [1.0, 1.0]) == 2
    assert last_epoch(grid, job(1, "optim.lr=1", "seed=2"), [2.0, 2.0]) == 2  # worse than its repeat alone
    assert last_epoch(grid, job(2, "optim.lr=2", "seed=1"), [3.0, 3.0]) == 1  # worse than both of another setting
    assert last_epoch(grid, job(3, "optim.lr=1", "seed=3"), [1.5, 1.5]) == 2


@pytest.mark.parametrize("pruner", [real for _, real in PRUNERS.values()], ids=PRUNERS)
def test_a_job_that_tells_of_its_epochs_again_hears_the_same(tmp_path, pruner):
    grid = open_grid(tmp_path, pruner, "val/loss")
    for number in range(9):
        last_epoch(grid, job(number, f"optim.lr={number}"), [1.0] * EPOCHS)
    last = job(9, "optim.lr=9")
    grid.begin(last)
    first = [grid.prunes(last, epoch, 9.0, asks=True) for epoch in range(1, 4)]
    (tmp_path / f"{FILE}.lock").touch()  # the sweep was killed as it wrote, and before the job had its answer
    anew = open_grid(tmp_path, pruner, "val/loss")
    anew.begin(last)
    assert [trial.number for trial in anew.trials[last.overrides]] == [9]
    again = [anew.prunes(last, epoch, 7.0, asks=True) for epoch in range(1, 4)]
    assert again == [False, False, first[2]]
    assert anew.study.trials[9].intermediate_values == {1: 9.0, 2: 9.0, 3: 9.0}


def test_a_run_that_goes_on_tells_of_all_epochs_and_asks_at_the_last():
    reported = []

    def ask(epoch: int, value: float, asks: bool) -> bool:
        reported.append((epoch, value, asks))
        return True

    rule = Pruning(ask, "MedianPruner", "val/loss")
    rule.catch_up([{"epoch": 1, "val/loss": 3.0}, {"epoch": 2, "val/loss": 2.0}], asks=True)
    assert reported == [(1, 3.0, False), (2, 2.0, True)]
    assert rule.should_stop
    rule.update(3, {"val/loss": 1.0}, asks=False)  # the last epoch of all
    assert not rule.should_stop
    with pytest.raises(UserError, match="by val/f7, which is no metric of an epoch: there are val/loss"):
        Pruning(ask, "MedianPruner", "val/f7").update(1, {"epoch": 1, "val/loss": 1.0})


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["pruner=median", "pruner.n_warmup_steps=1,2"], "it is one for all jobs"),
        (["pruner=hyperband", "trainer.epochs=2,4"], "pruner.max_resource is 2 and 4"),
        (["pruner=median", "trainer.checkpoint.monitor=val/loss,val/accuracy"], "is val/loss and val/accuracy"),
        (["pruner=median", "hydra/sweeper=optuna", LR, "hydra.sweeper.metrics=[val/loss,val/accuracy]"], "one metric"),
        (["pruner=median", "hydra/sweeper=optuna", LR, "hydra.sweeper.metrics=test/accuracy"], "once a job has ended"),
        (["pruner=median", "hydra/sweeper=optuna", "pruner.n_warmup_steps=range(1,3)"], "give it no choice"),
    ],
)
def test_what_cannot_be_pruned_is_one_message_and_exit_2(dltrain, arguments, fragment):
    refused = dltrain("-m", *QUICK, "seed=1,2", *arguments, SWEEP)
    assert refused.code == 2, refused.stderr
    assert fragment in refused.stderr and "Traceback" not in refused.stderr


def test_a_run_that_is_no_sweep_says_that_a_pruner_has_no_effect(dltrain):
    alone = dltrain(*QUICK, "trainer.epochs=1", "pruner=median")
    assert alone.code == 0
    assert "the pruner has no effect here: it compares jobs of dltrain -m" in alone.stderr


def test_without_optuna_a_pruner_is_a_message_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the process below runs
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "optuna" else find(name, *rest)
from dltrain.cli import main
sys.exit(main(["-m", "pruner=median", "seed=1,2"]))
"""
    refused = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2
    assert f"no package optuna on this machine: {install_line('optuna')}" in refused.stderr


def test_jobs_that_were_compared_by_one_metric_are_not_by_another(dltrain, tmp_path):
    sweep = ("-m", "dataset.limit=40", "trainer.epochs=2", "pruner=median", "hydra.sweep.dir=sweep")
    assert dltrain(*sweep, "optim.lr=0.01,0.02").code == 0
    refused = dltrain(*sweep, "optim.lr=0.03,0.04", "trainer.checkpoint.monitor=val/accuracy")
    assert refused.code == 2 and "were compared by val/loss, and cannot be by val/accuracy" in refused.stderr
