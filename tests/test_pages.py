"""The pages in a real browser: every chart is drawn, a pointer over it shows its values, and no text becomes code."""

import csv
import re

import numpy as np
import pytest

from dltrain.report import content as told
from dltrain.report.page import render, render_comparison
from dltrain.report.sweep import Ranked, Row, render_sweep
from tests.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)")

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
MARK = "<img src=x onerror=document.title='ran'>"

# Where the pointer shows something: on a dot of a cloud, on a line of parallel axes, in the middle of other charts.
PLACE = """(number) => {
  const place = document.querySelector(`[data-chart="${number}"]`);
  place.scrollIntoView({block: "center"});
  const box = place.getBoundingClientRect(), chart = echarts.getInstanceByDom(place), option = chart.getOption();
  const series = option.series[0];
  if (series.type === "scatter") {
    const [x, y] = chart.convertToPixel({seriesIndex: 0}, series.data[0]);
    return [box.x + x, box.y + y];
  }
  if (series.type === "parallel") {
    const lines = [...place.querySelectorAll("path")].filter((one) => one.getAttribute("stroke-opacity") === "0.6");
    const middle = lines[0].getPointAtLength(lines[0].getTotalLength() * 0.3).matrixTransform(lines[0].getScreenCTM());
    return [middle.x, middle.y];
  }
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
TIP = """(number) => {
  const place = document.querySelector(`[data-chart="${number}"]`);
  const tip = [...place.children].find((one) => one.style.zIndex && getComputedStyle(one).visibility === "visible");
  if (!tip) return null;
  const [chart, box] = [place, tip].map((one) => one.getBoundingClientRect());
  const within = box.left >= chart.left && box.right <= chart.right;
  const inside = within && box.top >= chart.top && box.bottom <= chart.bottom;
  return {text: tip.innerText, width: box.width, height: box.height, inside, of: [chart.width, chart.height]};
}"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


def titles(browser: Browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('.chart figcaption')].map((one) => one.textContent)")


def tooltips(browser: Browser) -> list[str]:
    """What a pointer over each chart of the page shows, in a box that leaves most of the chart in sight."""
    found = []
    for number in range(len(titles(browser))):
        browser.point_at(1, 1)
        browser.point_at(*browser.run(f"({PLACE})({number})"))
        tip = browser.run(f"({TIP})({number})")
        assert tip, f"chart {number} shows nothing"
        width, height = tip["of"]
        assert tip["inside"] and tip["width"] * tip["height"] < 0.5 * width * height, tip
        assert height == 280 and 20 <= tip["height"] <= 200, tip
        found.append(tip["text"])
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_a_pointer_over_each_chart_of_a_run_shows_its_values(browser, finished_runs, name):
    page = browser.open(finished_runs[name] / "report.html")
    assert page.console == []
    assert titles(page) == CHARTS[name]
    shapes = "document.querySelectorAll('[data-chart=\"%d\"] svg path').length"
    assert all(page.run(shapes % number) > 3 for number in range(len(CHARTS[name])))
    shown = tooltips(page)
    rows = list(csv.DictReader((finished_runs[name] / "metrics.csv").read_text().splitlines()))
    epoch = shown[0].split()[0]
    row = rows[int(epoch) - 1]
    assert shown[0].split() == [
        *(epoch, "train/loss", f"{float(row['train/loss']):.5g}", "val/loss", f"{float(row['val/loss']):.5g}"),
    ]
    assert "lr" in shown[CHARTS[name].index("Learning rate")]
    expected = {"diabetes": ["true ", "samples"], "sunspots": ["truth", "mean absolute error"]}.get(name, [])
    for text, fragment in zip(shown[-2:], expected, strict=False):
        assert fragment in text


