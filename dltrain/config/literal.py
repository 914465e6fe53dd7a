"""Text that is data: class names and names of files stand in a configuration, but what they hold is never resolved."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from dltrain import yaml_text

_OPENING = re.compile(r"(\\*)\$\{")
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")


def escaped(value: Any) -> Any:
    """``value``, of plain types, so that OmegaConf resolves each text in it to what the text is now."""
    if isinstance(value, str):
        return _OPENING.sub(r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list | tuple) else value


def without_escaped(text: str) -> str:
    """``text`` without what only looks as if it were to be resolved."""
    return _ESCAPED.sub(" ", text)


def of_yaml(text: str, resolved: bool = False) -> DictConfig:
    """The configuration in a checkpoint; that of a run's config.yaml is ``resolved``: its texts are no more than texts.

    Raises:
        yaml.YAMLError: it is no YAML, or refused.
        ValueError: it is another thing than keys and values.
    """
    read = yaml_text.load(text, get_yaml_loader())  # as OmegaConf reads text, without a look at what is in it
    if not isinstance(read, dict):
        raise ValueError("it has no keys")
    return OmegaConf.create(escaped(read) if resolved else read)
