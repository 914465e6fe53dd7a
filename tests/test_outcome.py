"""What a sweep says at its end, and its page: ranks, seeds, objectives, the Pareto front."""

import json
from typing import Any

from dltrain.report.sweep import Row, render_sweep
from dltrain.sweep.ledger import Job, Ledger
from dltrain.sweep.result import finish_sweep, outcome, write_page
from dltrain.system.files import write_json
from tests.made import on_terminal
from tests.test_search import LR, SEARCH, study
from tests.test_sweep import SWEEP


class Book(Ledger):
    """A ledger whose jobs have their results on the disk."""

    def add(self, overrides: str, status: str = "done", cause: str = "", pruned: str = "", **metrics: Any) -> Job:
        """``metrics``: ``val_loss=...`` and the like."""
        names = tuple(overrides.split())
        number = self.number_of(names)
        job = self.plan(number, names, self.folder / str(number))
        job.begun, job.cause = True, cause
        val, test = ({name[len(part) :]: metrics[name] for name in metrics if name.startswith(part)} for part in PARTS)
        best = {"best": {"epoch": 1, "monitor": "val/loss", "val": val}} if val else {}
        job.folder.mkdir(exist_ok=True)
        write_json(job.folder / "result.json", {"status": status, **best, "test": test, "pruned": pruned})
        job.refresh()
        return job


PARTS = ("val_", "test_")


def rates(book: Ledger) -> list[tuple[str, str]]:
    """The learning rates from the best on, each with its seeds as they are shown."""
    return [(choice.settings["optim.lr"], choice.seeds) for choice in outcome(book).choices]


def test_settings_without_some_of_their_seeds_rank_behind_and_claim_those_that_they_have(tmp_path):
    book = Book(tmp_path)
    for seed, loss in enumerate((0.5, 0.6, 0.7), 1):
        book.add(f"optim.lr=1 seed={seed}", val_loss=loss)
    book.add("optim.lr=2 seed=1", val_loss=0.1)
    book.add("optim.lr=2 seed=2", "failed", cause="killed")
    book.add("optim.lr=2 seed=3", "interrupted", val_loss=0.1)
    book.add("optim.lr=3 seed=1", val_loss=0.3)  # its others never began
    book.add("optim.lr=3 seed=2", val_loss=0.3)
    book.add("optim.lr=4 seed=1", val_loss=0.2)
    book.add("optim.lr=4 seed=2", val_loss=0.2)
    book.add("optim.lr=4 seed=3", val_loss=None)  # a NaN
    book.add("optim.lr=5 seed=1", "failed", cause="killed")
    assert rates(book) == [("1", "3"), ("4", "2 of 3"), ("3", "2 of 3"), ("2", "1 of 3"), ("5", "0 of 3")]
    best = outcome(book).summary()["best"]
    assert (best["job"], best["seeds"]) == (0, 3)
    write_page(outcome(book), tmp_path / "sweep.html")
    page = (tmp_path / "sweep.html").read_text()
    assert page.count("<td>2 of 3</td>") == 2 and "rank behind those with all" in page


def test_where_all_settings_lack_seeds_the_count_is_of_those_that_were_averaged(tmp_path):
    book = Book(tmp_path)
    for rate in (1, 2):
        book.add(f"optim.lr={rate} seed=1", val_loss=rate)
        book.add(f"optim.lr={rate} seed=2", "failed", cause="killed")
    found = outcome(book).summary()
    assert (found["status"], found["best"]["seeds"], found["best"]["std"]) == ("failed", 1, {})
    book.write()
    assert "1 of 2" in on_terminal(tmp_path, "report", ".")[1]


def test_a_search_ranks_by_its_objective_in_its_direction(tmp_path):
    book = Book(tmp_path)
    book.objectives = [("test/accuracy", "maximize")]
    book.add("optim.lr=1", val_loss=0.1, test_accuracy=0.7)
    book.add("optim.lr=2", val_loss=0.2, test_accuracy=0.9)
    book.add("optim.lr=3", val_loss=0.3)
    book.write()
    again = Ledger(tmp_path)
    assert again.objectives == [("test/accuracy", "maximize")]
    assert [one for one, _ in rates(again)] == ["2", "1", "3"]
    summary = outcome(again).summary()
    assert (summary["best"]["job"], summary["best"]["monitor"]) == (1, "test/accuracy")
    assert "front" not in summary
    again.objectives = [("test/accuracy", "minimize")]  # whoever wants that
    assert [one for one, _ in rates(again)] == ["1", "2", "3"]


def test_a_search_over_seeds_misses_none(tmp_path):
    book = Book(tmp_path)
    book.objectives = [("val/loss", "minimize")]
    book.add("optim.lr=1 seed=1", val_loss=0.4)
    book.add("optim.lr=1 seed=2", val_loss=0.2)
    book.add("optim.lr=2 seed=3", val_loss=0.1)
    assert rates(book) == [("2", "1"), ("1", "2")]


