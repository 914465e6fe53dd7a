"""What a page contains: plain values, and charts as data that ``page.js`` draws with ECharts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dltrain.report.figures import short
from dltrain.report.metrics import by_chart, lower_is_better

Rows = list[dict[str, float]]
_POINTS = 2000  # that a curve keeps
_DOTS = 1000  # that a scatter plot keeps
_BARS = 30

Chart = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """An image (channels, height, width) uint8, white at 255, that was taken for another class."""

    image: np.ndarray
    true: str
    predicted: str
    confidence: float
    name: str = ""  # of its file, if any


@dataclass(frozen=True)
class TestPart:
    """The network on as much of the test part as there was time for: ``seen`` of ``samples``, drawn at random, or the
    first windows of a series.

    ``truth`` and ``predicted`` are in the target's units: of a table a value for each sample, of a series the steps of
    consecutive windows.
    """

    seen: int
    samples: int
    mistakes: Sequence[Mistake] = ()
    wrong: int = 0
    truth: Sequence[float] = ()
    predicted: Sequence[float] = ()
    errors_by_step: Sequence[float] = ()


@dataclass(frozen=True)
class Content:
    """A run."""

    name: str  # of the data set
    model: str
    kind: str  # image | table | series
    target: str
    result: dict[str, Any]  # result.json
    environment: dict[str, Any]  # environment.json
    history: Rows  # a row for each epoch
    config: dict[str, Any]  # flat: key -> value
    changed: dict[str, Any] | None  # key or group -> its default, where they differ; None: not known
    choices: dict[str, Any] = field(default_factory=dict)  # the option of each group
    class_names: Sequence[str] = ()
    classes: Sequence[dict[str, Any]] = ()  # name, precision, recall, f1, support
    test: TestPart | None = None
    notes: list[str] = field(default_factory=list)  # what is left out, and why


def charts_of_training(history: Rows, best_epoch: int | None, target: str = "") -> list[Chart]:
    """Loss, metrics and learning rate over the epochs."""
    if not history:
        return []
    rows = thinned(history, best_epoch)
    epochs = [int(row["epoch"]) for row in rows]
    charts = []
    for title, names in by_chart(history[0], target).items():
        series = [{"name": name, "values": [number(row[name]) for row in rows]} for name in names]
        charts.append(line(title, "epoch", epochs, series, mark=best_epoch))
    return charts


def line(title: str, axis: str, x: Sequence[Any], series: Sequence[Chart], mark: int | None = None) -> Chart:
    """Curves over the categories ``x``, with a line at ``mark``."""
    return {"kind": "line", "title": title, "axis": axis, "x": list(x), "series": list(series), "mark": mark}


def overlaid(names: Sequence[str], histories: Sequence[Rows], metric: str, title: str) -> Chart:
    """``metric`` over the epochs, with a curve for each of several runs."""
    histories = [thinned(rows, None) if rows else [] for rows in histories]
    epochs = sorted({int(row["epoch"]) for rows in histories for row in rows})
    series = []
    for name, rows in zip(names, histories, strict=True):
        values = {int(row["epoch"]): number(row.get(metric)) for row in rows}
        series.append({"name": name, "values": [values.get(epoch) for epoch in epochs]})
    # Joined, because long runs have lost some epochs.
    return {**line(title, "epoch", epochs, series), "joined": True, "lower": lower_is_better(metric)}


def charts_of_test(content: Content, test: TestPart) -> list[Chart]:
    """Predictions of a regression or forecast beside the truth."""
    truth, predicted = list(test.truth), list(test.predicted)
    if not truth:
        return []
    if content.kind == "series":
        last = slice(max(len(truth) - _POINTS, 0), None)
        names = ("truth", f"forecast, up to {len(test.errors_by_step)} steps ahead")
        series = [
            {"name": name, "values": [number(value) for value in values[last]]}
            for name, values in zip(names, (truth, predicted), strict=True)
        ]
        steps = list(range(len(truth) + 1))[1:][last]
        forecast = line(f"Forecast against truth: {content.target}", "step of the test part", steps, series)
        errors = {"name": "mean absolute error", "values": [number(error) for error in test.errors_by_step]}
        ahead = list(range(1, len(test.errors_by_step) + 1))
        by_step = {"kind": "bar", "title": "Error by step ahead", "axis": "steps ahead", "x": ahead, "series": [errors]}
        return [{**forecast, "wide": True}, by_step]
    pairs = [pair for pair in zip(truth, predicted, strict=True) if all(map(math.isfinite, pair))]
    if not pairs:
        return []
    scatter = {
        "kind": "scatter",
        "title": f"Predicted against true {content.target}",
        "axis": "true",
        "points": pairs[:_DOTS],
    }
    return [scatter, _residuals([prediction - true for true, prediction in pairs])]


def _residuals(residuals: Sequence[float]) -> Chart:
    """A histogram of the residuals."""
    reach = max(abs(value) for value in residuals) or 1.0
    count = max(min(_BARS, math.isqrt(len(residuals)) | 1), 5)
    bars, edges = np.histogram(residuals, count, (-reach, reach))
    middles = [short(float(middle), 3) for middle in (edges[:-1] + edges[1:]) / 2]
    return {
        "kind": "bar",
        "title": "Residuals: predicted minus true",
        "axis": "residual",
        "x": middles,
        "series": [{"name": "samples", "values": bars.tolist()}],
    }


def thinned(history: Rows, best_epoch: int | None) -> Rows:
    """At most some thousand rows, evenly spaced, with the first, the last and the best among them."""
    step = math.ceil(len(history) / _POINTS)
    keep = {0, len(history) - 1, *range(0, len(history), step)}
    return [row for index, row in enumerate(history) if index in keep or row["epoch"] == best_epoch]


def number(value: float | None) -> float | None:
    """``value``, or nothing where it is not finite: JSON has no such numbers."""
    return value if value is not None and math.isfinite(value) else None
