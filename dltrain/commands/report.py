"""``dltrain report``: write the page of a run anew, also while it is still going."""

from collections.abc import Sequence
from pathlib import Path

from dltrain.commands.arguments import on_terminal, own_keys, print_json, run_of
from dltrain.errors import UserError


def report(arguments: Sequence[str]) -> None:
    """Write ``report.html``.

    Raises:
        UserError: there is no such run, or the page cannot be written.
    """
    words, own = own_keys(arguments, ["out"])
    run, overrides = run_of(words, "dltrain report RUN [out=FILE]")
    from dltrain.log import log_to
    from dltrain.reporting import report_run
    from dltrain.run import find_run

    log_to(None)
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
