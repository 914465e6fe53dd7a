"""``dltrain report``: write the page of a run or a sweep anew, also while it still goes on."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from dltrain.commands.arguments import run_of, take_keys
from dltrain.errors import RecordError, UserError
from dltrain.runs.find import find_run, is_there, path_of
from dltrain.runs.folder import is_in_use
from dltrain.runs.record import read_config
from dltrain.sweep.ledger import Ledger, is_sweep, settled
from dltrain.system.answer import on_terminal, print_json, say
from dltrain.system.log import log_to


def report(arguments: Sequence[str]) -> None:
    """Write ``report.html``, or ``sweep.html`` and say what won.

    Raises:
        UserError: there is no such run, a sweep comes with further words, or the page cannot be written.
    """
    words, options = take_keys(arguments, ["out"])
    if words and is_sweep(path_of(words[0])):
        if words[1:]:
            raise UserError(f"the page of a sweep takes nothing but out=FILE, and not {' '.join(words[1:])}")
        _report_sweep(path_of(words[0]).resolve(), options.get("out"))
        return
    if words and "=" not in words[0] and not is_there(words[0]):
        where = "name its folder, such as outputs/<date>/<time>"
        raise UserError(f"there is no run '{words[0]}', and no sweep of that name; {where}")
    run, overrides = run_of(words, "dltrain report RUN [out=FILE]")
    from dltrain.trained.reporting import report_run

    log_to(None)
    folder = find_run(run)[0].resolve()
    out = path_of(options["out"]) if "out" in options else folder / "report.html"
    try:
        report_run(folder, overrides, out)
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error.strerror or error}") from error
    if on_terminal():
        say(str(out))
    else:
        print_json({"status": "done", "run": str(folder), "report": str(out)})


def _declare_metrics(ledger: Ledger) -> None:
    """Learn from the first job that says so how the metrics of the group ``metric`` are read."""
    for job in ledger:
        with contextlib.suppress(RecordError):
            if read_config(job.folder):
                return


def _report_sweep(folder: Path, out: str | None) -> None:
    from dltrain.sweep.result import outcome, show, write_page

    ledger = settled(folder)
    _declare_metrics(ledger)
    result = outcome(ledger)
    if not is_in_use(folder):  # a sweep that goes on keeps its table itself
        with contextlib.suppress(OSError):  # the folder may be read-only, and the page go elsewhere
            ledger.write_table()
    page = path_of(out) if out else folder / "sweep.html"
    try:
        write_page(result, page)
    except OSError as error:
        raise UserError(f"'{page}' cannot be written: {error.strerror or error}") from error
    show(result)
