"""Several runs side by side: where their configurations differ, and what came of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dltrain.defaults import choices_of, flat
from dltrain.metric_names import lower_is_better
from dltrain.report.story import Rows
from dltrain.reporting import history_of, metrics_of, read_config
from dltrain.run import read_json


@dataclass(frozen=True)
class Comparison:
    """Runs, and one value a run for each key and each metric that any of them has."""

    folders: Sequence[Path]
    names: Sequence[str]
    results: Sequence[dict[str, Any]]
    config: dict[str, list[Any]]  # only where they differ; None where a run has no such key
    metrics: dict[str, list[float | None]]
    histories: Sequence[Rows]

    def best(self, metric: str) -> list[int]:
        """Which runs have the best value of ``metric``; none where there is nothing to choose from."""
        known = [value for value in self.metrics[metric] if value is not None]
        if len(known) < 2 or len(set(known)) == 1:
            return []
        best = min(known) if lower_is_better(metric) else max(known)
        return [index for index, value in enumerate(self.metrics[metric]) if value == best]


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read what the runs in ``folders`` left there."""
    results = [read_json(folder / "result.json") for folder in folders]
    return Comparison(
        folders=folders,
        names=short_names(folders),
        results=results,
        config=_differing([_configuration(folder) for folder in folders]),
        metrics=_side_by_side([metrics_of(result) for result in results]),
        histories=[history_of(folder) for folder in folders],
    )


def short_names(folders: Sequence[Path]) -> list[str]:
    """Paths without what all of them begin with; a run that is named twice is counted."""
    texts = [str(folder) for folder in folders]
    common = os.path.commonpath([folder.parent for folder in folders])
    names = [os.path.relpath(text, common) for text in texts]
    return [
        f"{name} ({names[:index].count(name) + 1})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _configuration(folder: Path) -> dict[str, Any]:
    """Keys of a run, and the option of each group, but for what only names files of Hydra's."""
    nodes = {name: node for name, node in read_config(folder).items() if name != "data"}
    groups = {name: option for name, option in choices_of(folder).items() if not name.startswith("hydra/")}
    return groups | flat(nodes)


def _side_by_side(tables: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: [table.get(key) for table in tables] for key in keys}


def _differing(tables: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: values for key, values in _side_by_side(tables).items() if any(v != values[0] for v in values)}
