"""What Hydra would make for its launcher, sweeper, callbacks and logging: only a few classes, known by their names."""

import codecs
import importlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dltrain.config.rules import Problem
from dltrain.errors import did_you_mean
from dltrain.system.files import flat

_FOLDERS = {  # of Hydra's, with an example each
    "hydra.run.dir": "my_run",
    "hydra.sweep.dir": "my_sweep",
    "hydra.sweep.subdir": "'${hydra.job.num}'",
}
_NAMES = {"hydra.job.name": "my_log", "hydra.output_subdir": ".hydra"}  # in the run folder, with an example each
_FILLED_IN = ("hydra.job.id", "hydra.job.num")  # by Hydra, once a job runs
NAMELESS = "UNKNOWN_NAME"  # what Hydra puts in the place of hydra.job.name=???
_CALLBACKS = tuple(f"hydra.experimental.callbacks.{name}" for name in ("LogJobReturnCallback", "PickleJobInfoCallback"))
_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")  # Hydra makes those alone that have registered there
_FILES = tuple(f"logging.handlers.{name}FileHandler" for name in ("Rotating", "TimedRotating", "Watched"))
_HANDLERS = (
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", *_FILES),
    *("dltrain.system.log.StderrHandler", "dltrain.system.log.QuietFileHandler"),
)
_LOGS = (".log", ".txt", ".jsonl")
_RUN_FOLDER = re.compile(r"\$\{hydra[.:]runtime\.output_dir\}/(?:[^/${}]|\$\{hydra[.:]job\.name\})+")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_TEXTS = ("hydra.", "hydra:", "oc.env:", "now:", "dltrain_unique:")  # whose values do not begin with ext://
_KEY = r"[\w.\[\]]+"
# Interpolations that give text, or the node of another key; any other resolver could make a class of what it is given.
_PLAIN = re.compile(
    rf"\$\{{(?:{_KEY}|(?:oc\.env|hydra|now|dltrain_unique):[^${{}}]*|oc\.decode:\$\{{oc\.env:[^${{}}]*\}})\}}"
)
_REFERENCE = re.compile(rf"\$\{{(?:(hydra):)?({_KEY})\}}")


def check_hydra(cfg: Any) -> Iterator[Problem]:
    """Yield the problems of the key ``hydra`` of a configuration in plain types, in which nothing is resolved."""
    hydra = cfg["hydra"]
    yield from _check_job(hydra)
    for name, check in (
        ("callbacks", _check_callbacks),
        ("launcher", _check_plugin),
        ("sweeper", _check_plugin),
        ("job_logging", _check_logging),
        ("hydra_logging", _check_logging),
    ):
        key = f"hydra.{name}"
        node = _followed(hydra.get(name), cfg, ())
        problems = [*_check_texts(key, node), *check(key, node)]
        yield from {problem.key: problem for problem in reversed(problems)}.values()  # the first of each key


def check_names(cfg: Any) -> Iterator[Problem]:
    """Check the resolved names of what Hydra writes into the run folder: a slash or dots would lead out of it."""
    for key, example in _NAMES.items():
        name = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)  # Hydra itself ends where it cannot
        if name is not None and (name in ("", ".", "..") or "/" in name):
            yield Problem(key, f"must be a name within the run folder, without a slash: write {key}={example}", name)


def _check_job(hydra: Mapping[str, Any]) -> Iterator[Problem]:
    verbose = hydra.get("verbose", False)
    is_list = isinstance(verbose, list) and all(isinstance(name, str) for name in verbose)
    if not (is_list or isinstance(verbose, bool | str)):
        text = "must be true or false, or the name of a logger, or a list of such names"
        yield Problem("hydra.verbose", text, verbose)
    for key, example in _FOLDERS.items():
        _, outer, name = key.split(".")
        value = hydra.get(outer, {}).get(name)
        if value in ("", "???"):  # a variable of the shell that is not set
            yield Problem(key, f"{'names no folder' if value else 'is empty'}: write {key}={example}", value)
    job = hydra.get("job", {})
    for name, value in flat({"hydra": {"job": job, "output_subdir": hydra.get("output_subdir")}}).items():
        if value in ("???", NAMELESS) and name not in _FILLED_IN:
            yield Problem(name, f"has no default: add {name}=... to the command")
    names = job.get("env_copy") or ()
    if names == "???":
        return
    if absent := [name for name in names if isinstance(name, str) and "${" not in name and name not in os.environ]:
        text = f"there is no environment variable {', '.join(absent)}: set it, or leave it out"
        yield Problem("hydra.job.env_copy", text, names)


