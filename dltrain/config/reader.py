"""Hydra's readers of configuration files, which look at each file before they make values of it."""

import contextlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any

import yaml
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from dltrain.config import hydra_internals
from dltrain.system import yaml_text

OMEGACONF: Any = get_yaml_loader()


def _fast_loader() -> Any:
    """:data:`OMEGACONF` on the parser of libyaml, ten times as fast, where PyYAML was built with it."""
    if not yaml.__with_libyaml__:
        return OMEGACONF

    class Loader(yaml.cyaml.CParser, OMEGACONF):  # type: ignore[misc]
        def __init__(self, stream: Any):
            yaml.cyaml.CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


_FAST = _fast_loader()


class FileConfigSource(hydra_internals.FileConfigSource):
    """Takes the place of Hydra's, by whose name it goes."""

    def load_config(self, config_path: str) -> ConfigResult:
        return _read(self, Path(self.path), config_path) or super().load_config(config_path)


class ImportlibResourcesConfigSource(hydra_internals.ImportlibResourcesConfigSource):
    """Takes the place of Hydra's, by whose name it goes."""

    def load_config(self, config_path: str) -> ConfigResult:
        return _read(self, files(self.path), config_path) or super().load_config(config_path)


def _read(source: ConfigSource, folder: Traversable, config_path: str) -> ConfigResult | None:
    """The file of a configuration, ``None`` where it is not there."""
    path = folder.joinpath(source._normalize_file_name(config_path))
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        header = source._get_header_dict(file.read(512))
        content = OmegaConf.create(load(file))
    return ConfigResult(source.provider, f"{source.scheme()}://{source.path}", content, header)


def load(file: IO[str]) -> Any:
    """What a file holds, in plain types, as OmegaConf reads it; an empty mapping where it holds nothing.

    Raises:
        yaml.YAMLError: it is no YAML, or refused.
    """
    file.seek(0)
    text = file.read()
    if "\t" not in text:  # libyaml takes tabs where PyYAML does not
        with contextlib.suppress(yaml.YAMLError):
            return _or_empty(yaml_text.load(text, _FAST))
    file.seek(0)
    yaml_text.require_plain(file, OMEGACONF)  # PyYAML's errors name the file and the line
    file.seek(0)
    return _or_empty(yaml.load(file, OMEGACONF))


def _or_empty(content: Any) -> Any:
    return {} if content is None else content