def test_the_page_may_fetch_nothing_and_an_attempt_would_show_on_the_console(browser, finished_runs, tmp_path):
    """So an empty console says that nothing was asked for."""
    page = (finished_runs["diabetes"] / "report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("<main>", "<main><img src='http://127.0.0.1:9/x.png'>"))
    (line,) = browser.open(tmp_path / "page.html").console
    assert "Content Security Policy" in line


@pytest.mark.parametrize("code", [MARK, "<script>document.title='ran'</script>"])
def test_the_page_runs_no_code_but_its_own(browser, finished_runs, tmp_path, code):
    page = (finished_runs["diabetes"] / "report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("<main>", f"<main>{code}"))
    console = browser.open(tmp_path / "page.html").console
    assert browser.run("document.title") == re.search("<title>(.*)</title>", page)[1]
    assert console and all("Content Security Policy" in line for line in console)
    assert tooltips(browser)


def history(target: str = "") -> list[dict[str, float]]:
    return [{"epoch": float(n), f"train/loss{target}": 1 / n, "val/mae": 16362.4 / n, "lr": 0.1} for n in (1, 2, 3)]


def content(kind: str) -> told.Content:
    image = np.zeros((1, 4, 4), np.uint8)
    values = [number / 7 for number in range(40)]
    test = told.TestPart(4, 8, [told.Mistake(image, MARK, MARK, 0.5, f"test/{MARK}.png")], 1)
    if kind != "image":
        test = told.TestPart(40, 40, truth=values, predicted=values[::-1], errors_by_step=[0.5, 0.7])
    known = {"started": MARK, "device": MARK, "working_directory": MARK, "versions": {MARK: MARK}, "git_commit": MARK}
    return told.Content(
        name=MARK, model=MARK, kind=kind, target=MARK, environment=known, history=history(), config={MARK: MARK},
        result={
            "status": MARK, "run": MARK, "error": MARK, "command": MARK, "test": {MARK: MARK, "mae": 16362.4},
            "best": {"epoch": 2, "monitor": MARK, "val": {MARK: 0.5}}, "confusion_matrix": [[3, 1], [0, 4]],
            "timings": {MARK: 1.0}, "seconds": 3.0,
        },
        changed={MARK: MARK}, choices={MARK: MARK}, class_names=[MARK, "b"], test=test, notes=[MARK],
        classes=[{"name": MARK, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1234}],
    )  # fmt: skip


def sweep() -> str:
    def row(number: int, text: str) -> Row:
        settings = {MARK: text, "optim.lr": str(0.1 * 100**number), "x": str(number)}
        metrics = {MARK: 16362.4 + number, "val/loss": 0.5}
        return Row(number, MARK, settings, metrics, "javascript:alert(1)/report.html", MARK, history())

    rows = [row(number, f"{MARK}{number % 2}") for number in range(4)]
    ranked = [Ranked({MARK: MARK}, {MARK: MARK}, MARK, 1)]
    return render_sweep(MARK, MARK, True, ranked, rows, MARK, front=[0], objectives=[MARK, "val/loss"])


def comparison() -> str:
    long = {"train/loss": [0.1, 0.2], MARK: [16362.4, None]}
    best = {name: [0] for name in long}
    return render_comparison([MARK, f"{MARK} 2"], {MARK: [MARK, None]}, long, best, [history(), history()])


PAGES = {
    **{kind: (lambda kind=kind: render(content(kind))) for kind in ("image", "table", "series")},
    "sweep": sweep,
    "compare": comparison,
}


@pytest.mark.parametrize("name", PAGES)
def test_markup_in_names_and_values_is_shown_and_does_nothing(browser, tmp_path, name):
    (tmp_path / "page.html").write_text(PAGES[name](), encoding="utf-8")
    page = browser.open(tmp_path / "page.html")
    shown = page.run("document.querySelector('main').innerText")
    title = page.run("document.title")
    assert MARK in shown and (MARK in title or name in ("sweep", "compare"))
    texts = tooltips(page)
    expected = {"sweep": 2, "compare": 1}.get(name, 0)  # charts whose tooltips name something of the user's
    assert sum(MARK in text for text in texts) >= expected
    page.run("new Promise((done) => setTimeout(done, 50))")
    assert page.run("document.title") == title and page.console == []
    assert page.run("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0


@pytest.mark.parametrize("lower", [True, False])
def test_a_pointer_over_many_curves_shows_the_best_and_leaves_the_chart_in_sight(browser, tmp_path, lower):
    keys = {f"trainer.some_key_{number}": f"a value of some length {number}" for number in range(8)}
    rows = [
        Row(number, "done", keys, {"val/loss": 0.1}, history=[{"epoch": 1.0, "val/loss": float(n)}])
        for number, n in enumerate((5, 3, 9, 1, 7, 2, 8, 4, 6, 1234567))
    ]
    page = render_sweep("folder", "val/loss", lower, [], rows, "")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    parallel, *_, shown = tooltips(browser.open(tmp_path / "page.html"))
    assert all(f"{key}={value}" in parallel for key, value in keys.items())
    best = ["job 3 1", "job 5 2", "job 1 3", "job 7 4", "job 0 5", "job 8 6"]
    worst = ["job 9 1,234,567", "job 2 9", "job 6 8", "job 4 7", "job 8 6", "job 0 5"]
    assert shown.splitlines() == ["1", *(best if lower else worst), "and 4 more"]


def test_links_lead_to_files_beside_the_page_alone(browser, tmp_path):
    (tmp_path / "page.html").write_text(sweep(), encoding="utf-8")
    links = browser.open(tmp_path / "page.html").run("[...document.links].map((one) => one.href)")
    assert set(links) == {f"{tmp_path.as_uri()}/javascript%3Aalert%281%29/report.html"}
