"""How each metric is read: which direction is better, its unit, and where it is shown. Imports no torch."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """What a metric says of itself.

    ``chart`` is the title of the chart that it shares with others; without one it is in tables only. ``unit`` is that
    of the target, or ``scaled`` where it is in standard deviations of the target. ``headline``: it stands where there
    is room for little; ``summary``: also among the few large numbers of a report; ``detail``: in full tables.
    """

    name: str
    better: Literal["lower", "higher"]
    chart: str | None = None
    unit: Literal["target", "scaled"] | None = None
    level: Literal["headline", "summary", "detail"] = "detail"

    @property
    def lower_is_better(self) -> bool:
        return self.better == "lower"


_LOSS = Metric("loss", "lower", "Loss", level="headline")
_SCORES = "Accuracy and F1"
METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": (
        _LOSS,
        Metric("accuracy", "higher", _SCORES, level="headline"),
        Metric("top5_accuracy", "higher", _SCORES),  # for more than 10 classes
        Metric("precision", "higher", _SCORES),
        Metric("recall", "higher", _SCORES),
        Metric("f1", "higher", _SCORES, level="summary"),
    ),
    "regression": (
        _LOSS,
        Metric("mae", "lower", "Error", "target", "headline"),
        Metric("rmse", "lower", "Error", "target", "summary"),
        Metric("r2", "higher", "R²", level="summary"),
        Metric("mae_scaled", "lower", unit="scaled"),
        Metric("rmse_scaled", "lower", unit="scaled"),
    ),
}
NAMES = {task: tuple(metric.name for metric in metrics) for task, metrics in METRICS.items()}
_BY_NAME = {metric.name: metric for metrics in METRICS.values() for metric in metrics}
_ADDED: dict[str, Metric] = {}  # by the configurations that a command has read


@contextmanager
def declared_metrics_restored() -> Iterator[None]:
    """Within, :func:`declare` adds to the known metrics; afterwards those are as before, so that commands are apart."""
    before = dict(_ADDED)
    try:
        yield
    finally:
        _ADDED.clear()
        _ADDED.update(before)


def declare(nodes: Any) -> None:
    """Make known, until the command ends, what the nodes of the group ``metric`` say of themselves."""
    for name, node in (nodes or {}).items() if isinstance(nodes, Mapping | None) else ():
        if isinstance(node, Mapping) and node.get("better") in ("lower", "higher"):
            chart, unit = node.get("chart") or str(name), node.get("unit")
            _ADDED[str(name)] = Metric(str(name), node["better"], str(chart), unit, level="summary")


def all_names() -> list[str]:
    """The names of the metrics of all tasks, and of those of configurations that the command has read."""
    return [*_BY_NAME, *_ADDED]


def metric_of(name: str) -> Metric:
    """The metric that a name such as ``val/loss`` stands for; higher values of an unknown metric are better."""
    name = name.rpartition("/")[2]
    return _BY_NAME.get(name) or _ADDED.get(name) or Metric(name, "higher", name, level="summary")


def lower_is_better(name: str) -> bool:
    """Whether a metric, for example ``val/loss`` or ``val/mae_scaled``, improves as it falls."""
    return metric_of(name).lower_is_better


def by_chart(columns: Iterable[str], target: str = "") -> dict[str, list[str]]:
    """The columns of a history by the title of the chart that they share; the learning rate comes last.

    ``target`` is the name of what is predicted, whose units the title states.
    """
    charts: dict[str, list[str]] = {}
    columns = list(columns)
    for name in (name for name in columns if "/" in name):
        metric = metric_of(name)
        if metric.chart:
            unit = f" in units of {target}" if metric.unit == "target" and target else ""
            charts.setdefault(metric.chart + unit, []).append(name)
    return charts | ({"Learning rate": ["lr"]} if "lr" in columns else {})


def leading(columns: Iterable[str]) -> list[str]:
    """Of each part of the data and each chart the first metric, which stands for the others."""
    first: dict[tuple[str, str | None], str] = {}
    for name in (name for name in columns if "/" in name):
        if chart := metric_of(name).chart:
            first.setdefault((name.partition("/")[0], chart), name)
    return list(first.values())


def summary(names: Iterable[str]) -> list[str]:
    """The metrics for the large numbers of a report, the loss last."""
    return sorted((name for name in names if metric_of(name).level != "detail"), key=lambda name: name == "loss")


def labelled(name: str) -> str:
    """The name with an arrow that says which direction is better."""
    return f"{name} {'↓' if lower_is_better(name) else '↑'}"


def about_test(metric: str) -> str:
    """A warning for where this metric chooses, if it is of the test part; else empty."""
    part, _, name = metric.partition("/")
    if part != "test":
        return ""
    return f"{metric} chooses here, and so no longer says how well what is chosen does on new data: use val/{name}"
