"""The outcome of a sweep on a terminal."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from dltrain.report.figures import short
from dltrain.report.metrics import metric_of
from dltrain.sweep.outcome import Outcome
from dltrain.system.answer import stdout
from dltrain.system.console import Console, in_one_line

_SHOWN = 20


def print_outcome(found: Outcome) -> None:
    """The best choices first, then what failed and why, then the command of the best job."""
    console = Console(file=stdout())
    keys = list(dict.fromkeys(key for choice in found.choices for key in choice.settings))
    # The rest is in sweep.csv and sweep.html.
    names = [name for name in found.ledger.metrics() if metric_of(name).level == "headline"]
    metrics = list(dict.fromkeys([found.monitor, *(metric for metric, _ in found.ledger.objectives), *names]))
    table = Table(box=None, pad_edge=False)
    summary = found.summary()
    pruned = summary["pruned"]
    for name in (*keys, *metrics, "seeds", *(["pruned"] if pruned else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for number, choice in enumerate(found.choices[:_SHOWN]):
        cells = [in_one_line(_rounded(choice.settings.get(key, ""))) for key in keys]
        cells += [choice.shown(name) for name in metrics]
        cells += [choice.seeds, *([str(choice.pruned or "")] if pruned else [])]
        table.add_row(*cells, style="bold" if number == 0 else "dim" if choice.pruned else None)
    console.print(table)
    if len(found.choices) > _SHOWN:
        console.print(f"and {len(found.choices) - _SHOWN} more in {found.ledger.folder / 'sweep.csv'}")
    _print_front(console, summary.get("front", []))
    for job in found.ledger:
        if job.status != "done":
            told = job.told or " ".join(job.overrides)
            console.print(f"job {job.number} {job.status}: {told}", soft_wrap=True)
    if pruned:
        console.print(f"{pruned} jobs were pruned, and rank behind those that ran to their end")
    console.print(f"{summary['done']} of {summary['jobs']} jobs done, {found.ledger.folder}", soft_wrap=True)
    if found.best is not None:
        console.print(f"best: {summary['best']['command']}", soft_wrap=True)


def _print_front(console: Console, front: Sequence[Mapping[str, Any]]) -> None:
    """The jobs between which several objectives leave the choice."""
    if not front:
        return
    console.print("Pareto front:")
    table = Table(box=None, pad_edge=False)
    keys = list(dict.fromkeys(key for one in front for key in one["settings"]))
    for name in ("job", *keys, *front[0]["values"]):
        table.add_column(name, justify="right", no_wrap=True)
    for one in front:
        settings = [in_one_line(_rounded(one["settings"].get(key, ""))) for key in keys]
        table.add_row(str(one["job"]), *settings, *map(short, one["values"].values()))
    console.print(table)


def _rounded(setting: str) -> str:
    """A number that a search has drawn, with the digits that tell; the command of the best job has all of them."""
    return f"{float(setting):.4g}" if re.fullmatch(r"-?\d*\.\d{5,}(e-?\d+)?", setting) else setting
