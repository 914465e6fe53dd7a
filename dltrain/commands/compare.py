"""``dltrain compare``: what differs between runs, and their metrics. Imports no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dltrain.commands.arguments import take_keys
from dltrain.errors import UserError
from dltrain.report.metrics import lower_is_better
from dltrain.runs.find import find_run, path_of
from dltrain.runs.record import choices_of, history_of, metrics_of, read_config, read_result
from dltrain.system.answer import on_terminal, print_json, say
from dltrain.system.files import flat, write_text


@dataclass(frozen=True)
class Comparison:
    """Runs, with a value for each run of every key that differs and every metric."""

    folders: Sequence[Path]
    names: Sequence[str]
    results: Sequence[dict[str, Any]]
    config: dict[str, list[Any]]  # only where they differ; None where a run has no such key
    metrics: dict[str, list[float | None]]

    @property
    def best(self) -> dict[str, list[int]]:
        """Which runs have the best value of each metric; none where there is nothing to choose from."""
        return {name: _best(name, values) for name, values in self.metrics.items()}


def compare(arguments: Sequence[str]) -> None:
    """Print the differences: tables on a terminal, else one line of JSON.

    Raises:
        UserError: fewer than two runs, a word that names none, or a page that cannot be written.
    """
    words, options = take_keys(arguments, ["out"])
    # A pattern such as multirun/*/* matches files beside the runs as well: multirun.yaml, sweep.csv.
    words = [word for word in words if not os.path.isfile(word) or Path(word).suffix == ".pt"]
    if len(words) < 2:
        raise UserError("there is nothing to compare: dltrain compare RUN RUN... [out=compare.html]")
    runs = compare_runs([find_run(word)[0].resolve() for word in words])
    if "out" in options:
        _write_page(runs, path_of(options["out"]))
    if on_terminal():
        from dltrain.commands.tables import show_comparison

        show_comparison(runs.names, runs.config, runs.metrics, runs.best)
        if "out" in options:
            say(options["out"])
    else:
        print_json(_answer(runs) | options)


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read the records of the runs in ``folders``."""
    results = [read_result(folder) for folder in folders]
    return Comparison(
        folders=folders,
        names=_short_names(folders),
        results=results,
        config=_differing([_configuration(folder) for folder in folders]),
        metrics=_side_by_side([metrics_of(result) for result in results]),
    )


def _answer(runs: Comparison) -> dict[str, Any]:
    best = runs.best
    listed = [
        {"run": str(folder), "status": result.get("status")}
        for folder, result in zip(runs.folders, runs.results, strict=True)
    ]
    metrics = {name: {"values": values, "best": best[name]} for name, values in runs.metrics.items()}
    return {"status": "done", "runs": listed, "config": runs.config, "metrics": metrics}


def _write_page(runs: Comparison, out: Path) -> None:
    from dltrain.report.page import render_comparison

    histories = [history_of(folder) for folder in runs.folders]
    try:
        write_text(out, render_comparison(runs.names, runs.config, runs.metrics, runs.best, histories))
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error.strerror}") from error


def _best(metric: str, values: Sequence[float | None]) -> list[int]:
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(set(known)) == 1:
        return []
    best = min(known) if lower_is_better(metric) else max(known)
    return [index for index, value in enumerate(values) if value == best]


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Paths without their common beginning; a run that is named twice is numbered."""
    common = os.path.commonpath([folder.parent for folder in folders])
    names = [os.path.relpath(folder, common) for folder in folders]
    return [
        f"{name} ({names[:index].count(name) + 1})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _configuration(folder: Path) -> dict[str, Any]:
    """Keys of a run, and the option of each group, without Hydra's."""
    config = read_config(folder)
    # Without an option a group is as good as absent, which it is in runs of versions that did not have it.
    keys = {name: value for name, value in flat(config).items() if value != {} and not name.startswith("data.")}
    groups = choices_of(folder).items()
    chosen = {name: option for name, option in groups if not name.startswith("hydra/") and config.get(name) != {}}
    return chosen | keys


def _side_by_side(tables: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: [table.get(key) for table in tables] for key in keys}


def _differing(tables: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: values for key, values in _side_by_side(tables).items() if any(v != values[0] for v in values)}
