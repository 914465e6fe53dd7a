"""Check what a run has stored of its data before files are read by it: the file may come from anywhere."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any, get_args

from dltrain.data.base import Facts, Kind, Task
from dltrain.errors import ConfigError
from dltrain.system.files import Structure, mismatch

_NUMBER = int | float
_DIALECT = {
    "separator": str,
    "header": bool | None,
    "decimal": str | None,
    "thousands": str | None,
    "missing": list | None,
    "width": int | None,
}
_STEP: Structure = {"unit!": str, "count!": _NUMBER, "on": int | str | None}
_PREPROCESSING: Mapping[str, Structure] = {
    "image": {"mean": [_NUMBER], "std": [_NUMBER], "levels": int, "background": str | None, "white": _NUMBER},
    "table": {
        "numeric!": {str: dict.fromkeys(("mean!", "std!", "missing!"), _NUMBER)},
        "categorical!": {str: [str]},
        "others!": [str],
        **_DIALECT,
    },
    "series": {
        "columns!": [str],
        "mean!": [_NUMBER],
        "std!": [_NUMBER],
        "time!": str | None,
        "time_layout": str,
        "step": dict | None,
        **_DIALECT,
    },
}
_SIDES = {"image": 3, "table": 1, "series": 2}  # of an input
_MOST = 2**30  # numbers of an input
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_UNITS = {  # of the steps of a series, and what they may be ``on``
    "numbers": r"None",
    "microseconds": r"None",
    "days": r"None",
    "weekdays": r"(?=.*1)[01]{7}",
    "months": r"[1-9]|[12]\d|3[01]|last|first weekday|last weekday",
}


def require_consistent(facts: Facts, preprocessing: Mapping[str, Any]) -> None:
    """Raise :class:`ValueError` or :class:`OverflowError` where no data have these facts, or none are read like this.

    ``preprocessing`` may be empty, for data sets that store nothing.
    """
    faults = chain(_of_facts(facts), _of_preprocessing(facts, preprocessing) if preprocessing else ())
    if fault := next(faults, ""):
        raise ValueError(fault)


def _of_facts(facts: Facts) -> Iterator[str]:
    for name in (facts.name, facts.target_name, *facts.class_names, *facts.feature_names):
        name.encode()  # what is no text can be written to no file; the error is a ValueError
    for name, kinds in (("task", get_args(Task)), ("kind", get_args(Kind))):
        if getattr(facts, name) not in kinds:
            yield f"facts.{name} must be one of {', '.join(kinds)}"
    sides = facts.input_shape
    if not all(side >= 1 for side in sides) or len(sides) != _SIDES[facts.kind] or math.prod(sides) > _MOST:
        yield f"facts.input_shape must be {_SIDES[facts.kind]} numbers of at least 1"
    if not 1 <= facts.num_outputs <= _MOST:
        yield "facts.num_outputs must be at least 1"
    if facts.task == "classification" and len(facts.class_names) not in (0, facts.num_outputs):
        yield "facts.class_names must be as many as facts.num_outputs"
    if not all(map(math.isfinite, (facts.target_mean, facts.target_std))) or facts.target_std <= 0:
        yield "facts.target_mean and facts.target_std must be finite"


def _of_preprocessing(facts: Facts, stored: Mapping[str, Any]) -> Iterator[str]:
    if fault := mismatch(stored, _PREPROCESSING[facts.kind]):
        yield f"preprocessing: {fault}"
    if facts.kind == "image":
        yield from _of_images(facts, stored)
        return
    yield from _of_dialect(stored)
    yield from (_of_series if facts.kind == "series" else _of_table)(facts, stored)


def _of_images(facts: Facts, stored: Mapping[str, Any]) -> Iterator[str]:
    if "mean" in stored:
        yield from _of_scaling(stored["mean"], stored.get("std", []), facts.input_shape[0])
    if not 1 <= stored.get("levels", 255) <= 255:
        yield "preprocessing.levels must be from 1 to 255"
    if stored.get("white", 1) <= 0 or not math.isfinite(stored.get("white", 1)):
        yield "preprocessing.white must be above 0"
    if not _COLOUR.fullmatch(stored.get("background") or "#ffffff"):
        yield "preprocessing.background must be a colour, #rrggbb"


def _of_table(facts: Facts, stored: Mapping[str, Any]) -> Iterator[str]:
    from dltrain.data.tables.encoder import TableEncoder  # here, so that images need no table reader

    columns = stored["numeric"].values()
    means, stds = ([column[name] for column in columns] for name in ("mean", "std"))
    yield from _of_scaling(means, stds, len(columns))
    if len(TableEncoder.of(stored).feature_names) != facts.input_shape[0]:
        yield "preprocessing has other columns than facts.input_shape"


def _of_series(facts: Facts, stored: Mapping[str, Any]) -> Iterator[str]:
    from dltrain.data.tables.dates import COMPACT, LAYOUTS

    if len(stored["columns"]) != facts.input_shape[1] or len({*stored["columns"]}) != len(stored["columns"]):
        yield "preprocessing.columns must be those of facts.input_shape"
    yield from _of_scaling(stored["mean"], stored["std"], len(stored["columns"]))
    if stored.get("time_layout", "") not in ("", *LAYOUTS, *COMPACT):
        yield "preprocessing.time_layout is no notation of times"
    if stored.get("step") is not None:
        yield from _of_step(stored["step"])


def _of_step(step: Mapping[str, Any]) -> Iterator[str]:
    if fault := mismatch(step, _STEP):
        yield f"preprocessing.step: {fault}"
    if not math.isfinite(step["count"]):
        yield "preprocessing.step must be finite"
    if not re.fullmatch(_UNITS.get(step["unit"], "(?!)"), str(step.get("on"))) or step["count"] <= 0:
        yield "preprocessing.step is no step of times"


def _of_scaling(mean: Sequence[float], std: Sequence[float], count: int) -> Iterator[str]:
    if len(mean) != count or len(std) != count:
        yield f"preprocessing.mean and preprocessing.std must be {count} numbers each"
    if not all(map(math.isfinite, [*mean, *std])) or not all(value >= 0 for value in std):
        yield "preprocessing.mean and preprocessing.std must be finite"


def _of_dialect(stored: Mapping[str, Any]) -> Iterator[str]:
    from dltrain.data.tables.dialect import Dialect, dialect_of

    written = asdict(Dialect.of(stored))
    del written["width"]
    try:
        dialect_of(**written)
    except ConfigError as error:
        yield f"preprocessing: {error.problems[0]}"
