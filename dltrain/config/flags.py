"""The command line of a run, a sweep or a check, split into Hydra's flags and overrides."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from dltrain.config.hydra_internals import get_args_parser
from dltrain.errors import UserError

_SWEEP = ("-m", "--multirun")


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
    flags.words = [word for word in arguments if word not in _SWEEP]
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
