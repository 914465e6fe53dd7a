"""The command line of a run, a sweep or a check: Hydra's flags, the overrides, and what is wrong with either.

Values of Python are written as overrides, in the grammar that reads them back as the same values.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from dltrain.config.hydra_internals import CachingConfigRepository, get_args_parser
from dltrain.config.rules import shown
from dltrain.config.targets import PLACES, SEVERAL
from dltrain.errors import ConfigError, UserError, did_you_mean, quoted

_SWEEP_FLAGS = ("-m", "--multirun")


class Flags(argparse.Namespace):
    """What :func:`parse_flags` returns.

    ``words`` are the flags of one run with their values, as they were typed; ``overrides`` are all other words.
    """

    words: list[str]
    overrides: list[str]
    multirun: bool
    run: bool
    config_dir: str | None
    config_name: str | None
    config_path: str | None
    cfg: str | None
    info: str | None
    package: str | None
    resolve: bool
    help: bool
    hydra_help: bool
    shell_completion: bool
    experimental_rerun: str | None

    @property
    def shows(self) -> bool:
        """Whether Hydra is to print something, and nothing is to run."""
        return bool(self.help or self.hydra_help or self.cfg or self.info or self.shell_completion)

    @property
    def sweeps(self) -> bool:
        return bool(self.multirun or "hydra.mode=MULTIRUN" in self.overrides)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; dltrain --hydra-help shows the flags")


def parser() -> argparse.ArgumentParser:
    """Return Hydra's parser, whose errors are raised instead of printed below a screen of flags."""
    flags = get_args_parser()
    flags.__class__ = _Parser
    return flags


def parser_for_help() -> argparse.ArgumentParser:
    """Return :func:`parser` with ``dltrain`` as the command, whatever file has started this process."""
    flags = parser()
    for action in flags._actions:
        if action.dest == "shell_completion":
            action.help = re.sub(r"[^\s(][^(\n]* -sc ", "dltrain -sc ", str(action.help))
    return flags


def parse_flags(arguments: Sequence[str]) -> Flags:
    """Split ``arguments`` into flags and overrides, in any order.

    Raises:
        UserError: a flag that there is not, or flags that exclude each other.
    """
    if odd := [word for word in arguments if re.search("[\ud800-\udfff]", word)]:
        raise UserError(f"{odd[0]!a} is no UTF-8 text, which a configuration must be: rename what it names")
    flags, unknown = parser().parse_known_intermixed_args(list(arguments), Flags())
    for word in unknown:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0].replace("-", "_")
            raise UserError(f"there is no flag {word}; a key is written without dashes, {name}=... (dltrain --help)")
        raise UserError(f"'{word}' comes after a flag: write flags such as -m first, then all keys")
    _require_one_mode(flags)
    flags.words = [word for word in arguments if word not in _SWEEP_FLAGS]
    for override in flags.overrides:
        flags.words.remove(override)
    return flags


def _require_one_mode(flags: Flags) -> None:
    if flags.config_path is not None:
        raise UserError("--config-path would hide dltrain's files: --config-dir adds a folder of yours to them")
    if flags.resolve and not flags.cfg and not flags.help:
        raise UserError("--resolve goes with --cfg: dltrain --cfg job --resolve")
    if flags.experimental_rerun:
        raise UserError("--experimental-rerun is not for dltrain: repeat a run with the command in its result.json")
    modes = {
        "--multirun": flags.multirun,
        "--run": flags.run,
        "--cfg": flags.cfg,
        "--info": flags.info,
        "--shell-completion": flags.shell_completion,
    }
    if len(chosen := [name for name, given in modes.items() if given]) > 1:
        raise UserError(f"{' and '.join(chosen)} exclude each other: use one of them")


GROUPS = (*PLACES, "trainer", "experiment")
_SEVERAL = (*SEVERAL, "experiment")


def chooses(override: Override, repository: CachingConfigRepository) -> bool:
    """Whether the override chooses an option of a group, and does not give a key its value."""
    return bool(repository.group_exists(override.key_or_group)) and not isinstance(override.value(), dict)


