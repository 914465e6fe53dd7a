"""``sweep.html``: what won in a sweep, and which keys made the difference."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from dltrain.report.content import Chart, Rows, overlaid
from dltrain.report.html import escaped, figure, link, page, places, section, table

_BINS = 5  # of a key with more different numbers than that, for its importance


@dataclass(frozen=True)
class Row:
    """One job: its number, status, settings of the swept keys, metrics, page and cause of failure."""

    number: int
    status: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    page: str = ""  # its path relative to the page of the sweep
    cause: str = ""
    history: Rows = field(default_factory=list)


@dataclass(frozen=True)
class Ranked:
    """Jobs that differ only in their seed: each metric as shown, how many have a result, and how many were pruned."""

    settings: Mapping[str, str]
    metrics: Mapping[str, str]
    seeds: str  # 3, or 1 of 3
    pruned: int = 0


def render_sweep(
    folder: str,
    monitor: str,
    lower: bool,
    ranked: Sequence[Ranked],
    rows: Sequence[Row],
    command: str,
    front: Sequence[int] = (),
    objectives: Sequence[str] = (),
) -> str:
    """The page as HTML; ``monitor`` is the metric that ranks, better where it is lower or higher.

    ``front``: the numbers of the jobs on the Pareto front of several ``objectives``.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    hyper = [key for key in keys if key != "seed"]
    known = [row for row in rows if math.isfinite(row.metrics.get(monitor, math.nan))]
    done = [row for row in known if row.status != "pruned"]  # what a job had reached by then says little about its keys
    charts: list[Chart] = []
    if done:
        charts = [
            *([_parallel(done, hyper, monitor, lower)] if hyper else []),
            *_importance(done, hyper, monitor),
            *(_slice(done, key, monitor) for key in hyper),
            *_curves(known, monitor, lower),
        ]
    counts = Counter(row.status for row in rows)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    body = "\n".join(
        (
            f"<header><h1>Sweep of {len(rows)} jobs</h1>"
            f'<p class="soft">{escaped(summary)}<br><span class="path">{escaped(folder)}</span></p></header>',
            section(
                "What won",
                _ranking(ranked, hyper, monitor),
                _front([next(row for row in rows if row.number == number) for number in front], keys, objectives),
                _command(command),
            ),
            section("Which keys matter", places(charts)),
            section("All jobs", _jobs(rows, keys, monitor)),
        )
    )
    return page(f"sweep of {len(rows)} jobs", body, charts)


def importance(values: Sequence[str], results: Sequence[float]) -> float:
    """Share of the variance of ``results`` that the groups of equal ``values`` explain: the correlation ratio, 0 to 1.

    Numbers of more than a few kinds are grouped by their ranks.
    """
    groups: dict[Any, list[float]] = {}
    for value, result in zip(_binned(values), results, strict=True):
        groups.setdefault(value, []).append(result)
    mean = fmean(results)
    total = sum((result - mean) ** 2 for result in results)
    between = sum(len(group) * (fmean(group) - mean) ** 2 for group in groups.values())
    return between / total if total else 0.0


