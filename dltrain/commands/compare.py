"""``dltrain compare``: what differs between runs, and what came of it."""

from collections.abc import Sequence
from pathlib import Path

from dltrain.commands.arguments import on_terminal, own_keys, print_json
from dltrain.errors import UserError


def compare(arguments: Sequence[str]) -> None:
    """Print the differences: tables on a terminal, else one line of JSON.

    Raises:
        UserError: fewer than two runs, a word that names none, or a page that cannot be written.
    """
    words, own = own_keys(arguments, ["out"])
    if len(words) < 2:
        raise UserError("there is nothing to compare: dltrain compare RUN RUN... [out=compare.html]")
    from dltrain.comparing import compare_runs
    from dltrain.run import find_run

    runs = compare_runs([find_run(word)[0].resolve() for word in words])
    best = {name: runs.best(name) for name in runs.metrics}
    if "out" in own:
        from dltrain.report.comparison import render_comparison
        from dltrain.report.page import write

        text = render_comparison(runs.names, runs.config, runs.metrics, best, runs.histories)
        try:
            write(Path(own["out"]).expanduser(), text)
        except OSError as error:
            raise UserError(f"out={own['out']} cannot be written: {error}") from error
    if on_terminal():
        from dltrain.commands.tables import show_comparison

        show_comparison(runs.names, runs.config, runs.metrics, best)
        print(own.get("out", ""))
        return
    metrics = {name: {"values": values, "best": best[name]} for name, values in runs.metrics.items()}
    listed = [
        {"run": str(folder), "status": result.get("status")}
        for folder, result in zip(runs.folders, runs.results, strict=True)
    ]
    page = {"out": own["out"]} if "out" in own else {}
    print_json({"status": "done", "runs": listed, "config": runs.config, "metrics": metrics, **page})
