"""Text that is data: class names and file names stand in a configuration, but are never resolved.

Nor is the configuration of a run once it is taken up again, but for references to its other keys: whoever wrote a
checkpoint would look into the environment of whoever reads it. What a configuration takes from Hydra's, as
``${hydra:runtime.cwd}``, is resolved in the check, and written out for a run that goes on.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import setup_globals
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import MissingMandatoryValue

from dltrain.config.rules import LATER
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


_OF_HYDRA = re.compile(r"\$\{hydra:[^${}]*\}")


@contextmanager
def answered_by(hydra: DictConfig | None) -> Iterator[None]:
    """Within, ``${hydra:...}`` resolves to values of this configuration, to ``LATER`` where only the run will know.

    Without a configuration it stays as it is: within a job Hydra answers itself.
    """
    if hydra is None:
        yield
        return

    def answer(path: str = "") -> Any:
        outer, _, name = path.rpartition(".")
        node = OmegaConf.select(hydra, outer) if outer else hydra
        if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118  # one without a value is there
            raise LookupError(f"Hydra has no key hydra.{path}")
        try:
            return OmegaConf.select(hydra, path, throw_on_missing=True)
        except MissingMandatoryValue:
            return LATER

    setup_globals()
    OmegaConf.register_new_resolver("hydra", answer, replace=True)
    try:
        yield
    finally:
        setup_globals()


def write_out(node: DictConfig | ListConfig) -> None:
    """Replace each ``${hydra:...}`` by its value: when the run is resumed there is no Hydra."""
    keys: Any = range(len(node)) if isinstance(node, ListConfig) else list(node.keys())
    for key in keys:
        inner: Any = node._get_node(key)
        if OmegaConf.is_config(inner) and not (inner._is_none() or inner._is_missing() or inner._is_interpolation()):
            write_out(inner)
        elif isinstance(text := inner._value(), str) and _OF_HYDRA.search(text):
            node[key] = _written_out(text)


def _written_out(text: str) -> Any:
    def value(taken: str) -> Any:
        return OmegaConf.create({"value": taken}).value

    if _OF_HYDRA.fullmatch(text):  # a number stays one
        return escaped(value(text))
    return _OF_HYDRA.sub(lambda taken: str(escaped(str(value(taken[0])))), text)
