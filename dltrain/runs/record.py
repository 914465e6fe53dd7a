"""Read back what a run has left in its folder: configuration, metrics, what differs from the defaults. No torch.

Each file has a single reader, which checks its structure: another program may have written it, or a full disk cut it.
"""

import csv
import json
import logging
import math
import shlex
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dltrain.errors import DltrainError, RecordError
from dltrain.report.metrics import declare
from dltrain.system import yaml_text
from dltrain.system.files import Structure, flat, kind_of, mismatch

log = logging.getLogger(__name__)

_NO_OPTIONS = ("hydra", "logger", "metric", "experiment")  # groups that are composed in other ways
_NOT_SHOWN = ("defaults", "hydra", "data")

_NUMBER = int | float | None  # null where it was not finite
_LARGEST = 1e100  # of a metric
_METRICS = {str: _NUMBER}
GROUPS = ("dataset", "model", "loss", "optim", "scheduler", "trainer")
_CONFIG = {
    **{f"{group}!": dict for group in GROUPS},
    "data": {"name": str | None, "kind": str | None, "class_names": list | None},
}
_RESULT = {
    "status!": str,
    **dict.fromkeys(("run", "run_id", "command", "error", "pruned"), str),
    "best": {"epoch!": int, "monitor!": str, "val!": _METRICS},
    "test": _METRICS,
    "epochs": int,
    "seconds": _NUMBER,
    "timings": {str: _NUMBER | dict},
    "confusion_matrix": [[int]],
    "events": list,
}
_ENVIRONMENT = {
    **dict.fromkeys(("run_id", "command", "working_directory"), str),
    "versions": {str: str | None},
    "resumed": [dict],
}
_HYDRA = {"hydra": {"runtime": {"choices": {str: object}}}}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that ran, empty where there is none.

    Raises:
        RecordError: ``config.yaml`` is damaged, or no configuration of a run.
    """
    config = _read_yaml(folder / "config.yaml", _CONFIG, "the configuration of a run")
    declare(config.get("metric"))
    return config


def read_result(folder: Path) -> dict[str, Any]:
    """How a run ended, or that it is running; empty where nothing is said.

    Raises:
        RecordError: ``result.json`` is damaged, or no result of a run.
    """
    return read_json(folder / "result.json", _RESULT, "the result of a run")


def read_environment(folder: Path) -> dict[str, Any]:
    """Where and with what a run was made, empty where nothing is said.

    Raises:
        RecordError: ``environment.json`` is damaged, or not that of a run.
    """
    return read_json(folder / "environment.json", _ENVIRONMENT, "the environment of a run")


def read_or_warn(read: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What ``read`` returns for a run that goes on, which writes the file anew; empty, with a warning, if damaged."""
    try:
        return read(folder)
    except RecordError as error:
        log.warning("%s", error)
        return {}


def history_of(folder: Path) -> list[dict[str, float]]:
    """The metrics of each epoch: of metrics.csv, or without that logger of the last checkpoint.

    Raises:
        RecordError: ``metrics.csv`` is damaged, or not that of a run.
    """
    path = folder / "metrics.csv"
    if path.exists():
        return _rows_of(path)
    try:
        from dltrain.runs import checkpoint  # imports torch

        history = checkpoint.load(folder / "checkpoints" / "last.pt")["trainer"]["history"]
    except (DltrainError, LookupError, TypeError):
        return []
    return [] if mismatch(history, [_METRICS]) else list(history)


def _rows_of(path: Path) -> list[dict[str, float]]:
    text = _text(path, "the metrics of a run") or ""
    if not text.startswith("epoch,"[: len(text)]):
        raise _not_as_written(path, "the metrics of a run", "it does not begin with a column epoch")
    lines = text.splitlines()
    if lines and not text.endswith("\n"):  # the last is being written
        lines.pop()
    table = csv.reader(lines)
    rows: list[dict[str, float]] = []
    try:
        names = next(table, [])
        for values in table:
            rows.append({name: float(value) for name, value in zip(names, values, strict=True)})
            int(rows[-1]["epoch"])  # an error where it is not finite
    except (ValueError, OverflowError, csv.Error) as error:
        raise _not_as_written(path, "the metrics of a run", f"line {table.line_num}: {error}") from error
    return rows


def read_json(path: Path, structure: Structure, what: str) -> dict[str, Any]:
    """The object in a JSON file, which is ``what`` and has this structure; empty where there is no file.

    Raises:
        RecordError: the file is damaged, or holds something else.
    """
    return _read(path, structure, what, "JSON", _from_json)