def test_several_objectives_have_a_pareto_front(tmp_path):
    book = Book(tmp_path)
    book.objectives = [("val/loss", "minimize"), ("test/accuracy", "maximize")]
    book.add("optim.lr=1", val_loss=0.3, test_accuracy=0.9)
    book.add("optim.lr=2", val_loss=0.1, test_accuracy=0.5)
    book.add("optim.lr=3", val_loss=0.2, test_accuracy=0.4)  # job 1 is better in both
    book.add("optim.lr=4", val_loss=0.1, test_accuracy=0.4)  # in one
    book.add("optim.lr=5", val_loss=0.3, test_accuracy=0.9)  # the equal of job 0
    book.add("optim.lr=6", val_loss=0.0, pruned="pruned at epoch 1")
    book.add("optim.lr=7", val_loss=0.0, test_accuracy=None)
    book.add("optim.lr=8", "failed", val_loss=0.0, test_accuracy=1)
    book.write()
    summary = outcome(Ledger(tmp_path)).summary()
    assert [one["job"] for one in summary["front"]] == [1, 0, 4]
    assert summary["front"][0] == {
        "job": 1,
        "run": str(tmp_path / "1"),
        "settings": {"optim.lr": "2"},
        "values": {"val/loss": 0.1, "test/accuracy": 0.5},
        "command": "dltrain optim.lr=2",
    }
    code, shown = on_terminal(tmp_path, "report", ".")
    assert code == 0 and "Pareto front:" in shown
    assert [line.split() for line in shown.partition("Pareto front:")[2].splitlines()[1:5]] == [
        ["job", "optim.lr", "val/loss", "test/accuracy"],
        *([str(job), rate, loss, accuracy] for job, rate, loss, accuracy in FRONT),
    ]
    assert "<h3>Pareto front</h3>" in (tmp_path / "sweep.html").read_text()


FRONT = [(1, "2", "0.1", "0.5"), (0, "1", "0.3", "0.9"), (4, "5", "0.3", "0.9")]


def test_the_front_of_a_search_is_that_of_its_study(dltrain, tmp_path):
    goals = [("val/loss", "minimize"), ("test/accuracy", "maximize")]
    metrics = "hydra.sweeper.metrics=[val/loss,test/accuracy]"
    assert dltrain(*SEARCH, LR, SWEEP, metrics, "hydra.sweeper.n_trials=8").code == 0
    book = Ledger(tmp_path / "sweep")
    book.objectives = goals
    trials = {trial.user_attrs["run"]: trial.values for trial in study().best_trials}
    assert {str(job.folder): [job.metrics[metric] for metric, _ in goals] for job in outcome(book).front} == trials


def test_the_curves_of_a_search_by_a_test_metric_are_of_the_same_one_in_validation():
    history = [{"epoch": 1.0, "val/accuracy": 0.25}, {"epoch": 2.0, "val/accuracy": 0.5}]
    row = Row(0, "done", {"optim.lr": "1"}, {"test/accuracy": 0.5}, history=history)
    page = render_sweep("", "test/accuracy", False, [], [row], "")
    assert '"values":[0.25,0.5]' in page and "val/accuracy of every job" in page


def test_one_swept_key_has_its_importance():
    rows = [Row(place, "done", {"optim.lr": str(place)}, {"val/loss": float(place)}) for place in range(3)]
    page = render_sweep("", "val/loss", True, [], rows, "")
    assert '"title":"Importance for val/loss","axis":"","words":true,"x":["optim.lr"]' in page
    seeds = [Row(place, "done", {"seed": str(place)}, {"val/loss": float(place)}) for place in range(3)]
    assert "Importance" not in render_sweep("", "val/loss", True, [], seeds, "")


def test_the_columns_stay_where_only_one_of_the_jobs_has_begun(tmp_path):
    book = Book(tmp_path)
    book.add("optim.lr=1 seed=1", val_loss=0.1)
    book.plan(1, ("optim.lr=2", "seed=1"), tmp_path / "1")
    book.write()
    again = Ledger(tmp_path)
    assert again.swept() == book.swept() == ["optim.lr"]
    again.write()
    assert Ledger(tmp_path).swept() == ["optim.lr"]
    (tmp_path / "alone").mkdir()
    alone = Book(tmp_path / "alone")
    alone.add("optim.lr=1 seed=1", val_loss=0.1)
    alone.write()
    more = Book(tmp_path / "alone")
    assert more.swept() == ["optim.lr", "seed"]
    more.add("optim.lr=1 seed=2", val_loss=0.1)
    assert more.swept() == ["seed"]


def test_a_sweep_without_a_job_is_done(tmp_path, capsys):
    assert finish_sweep(tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    counts = dict.fromkeys(("jobs", "done", "failed", "interrupted", "running", "pruned"), 0)
    assert json.loads(line) == {"status": "done", "sweep": str(tmp_path), **counts}
    assert "Sweep of 0 jobs" in (tmp_path / "sweep.html").read_text()
    Ledger(tmp_path).write()
    code, shown = on_terminal(tmp_path, "report", ".")
    assert code == 0 and "0 of 0 jobs done" in shown


def test_a_search_that_finds_its_trials_done_says_so(dltrain):
    shared = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.n_trials=1")
    assert dltrain(*SEARCH, LR, *shared, SWEEP).code == 0
    again = dltrain(*SEARCH, LR, *shared, "hydra.sweep.dir=another")
    assert (again.code, again.result["status"], again.result["jobs"]) == (0, "done", 0), again.stderr
