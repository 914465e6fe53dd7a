"""What a sweep says when it ends, and ``dltrain report`` of its folder. Imports no torch."""

import logging
import os
from pathlib import Path

from dltrain.report.metrics import about_test
from dltrain.runs.record import history_of
from dltrain.sweep.ledger import settled
from dltrain.sweep.outcome import Outcome, outcome
from dltrain.system.answer import on_terminal, print_json
from dltrain.system.files import write_text

_PAGES = ("report.html", "curves.png")  # what a job is linked to: the first that it has

log = logging.getLogger(__name__)


def finish_sweep(folder: Path) -> bool:
    """Write ``sweep.html`` of the sweep in ``folder`` and show what won; whether all of its jobs are done."""
    found = outcome(settled(folder))
    try:
        found.ledger.write_table()
        write_page(found, folder / "sweep.html")
    except Exception as error:  # the ledger is safe: a page that cannot be made costs a warning
        log.warning("sweep.html was not written: %s", error)
    show(found)
    return found.ledger.count("done") == len(found.ledger.jobs)


def show(found: Outcome) -> None:
    """One line of JSON, or a table on a terminal."""
    if told := about_test(found.monitor):
        log.warning("the jobs are ranked: %s", told)
    if not on_terminal():
        print_json(found.summary())
        return
    from dltrain.sweep.table import print_outcome

    print_outcome(found)


def write_page(found: Outcome, path: Path) -> None:
    """Write the page of a sweep to ``path``."""
    from dltrain.report.sweep import Ranked, Row, render_sweep

    keys = found.ledger.swept()
    rows = []
    for job in found.ledger:
        page = next((job.folder / name for name in _PAGES if (job.folder / name).exists()), None)
        rows.append(
            Row(
                number=job.number,
                status="pruned" if job.pruned else job.status,
                settings={key: job.settings[key] for key in keys if key in job.settings},
                metrics={name: value for name, value in job.metrics.items() if value is not None},
                page=Path(os.path.relpath(page, path.parent)).as_posix() if page else "",
                cause=job.told,
                history=history_of(job.folder),
            )
        )
    ranked = [
        Ranked(one.settings, {m: one.shown(m) for m in one.means}, one.seeds, one.pruned) for one in found.choices
    ]
    command = str(found.summary().get("best", {}).get("command", ""))
    folder = str(found.ledger.folder)
    front = [job.number for job in found.front]
    objectives = [metric for metric, _ in found.ledger.objectives]
    text = render_sweep(folder, found.monitor, found.lower, ranked, rows, command, front, objectives)
    write_text(path, text)
