"""``report.html``: what it tells, that it opens anywhere without a network, and that it never harms a run."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dltrain.errors import Interrupted
from dltrain.record import changed_from_defaults
from dltrain.report.charts import curves, thinned

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=2000"),
)
QUICK = ("trainer.epochs=3", "dataset.limit=64", "model=mlp")
RUNS = {
    "digits": ("trainer.epochs=2", "dataset.limit=200", "optim.lr=0.02"),
    "diabetes": ("dataset=diabetes", "trainer.epochs=3"),
    "sunspots": ("dataset=sunspots", "dataset.limit=100", "trainer.epochs=2"),
}


@dataclass
class Opened:
    """A page as a browser shows it, and what it said to the console."""

    dom: str
    console: list[str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished run of each kind, with its page."""
    from dltrain import cli

    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(sys, "path", list(sys.path))
        for name, overrides in RUNS.items():
            assert cli.main([*overrides, f"hydra.run.dir={name}"]) == 0
    return {name: root / name for name in RUNS}


@pytest.fixture(scope="module")
def opened(folders, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    return {name: open_page(folder / "report.html", tmp_path_factory) for name, folder in folders.items()}


def open_page(page: Path, tmp_path_factory) -> Opened:
    # Whatever the browser itself would like to ask the network goes to a port where nobody listens.
    where = (f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--proxy-server=127.0.0.1:9")
    command = [CHROMIUM, *FLAGS, *where, "--window-size=800,2000", "--dump-dom", page.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Opened(run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line])


@pytest.mark.parametrize("name", RUNS)
def test_the_page_opens_without_errors(opened, name):
    assert opened[name].console == []


def test_the_page_may_fetch_nothing_and_an_attempt_would_show_on_the_console(folders, opened, tmp_path_factory):
    """So an empty console says that nothing was asked for."""
    changed = tmp_path_factory.mktemp("changed") / "report.html"
    page = (folders["diabetes"] / "report.html").read_text()
    changed.write_text(page.replace("<main>", "<main><img src='http://127.0.0.1:9/x.png'>"))
    (line,) = open_page(changed, tmp_path_factory).console
    assert "Content Security Policy" in line


def test_hovering_a_curve_shows_the_values_of_an_epoch(folders, opened, tmp_path_factory):
    changed = tmp_path_factory.mktemp("hover") / "report.html"
    hover = (
        "<script>echarts.getInstanceByDom(document.querySelector('[data-chart]'))"
        ".dispatchAction({type: 'showTip', seriesIndex: 0, dataIndex: 1})</script>"
    )
    before, end, after = (folders["diabetes"] / "report.html").read_text().rpartition("</body>")
    changed.write_text(before + hover + end + after)
    shown = open_page(changed, tmp_path_factory)
    assert shown.console == []
    rows = csv.DictReader((folders["diabetes"] / "metrics.csv").read_text().splitlines())
    _, second, _ = rows
    for name in ("train/loss", "val/loss"):
        assert f">{float(second[name]):.5g}</span>" in shown.dom
        assert f">{float(second[name]):.5g}</span>" not in opened["diabetes"].dom


CHARTS = {
    "digits": ["Loss", "Accuracy and F1", "Learning rate"],
    "diabetes": [
        *("Loss", "Error in units of progression", "R²", "Learning rate"),
        *("Predicted against true progression", "Residuals: predicted minus true"),
    ],
    "sunspots": [
        *("Loss", "Error in units of sunspots", "R²", "Learning rate"),
        *("Forecast against truth: sunspots", "Error by step ahead"),
    ],
}


@pytest.mark.parametrize(("name", "titles"), CHARTS.items(), ids=CHARTS)
def test_every_chart_is_drawn(opened, name, titles):
    dom = opened[name].dom
    assert re.findall(r"<figcaption>([^<]+)</figcaption><div data-chart", dom) == titles
    assert len(re.findall(r"data-chart=.*?<svg.*?<path.*?</svg>", dom, re.DOTALL)) == len(titles)


@pytest.mark.parametrize("name", RUNS)
def test_the_page_tells_the_outcome_first(folders, name):
    page = (folders[name] / "report.html").read_text()
    result = json.loads((folders[name] / "result.json").read_text())
    headings = re.findall(r"<h2>([^<]+)</h2>", page)
    assert headings[:3] == ["Outcome", "Training", "Test"]
    main = "accuracy" if name == "digits" else "mae"
    assert f"<b>{result['test'][main]:.4f}</b><span>test {main}</span>" in page
    assert result["command"].replace("'", "&#x27;") in page


def test_the_page_of_a_classification_shows_its_classes_and_its_mistakes(folders):
    page = (folders["digits"] / "report.html").read_text()
    result = json.loads((folders["digits"] / "result.json").read_text())
    matrix = result["confusion_matrix"]
    wrong = sum(map(sum, matrix)) - sum(matrix[index][index] for index in range(10))
    assert page.count('<span class="hit"') == 10 and page.count('<span class="miss"') == 90
    assert page.count('<img alt="" src="data:image/png;base64,') == min(wrong, 24) > 0
    assert f"of {wrong} mistakes among 200 test images" in page
    shares = [float(share) for share in re.findall(r"</b> ([\d.]+)%", page)]
    assert shares == sorted(shares, reverse=True)


def test_the_configuration_marks_what_differs_from_the_defaults(folders):
    assert changed_from_defaults(folders["digits"]) == {
        "trainer.epochs": 20,
        "dataset.limit": None,
        "optim.lr": 0.05,
    }
    changed = changed_from_defaults(folders["sunspots"])
    assert (changed["dataset"], changed["model"], changed["loss"]) == ("digits", "cnn", "cross_entropy")
    assert "<mark>0.02</mark>" in (folders["digits"] / "report.html").read_text()


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

    monkeypatch.setattr("dltrain.commands.train._test", stop)
    run = dltrain("trainer.epochs=2", "dataset.limit=64", report=True)
    assert run.code == 143 and run.result["status"] == "interrupted"
    page = (run.folder / "report.html").read_text()
    assert '<span class="status interrupted">' in page and 'data-chart="2"' in page


def test_curves_come_from_the_checkpoint_where_no_logger_wrote_them(dltrain, verb):
    run = dltrain("trainer.epochs=2", "dataset.limit=60", "logger=none")
    verb("report", run.result["run"])
    assert 'data-chart="2"' in (run.folder / "report.html").read_text()


def test_data_that_are_gone_cost_the_pictures_and_no_more(dltrain, verb, tmp_path):
    from made import write_images

    write_images(tmp_path / "photos")
    run = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8", "trainer.epochs=1")
    shutil.rmtree(tmp_path / "photos")
    assert verb("report", run.result["run"]).code == 0
    assert "The test part could not be looked at: dataset.root" in (run.folder / "report.html").read_text()


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

    monkeypatch.setattr("dltrain.reporting.write_report", fail)
    run = dltrain("trainer.epochs=1", "dataset.limit=20", report=True)
    assert run.code == 0 and run.result["status"] == "done"
    assert "report.html was not written: no ink" in run.stderr


def test_a_long_history_is_thinned_and_keeps_its_ends_and_its_best():
    history = [{"epoch": float(epoch), "train/loss": 1 / epoch} for epoch in range(1, 10_001)]
    epochs = [row["epoch"] for row in thinned(history, 777)]
    assert len(epochs) <= 2002
    assert {1.0, 777.0, 10_000.0} <= set(epochs)


def test_what_is_not_finite_is_a_gap_in_a_curve():
    (chart,) = curves([{"epoch": 1.0, "train/loss": 2.0}, {"epoch": 2.0, "train/loss": float("nan")}], None)
    assert chart["series"] == [{"name": "train/loss", "values": [2.0, None]}]


def test_a_mistake_is_one_message_and_exit_2(dltrain, verb):
    run = dltrain("trainer.epochs=1", "dataset.limit=20").result["run"]
    for arguments, fragment in (
        ((), "a run folder or a checkpoint comes first"),
        (("nowhere",), "there is no run 'nowhere'"),
        ((run, "out=nowhere/page.html"), "cannot be written"),
        ((run, "dataset.roots=x"), "dataset.roots is no key of this run"),
        ((run, "another"), "an override is key=value"),
        ((run, "device=cuda:9"), "this machine has no such device"),
    ):
        outcome = verb("report", *arguments)
        assert (outcome.code, outcome.result["status"]) == (2, "invalid")
        assert fragment in outcome.stderr and outcome.stderr.count("dltrain: ") == 1