def problem_of(override: Override, repository: CachingConfigRepository) -> str:
    """Return what is wrong with the override, or an empty string."""
    return (_wrong_choice if chooses(override, repository) else _wrong_key)(override, repository)


def _wrong_key(override: Override, repository: CachingConfigRepository) -> str:
    name = override.key_or_group
    if "/" in name or override.package is not None:
        known = repository.get_group_options("", ObjectType.GROUP)
        known += [f"hydra/{group}" for group in repository.get_group_options("hydra", ObjectType.GROUP)]
        return f"there is no group {name}{did_you_mean(name, known) or '; the groups are ' + ', '.join(GROUPS)}"
    if name == "data" or name.startswith("data."):
        return "the data set fills this in: leave it out"
    return ""


def _wrong_choice(override: Override, repository: CachingConfigRepository) -> str:
    name, value = override.key_or_group, override.value()
    options = repository.get_group_options(name, ObjectType.CONFIG)
    if override.package is not None:
        return f"a group is chosen by its name alone: {name}={value}"
    if override.is_delete():
        return f"a run needs an option of {name}: {', '.join(options)}" if name in GROUPS else ""
    if override.is_sweep_override() and not override.is_discrete_sweep():
        return f"an option of {name} is no number: choose among {', '.join(options)}"
    chosen: list[Any] = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [value]
    if isinstance(value, list):
        if name not in _SEVERAL and "/" not in name:
            return f"one option of {name} is chosen at a time: {', '.join(options)}"
        chosen = value
    if not chosen:
        return f"this names none of the options {', '.join(options)}"
    for option in chosen:
        if not isinstance(option, str) or not repository.config_exists(f"{name}/{option}"):
            hint = did_you_mean(str(option), options)
            listed = f"{' The' if hint else '; the'} options are {', '.join(options)}"
            return (
                f"{name} has no option {option if isinstance(option, str) and option else shown(option)}{hint}{listed}"
            )
    if (override.is_add() and (name in GROUPS or "/" in name)) or override.is_force_add():
        return f"a group is chosen without the plus sign: {name}={value}"
    return ""


def unknown_of_hydra(override: Override, cfg: DictConfig) -> str:
    """Return the problem of a key that Hydra's configuration does not have, or an empty string."""
    node: Any = cfg
    parts = override.key_or_group.split(".")
    for number, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            break
        if part not in node.keys():  # noqa: SIM118  # a key without a value is "not in" the node itself
            outer = ".".join(parts[:number])
            keys = [str(key) for key in node]
            near = did_you_mean(part, keys).replace("'", f"'{outer}.", 1) or f"; its keys are {', '.join(keys)}"
            return f"{override.input_line} (command line): {outer} has no key {part}{near}"
        node = node._get_node(part)
    return ""


_PLAIN_KEY = re.compile(r"[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)
_READ_OTHERWISE = ("null", "true", "false", "nan", "inf")


def overrides_of_values(values: Mapping[str, Any]) -> list[str]:
    """``key=value`` for each of the ``values``; text stays text, whatever it looks like.

    Raises:
        ConfigError: what no configuration can hold, all of it.
    """
    texts, problems = [], []
    for key, value in values.items():
        try:
            texts.append(f"{key}={_written(value)}")
        except TypeError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(problems)
    return texts


def _written(value: Any) -> str:
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", None):
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(int(value) if isinstance(value, int) else float(value))
    if isinstance(value, str | os.PathLike):
        return quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_written_key(key)}:{_written(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    hint = ": write it as a list, .tolist()" if hasattr(value, "tolist") else ""
    kinds = "None, a boolean, a number, a text, a path, or a list or dictionary of these"
    raise TypeError(f"a value is {kinds}, not {type(value).__module__}.{type(value).__qualname__}{hint}")


def _written_key(key: Any) -> str:
    """The grammar has no quotes around the keys of a dictionary."""
    if isinstance(key, int) and not isinstance(key, bool):
        return repr(key)
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key) and key.lower() not in _READ_OTHERWISE:
        return key
    raise TypeError(f"a key of a dictionary is a whole number or a name such as class_1, not {key!r}: use a YAML file")
