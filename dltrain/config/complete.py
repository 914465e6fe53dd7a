"""The ``config.yaml`` of a run, which can be run again: ``--config-dir RUN --config-name config``."""

import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from dltrain.config.flags import Flags
from dltrain.config.targets import near_path
from dltrain.config.yaml_lines import file_problems
from dltrain.errors import ConfigError, UserError

COMPLETE = "dltrain_complete"  # the name under which Hydra is given a file that a run left


def config_name(flags: Flags) -> str:
    """Return the primary file that ``flags`` name, dltrain's by default, by its name in Hydra.

    ``--config-dir RUN --config-name config`` names the file that a run left, resolved and complete, and without a list
    of options to choose others from. Hydra is given it with such a list, in its store: see :func:`_with_options`.

    Raises:
        UserError: a file of the user's has the name of dltrain's.
        ConfigError: the file that is named cannot be read.
    """
    name = flags.config_name or "config"
    file = Path(flags.config_dir or "", name.removesuffix(".yaml") + ".yaml")
    if flags.config_dir is None or flags.config_name is None or not os.path.isfile(file):
        return name
    if problems := file_problems(file):
        raise ConfigError(text.replace(str(file), near_path(file), 1) for text in problems)
    content = OmegaConf.load(file)
    assert isinstance(content, DictConfig)  # else there was a problem
    if "defaults" not in content:
        ConfigStore.instance().store(COMPLETE, _with_options(content, flags.overrides), provider=str(file))
        return COMPLETE
    if file.name == "config.yaml":
        raise UserError(f"'{file}' has the name of dltrain's file, which hides it: give it another name")
    return name


def complete_file() -> Path | None:
    """Return the file that was stored as :data:`COMPLETE`, if any was."""
    stored = ConfigStore.instance().repo.get(f"{COMPLETE}.yaml")
    return Path(stored.provider) if stored else None


def _with_options(content: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Add dltrain's list of options to ``content``, the configuration of a run, which needs none of them.

    Options that ``overrides`` choose, and those that such an option picks in turn, take the place of the whole node.
    Keys that a run of an earlier version lacks have their defaults.
    """
    primary: Any = OmegaConf.create(files("dltrain.conf").joinpath("config.yaml").read_text(encoding="utf-8"))
    listed: list[Any] = [dict(entry) if isinstance(entry, DictConfig) else entry for entry in primary.defaults]
    groups = {name for entry in listed if isinstance(entry, dict) for name in entry if "/" not in name}
    needless = groups - {"trainer", *({"pruner"} - content.keys())}
    primary.defaults = [dict.fromkeys(needless.intersection(entry)) or entry for entry in listed]
    words = [text.partition("=") for text in overrides]
    chosen = {name for group, _, value in words if group in groups for name in _picked(group, value)}
    merged = OmegaConf.merge(
        primary, {name: node for name, node in content.items_ex(resolve=False) if name not in chosen}
    )
    assert isinstance(merged, DictConfig)
    return merged


def _picked(group: str, value: str) -> Iterator[str]:
    """Yield the groups of which ``group=value`` chooses an option, directly or through other options."""
    if value.startswith("{"):  # keys, and no option
        return
    yield group
    for option in value.strip("[]").split(","):
        file = files("dltrain.conf").joinpath(group, f"{option.strip()}.yaml")
        if file.is_file():
            content: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
            for entry in content.get("defaults", ()):
                for name, picked in entry.items() if isinstance(entry, dict) else ():
                    yield from _picked(name.removeprefix("override /").partition("@")[0], str(picked))
