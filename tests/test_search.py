"""Hyper-parameter search with Optuna: spaces, going on, failures, several objectives, two processes on one study."""

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf

from dltrain.sweep.study import storage_of
from tests.test_cli import SHORT
from tests.test_sweep import SWEEP, ledger

SEARCH = ("-m", "hydra/sweeper=optuna", "model=mlp", *SHORT)
LR = "optim.lr=tag(log, interval(0.001, 0.3))"


def study(storage: str = "sqlite:///sweep/study.db") -> optuna.Study:
    return optuna.load_study(study_name="dltrain", storage=storage_of(storage, Path()))


def test_trials_are_drawn_from_the_space_and_told_what_their_jobs_reached(dltrain):
    space = (LR, "model.activation=choice(relu,tanh)", "dataset.batch_size=range(8,33,8)", "seed=int(interval(1,9))")
    outcome = dltrain(*SEARCH, *space, SWEEP, "hydra.sweeper.n_trials=4")
    assert outcome.code == 0, outcome.stderr
    rows, trials = ledger(), study().trials
    assert len(rows) == len(trials) == 4
    for row, trial in zip(rows, trials, strict=True):
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.value == float(row["val/loss"])
        assert trial.user_attrs["run"] == row["run"]
        assert {key: str(value) for key, value in trial.params.items()} == {key: row[key] for key in trial.params}
        assert 0.001 <= trial.params["optim.lr"] <= 0.3
        assert trial.params["model.activation"] in ("relu", "tanh")
        assert trial.params["dataset.batch_size"] in (8, 16, 24, 32)
        assert trial.params["seed"] in range(1, 10)
    assert study().direction == optuna.study.StudyDirection.MINIMIZE


def test_a_search_goes_on_up_to_its_number_of_trials(dltrain):
    assert dltrain(*SEARCH, LR, SWEEP, "hydra.sweeper.n_trials=2").code == 0
    first = [trial.params for trial in study().trials]
    assert dltrain(*SEARCH, LR, SWEEP, "hydra.sweeper.n_trials=4").code == 0
    assert [trial.params for trial in study().trials][:2] == first
    assert len(study().trials) == len(ledger()) == 4
    assert dltrain(*SEARCH, LR, SWEEP, "hydra.sweeper.n_trials=4").code == 0
    assert len(study().trials) == 4
    refused = dltrain(*SEARCH, LR, SWEEP, "hydra.sweeper.n_trials=5", "hydra.sweeper.metrics=test/loss")
    assert refused.code == 2
    assert "the study 'dltrain' minimizes val/loss: name another" in refused.stderr
    assert len(study().trials) == 4


def test_a_grid_is_every_combination_once(dltrain):
    space = ("optim.lr=0.01,0.1", "seed=range(1,4)", "hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=50")
    assert dltrain(*SEARCH, *space, SWEEP).code == 0
    assert sorted((row["optim.lr"], row["seed"]) for row in ledger()) == [
        (lr, seed) for lr in ("0.01", "0.1") for seed in ("1", "2", "3")
    ]


def test_a_trial_with_a_value_that_cannot_be_is_told_as_failed(dltrain):
    outcome = dltrain(*SEARCH, "optim.lr=choice(0.1,-1)", "hydra.sweeper.sampler=grid", SWEEP)
    assert outcome.code == 1
    assert {row["optim.lr"]: row["status"] for row in ledger()} == {"0.1": "done", "-1": "failed"}
    outcomes = {trial.params["optim.lr"]: (trial.state.name, trial.user_attrs.get("cause")) for trial in study().trials}
    assert outcomes == {0.1: ("COMPLETE", None), -1: ("FAIL", "optim.lr=-1: must be a number of at least 0")}


def test_a_search_ends_at_its_first_failure_where_that_is_asked_for(dltrain):
    space = ("optim.lr=choice(1e38,0.1)", "hydra.sweeper.sampler=grid", "sweep.on_failure=stop")
    assert dltrain(*SEARCH, *space, SWEEP).code == 1
    assert [row["status"] for row in ledger()] == ["failed"]


def test_a_search_that_has_its_trials_says_so(dltrain, tmp_path):
    storage = f"hydra.sweeper.storage={tmp_path}/study.log"
    assert dltrain(*SEARCH, LR, storage, "hydra.sweep.dir=first", "hydra.sweeper.n_trials=1").code == 0
    second = dltrain(*SEARCH, LR, storage, "hydra.sweep.dir=second", "hydra.sweeper.n_trials=1")
    assert (second.code, second.result["jobs"]) == (0, 0)
    assert "has its 1 trials already" in second.stderr


