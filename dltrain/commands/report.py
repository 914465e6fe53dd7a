"""``dltrain report``: write the page of a run or a sweep anew, also while it is still going."""

from collections.abc import Sequence
from pathlib import Path

from dltrain.commands.arguments import on_terminal, own_keys, print_json, run_of
from dltrain.errors import UserError
from dltrain.sweep.ledger import is_sweep


def report(arguments: Sequence[str]) -> None:
    """Write ``report.html``, or ``sweep.html`` and say what won.

    Raises:
        UserError: there is no such run, or the page cannot be written.
    """
    words, own = own_keys(arguments, ["out"])
    if words and is_sweep(Path(words[0]).expanduser()):
        _report_sweep(Path(words[0]).expanduser().resolve(), own.get("out"))
        return
    run, overrides = run_of(words, "dltrain report RUN [out=FILE]")
    from dltrain.log import log_to
    from dltrain.reporting import report_run
    from dltrain.run import find_run

    log_to(None)
    if not Path(run).expanduser().exists():
        raise UserError(f"there is no run or sweep '{run}'; name a folder, such as outputs/<date>/<time>")
    folder = find_run(run)[0].resolve()
    out = Path(own["out"]).expanduser() if "out" in own else folder / "report.html"
    try:
        report_run(folder, overrides, out)
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error}") from error
    if on_terminal():
        print(out)
    else:
        print_json({"status": "done", "run": str(folder), "report": str(out)})


def _report_sweep(folder: Path, out: str | None) -> None:
    from dltrain.commands.sweep import show, write_page
    from dltrain.sweep.ledger import Ledger
    from dltrain.sweep.outcome import outcome

    found = outcome(Ledger(folder))
    page = Path(out).expanduser() if out else folder / "sweep.html"
    try:
        write_page(found, page)
    except OSError as error:
        raise UserError(f"'{page}' cannot be written: {error}") from error
    show(found)