def _read_yaml(file: Any, structure: Structure, what: str) -> dict[str, Any]:
    """As :func:`read_json`, of YAML."""
    return _read(file, structure, what, "YAML", yaml_text.load)


def _read(file: Any, structure: Structure, what: str, notation: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    text = _text(file, what)
    if text is None:
        return {}
    try:
        content: dict[str, Any] = parse(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise _not_as_written(file, what, f"it is no {notation} ({' '.join(str(error).split())})") from error
    if fault := mismatch(content, structure):
        raise _not_as_written(file, what, fault)
    return content


def _from_json(text: str) -> Any:
    content = json.loads(text, parse_float=_finite, parse_int=_integer, parse_constant=_finite)
    if "\\ud" in text.lower():  # half a character, unless it stands for a byte of a file's name
        json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # write_json() has null for it
        raise ValueError(f"{text} is no number")
    return value


def _integer(text: str) -> int:
    value = int(text)
    float(value)  # an OverflowError where it could not be shown
    return value


def _text(file: Any, what: str) -> str | None:
    """The content of a file; ``None`` where there is none."""
    if isinstance(file, Path) and (kind := kind_of(file)):
        raise RecordError(f"'{file}' cannot be read: it is {kind}, no file")
    try:
        return str(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _not_as_written(file, what, "it is not UTF-8 text") from error
    except OSError as error:
        raise RecordError(f"'{file}' cannot be read: {error.strerror}") from error


def _not_as_written(file: Any, what: str, fault: str) -> RecordError:
    return RecordError(f"'{file}' cannot be read: it is not {what}, or damaged: {fault}")


def command_of(result: Mapping[str, Any]) -> str:
    """The command of a run as it can be typed again; empty where a shell would read it in another way."""
    command = str(result.get("command", ""))
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    is_safe = words[:1] == ["dltrain"] and shlex.join(words) == command and command.isprintable()
    return command if is_safe else ""


def metrics_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a result by their full names: ``val/accuracy`` of the best epoch, ``test/accuracy``.

    ``None`` for those that are not finite, or too large to be averaged and squared.
    """
    parts: dict[str, Any] = {"val": result.get("best", {}).get("val", {}), "test": result.get("test") or {}}
    return {
        f"{part}/{name}": None if value is None or abs(value) > _LARGEST else value
        for part, metrics in parts.items()
        for name, value in metrics.items()
    }


def changed_from_defaults(run: Path) -> dict[str, Any] | None:
    """The keys whose values in ``run`` differ from those of the chosen options, with the latter; groups by their name.

    ``None`` where the folder does not say what was chosen.
    """
    composed = flat(_read_yaml(run / ".hydra" / "config.yaml", dict, "what Hydra leaves of a run"))
    chosen = choices_of(run)
    if not composed or not chosen:
        return None
    primary = _read_default("config")
    usual: dict[str, Any] = {}
    for entry in primary["defaults"]:
        usual |= entry if isinstance(entry, dict) else {}
    defaults = flat({key: value for key, value in primary.items() if key not in _NOT_SHOWN})
    for group, option in chosen.items():
        if group.split("/")[0] not in _NO_OPTIONS:
            node = _read_default(f"{group}/{option}")
            defaults |= flat({group: {key: value for key, value in node.items() if key not in _NOT_SHOWN}})
    groups = {
        group: usual[group]
        for group, option in chosen.items()
        if group in usual and group not in _NO_OPTIONS and option != usual[group]
    }
    changed = {key: value for key, value in defaults.items() if key in composed and not _same(composed[key], value)}
    return groups | changed


def _read_default(name: str) -> dict[str, Any]:
    return _read_yaml(files("dltrain.conf") / f"{name}.yaml", dict, "a file of dltrain's")


def choices_of(run: Path) -> dict[str, Any]:
    """The chosen option of each group, empty where the folder of ``run`` does not say."""
    composed = _read_yaml(run / ".hydra" / "hydra.yaml", _HYDRA, "what Hydra leaves of a run")
    choices: dict[str, Any] = composed.get("hydra", {}).get("runtime", {}).get("choices", {})
    return choices


def _same(value: Any, default: Any) -> bool:
    """Whether two values of YAML are the same; Hydra reads 1e-3 as a number, where YAML 1.1 has text."""
    if value == default:
        return type(value) is type(default) or not isinstance(value, bool)
    try:
        return float(value) == float(default) and not isinstance(value, bool)
    except (TypeError, ValueError):
        return False
