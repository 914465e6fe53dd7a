"""Hydra's command line taken apart, and put together so that a run's own ``config.yaml`` can be run again."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dltrain.config.flags import parser
from dltrain.errors import UserError

_SWEEP = ("-m", "--multirun")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides; each in the order given, wherever they stand."""
    overrides = parser().parse_known_intermixed_args(list(arguments))[0].overrides
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags, overrides


def without_sweep(flags: Sequence[str]) -> list[str]:
    """The flags of one job of a sweep, run alone."""
    return [flag for flag in flags if flag not in _SWEEP]


def for_hydra(arguments: Sequence[str], extra: Sequence[str] = ()) -> list[str]:
    """``arguments`` as Hydra takes them: flags first, then overrides, ``extra`` ones behind.

    ``--config-dir RUN --config-name config`` names the file that a run left, resolved and complete. Hydra would find
    dltrain's own config.yaml first, so the folder becomes the primary one, and what dltrain's file sets for Hydra
    itself is added, since a run's file has none of it.

    Raises:
        UserError: a flag is wrong, or a file of the user's own has the name of dltrain's.
    """
    flags, overrides = split(arguments)
    if parser().parse_known_args(flags)[0].config_path is not None:
        raise UserError("--config-path would hide dltrain's own files: --config-dir adds a folder of yours to them")
    file = _named_file(flags)
    if file is None:
        return [*flags, *overrides, *extra]
    if "defaults" in OmegaConf.load(file):
        if file.name == "config.yaml":
            raise UserError(f"'{file}' has the name of dltrain's own file, which hides it: give it another name")
        return [*flags, *overrides, *extra]
    settings = [f"hydra.searchpath=[{json.dumps('pkg://dltrain.conf')}]", *_hydra_settings()]
    return [*flags, "--config-path", str(file.parent.resolve()), *settings, *overrides, *extra]


def _named_file(flags: Sequence[str]) -> Path | None:
    """The file that ``--config-dir`` and ``--config-name`` name together, where there is one."""
    named = parser().parse_known_args(list(flags))[0]
    if named.config_dir is None or named.config_name is None:
        return None
    file = Path(named.config_dir, named.config_name.removesuffix(".yaml") + ".yaml")
    return file if os.path.isfile(file) else None


def _hydra_settings() -> Iterator[str]:
    """What dltrain's config.yaml sets for Hydra itself, as overrides."""
    own: Any = OmegaConf.create(files("dltrain.conf").joinpath("config.yaml").read_text(encoding="utf-8"))
    defaults: Any = OmegaConf.to_container(own.defaults)
    for entry in defaults:
        for group, option in entry.items() if isinstance(entry, dict) else ():
            if group.startswith("override hydra/"):
                yield f"{group.removeprefix('override ')}={option}"
    yield from _flat("hydra", OmegaConf.to_container(own.hydra))


def _flat(prefix: str, content: Any) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(f"{prefix}.{key}", value)
    else:
        yield f"++{prefix}={json.dumps(content)}"