def _binned(values: Sequence[str]) -> Sequence[Any]:
    numbers = _numbers(values)
    if numbers is None or len(set(values)) <= _BINS:
        return values
    order = sorted(set(numbers))
    return [order.index(value) * _BINS // len(order) for value in numbers]


def _numbers(values: Sequence[str]) -> list[float] | None:
    """The values as finite numbers, if all are."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _ranking(ranked: Sequence[Ranked], keys: Sequence[str], monitor: str) -> str:
    names = list(dict.fromkeys([monitor, *(name for choice in ranked for name in choice.metrics)]))
    pruned = any(choice.pruned for choice in ranked)
    lines = [
        [
            str(place),
            *(escaped(choice.settings.get(key, "")) for key in keys),
            *(escaped(choice.metrics.get(name, "–")).replace(" ", "&nbsp;") for name in names),
            escaped(choice.seeds),
            *([str(choice.pruned or "")] if pruned else []),
        ]
        for place, choice in enumerate(ranked, 1)
    ]
    heads = ["", *map(escaped, keys), *map(escaped, names), "seeds", *(["pruned"] if pruned else [])]
    note = '<p class="soft">Pruned jobs rank behind those that ran to their end.</p>' if pruned else ""
    if any(" of " in choice.seeds for choice in ranked):
        note += '<p class="soft">Settings without a result for some of their seeds rank behind those with all.</p>'
    return table(heads, lines, "figures") + note


def _front(rows: Sequence[Row], keys: Sequence[str], objectives: Sequence[str]) -> str:
    lines = [
        [
            _linked(row),
            *(escaped(row.settings.get(key, "")) for key in keys),
            *(figure(row.metrics[name]) for name in objectives),
        ]
        for row in rows
    ]
    note = '<p class="soft">No job beats one of these in one objective without being worse in another.</p>'
    heads = ["job", *map(escaped, keys), *map(escaped, objectives)]
    return f"<h3>Pareto front</h3>{note}{table(heads, lines, 'figures')}" if rows else ""


def _command(command: str) -> str:
    return f"<h3>The best again</h3><pre>{escaped(command)}</pre>" if command else ""


def _jobs(rows: Sequence[Row], keys: Sequence[str], monitor: str) -> str:
    lines = [
        [
            _linked(row),
            escaped(row.status),
            *(escaped(row.settings.get(key, "")) for key in keys),
            figure(row.metrics.get(monitor)),
            escaped(row.cause),
        ]
        for row in rows
    ]
    return table(["job", "status", *map(escaped, keys), escaped(monitor), "cause"], lines, "figures")


def _linked(row: Row) -> str:
    """The number of a job, as a link where it has a page."""
    return link(str(row.number), row.page) if row.page else str(row.number)


def _parallel(rows: Sequence[Row], keys: Sequence[str], monitor: str, lower: bool) -> Chart:
    axes = [{"name": key, **_axis([row.settings.get(key, "") for row in rows])} for key in keys]
    lines = [
        {
            "name": f"job {row.number}: " + ", ".join(f"{key}={row.settings.get(key, '')}" for key in keys),
            "value": [_place(row.settings.get(key, ""), axis) for key, axis in zip(keys, axes, strict=True)]
            + [row.metrics[monitor]],
        }
        for row in rows
    ]
    return {
        "kind": "parallel",
        "title": "Parallel coordinates: a line a job",
        "axes": [*axes, {"name": monitor}],
        "lines": lines,
        "lower": lower,
        "wide": True,
    }


def _axis(values: Sequence[str]) -> dict[str, Any]:
    numbers = _numbers(values)
    if numbers is None:
        return {"values": sorted(set(values))}
    return {"log": True} if min(numbers) > 0 and max(numbers) / min(numbers) >= 100 else {}


def _place(value: str, axis: Mapping[str, Any]) -> Any:
    return value if "values" in axis else float(value)


def _importance(rows: Sequence[Row], keys: Sequence[str], monitor: str) -> list[Chart]:
    results = [row.metrics[monitor] for row in rows]
    if not keys:
        return []
    shares = {key: importance([row.settings.get(key, "") for row in rows], results) for key in keys}
    order = sorted(shares, key=lambda key: -shares[key])
    bars = {"name": "share of variance explained", "values": [round(shares[key], 4) for key in order]}
    title = f"Importance for {monitor}"
    return [{"kind": "bar", "title": title, "axis": "", "words": True, "x": order, "series": [bars]}]


def _slice(rows: Sequence[Row], key: str, monitor: str) -> Chart:
    axis = _axis([row.settings.get(key, "") for row in rows])
    points = [[_place(row.settings.get(key, ""), axis), row.metrics[monitor]] for row in rows]
    kind = "category" if "values" in axis else "log" if "log" in axis else "value"
    chart = {"kind": "slice", "title": f"{monitor} by {key}", "axis": key, "y": monitor, "points": points, "type": kind}
    return chart | ({"x": axis["values"]} if "values" in axis else {})


def _curves(rows: Sequence[Row], metric: str, lower: bool) -> list[Chart]:
    monitor = metric.replace("test/", "val/")  # a test metric has one value for each job, and no curve
    names = [f"job {row.number}" for row in rows]
    chart = overlaid(names, [row.history for row in rows], monitor, f"{monitor} of every job")
    return [{**chart, "wide": True, "plain": True, "lower": lower}] if chart["x"] else []
