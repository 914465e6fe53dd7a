"""``dltrain compare``: what differs between runs, which is better, and the page with their curves."""

import json
import shutil

import pytest
from made import on_terminal

from dltrain.report.page import charts_of_runs

SHORT = ("trainer.epochs=2", "dataset.limit=60")


@pytest.fixture
def pair(dltrain):
    """Two runs that differ in their learning rate and in their optimizer."""
    first = dltrain(*SHORT, "hydra.run.dir=runs/a")
    second = dltrain(*SHORT, "hydra.run.dir=runs/b", "optim=adam", "optim.lr=0.01")
    return first.result, second.result


def test_only_what_differs_is_listed_with_a_value_a_run(verb, pair):
    config = verb("compare", "runs/a", "runs/b").result["config"]
    assert config["optim"] == ["sgd", "adam"]
    assert config["optim.lr"] == [0.05, 0.01]
    assert config["optim.momentum"] == [0.9, None]
    assert not [key for key in config if not key.startswith("optim")]


def test_metrics_are_those_of_the_results_and_the_best_is_marked(verb, pair):
    metrics = verb("compare", "runs/a", "runs/b").result["metrics"]
    for name, better in (("loss", min), ("accuracy", max)):
        values = [run["test"][name] for run in pair]
        assert metrics[f"test/{name}"]["values"] == values
        assert metrics[f"val/{name}"]["values"] == [run["best"]["val"][name] for run in pair]
        assert metrics[f"test/{name}"]["best"] == [values.index(better(values))]


def test_equal_runs_differ_in_nothing_and_none_is_the_best(dltrain, verb):
    for name in "ab":
        dltrain(*SHORT, f"hydra.run.dir=runs/{name}")
    answer = verb("compare", "runs/a", "runs/b").result
    assert answer["config"] == {}
    assert all(row["best"] == [] for row in answer["metrics"].values())


def test_a_run_of_a_version_without_a_group_is_as_one_without_an_option(dltrain, verb, tmp_path):
    for name in "ab":
        dltrain(*SHORT, f"hydra.run.dir=runs/{name}")
    for name, line in {"config.yaml": "metric: {}", ".hydra/hydra.yaml": "      metric: none"}.items():
        path = tmp_path / "runs" / "a" / name
        text = path.read_text()
        assert f"\n{line}\n" in text
        path.write_text(text.replace(f"\n{line}\n", "\n"))
    assert verb("compare", "runs/a", "runs/b").result["config"] == {}


def test_what_a_pattern_finds_beside_the_jobs_of_a_sweep_is_passed_over(dltrain, verb, tmp_path):
    dltrain("-m", *SHORT, "optim.lr=0.01,0.1", "hydra.sweep.dir=sweep")
    found = sorted(str(path) for path in (tmp_path / "sweep").iterdir())
    assert any(path.endswith("multirun.yaml") for path in found)
    assert verb("compare", *found).result["config"] == {"optim.lr": [0.01, 0.1]}


def test_a_run_without_a_result_has_gaps(verb, pair, tmp_path):
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "c")
    (tmp_path / "runs" / "c" / "result.json").write_text(json.dumps({"status": "running"}))
    answer = verb("compare", "runs/a", "runs/b", "runs/c").result
    assert [run["status"] for run in answer["runs"]] == ["done", "done", "running"]
    assert answer["metrics"]["test/loss"]["values"][2] is None


def test_the_page_has_both_tables_and_a_curve_a_run(verb, pair, tmp_path):
    assert verb("compare", "runs/a", "runs/b", "out=compare.html").result["out"] == "compare.html"
    page = (tmp_path / "compare.html").read_text()
    for fragment in ("2 runs compared", "optim.momentum", "test/accuracy", 'class="best"', '"name":"b"', "data-chart"):
        assert fragment in page


def test_curves_of_different_lengths_share_their_epochs():
    long = [{"epoch": 1.0, "train/loss": 3.0}, {"epoch": 2.0, "train/loss": 2.0}]
    (chart,) = charts_of_runs(["a", "b"], [long, long[:1]])
    assert chart["x"] == [1, 2]
    assert [series["values"] for series in chart["series"]] == [[3.0, 2.0], [3.0, None]]


def test_a_terminal_gets_tables(pair, tmp_path):
    code, text = on_terminal(tmp_path, "compare", "runs/a", "runs/b")
    assert code == 0
    for word in ("optim.momentum", "adam", "test/accuracy", "*"):
        assert word in text
    assert text.splitlines()[-1] != ""


def test_a_mistake_is_one_message_and_exit_2(verb, pair):
    for arguments, fragment in (
        ((), "there is nothing to compare"),
        (("runs/a",), "there is nothing to compare"),
        (("runs/a", "nowhere"), "there is no run 'nowhere'"),
        (("runs/a", "runs"), "is no run folder"),
        (("runs/a", "runs/b", "out=nowhere/c.html"), "cannot be written"),
    ):
        outcome = verb("compare", *arguments)
        assert (outcome.code, outcome.result["status"]) == (2, "invalid"), arguments
        assert fragment in outcome.stderr and outcome.stderr.count("dltrain: ") == 1
