"""What a configuration takes from Hydra's, as ``${hydra:runtime.cwd}``: in the check, and in a run that goes on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import setup_globals
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from dltrain.config.literal import escaped
from dltrain.config.rules import LATER

_TAKEN = re.compile(r"\$\{hydra:[^${}]*\}")


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
        elif isinstance(text := inner._value(), str) and _TAKEN.search(text):
            node[key] = _written_out(text)


def _written_out(text: str) -> Any:
    def value(taken: str) -> Any:
        return OmegaConf.create({"value": taken}).value

    if _TAKEN.fullmatch(text):  # a number stays one
        return escaped(value(text))
    return _TAKEN.sub(lambda taken: str(escaped(str(value(taken[0])))), text)
