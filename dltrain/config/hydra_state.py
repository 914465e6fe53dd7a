"""What Hydra keeps for the whole process, which may be that of a program that uses Hydra itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.version import VersionBase
from omegaconf import OmegaConf

from dltrain.config.reader import FileConfigSource

_RESOLVERS = ("dltrain_unique", "hydra", "now", "python_version")  # ours, and those that Hydra itself adds


@contextmanager
def hydra_state_kept() -> Iterator[None]:
    """Within, Hydra is as in a process that has not used it; behind it is as it was."""
    Plugins.instance()  # imports them, once for the process, which puts their files into the store
    hydra, base, cfg = GlobalHydra.instance().hydra, VersionBase.instance().version_base, HydraConfig.instance().cfg
    stored, sources = ConfigStore.instance().repo, SourcesRegistry.instance().types
    absent = [name for name in _RESOLVERS if not OmegaConf.has_resolver(name)]
    GlobalHydra.instance().clear()
    ConfigStore.instance().repo = _copied(stored)
    SourcesRegistry.instance().types = {**sources, FileConfigSource.scheme(): FileConfigSource}
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra
        VersionBase.instance().version_base = base
        HydraConfig.instance().cfg = cfg
        ConfigStore.instance().repo = stored
        SourcesRegistry.instance().types = sources
        for name in absent:
            OmegaConf.clear_resolver(name)


def _copied(groups: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(node) if isinstance(node, dict) else node for name, node in groups.items()}
