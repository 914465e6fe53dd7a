"""Hydra's loader of configurations and its readers of files, as dltrain needs them.

The readers look at a file before they make values of it. The loader composes a sweep of which not every job has every
key.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any

import yaml
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from dltrain.config import hydra_internals
from dltrain.config.command_line import chooses
from dltrain.config.hydra_internals import ConfigLoaderImpl, create_automatic_config_search_path, get_overrides_dirname
from dltrain.errors import UserError
from dltrain.system import yaml_text

UNAPPLIED = (HydraException, OmegaConfBaseException, ValueError)  # of an override that a configuration does not take
OMEGACONF: Any = get_yaml_loader()


def _fast_loader() -> Any:
    """Put :data:`OMEGACONF` on libyaml's parser, ten times as fast, where PyYAML was built with it."""
    if not yaml.__with_libyaml__:
        return OMEGACONF

    class Loader(yaml.cyaml.CParser, OMEGACONF):  # type: ignore[misc]
        def __init__(self, stream: Any):
            yaml.cyaml.CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


_FAST = _fast_loader()
# What libyaml takes where PyYAML does not: tabs, byte order marks within, and a comment right after | or >.
_LENIENT = re.compile(r"[\t\ufeff]|[|>][-+\d]*#")


class FileConfigSource(hydra_internals.FileConfigSource):
    """Takes the place of Hydra's, by whose name it goes."""

    def load_config(self, config_path: str) -> ConfigResult:
        return _read(self, Path(self.path), config_path) or super().load_config(config_path)


class ImportlibResourcesConfigSource(hydra_internals.ImportlibResourcesConfigSource):
    """Takes the place of Hydra's, by whose name it goes."""

    def load_config(self, config_path: str) -> ConfigResult:
        return _read(self, files(self.path), config_path) or super().load_config(config_path)


def _read(source: ConfigSource, folder: Traversable, config_path: str) -> ConfigResult | None:
    """Read a configuration file; ``None`` where it does not exist."""
    path = folder.joinpath(source._normalize_file_name(config_path))
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        header = source._get_header_dict(file.read(512))
        content = OmegaConf.create(load(file))
    return ConfigResult(source.provider, f"{source.scheme()}://{source.path}", content, header)


def load(file: IO[str]) -> Any:
    """Return what a file holds, in plain types, as OmegaConf reads it; an empty mapping where it holds nothing.

    Raises:
        yaml.YAMLError: it is no YAML, or refused.
    """
    file.seek(0)
    text = file.read()
    if not _LENIENT.search(text):
        with contextlib.suppress(yaml.YAMLError):
            return _or_empty(yaml_text.load(text, _FAST))
    file.seek(0)
    yaml_text.require_plain(file, OMEGACONF)  # PyYAML's errors name the file and the line
    file.seek(0)
    return _or_empty(yaml.load(file, OMEGACONF))


def _or_empty(content: Any) -> Any:
    return {} if content is None else content


class Loader(ConfigLoaderImpl):
    """Composes a sweep as a whole of what fits it as a whole; a key may be one of options that are yet to be chosen.

    Whether each job takes it shows when the jobs are checked.
    """

    @classmethod
    def of(cls, folder: str | os.PathLike[str] | None) -> "Loader":
        """A loader of dltrain's files and of those in ``folder``."""
        path = create_automatic_config_search_path(None, None, "pkg://dltrain.conf")
        if folder is not None:
            if not os.path.isdir(folder):
                raise UserError(f"--config-dir={folder}: there is no such folder")
            source = f"file://{os.path.abspath(folder)}"
            path.prepend("command-line", source, SearchPathQuery(provider="schema", path=None))
        return cls(path)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        if run_mode != RunMode.MULTIRUN:
            return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        parsed, repository = self._parse_overrides_and_create_caching_repo(config_name, overrides)
        others = [
            override
            for override in parsed
            if override.is_hydra_override() or override.is_sweep_override() or chooses(override, repository)
        ]
        texts = [override.input_line or "" for override in others]
        config = super().load_configuration(config_name, texts, run_mode, from_shell, validate_sweep_overrides)
        for override in parsed:
            if override not in others:
                with contextlib.suppress(*UNAPPLIED):
                    self._apply_overrides_to_config([override], config)
        note_overrides(config, [override for override in parsed if not override.is_hydra_override()])
        return config


def note_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Note in Hydra's part of the configuration which overrides it was composed with."""
    with open_dict(config.hydra):
        config.hydra.overrides.task = [override.input_line for override in overrides]
        how = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            list(overrides), kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
        )
