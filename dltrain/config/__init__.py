"""The closed part of the configuration: which keys there are, and what they may hold. Imports no torch.

Nodes with a ``_target_`` are open: their keys are the arguments of that class or function (see :mod:`~.nodes`).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from dltrain.config.hydra_section import check_hydra, check_names
from dltrain.config.interpolation import answered_by
from dltrain.config.limits import CLOSED
from dltrain.config.nodes import check_nodes
from dltrain.config.relations import check_files
from dltrain.config.rules import LATER, Problem, Where, complaint, distinct, shown
from dltrain.config.targets import PLACES, stated_of, trust_at
from dltrain.errors import ConfigError, did_you_mean
from dltrain.report.metrics import declare

Config: TypeAlias = DictConfig
_OPEN = (*PLACES, "data")
_FACTS = (
    *("name", "task", "kind", "input_shape", "num_outputs", "class_names", "samples", "files"),
    *("steps_per_epoch", "schedule_length"),
)
_WORD = 2**63


def check(cfg: DictConfig, where: Where = lambda key: "", reads_data: bool = True) -> None:
    """Raise :class:`ConfigError` with every problem of the composed configuration that shows without the data.

    ``where`` says of a key which file and line, or the command line, its value comes from. Without ``reads_data`` the
    files of the data set need not be there.
    """
    if wrong := problems(cfg, reads_data):
        raise ConfigError(problem.sentence(where(problem.key)) for problem in wrong)


def require_files(cfg: DictConfig) -> None:
    """Raise :class:`ConfigError` where the files of the data set are not there."""
    if missing := list(check_files(cfg.dataset, stated_of(cfg.dataset._target_, trust_at(cfg, "dataset")))):
        raise ConfigError(problem.sentence() for problem in missing)


def problems(cfg: DictConfig, reads_data: bool = True) -> list[Problem]:
    """Every problem, the first of each key."""
    hydra, trust = OmegaConf.select(cfg, "hydra"), partial(trust_at, cfg)
    job = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])  # type: ignore[misc]  # it takes any
    with answered_by(hydra):
        values, unresolved = _plain(job)
        names = list(check_names(cfg))
    declare(values.get("metric"))
    raw = OmegaConf.to_container(job, resolve=False)
    wrong = [
        *_oversized(values, ""),
        *(
            Problem(key, f"has no default: add {key}=... to the command")
            for key, value in _items(raw)
            if value == "???"
        ),
        *unresolved,
        *_unknown(values, "", [key for key, _ in _items(values)]),
        *_unknown_facts(values.get("data", {})),
        *_closed_values(values),
        *check_nodes(values, trust),
    ]
    if reads_data and isinstance(dataset := values.get("dataset"), dict):
        wrong += check_files(dataset, stated_of(dataset.get("_target_"), trust("dataset")))
    if hydra is not None:
        known = {*HydraConf.__dataclass_fields__, "env"}  # "env" is made by the group hydra/env
        unknown = [str(key) for key in hydra if key not in known]
        wrong += [Problem(f"hydra.{key}", f"hydra has no key {key}{did_you_mean(key, known)}") for key in unknown]
        plain = OmegaConf.to_container(cfg, resolve=False)
        wrong += (*names, *check_hydra(plain), *_oversized(OmegaConf.to_container(hydra, resolve=False), "hydra"))
    return [_decoded(problem, raw) for problem in distinct(wrong)]


def _decoded(problem: Problem, raw: Any) -> Problem:
    """The problem, with what to write where a number is taken from the environment, which holds text."""
    for part in problem.key.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
    from_environment = isinstance(raw, str) and re.fullmatch(r"\$\{oc\.env:[^${}]*\}", raw)
    # Where there is no such variable, the value is still the reference.
    if not from_environment or not isinstance(problem.value, str) or problem.value == raw:
        return problem
    hint = f'; what comes from the environment is text: write "${{oc.decode:{raw}}}" for a number, a list, true or null'
    return replace(problem, text=problem.text + hint)


def _plain(cfg: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration in plain types, without missing values, and the interpolations that name nothing.

    A value that refers to the facts of the data is ``LATER``: masked here, so that it shows through any number of
    interpolations.
    """
    if isinstance(cfg.get("data"), DictConfig):
        cfg.data = dict.fromkeys(cfg.data, LATER)
    unresolved: list[Problem] = []

    def resolved(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            items = ((name, resolved(item, f"{key}.{name}" if key else str(name))) for name, item in value.items())
            return {name: item for name, item in items if item != "???"}
        if isinstance(value, list):
            return [resolved(item, f"{key}[{number}]") for number, item in enumerate(value)]
        if not (isinstance(value, str) and "${" in value):
            return value
        try:
            result = OmegaConf.select(cfg, key)
            result = OmegaConf.to_container(result, resolve=True) if OmegaConf.is_config(result) else result
        except OmegaConfBaseException as error:
            # A resolver may fail on what stands in for the facts of the data; a fact that does not exist is a typo.
            if "data." not in value or isinstance(error, InterpolationKeyError):
                unresolved.append(Problem(key, _unresolved(error, cfg), value))
            return LATER
        return LATER if isinstance(result, str) and LATER in result else result

    values = resolved(OmegaConf.to_container(cfg, resolve=False), "")
    return values, unresolved


def _unresolved(error: OmegaConfBaseException, cfg: DictConfig) -> str:
    text = str(error).splitlines()[0]
    if not isinstance(error, InterpolationKeyError):
        text = text.partition("raised while resolving interpolation: ")[2] or text
        if variable := re.search(r"Environment variable '(.+)' not found", text):
            return f"there is no environment variable {variable[1]}: set it, or write ${{oc.env:{variable[1]},VALUE}}"
        if "Recursive interpolation" in text:
            return "refers to itself: give it a value"
        if kind := re.match(r"Unsupported interpolation type (\S+)", text):
            return f"there is no ${{{kind[1]}:...}}: refer to a key, ${{optim.lr}}, or a variable, ${{oc.env:NAME}}"
        return text
    wanted = text.split("'")[1] if text.count("'") >= 2 else text
    keys = [key for key, _ in _items(OmegaConf.to_container(cfg))]
    return f"there is no key {wanted} to refer to{did_you_mean(wanted, keys)}"


def _items(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of nested mappings, as ``optim.lr``, with its value."""
    for name, value in values.items() if isinstance(values, dict) else ():
        yield f"{prefix}{name}", value
        yield from _items(value, f"{prefix}{name}.")


def _oversized(value: Any, key: str) -> Iterator[Problem]:
    """Whole numbers beyond 64 bits, which torch and numpy refuse with less clear messages."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _oversized(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, int) and not -_WORD <= value < _WORD:
        yield Problem(key, f"is too large: a whole number goes to {_WORD - 1}", value)


def _unknown(values: Mapping[str, Any], prefix: str, everything: Collection[str]) -> Iterator[Problem]:
    known = {key.removeprefix(prefix).split(".")[0] for key in CLOSED if key.startswith(prefix)}
    known |= {*_OPEN, "experiment"} if not prefix else set()
    for name, value in values.items():
        full = prefix + str(name)
        if name not in known and (text := _misplaced(str(name), prefix, value)):
            yield Problem(full, text, value)
        elif name not in known:
            here = f"{prefix.removesuffix('.')} has no key {name}" if prefix else f"dltrain has no key or group {name}"
            yield Problem(full, here + _nearest(str(name), prefix, known, everything), value)
        elif full not in _OPEN and full not in CLOSED:
            if isinstance(value, dict):
                yield from _unknown(value, f"{full}.", everything)
            else:
                inner = sorted(key for key in CLOSED if key.startswith(f"{full}."))
                yield Problem(full, f"holds further keys: give one of {', '.join(inner)} a value", value)


def _unknown_facts(data: Any) -> Iterator[Problem]:
    """Keys of ``data`` that no data set fills in; the values of the others may be an earlier run's."""
    if not isinstance(data, dict):
        yield Problem("data", "the data set fills this in: leave it out", data)
        return
    for name in data:
        if name not in _FACTS:
            yield Problem(f"data.{name}", "the data set fills in data, which has no such key: leave it out")


def _misplaced(name: str, prefix: str, value: Any) -> str:
    """What is wrong with the form of a YAML file that has such a key."""
    if prefix == "experiment.":
        return f"would be experiment.{name}: begin the file with the line # @package _global_"
    outer, _, inner = name.rpartition(".")
    return f"a file has no dots in its keys: write {outer}: {{{inner}: {shown(value)}}}" if outer else ""


def _nearest(name: str, prefix: str, known: Collection[str], everything: Collection[str]) -> str:
    """The closest key here, or the key of this name elsewhere: ``lr`` is ``optim.lr``."""
    elsewhere = [key for key in everything if key.endswith(f".{name}") and key != prefix + name and key[:5] != "data."]
    if near := did_you_mean(name, known):
        return near.replace("'", f"'{prefix}", 1)
    if elsewhere:
        return f"; did you mean '{elsewhere[0]}'?"
    return f"; the keys here are {', '.join(sorted(known))}"


def _closed_values(values: Mapping[str, Any]) -> Iterator[Problem]:
    missing: list[str] = []
    for key, rule in CLOSED.items():
        outer, _, name = key.rpartition(".")
        parent: Any = values
        for part in outer.split(".") if outer else ():
            parent = parent.get(part, {}) if isinstance(parent, dict) else None
        if not isinstance(parent, dict):
            continue
        if name not in parent:
            missing.append(key)
        elif text := complaint(parent[name], rule):
            yield Problem(key, text, parent[name])
    if len(missing) > 2 and all(key.startswith("trainer.") for key in missing):
        names = ", ".join(key.removeprefix("trainer.") for key in missing)
        yield Problem("trainer", f"lacks {names}: begin its file with defaults: [default, _self_]")
        return
    for key in missing:
        yield Problem(key, f"is missing: it must be {CLOSED[key]}")
