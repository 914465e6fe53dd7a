"""Text that is data: class names and file names stand in a configuration, but are never resolved.

Nor is the configuration of a run once it is taken up again, but for references to its other keys: whoever wrote a
checkpoint would look into the environment of whoever reads it.
"""

import re
from typing import Any

from omegaconf import DictConfig
from omegaconf._utils import get_yaml_loader

from dltrain.system import yaml_text

_OPENING = re.compile(r"(\\*)\$\{")
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")
_REFERENCE = re.compile(r"\$\{[^${}:]+\}")  # to another key: the name of a resolver ends with a colon
_NOTHING = object()


def escaped(value: Any) -> Any:
    """Escape ``value``, of plain types, so that OmegaConf resolves each text in it to itself."""
    if isinstance(value, str):
        return _OPENING.sub(r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list | tuple) else value


def of_resolved(text: str) -> DictConfig:
    """Read the configuration in a run's config.yaml or checkpoint: it was resolved, so its texts are data.

    Raises:
        ValueError: it is none.
    """
    return DictConfig(escaped(_read(text)))


def of_composed(composed: str, resolved: str) -> DictConfig:
    """Return the configuration of a run as it was ``composed``, where only references to other keys are resolved anew.

    Values of all other interpolations are those of the same configuration as it was ``resolved``.

    Raises:
        ValueError: that has no such key, or a text is no configuration.
    """
    return DictConfig(_settled(_read(composed), _read(resolved), ""))


def _read(text: str) -> dict[Any, Any]:
    read = yaml_text.load(text, get_yaml_loader())  # as OmegaConf reads text, without a look at what is in it
    if not isinstance(read, dict):  # OmegaConf would read a text in there once more
        raise ValueError("it is no mapping of keys to values")
    return read


def _settled(node: Any, known: Any, key: str) -> Any:
    """Replace each text that a resolver would compute by what ``known`` has at the same place."""
    if isinstance(node, dict | list):
        there = dict(enumerate(known)) if isinstance(known, list) else known if isinstance(known, dict) else {}
        items = node.items() if isinstance(node, dict) else enumerate(node)
        settled = {name: _settled(item, there.get(name, _NOTHING), f"{key}.{name}") for name, item in items}
        return settled if isinstance(node, dict) else list(settled.values())
    if not isinstance(node, str) or not runs_resolver(node):
        return node
    if known is _NOTHING:
        raise ValueError(f"{key.removeprefix('.')}={node} was resolved, and what came of it is missing")
    return escaped(known)


def runs_resolver(text: str) -> bool:
    """Whether to resolve ``text`` would do more than look up other keys."""
    return "${" in _REFERENCE.sub(" ", _ESCAPED.sub(" ", text))