def test_other_choices_than_those_of_the_study_are_refused(dltrain):
    assert dltrain(*SEARCH, "optim.lr=choice(0.1,0.2)", SWEEP, "hydra.sweeper.n_trials=1").code == 0
    refused = dltrain(*SEARCH, "optim.lr=choice(0.1,0.2,0.3)", SWEEP, "hydra.sweeper.n_trials=2")
    assert refused.code == 2
    assert "optim.lr: the study was begun with CategoricalDistribution(choices=(0.1, 0.2))" in refused.stderr


def test_choices_of_lists_are_typed_as_they_were(dltrain):
    space = ("model.hidden_sizes=choice([8],[8,4])", "hydra.sweeper.sampler=grid")
    assert dltrain(*SEARCH, *space, SWEEP, "sweep.retries=1").code == 0
    assert {row["model.hidden_sizes"] for row in ledger()} == {"[8]", "[8,4]"}
    assert {trial.state.name for trial in study().trials} == {"COMPLETE"}


@pytest.mark.parametrize("sampler", ["random", "cmaes"])
def test_other_samplers_repeat_with_their_seed(dltrain, sampler):
    for folder in ("first", "second"):
        wanted = (f"hydra.sweeper.sampler={sampler}", "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={folder}")
        assert dltrain(*SEARCH, LR, "optim.momentum=interval(0,0.9)", *wanted).code == 0
    first, second = (study(f"sqlite:///{folder}/study.db").trials for folder in ("first", "second"))
    assert [trial.params for trial in first] == [trial.params for trial in second]


def test_trials_are_composed_as_single_runs_are(dltrain):
    """Of what is typed for a key before, behind and in the place of a choice."""
    space = ["model=choice(mlp,lstm)", "model.hidden_size=8", "penalty={l1:0.001}", "penalty={l2:0.01},{l2:0.02}"]
    options = ["hydra.sweeper.sampler=grid", "seed=3", "~loss.label_smoothing", "resume=str(off)"]
    outcome = dltrain(*SEARCH, *space, *options, SWEEP)
    assert outcome.code == 1  # one of the models has no hidden_size
    outcomes = {(row["model"], row["status"], row["penalty"]) for row in ledger()}
    both = ("{l1:0.001} {l2:0.01}", "{l1:0.001} {l2:0.02}")
    assert outcomes == {
        (model, status, penalty) for model, status in (("mlp", "failed"), ("lstm", "done")) for penalty in both
    }
    for row in ledger():
        if row["status"] == "done":
            config = OmegaConf.load(Path(row["run"], "config.yaml"))
            assert (config.penalty.l1, f"{{l2:{config.penalty.l2}}}") == (0.001, row["penalty"].split()[1])
            assert (config.model.hidden_size, "label_smoothing" in config.loss) == (8, False)
    assert {trial.state.name for trial in study().trials} == {"COMPLETE", "FAIL"}


def test_a_trial_that_failed_is_told_as_failed(dltrain):
    outcome = dltrain(*SEARCH, "optim.lr=choice(0.01,1e38)", SWEEP, "hydra.sweeper.n_trials=4")
    assert outcome.code == 1
    states = {trial.params["optim.lr"]: trial.state.name for trial in study().trials}
    assert states == {0.01: "COMPLETE", 1e38: "FAIL"}
    assert all("not finite" in trial.user_attrs["cause"] for trial in study().trials if trial.value is None)


def test_several_objectives(dltrain):
    wanted = ("hydra.sweeper.metrics=[val/loss,val/accuracy]", "hydra.sweeper.n_trials=3")
    outcome = dltrain(*SEARCH, LR, *wanted, SWEEP)
    assert outcome.code == 0 and "test/" not in outcome.stderr
    assert [direction.name for direction in study().directions] == ["MINIMIZE", "MAXIMIZE"]
    for row, trial in zip(ledger(), study().trials, strict=True):
        assert trial.values == [float(row["val/loss"]), float(row["val/accuracy"])]
    assert {job["job"] for job in outcome.result["front"]} == {trial.number for trial in study().best_trials}


