"""Errors of Hydra, OmegaConf and YAML in dltrain's words: what to type, and never ``+key=`` for a typo."""

import re
import sys
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import hydra.conf
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from dltrain.config.origins import COMPLETE, file_problems, hidden_header
from dltrain.config.targets import near_path
from dltrain.errors import ConfigError, did_you_mean
from dltrain.system.yaml_text import DEEPEST, TOO_DEEP

# Lines of Hydra's messages that help with Hydra, not with dltrain.
_NOISE = re.compile(
    r"^(To append|See http|\s*(full_key|object_type|reference_type)|Config search path|\tprovider)", re.M
)

# What OmegaConf and Hydra say in terms of their classes, and what it means.
_MEANINGS = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"In '[^']+': \w+ raised while composing config: ", ""),
        (r"field '([\w.]+)' is not Optional", r"\1 cannot be null: give it a value, or leave it out"),
        (r"Invalid type assigned: \w+ is not a subclass of \w+\. value: .*", "it holds further keys: give one a value"),
        (r"Cannot convert '(?:list|dict)' to string: .*", "it must be text"),
        (r"Cannot merge DictConfig with ListConfig", "it has keys where a list belongs"),
        (r"Missing mandatory value: ([\w.]+)", r"\1 has no value: add \1=... to the command"),
        (
            r"No config source registered for schema (\w+), supported types : .*",
            r"hydra.searchpath takes folders, and packages as pkg://NAME, but no \1://",
        ),
    )
)

_KEY = re.compile(r"[+~]{0,2}[a-z_][\w/@:-]*(\.[\w/@:\[\]-]+)*", re.ASCII | re.IGNORECASE)
_FUNCTIONS = {  # of the grammar, with an example each
    "choice": "choice(a,b)",
    "range": "range(1,10)",
    "interval": "interval(0.001,0.1)",
    "glob": "glob(*)",
    "sort": "sort(3,1,2)",
    "shuffle": "shuffle(1,2,3)",
    "tag": "tag(name,choice(a,b))",
    "extend_list": "extend_list(a,b)",
    "int": "int(1.0)",
    "float": "float(1)",
    "str": "str(1)",
    "bool": "bool(1)",
    "json_str": "json_str({a:1})",
}
_LISTS = (
    *("logger", "metric", "channels", "hidden_sizes", "milestones", "betas", "categorical", "ignore", "columns"),
    "image_size",
)


def is_composition_error(error: BaseException) -> bool:
    """Whether Hydra, OmegaConf or YAML could not make a configuration of what the user wrote."""
    kinds = (HydraException, OmegaConfBaseException, YAMLError)
    return isinstance(error, kinds) and not isinstance(error, InstantiationException)


def explained(error: BaseException) -> BaseException:
    """Return ``error``, or in the place of Hydra's error of a configuration one in dltrain's words."""
    return ConfigError(translated(error)) if is_composition_error(error) else error


def translated(error: BaseException) -> list[str]:
    """Return sentences for an error of :func:`is_composition_error`, or of a file that cannot be read."""
    marked = _chain(error, MarkedYAMLError)
    if isinstance(marked, MarkedYAMLError) and marked.problem_mark:
        path = Path(marked.problem_mark.name)
        if path.is_file() and (texts := file_problems(path)):
            return [text.replace(str(path), near_path(path), 1) for text in texts]
    if isinstance(error, MissingConfigException):
        return [_missing_file(error)]
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    return [_plain(str(cause or error)) or type(error).__name__]


