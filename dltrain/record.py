"""What a run has left in its folder, read back: configuration, metrics, what differs from the defaults. No torch."""

import csv
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dltrain.errors import DltrainError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has been built with it
_NO_OPTIONS = ("hydra", "logger", "experiment")  # composed in ways of their own
_NOT_SHOWN = ("defaults", "hydra", "data")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that ran, empty where there is none."""
    return _read(folder / "config.yaml")


def history_of(folder: Path) -> list[dict[str, float]]:
    """The metrics of each epoch: of metrics.csv, or without that logger of the last checkpoint."""
    try:
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError):  # no such logger, or a line that is being written
        pass
    try:
        from dltrain import checkpoint  # imports torch

        return list(checkpoint.load(folder / "checkpoints" / "last.pt")["trainer"]["history"])
    except (DltrainError, KeyError):
        return []


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a result by their full names: ``val/accuracy`` of the best epoch, ``test/accuracy``."""
    parts = {"val": result.get("best", {}).get("val", {}), "test": result.get("test") or {}}
    return {f"{part}/{name}": value for part, metrics in parts.items() for name, value in metrics.items()}


def changed_from_defaults(run: Path) -> dict[str, Any] | None:
    """Keys whose values in ``run`` are others than those of the chosen options, with these; groups by their name.

    ``None`` where the folder does not say what was chosen.
    """
    composed, chosen = _read(run / ".hydra" / "config.yaml"), choices_of(run)
    if not composed or not chosen:
        return None
    primary = _read(files("dltrain.conf") / "config.yaml")
    usual: dict[str, Any] = {}
    for entry in primary["defaults"]:
        usual |= entry if isinstance(entry, dict) else {}
    values = flat({key: value for key, value in primary.items() if key not in _NOT_SHOWN})
    for group, option in chosen.items():
        if group.split("/")[0] not in _NO_OPTIONS:
            node = _read(files("dltrain.conf") / group / f"{option}.yaml")
            values |= flat({group: {key: value for key, value in node.items() if key not in _NOT_SHOWN}})
    groups = {
        group: usual[group]
        for group, option in chosen.items()
        if group in usual and group not in _NO_OPTIONS and option != usual[group]
    }
    found = flat(composed)
    keys = {key: value for key, value in values.items() if key in found and not _same(found[key], value)}
    return groups | keys


def choices_of(run: Path) -> dict[str, Any]:
    """The option of each group that ``run`` was composed of, empty where its folder does not say."""
    choices = _hydra(run).get("runtime", {}).get("choices", {})
    return choices if isinstance(choices, dict) else {}


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as ``optim.lr``."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def _hydra(run: Path) -> dict[str, Any]:
    """Hydra's own part of the configuration."""
    return _read(run / ".hydra" / "hydra.yaml").get("hydra") or {}


def _read(file: Any) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _LOADER)
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _same(value: Any, default: Any) -> bool:
    """Whether two values of YAML are the same; Hydra reads 1e-3 as a number, where YAML 1.1 has text."""
    if value == default:
        return type(value) is type(default) or not isinstance(value, bool)
    try:
        return float(value) == float(default) and not isinstance(value, bool)
    except (TypeError, ValueError):
        return False