def test_a_search_names_the_best_by_what_it_is_after(dltrain):
    outcome = dltrain(*SEARCH, LR, "hydra.sweeper.metrics=test/accuracy", "hydra.sweeper.n_trials=3", SWEEP)
    assert outcome.code == 0, outcome.stderr
    best = outcome.result["best"]
    assert (best["monitor"], best["mean"]["test/accuracy"]) == ("test/accuracy", study().best_value)
    for hint in ("hydra.sweeper.metrics: test/accuracy chooses", "the jobs are ranked: test/accuracy chooses"):
        assert outcome.stderr.count(hint) == 1
    assert "use val/accuracy" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["seed=1"], "a search needs a key with a range"),
        ([LR, "hydra.sweeper.sampler=tpee"], "did you mean 'tpe'?"),
        ([LR, "hydra.sweeper.n_trials=0"], "n_trials must be a whole number from 1 on"),
        ([LR, "hydra.sweeper.direction=up"], "direction must be auto, or minimize or maximize"),
        ([LR, "hydra.sweeper.sampler=grid"], "optim.lr has an interval"),
        (["dataset.batch_size=interval(8,64)"], "write dataset.batch_size=int(interval(8,64))"),
        (["optim.lr=interval(0.1,0.01)"], "optim.lr=interval(0.1,0.01): "),
        (["optim.lr=tag(log,interval(0,0.1))"], "optim.lr=tag(log,interval(0,0.1)): "),
        ([LR, "hydra.sweeper.storage=nowhere/study.log"], "there is no folder"),
        ([LR, "hydra.sweeper.storage=sqlite:////nowhere/study.db"], "unable to open database file"),
        ([LR, "hydra.sweeper.storage=postgresql://host/study"], "install the database's driver"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(dltrain, arguments, fragment):
    outcome = dltrain(*SEARCH, *arguments, SWEEP)
    assert outcome.code == 2, outcome.stderr
    assert fragment in outcome.stderr and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("content", [b"no database, but text" * 100, b"SQLite format 3\0" + b"\7" * 5000, None])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("study.db", (*SEARCH, LR)),
        ("study.log", (*SEARCH, LR, "hydra.sweeper.storage=sweep/study.log")),
        ("pruning.log", ("-m", *SHORT, "pruner=median", "seed=1,2")),
    ],
)
def test_a_study_that_is_none_is_named(dltrain, tmp_path, name, arguments, content):
    (tmp_path / "sweep").mkdir()
    if content is None:
        (tmp_path / "sweep" / name).mkdir()
    else:
        (tmp_path / "sweep" / name).write_bytes(content + b"\n{}\n" + content)
    outcome = dltrain(*arguments, SWEEP)
    assert outcome.code == 2 and "Traceback" not in outcome.stderr
    (problem,) = outcome.result["problems"]
    assert f"{name}" in problem and "holds no study that can be used" in problem
    assert outcome.stderr.count("dltrain: ") == 1


@pytest.mark.parametrize("storage", ["sqlite:///{}/shared.db", "{}/shared.log"], ids=["database", "journal"])
def test_two_processes_share_a_study(tmp_path, storage):
    storage = storage.format(tmp_path)
    optuna.create_study(study_name="dltrain", storage=storage_of(storage, tmp_path), direction="minimize")
    common = [*SEARCH, LR, f"hydra.sweeper.storage={storage}", "hydra.sweeper.n_trials=6", "report=false"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dltrain", *common, f"hydra.sweep.dir={name}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("here", "there")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    trials = study(storage).trials
    assert len(trials) in (6, 7)  # both may ask for the last one
    runs = {trial.user_attrs["run"] for trial in trials}
    assert len(runs) == len({trial.params["optim.lr"] for trial in trials}) == len(trials)
    assert len(ledger(tmp_path / "here")) + len(ledger(tmp_path / "there")) == len(trials)


def test_a_search_reads_the_results_of_jobs_of_another_launcher(dltrain):
    wanted = ("hydra/launcher=basic", "hydra.sweeper.n_trials=2", "hydra.sweeper.metrics=test/accuracy", "report=false")
    searched = dltrain(*SEARCH, LR, *wanted, SWEEP)
    assert searched.code == 0, searched.stderr
    trials = study().trials
    assert len(trials) == 2
    for trial in trials:
        result = json.loads(Path(trial.user_attrs["run"], "result.json").read_text())
        assert trial.value == result["test"]["accuracy"]


def test_a_metric_that_there_is_not_is_refused_before_any_job(dltrain, tmp_path):
    refused = dltrain(*SEARCH, "optim.lr=interval(0.01,0.1)", "hydra.sweeper.metrics=[val/acuracy]", SWEEP)
    assert refused.code == 2 and "did you mean 'val/accuracy'?" in refused.stderr
