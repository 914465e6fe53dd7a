"""Hydra's flags on the command line."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from dltrain.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; dltrain --hydra-help shows the flags")


def parser() -> argparse.ArgumentParser:
    """Hydra's own, with errors that are raised instead of printed below a screen of flags."""
    found = get_args_parser()
    found.__class__ = _Parser
    return found


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags, and the overrides.

    Raises:
        UserError: a flag that there is not, or flags that exclude each other.
    """
    flags, unknown = parser().parse_known_args(list(arguments))
    for word in unknown:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0].replace("-", "_")
            raise UserError(f"there is no flag {word}; a key is written without dashes, {name}=... (dltrain --help)")
        raise UserError(f"'{word}' stands behind a flag: write flags such as -m first, then all keys")
    _require_one_mode(flags)
    return flags


def _require_one_mode(flags: argparse.Namespace) -> None:
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
