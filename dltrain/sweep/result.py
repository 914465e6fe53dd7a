"""What a sweep shows when it ends, and ``dltrain report`` of its folder: a line of JSON or a table, and a page.

Imports no torch.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dltrain.report.figures import short
from dltrain.report.metrics import about_test, metric_of
from dltrain.runs.record import history_of
from dltrain.sweep.ledger import settled
from dltrain.sweep.outcome import Choice, Outcome, outcome
from dltrain.system.answer import on_terminal, print_json, stdout
from dltrain.system.files import write_text

_PAGES = ("report.html", "curves.png")  # what a job is linked to: the first that it has
_SHOWN = 20  # choices in the table

log = logging.getLogger(__name__)


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
    from dltrain.system.log import in_one_line

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
