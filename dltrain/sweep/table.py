"""The outcome of a sweep on a terminal."""

import re

from rich.console import Console
from rich.table import Table

from dltrain.sweep.outcome import Outcome

_SHOWN = 20
_MAIN = ("loss", "accuracy", "mae")  # sweep.csv and sweep.html have the others


def print_outcome(found: Outcome) -> None:
    """The best choices first, then what failed and why, then the command of the best job."""
    console = Console(highlight=False)
    keys = list(dict.fromkeys(key for choice in found.choices for key in choice.settings))
    names = [name for name in found.ledger.metrics() if name.rpartition("/")[2] in _MAIN and name != found.monitor]
    metrics = [found.monitor, *names]
    table = Table(box=None, pad_edge=False)
    pruned = found.summary()["pruned"]
    for name in (*keys, *metrics, "seeds", *(["pruned"] if pruned else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for number, choice in enumerate(found.choices[:_SHOWN]):
        cells = [_rounded(choice.settings.get(key, "")) for key in keys]
        cells += [choice.shown(name) for name in metrics]
        cells += [str(len(choice.jobs)), *([str(choice.pruned or "")] if pruned else [])]
        table.add_row(*cells, style="bold" if number == 0 else "dim" if choice.pruned else None)
    console.print(table)
    if len(found.choices) > _SHOWN:
        console.print(f"and {len(found.choices) - _SHOWN} more in {found.ledger.folder / 'sweep.csv'}")
    for job in found.ledger:
        if job.status != "done":
            console.print(f"job {job.number} {job.status}: {job.told or ' '.join(job.overrides)}", soft_wrap=True)
    if pruned:
        console.print(f"{pruned} jobs were pruned, and rank behind those that ran to their end")
    summary = found.summary()
    console.print(f"{summary['done']} of {summary['jobs']} jobs done, {found.ledger.folder}", soft_wrap=True)
    if found.best is not None:
        console.print(f"best: {summary['best']['command']}", soft_wrap=True)


def _rounded(setting: str) -> str:
    """A number that a search has drawn, with the digits that tell; the command of the best job has all of them."""
    return f"{float(setting):.4g}" if re.fullmatch(r"-?\d*\.\d{5,}(e-?\d+)?", setting) else setting