def _followed(value: Any, cfg: Mapping[str, Any], seen: Sequence[str]) -> Any:
    """Replace references to other keys by what is written there, at any depth."""
    if isinstance(value, dict):
        return {key: _followed(item, cfg, seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_followed(item, cfg, seen) for item in value]
    reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference is None or value in seen:
        return value
    node: Any = cfg
    for part in re.split(r"[.\[\]]+", f"{'hydra.' if reference[1] else ''}{reference[2]}".rstrip("]")):
        node = _followed(node, cfg, (*seen, value)) if isinstance(node, str) else node
        index = int(part) if isinstance(node, list) and part.isdecimal() else part
        try:
            node = node[index]
        except (LookupError, TypeError):  # a number as a key, or a key that is known to Hydra alone later
            return value
    return _followed(node, cfg, (*seen, value))


def _items(node: Any) -> Iterable[tuple[Any, Any]]:
    """Return what a node holds, with its key or index."""
    return node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()


def _check_texts(key: str, value: Any) -> Iterator[Problem]:
    """Refuse values that a resolver would compute, at any depth."""
    for name, item in _items(value):
        yield from _check_texts(f"{key}.{name}", item)
    if isinstance(value, str) and "${" in _PLAIN.sub("", value):
        yield Problem(key, "is worked out by a resolver, which could make a class of it: write the value", value)


def _check_callbacks(key: str, node: Any) -> Iterator[Problem]:
    if node is not None and not isinstance(node, dict):
        yield Problem(key, "must hold names, each with the _target_ of a callback", node)
        return
    for name, callback in (node or {}).items():
        if not isinstance(callback, dict) or "_target_" not in callback:
            yield Problem(f"{key}.{name}", f"must be a callback: {key}.{name}._target_={_CALLBACKS[0]}", callback)
            continue
        if callback["_target_"] not in _CALLBACKS:
            yield _refused(f"{key}.{name}._target_", callback["_target_"], _CALLBACKS)
        yield from _inner_targets(f"{key}.{name}", callback)


def _check_plugin(key: str, node: Any) -> Iterator[Problem]:
    kind = key.rpartition(".")[2]
    choose = f"choose an option, hydra/{kind}=...; dltrain list hydra/{kind} shows them"
    if not isinstance(node, dict):
        yield Problem(key, f"must hold keys: {choose}", node)
        return
    target = node.get("_target_", "???")
    if not str(target).startswith(_PLUGINS) and target != "???":
        yield Problem(f"{key}._target_", f"is refused: {choose}", target)
    yield from _inner_targets(key, node)


def _inner_targets(key: str, node: Any) -> Iterator[Problem]:
    """Refuse targets within a node, which Hydra would make too."""
    for name, value in _items(node):
        if isinstance(value, dict) and "_target_" in value:
            yield Problem(f"{key}.{name}._target_", "is refused: nothing is made within this node", value["_target_"])
        yield from _inner_targets(f"{key}.{name}", value)


def _refused(key: str, value: Any, allowed: Sequence[str]) -> Problem:
    near = did_you_mean(str(value), allowed)
    return Problem(key, f"is refused: what may stand here is {', '.join(allowed)}{near}", value)


def _check_logging(key: str, node: Any) -> Iterator[Problem]:
    """Check what :func:`logging.config.dictConfig` would make, and whether it could."""
    if not isinstance(node, dict):
        name = key.rpartition(".")[2]
        yield Problem(key, f"must hold keys: choose an option, hydra/{name}=dltrain", node)
        return
    if node.get("root", "") is None:  # then Hydra leaves logging as it is
        return
    if node.get("version") != 1:
        yield Problem(f"{key}.version", "must be 1", node.get("version"))
    if "root" not in node:
        yield Problem(f"{key}.root", f"is missing: add {key}.root.level=INFO, or {key}.root=null for none")
    groups = {name: node.get(name) or {} for name in ("formatters", "filters", "handlers", "loggers")}
    for name, group in groups.items():
        if not isinstance(group, dict) or not all(isinstance(each, dict) for each in group.values()):
            yield Problem(f"{key}.{name}", "must hold names, each with keys", group)
            return
    if not isinstance(node.get("root", {}), dict):
        yield Problem(f"{key}.root", "must hold keys", node["root"])
        return
    yield from _check_external(key, node)
    yield from _check_parts(key, node.get("root", {}), groups)


def _check_parts(key: str, root: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[Problem]:
    for name, each in groups["formatters"].items():
        yield from _check_formatter(f"{key}.formatters.{name}", each)
    for name, each in groups["filters"].items():
        if each.get("()", "logging.Filter") != "logging.Filter":
            yield _refused(f"{key}.filters.{name}.()", each["()"], ("logging.Filter",))
    for name, each in groups["handlers"].items():
        yield from _check_handler(f"{key}.handlers.{name}", each)
    users = [(f"handlers.{name}", each) for name, each in groups["handlers"].items()]
    users += [("root", root), *((f"loggers.{name}", each) for name, each in groups["loggers"].items())]
    for name, each in users:
        yield from _check_level(f"{key}.{name}", each)
        yield from _check_references(f"{key}.{name}", each, groups)


def _check_external(key: str, value: Any) -> Iterator[Problem]:
    """Refuse ``ext://``, which imports, ``cfg://``, which copies values, and ``.``, which sets attributes."""
    for name, item in _items(value):
        if name == ".":
            yield Problem(f"{key}.{name}", "is refused: give the class its arguments", item)
        yield from _check_external(f"{key}.{name}", item)
    if isinstance(value, str) and value not in _STREAMS and _may_import(value):
        yield Problem(key, f"is refused: what may stand here is {' or '.join(_STREAMS)}", value)


def _may_import(text: str) -> bool:
    """Whether a text is, or could be once it is resolved, a text with ``ext://`` in front."""
    start, opening, rest = text.partition("${")
    begins = opening and re.fullmatch(r"\w*:?/?/?", start) and not rest.startswith(_TEXTS)
    return bool(begins or re.match(r"\w+://", text))


def _check_level(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    level, names = node.get("level"), logging.getLevelNamesMapping()
    is_text = isinstance(level, str) and level not in names and "${" not in level
    if is_text or isinstance(level, bool | float | list | dict):
        yield Problem(f"{key}.level", f"must be one of {', '.join(names)}{did_you_mean(str(level), names)}", level)


def _check_references(key: str, node: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that the handlers, filters and formatters that are named exist."""
    formatter = node.get("formatter")
    if formatter and formatter not in groups["formatters"]:
        near = did_you_mean(str(formatter), groups["formatters"])
        yield Problem(f"{key}.formatter", f"there is no formatter of this name{near}", formatter)
    for kind in ("handlers", "filters"):
        named = node.get(kind) or []
        if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
            yield Problem(f"{key}.{kind}", f"must be a list of names of {kind}", named)
        elif absent := [each for each in named if each not in groups[kind]]:
            near = did_you_mean(absent[0], groups[kind])
            yield Problem(f"{key}.{kind}", f"there is no {kind.removesuffix('s')} {absent[0]}{near}", named)


def _check_formatter(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    for name in ("()", "class"):
        if node.get(name, "logging.Formatter") != "logging.Formatter":
            yield _refused(f"{key}.{name}", node[name], ("logging.Formatter",))
            return
    given = {"fmt" if name == "format" else name: value for name, value in node.items() if name not in ("()", "class")}
    if "${" in str(given):  # not known yet
        return
    try:
        logging.Formatter(**given)
    except (TypeError, ValueError, AttributeError) as error:
        yield Problem(key, f"logging.Formatter cannot be made of this: {error}", dict(node))


def _check_handler(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    kind = "()" if "()" in node else "class"
    if node.get(kind) not in _HANDLERS:
        yield _refused(f"{key}.{kind}", node.get(kind), _HANDLERS)
        return
    if "filename" in node and (problem := _unfit(node["filename"])):
        yield Problem(f"{key}.filename", problem, node["filename"])
        return
    module, _, class_name = node[kind].rpartition(".")
    made = getattr(importlib.import_module(module), class_name)
    settings = ("()", "class", "level", "formatter", "filters", ".")
    given = {name: value for name, value in node.items() if name not in settings}
    if any("${" in str(value) for name, value in given.items() if name != "filename"):  # not known yet
        return
    given |= {"delay": True} if issubclass(made, logging.FileHandler) else {}  # so that no file is opened
    given |= {"stream": None} if isinstance(given.get("stream"), str) else {}
    try:
        codecs.lookup(given.get("encoding") or "utf-8")
        made(**given).close()
    except (TypeError, ValueError, LookupError, AttributeError, OSError) as error:
        yield Problem(key, f"{node[kind]} cannot be made of this: {error}", dict(node))


def _unfit(filename: Any) -> str:
    """Return why a log may not be written to a file, if so: it must be in the run folder, or have the name of a log."""
    if isinstance(filename, str) and _RUN_FOLDER.fullmatch(filename):
        return ""
    if not isinstance(filename, str) or not filename.endswith(_LOGS):
        return f"is refused: a log lies in the run folder, ${{hydra.runtime.output_dir}}/NAME, or ends in {_LOGS[0]}"
    folder = Path(filename).parent
    return "" if "${" in str(folder) or folder.is_dir() else f"there is no folder {folder}"
