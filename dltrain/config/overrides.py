"""What is wrong with an override by itself: an unknown group, option, or key of Hydra's."""

from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from dltrain.config.hydra_internals import CachingConfigRepository
from dltrain.config.rules import shown
from dltrain.config.targets import PLACES, SEVERAL
from dltrain.errors import did_you_mean

GROUPS = (*PLACES, "trainer", "experiment")
_SEVERAL = (*SEVERAL, "experiment")


def chooses(override: Override, repository: CachingConfigRepository) -> bool:
    """Whether the override chooses an option of a group, and does not give a key its value."""
    return bool(repository.group_exists(override.key_or_group)) and not isinstance(override.value(), dict)


def wrong(override: Override, repository: CachingConfigRepository) -> str:
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
