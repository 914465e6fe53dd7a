"""What won in a sweep, by the metric that counts, with means over seeds: shown when it ends and by ``dltrain report``.

A line of JSON or a table, and a page. Imports no torch.
"""

import logging
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dltrain.report.figures import short
from dltrain.report.metrics import about_test, lower_is_better, metric_of
from dltrain.runs.record import command_of, history_of
from dltrain.sweep.ledger import Job, Ledger, grouped, settled
from dltrain.system.answer import on_terminal, print_json, stdout
from dltrain.system.files import write_text

log = logging.getLogger(__name__)

_PAGES = ("report.html", "curves.png")  # what a job is linked to: the first that it has
_SHOWN = 20  # choices in the table


@dataclass
class Choice:
    """Jobs that differ in their seed alone: the values of the swept keys, and each metric's mean and deviation.

    These are of the ``averaged`` jobs: those that ran to their end, or all of them if each was pruned.
    """

    settings: dict[str, str]
    jobs: list[Job]
    averaged: list[Job]
    wanted: int  # how many seeds there would be if none were missing
    means: dict[str, float]
    deviations: dict[str, float]  # sample standard deviations; empty of a single job

    @property
    def pruned(self) -> int:
        """How many of the jobs were pruned."""
        return sum(bool(job.pruned) for job in self.jobs)

    @property
    def lacking(self) -> float:
        """The share of seeds without a job that was averaged and ran to its end."""
        return 1 - len(_whole(self.averaged)) / self.wanted

    @property
    def seeds(self) -> str:
        """How many jobs were averaged: ``3``, or ``1 of 3``."""
        return f"{len(self.averaged)}" + (f" of {self.wanted}" if len(self.averaged) < self.wanted else "")

    def value(self, metric: str) -> float:
        """Of ``metric``, NaN where it is not known."""
        return self.means.get(metric, math.nan)

    def shown(self, metric: str) -> str:
        """``0.9812 ± 0.0012``, or a dash."""
        spread = f" ± {short(self.deviations[metric], 2)}" if metric in self.deviations else ""
        return f"{short(self.means[metric])}{spread}" if metric in self.means else "–"


@dataclass
class Outcome:
    """A sweep as a whole, ranked by ``monitor``: the first objective of a search, else the metric of most of the jobs.

    ``choices``: the best first of those with all their seeds, then those that lack some, because jobs failed, were
    pruned or are missing, then those without a result.
    """

    ledger: Ledger
    monitor: str
    lower: bool  # whether lower values of it are better
    choices: list[Choice]

    @property
    def best(self) -> Job | None:
        """The best job of the best choice."""
        done = [job for job in _whole(self.choices[0].averaged) if _knows(job, self.monitor)] if self.choices else []
        sign = 1 if self.lower else -1
        return min(done, key=lambda job: sign * job.metrics[self.monitor], default=None)

    @property
    def front(self) -> list[Job]:
        """The Pareto front of several objectives: jobs that no other equals in all of them and beats in some.

        The best by the first objective comes first; of fewer than two objectives there is none.
        """
        goals = self.ledger.objectives
        if len(goals) < 2:
            return []
        jobs = [job for job in _whole(self.ledger) if all(_knows(job, metric) for metric, _ in goals)]
        points = [[job.metrics[metric] * (1 if goal == "minimize" else -1) for metric, goal in goals] for job in jobs]
        front: list[tuple[list[float], Job]] = []
        for point, _, job in sorted(zip(points, range(len(jobs)), jobs, strict=True)):
            # Whatever beats a point comes before it in this order, and is on the front or beaten by a point of it.
            if not any(_beats(other, point) for other, _ in front):
                front.append((point, job))
        return [job for _, job in front]

    def summary(self) -> dict[str, Any]:
        """The line of JSON of a sweep."""
        counts = {status: self.ledger.count(status) for status in ("done", "failed", "interrupted", "running")}
        best = self.best
        total = sum(counts.values())
        order = ("running", "interrupted", "failed")
        status = "done" if counts["done"] == total else next((name for name in order if counts[name]), "failed")
        summary: dict[str, Any] = {"status": status, "sweep": str(self.ledger.folder), "jobs": total, **counts}
        summary["pruned"] = sum(bool(job.pruned) for job in self.ledger)
        if best is not None:
            first = self.choices[0]
            summary["best"] = {
                "job": best.number,
                "run": str(best.folder),
                "settings": first.settings,
                "monitor": self.monitor,
                "seeds": len(first.averaged),
                "mean": first.means,
                "std": first.deviations,
                "command": _command(best),
            }
        if len(self.ledger.objectives) > 1:
            summary["front"] = [self._on_front(job) for job in self.front]
        return summary

    def _on_front(self, job: Job) -> dict[str, Any]:
        return {
            "job": job.number,
            "run": str(job.folder),
            "settings": {key: job.settings[key] for key in self.ledger.swept() if key in job.settings},
            "values": {metric: job.metrics[metric] for metric, _ in self.ledger.objectives},
            "command": _command(job),
        }


