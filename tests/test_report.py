"""``report.html``: what it tells, and that it never harms a run."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from made import write_images, write_table

from dltrain.data.adapted import ToFloat
from dltrain.data.base import Arrays, Facts
from dltrain.data.loader import Loader
from dltrain.errors import Interrupted
from dltrain.report.content import Content, charts_of_training, thinned
from dltrain.report.page import render
from dltrain.runs.record import changed_from_defaults
from dltrain.system.device import pick_precision
from dltrain.trained.reporting import Network, content_of
from tests.conftest import FINISHED_RUNS

QUICK = ("trainer.epochs=3", "dataset.limit=64", "model=mlp")


@pytest.mark.parametrize("name", FINISHED_RUNS)
def test_the_page_tells_the_outcome_first(finished_runs, name):
    page = (finished_runs[name] / "report.html").read_text()
    result = json.loads((finished_runs[name] / "result.json").read_text())
    headings = re.findall(r"<h2>([^<]+)</h2>", page)
    assert headings[:3] == ["Outcome", "Training", "Test"]
    main = "accuracy" if name == "digits" else "mae"
    assert f"<b>{result['test'][main]:.4f}</b><span>test {main}</span>" in page
    assert result["command"].replace("'", "&#x27;") in page


def test_the_page_of_a_classification_shows_its_classes_and_its_mistakes(finished_runs):
    page = (finished_runs["digits"] / "report.html").read_text()
    result = json.loads((finished_runs["digits"] / "result.json").read_text())
    matrix = result["confusion_matrix"]
    wrong = sum(map(sum, matrix)) - sum(matrix[index][index] for index in range(10))
    assert page.count('<span class="hit"') == 10 and page.count('<span class="miss"') == 90
    assert page.count('<img alt="" src="data:image/png;base64,') == min(wrong, 24) > 0
    assert f"of {wrong} mistakes among 200 test images" in page
    shares = [float(share) for share in re.findall(r"</b> ([\d.]+)%", page)]
    assert shares == sorted(shares, reverse=True)


def test_the_configuration_marks_what_differs_from_the_defaults(finished_runs):
    assert changed_from_defaults(finished_runs["digits"]) == {
        "trainer.epochs": 20,
        "dataset.limit": None,
        "optim.lr": 0.05,
    }
    changed = changed_from_defaults(finished_runs["sunspots"])
    assert (changed["dataset"], changed["model"], changed["loss"]) == ("digits", "cnn", "cross_entropy")
    assert "<mark>0.02</mark>" in (finished_runs["digits"] / "report.html").read_text()


def test_a_run_by_default_differs_in_nothing(dltrain):
    """Every key that the run has is compared with its own option, however Hydra writes numbers."""
    run = dltrain("trainer.epochs=1", "dataset.limit=20", "optim=adam", "scheduler=onecycle")
    assert set(changed_from_defaults(run.folder)) == {"trainer.epochs", "dataset.limit", "optim", "scheduler", "report"}


def test_names_and_values_are_escaped(dltrain, verb, tmp_path):
    classes = ("<script>alert(1)</script>", "b & c", "</table>")
    rows = "".join(f"{number},{classes[number % 3]}\n" for number in range(60))
    (tmp_path / "t.csv").write_text("x,y\n" + rows)
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=y", "trainer.epochs=1").result["run"]
    verb("report", run)
    page = (Path(run) / "report.html").read_text()
    assert "alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "b &amp; c" in page


def test_report_writes_the_page_of_a_run_that_had_none(dltrain, verb):
    run = dltrain("trainer.epochs=1", "dataset.limit=60")
    assert not (run.folder / "report.html").exists()
    answer = verb("report", run.result["run"]).result
    assert answer["report"] == str(run.folder / "report.html")
    assert "among 60 test images" in (run.folder / "report.html").read_text()


def test_report_works_while_a_run_is_still_going(dltrain, verb):
    run = dltrain("trainer.epochs=3", "dataset.limit=60")
    result = json.loads((run.folder / "result.json").read_text())
    for name in ("best", "test", "confusion_matrix", "timings"):
        del result[name]
    (run.folder / "result.json").write_text(json.dumps({**result, "status": "running"}))
    assert verb("report", run.result["run"]).code == 0
    page = (run.folder / "report.html").read_text()
    assert '<span class="status running">' in page
    assert "epochs so far" in page and "data-chart" in page and "<h2>Test</h2>" not in page


def test_a_run_that_fails_has_its_page(dltrain, verb):
    run = dltrain(*("trainer.epochs=3", "dataset.limit=64", "optim.lr=1e30"), report=True)
    assert run.code == 1 and run.result["status"] == "failed"
    page = (run.folder / "report.html").read_text()
    assert '<span class="status failed">' in page and "training diverged: the loss" in page
    assert verb("report", run.result["run"], "out=again.html").code == 0
    assert Path("again.html").read_text() == page


def test_a_run_that_is_interrupted_has_its_page(dltrain, monkeypatch):
    def stop(trainer, *arguments):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("dltrain.trained.train._test", stop)
    run = dltrain("trainer.epochs=2", "dataset.limit=64", report=True)
    assert run.code == 143 and run.result["status"] == "interrupted"
    page = (run.folder / "report.html").read_text()
    assert '<span class="status interrupted">' in page and 'data-chart="2"' in page


def test_curves_come_from_the_checkpoint_where_no_logger_wrote_them(dltrain, verb):
    run = dltrain("trainer.epochs=2", "dataset.limit=60", "logger=none")
    verb("report", run.result["run"])
    assert 'data-chart="2"' in (run.folder / "report.html").read_text()


@pytest.fixture
def sorted_by_class(tmp_path):
    """Tells of a network that takes every picture for class 0, on 2,000 pictures that lie class by class.

    Each picture holds its number, by which its class and its file go.
    """
    numbers = torch.arange(2000)
    pixels = torch.stack([numbers // 256, numbers % 256], 1).byte().view(2000, 1, 1, 2)
    samples = Arrays(pixels, numbers // 200, [f"{number // 200}/{number}.png" for number in range(2000)])
    classes = tuple(f"class {name}" for name in range(10))
    facts = Facts("pictures", "classification", "image", (1, 1, 2), 10, classes)

    class Sure(torch.nn.Module):
        def forward(self, inputs):
            logits = torch.zeros(len(inputs), 10)
            logits[:, 0] = inputs.flatten(1).sum(1) + 1  # the larger the picture's number, about, the more confident
            return logits

    device = torch.device("cpu")
    loader = Loader(samples, 256, ToFloat(), device)
    network = Network(Sure(), torch.nn.CrossEntropyLoss(), facts, 255, loader, pick_precision("fp32", device))
    return lambda seconds: content_of(tmp_path, network, seconds).test


def test_samples_come_from_all_of_the_test_part_and_know_their_files(sorted_by_class):
    hasty, whole = sorted_by_class(0.0), sorted_by_class(None)
    assert (hasty.seen, whole.seen, hasty.samples) == (256, 2000, 2000)
    assert len({mistake.true for mistake in hasty.mistakes}) > 5
    assert whole.wrong == 1800
    for mistake in (*hasty.mistakes, *whole.mistakes):
        high, low = mistake.image.flatten().tolist()
        number = 256 * high + low
        assert (mistake.name, mistake.true) == (f"{number // 200}/{number}.png", f"class {number // 200}")
    assert [one.name for one in sorted_by_class(0.0).mistakes] == [one.name for one in hasty.mistakes]
    page = render(Content("a", "b", "image", "", {}, {}, [], {}, None, test=hasty))
    assert "256 samples drawn from the 2,000 test samples" in page
    assert all(f'<span class="file">{mistake.name}</span>' in page for mistake in hasty.mistakes)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_pictures_of_a_folder_are_shown_with_their_files(dltrain, tmp_path, cache):
    write_images(tmp_path / "photos", parts=("train", "test"), step=0)
    data = ("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", f"dataset.cache={cache}")
    run = dltrain(*data, "model=mlp", "trainer.epochs=1", report=True)
    page = (run.folder / "report.html").read_text()
    shown = re.findall(r'<span class="soft">is (\w+)</span><br><span class="file">(.*?)</span>', page)
    assert len(shown) == page.count("<img alt") > 0
    for true, name in shown:
        assert name.startswith(f"test/{true}/") and (tmp_path / "photos" / name).exists()


def test_data_that_are_gone_cost_the_pictures_and_no_more(dltrain, verb, tmp_path):
    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    shutil.rmtree(tmp_path / "photos")
    assert verb("report", run.result["run"]).code == 0
    page = (run.folder / "report.html").read_text()
    assert "left out, because the test part cannot be read: dataset.root=" in page
    assert "Confusion matrix" in page


def test_the_page_of_a_table_that_is_gone_keeps_its_units(dltrain, verb, tmp_path):
    write_table(tmp_path / "t.csv", target="value")
    run = dltrain("dataset=table", "dataset.path=t.csv", "dataset.target=value", "trainer.epochs=1")
    (tmp_path / "t.csv").unlink()
    assert verb("report", str(run.folder)).code == 0
    page = (run.folder / "report.html").read_text()
    assert "Error in units of value" in page and "Predicted against true" not in page


@pytest.mark.parametrize("words", [("report", "run"), ("compare", "run", "run")], ids=" ".join)
def test_a_page_that_cannot_be_written_leaves_nothing_behind(dltrain, verb, tmp_path, words):
    dltrain(*QUICK, "hydra.run.dir=run")
    (tmp_path / "page.html").mkdir()
    refused = verb(*words, "out=page.html")
    assert refused.code == 2 and "cannot be written" in refused.stderr
    (tmp_path / "run" / "report.html").mkdir()
    assert "report.html was not written" in verb("resume", "run", "trainer.epochs=4", "report=true").stderr
    assert list(tmp_path.rglob("*.tmp")) == []


def test_jobs_of_a_sweep_have_pages_that_the_page_of_the_sweep_links_to(dltrain, tmp_path):
    sweep = dltrain("-m", *QUICK, "seed=1,2", "optim.lr=0.01,1e30", "hydra.sweep.dir=sweep", report=True)
    assert (sweep.result["done"], sweep.result["failed"]) == (2, 2)
    page = (tmp_path / "sweep" / "sweep.html").read_text()
    assert re.findall('href="(.*?)"', page) == [f"{number}/report.html" for number in range(4)]
    for number in (0, 2):
        assert (tmp_path / "sweep" / str(number) / "curves.png").exists()
        assert "among 64 test images" in (tmp_path / "sweep" / str(number) / "report.html").read_text()
    assert "training diverged" in (tmp_path / "sweep" / "1" / "report.html").read_text()


def test_a_pruned_run_says_so_on_its_page_and_its_test_part_is_not_looked_at(dltrain, verb):
    run = dltrain(*QUICK)
    result = json.loads((run.folder / "result.json").read_text())
    (run.folder / "result.json").write_text(json.dumps({**result, "test": {}, "pruned": "pruned at epoch 3: no use"}))
    assert verb("report", run.result["run"]).code == 0
    page = (run.folder / "report.html").read_text()
    assert "pruned at epoch 3: no use" in page and "test images" not in page


def test_a_report_that_fails_is_a_warning(dltrain, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no ink")

    monkeypatch.setattr("dltrain.trained.reporting.render", fail)
    run = dltrain("trainer.epochs=1", "dataset.limit=20", report=True)
    assert run.code == 0 and run.result["status"] == "done"
    assert "report.html was not written: no ink" in run.stderr


def test_a_signal_while_the_page_is_written_leaves_a_run_that_is_done(dltrain, monkeypatch):
    def slow(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return "the page"

    monkeypatch.setattr("dltrain.trained.reporting.render", slow)
    run = dltrain(*QUICK, report=True)
    assert run.code == 0 and run.result["status"] == "done"
    assert (run.folder / "report.html").read_text() == "the page"


def test_a_long_history_is_thinned_and_keeps_its_ends_and_its_best():
    history = [{"epoch": float(epoch), "train/loss": 1 / epoch} for epoch in range(1, 10_001)]
    epochs = [row["epoch"] for row in thinned(history, 777)]
    assert len(epochs) <= 2002
    assert {1.0, 777.0, 10_000.0} <= set(epochs)


def test_what_is_not_finite_is_a_gap_in_a_curve():
    (chart,) = charts_of_training([{"epoch": 1.0, "train/loss": 2.0}, {"epoch": 2.0, "train/loss": float("nan")}], None)
    assert chart["series"] == [{"name": "train/loss", "values": [2.0, None]}]


def test_a_mistake_is_one_message_and_exit_2(dltrain, verb):
    run = dltrain("trainer.epochs=1", "dataset.limit=20").result["run"]
    for arguments, fragment in (
        ((), "a run folder or a checkpoint comes first"),
        (("nowhere",), "there is no run 'nowhere'"),
        ((run, "out=nowhere/page.html"), "cannot be written: No such file or directory\n"),
        ((run, "dataset.roots=x"), "dataset.roots is no key of this run"),
        ((run, "another"), "an override is key=value"),
        ((run, "device=cuda:9"), "this machine has no such device"),
    ):
        outcome = verb("report", *arguments)
        assert (outcome.code, outcome.result["status"]) == (2, "invalid")
        assert fragment in outcome.stderr and outcome.stderr.count("dltrain: ") == 1