def _chain(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    current: BaseException | None = error
    while current is not None and not isinstance(current, kind):
        current = current.__cause__ or current.__context__
    return current


def _plain(text: str) -> str:
    if "integer string conversion" in text:
        return f"a number has more than {sys.get_int_max_str_digits():,} digits"
    text = text.replace(f"In '{COMPLETE}': ", "")  # which the user never named
    text = " ".join(line.strip() for line in text.splitlines() if line.strip() and not _NOISE.match(line))
    for pattern, meaning in _MEANINGS:
        text = pattern.sub(meaning, text)
    return text


def _missing_file(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or ())
    near = did_you_mean(option, options) or (f"; the options are {', '.join(options)}" if options else "")
    return f"{group} has no option {option}{near}" if group else f"there is no file {option}.yaml{near}"


def in_file(path: Path, error: BaseException, groups: Collection[str]) -> list[str]:
    """Return what is wrong with the file of an option that cannot be composed."""
    name, text = near_path(path), str(error)
    word, problem = _wrong_entry(error, text, groups)
    if problem:
        return [f"{name}{_line_of(word, path)}: {problem}"]
    if re.search(r"Could not override '[^'@]+@experiment\.", text):
        header = "line 1: begin the file with the line # @package _global_"
        return [f"{name}, {hidden_header(path) or header}"]
    if isinstance(error, KeyError):  # from the only variables that Hydra takes while it composes
        return [f"{name}: hydra.job.env_copy: there is no environment variable {error.args[0]}"]
    if texts := file_problems(path):
        return [text.replace(str(path), name, 1) for text in texts]
    return translated(error) if _chain(error, MarkedYAMLError) else [f"{name}: {translated(error)[0]}"]


def _wrong_entry(error: BaseException, text: str, groups: Collection[str]) -> tuple[str, str]:
    """Return the word of a file that Hydra refuses, and what is wrong with it; empty strings for other errors."""
    if isinstance(error, MissingConfigException):
        return str(error.missing_cfg_file).rpartition("/")[2], _missing_file(error)
    if match := re.search(r"Multiple values for ([\w/]+)\. To override", text):
        return match[1], f"the primary file has an option of {match[1]} already: write - override /{match[1]}: OPTION"
    if match := re.search(r"Key '(\w+)' not in '(\w+)'", text):
        known = getattr(getattr(hydra.conf, match[2], None), "__dataclass_fields__", {})
        near = did_you_mean(match[1], known) or f"; there are {', '.join(known)}"
        return match[1], f"there is no key {match[1]} here{near}"
    if (match := re.search(r"Could not override '\w+/(\w+)[^']*'\. No match", text)) and match[1] in groups:
        return match[1], f"write it with a slash, - override /{match[1]}: OPTION"
    if match := re.search(r"Could not override '([^'@]++)(?!@experiment\.)[^']*'\. No match", text):
        return match[1], f"there is no group {match[1]} to override{did_you_mean(match[1], groups)}"
    return "", ""


def _line_of(word: str, path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    numbers = (number for number, line in enumerate(lines, 1) if re.search(rf"\b{re.escape(word)}\b", line))
    return f", line {number}" if (number := next(numbers, 0)) else ""


def spaced(texts: Sequence[str]) -> str:
    """Return the problem of ``trainer.epochs = 3``, which the shell splits into three words."""
    for number, text in enumerate(texts):
        if text == "=" and 0 < number < len(texts) - 1:
            key, value = texts[number - 1], texts[number + 1]
            return f"'{key} = {value}' (command line): write it without spaces, {key}={value}"
    return ""


def too_deep(text: str) -> str:
    """Return the problem of an override with too many nested brackets, or an empty string."""
    deepest = max(accumulate((mark in "[{(") - (mark in ")}]") for mark in text), default=0)
    return f"'{text[:40]}...' (command line): {TOO_DEEP}" if deepest > DEEPEST else ""


def grammar(text: str) -> str:
    """Return the problem of a word that is no override."""
    key, equals, value = text.partition("=")
    if not equals:
        return f"'{text}' (command line): a key takes a value: {text}=..."
    if not _KEY.fullmatch(key):
        return f"'{text}' (command line): it must be key=value, for example trainer.epochs=5"
    if value.startswith("="):
        return f"'{text}' (command line): one = is enough: {key}={value.lstrip('=')}"
    if value.count("[") != value.count("]") or value.count("{") != value.count("}"):
        return f"'{text}' (command line): a bracket is not closed or not opened"
    if value.startswith("(") and value.endswith(")"):
        return f"'{text}' (command line): a list stands in square brackets: {key}=[{value[1:-1]}]"
    if (function := value.partition("(")[0]) in _FUNCTIONS and value.endswith(")"):
        return f"'{text}' (command line): this is written {key}={_FUNCTIONS[function]}"
    quoted = value.replace("'", "").replace('"', "")
    return f"'{text}' (command line): this value needs quotes, inside those of the shell: '{key}=\"{quoted}\"'"


def unswept(override: Override) -> str:
    """Return the problem of several values without ``-m``."""
    line = override.input_line or ""
    name, _, value = line.partition("=")
    takes_list = "," in value and name.rpartition(".")[2] in _LISTS
    as_list = f"; for one run with a list of them, {name}=[{value}]" if takes_list else ""
    return f"{line} (command line): these are several values: for a run with each of them, dltrain -m {line}{as_list}"


def unadded(override: Override) -> str:
    """Return the problem of a key that the target takes, but that its file does not have."""
    outer, _, inner = override.key_or_group.rpartition(".")
    line = (override.input_line or "").lstrip("+")
    why = f"{outer} takes the key {inner}, but its file has none"
    return f"{line} (command line): {why}: write it with a plus sign, +{line}"


def unapplied(override: Override, error: BaseException, cfg: DictConfig) -> str:
    """Return the problem of an override that the configuration does not take."""
    line = f"{override.input_line} (command line)"
    name = override.key_or_group
    if override.is_delete():
        return f"{line}: {_not_deleted(override, cfg)}"
    if override.is_add() and "An item is already at" in str(error):
        return f"{line}: {name} is there already: write it without the plus sign"
    text = translated(error)[0]
    if override.is_hydra_override() and re.search(r"to Dict\[|with ListConfig|is not Optional", text):
        return f"{line}: this holds keys: {name}.KEY=VALUE"
    return f"{line}: {text}"


def _not_deleted(override: Override, cfg: DictConfig) -> str:
    """Return why Hydra does not delete a key: it is not there, has no value or a different value, or must stay."""
    name = override.key_or_group
    outer, _, inner = name.rpartition(".")
    node: Any = OmegaConf.select(cfg, outer, throw_on_resolution_failure=False) if outer else cfg
    keys = list(map(str, node)) if isinstance(node, DictConfig) else []
    if inner not in keys:
        return f"there is no {name} to take out{did_you_mean(inner, keys)}"
    value = node._get_node(inner)._value()
    if value is None:
        return f"{name} is null, which is as good as taken out: leave this out"
    if isinstance(value, str) and ("${" in value or value == "???"):
        when = "" if value == "???" else " before the data are loaded"
        return f"{name} has no value{when}: give it a value instead, {name}=..."
    if "=" in str(override.input_line):
        return f"{name} has another value: write ~{name} to take it out whatever it is"
    return f"{name} is always there: give it another value instead, {name}=..."