def outcome(ledger: Ledger) -> Outcome:
    """Rank the jobs by the first objective, or by the metric that most of them monitor."""
    jobs = list(ledger)
    if ledger.objectives:
        monitor, goal = ledger.objectives[0]
        lower = goal == "minimize"
    else:
        monitors = [job.monitor for job in jobs if job.monitor]
        monitor = max(set(monitors), key=monitors.count) if monitors else "val/loss"
        lower = lower_is_better(monitor)
    keys = [key for key in ledger.swept() if key != "seed"]
    groups = list(grouped(jobs).values())
    # In a plain sweep each setting gets all seeds; a search draws what it wants.
    most = 0 if ledger.objectives else max(map(len, groups), default=0)
    choices = [_choice(members, keys, monitor, max(most, len(members))) for members in groups]

    def place(choice: Choice) -> tuple[bool, float, float]:
        value = choice.value(monitor)
        # The seeds that remain after failures or pruning make a choice look better than it is.
        return math.isnan(value), choice.lacking, 0.0 if math.isnan(value) else value if lower else -value

    return Outcome(ledger, monitor, lower, sorted(choices, key=place))


def _beats(point: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a point of values to minimize is better than another in some value and worse in none."""
    return point != other and all(left <= right for left, right in zip(point, other, strict=True))


def _choice(jobs: Sequence[Job], keys: Sequence[str], monitor: str, wanted: int) -> Choice:
    whole = _whole(jobs)
    done = [job for job in whole if _knows(job, monitor)] or whole or [job for job in jobs if job.pruned]
    names = dict.fromkeys(name for job in done for name in job.metrics)
    values = {name: [job.metrics[name] for job in done if _knows(job, name)] for name in names}
    return Choice(
        settings={key: jobs[0].settings[key] for key in keys if key in jobs[0].settings},
        jobs=list(jobs),
        averaged=done,
        wanted=wanted,
        means={name: fmean(known) for name, known in values.items() if known},
        deviations={name: stdev(known) for name, known in values.items() if len(known) > 1},
    )


def _whole(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that ran to their end."""
    return [job for job in jobs if job.status == "done" and not job.pruned]


def _knows(job: Job, metric: str) -> bool:
    """Whether ``metric`` came out as a number; a NaN is null in ``result.json``."""
    return job.metrics.get(metric) is not None


def _command(job: Job) -> str:
    return command_of(job.result) or shlex.join(["dltrain", *job.overrides])


def finish_sweep(folder: Path) -> bool:
    """Write ``sweep.html`` of the sweep in ``folder`` and show the result; returns whether all of its jobs are done."""
    result = outcome(settled(folder))
    try:
        result.ledger.write_table()
        write_page(result, folder / "sweep.html")
    except Exception as error:  # the ledger is safe: a page that cannot be made costs a warning
        log.warning("sweep.html was not written: %s", error)
    show(result)
    return result.ledger.count("done") == len(result.ledger.jobs)


def show(result: Outcome) -> None:
    """Print a line of JSON, or a table on a terminal."""
    if hint := about_test(result.monitor):
        log.warning("the jobs are ranked: %s", hint)
    if on_terminal():
        _print_tables(result)
    else:
        print_json(result.summary())


def _print_tables(result: Outcome) -> None:
    """The best choices first, then the jobs that failed and why, then the command of the best job."""
    from dltrain.system.console import Console

    console, summary = Console(file=stdout()), result.summary()
    _print_choices(console, result)
    _print_front(console, summary.get("front", []))
    for job in result.ledger:
        if job.status != "done":
            reason = job.reason or " ".join(job.overrides)
            console.print(f"job {job.number} {job.status}: {reason}", soft_wrap=True)
    if summary["pruned"]:
        console.print(f"{summary['pruned']} jobs were pruned, and rank behind those that ran to their end")
    console.print(f"{summary['done']} of {summary['jobs']} jobs done, {result.ledger.folder}", soft_wrap=True)
    if "best" in summary:
        console.print(f"best: {summary['best']['command']}", soft_wrap=True)


def _print_choices(console: Any, result: Outcome) -> None:
    keys = list(dict.fromkeys(key for choice in result.choices for key in choice.settings))
    # The other metrics are in sweep.csv and sweep.html.
    main = [name for name in result.ledger.metrics() if metric_of(name).level == "headline"]
    metrics = list(dict.fromkeys([result.monitor, *(metric for metric, _ in result.ledger.objectives), *main]))
    has_pruned = any(choice.pruned for choice in result.choices)

    def cells(choice: Choice) -> list[str]:
        row = [*_cells(choice.settings, keys), *map(choice.shown, metrics), choice.seeds]
        return [*row, str(choice.pruned or "")] if has_pruned else row

    table = _table([*keys, *metrics, "seeds", *(["pruned"] if has_pruned else [])])
    for number, choice in enumerate(result.choices[:_SHOWN]):
        table.add_row(*cells(choice), style="bold" if number == 0 else "dim" if choice.pruned else None)
    console.print(table)
    if len(result.choices) > _SHOWN:
        console.print(f"and {len(result.choices) - _SHOWN} more in {result.ledger.folder / 'sweep.csv'}")


def _print_front(console: Any, front: Sequence[Mapping[str, Any]]) -> None:
    """The jobs between which several objectives leave the choice."""
    if not front:
        return
    console.print("Pareto front:")
    keys = list(dict.fromkeys(key for job in front for key in job["settings"]))
    table = _table(["job", *keys, *front[0]["values"]])
    for job in front:
        table.add_row(str(job["job"]), *_cells(job["settings"], keys), *map(short, job["values"].values()))
    console.print(table)


def _table(names: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(settings: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    from dltrain.errors import in_one_line

    return [in_one_line(_rounded(settings.get(key, ""))) for key in keys]


def _rounded(setting: str) -> str:
    """A number that a search has drawn, with four digits; the command of the best job has all of them."""
    return f"{float(setting):.4g}" if re.fullmatch(r"-?\d*\.\d{5,}(e-?\d+)?", setting) else setting


def write_page(result: Outcome, path: Path) -> None:
    """Write the page of a sweep to ``path``."""
    from dltrain.report.sweep import Ranked, Row, render_sweep

    keys = result.ledger.swept()
    rows = []
    for job in result.ledger:
        page = next((job.folder / name for name in _PAGES if (job.folder / name).exists()), None)
        rows.append(
            Row(
                number=job.number,
                status="pruned" if job.pruned else job.status,
                settings={key: job.settings[key] for key in keys if key in job.settings},
                metrics={name: value for name, value in job.metrics.items() if value is not None},
                page=Path(os.path.relpath(page, path.parent)).as_posix() if page else "",
                cause=job.reason,
                history=history_of(job.folder),
            )
        )
    ranked = [
        Ranked(choice.settings, {name: choice.shown(name) for name in choice.means}, choice.seeds, choice.pruned)
        for choice in result.choices
    ]
    command = str(result.summary().get("best", {}).get("command", ""))
    folder = str(result.ledger.folder)
    front = [job.number for job in result.front]
    objectives = [metric for metric, _ in result.ledger.objectives]
    text = render_sweep(folder, result.monitor, result.lower, ranked, rows, command, front, objectives)
    write_text(path, text)
