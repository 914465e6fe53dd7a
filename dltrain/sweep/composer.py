"""The configuration of each job of a sweep. Imports no torch."""

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from dltrain.config import check
from dltrain.config.overrides import chooses
from dltrain.config.translate import is_composition_error, translated
from dltrain.errors import ConfigError


class Composer:
    """Composes as Hydra does, but reads the files of the same options once: a sweep has few of these and many jobs.

    ``master`` is the configuration of the sweep.
    """

    def __init__(self, context: HydraContext, master: DictConfig):
        self.loader = context.config_loader
        self.master = master
        self._parser = OverridesParser.create(self.loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of the job with these overrides.

        Raises:
            ConfigError: it cannot be composed, or is wrong.
        """
        try:
            config = self._composed(overrides)
        except Exception as error:
            if not is_composition_error(error):
                raise
            raise ConfigError(translated(error)) from error
        check(config)
        return config

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        parsed = self._parser.parse_overrides(list(overrides))
        repository = self.loader.repository  # type: ignore[attr-defined]  # of Hydra's only loader
        options = tuple(text for text, one in zip(overrides, parsed, strict=True) if chooses(one, repository))
        if options not in self._bases:
            self._bases[options] = self.loader.load_sweep_config(self.master, list(options))
        config = copy.deepcopy(self._bases[options])
        values = [one for one in parsed if one.input_line not in options]
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        with open_dict(config.hydra):
            config.hydra.overrides.task = list(overrides)
            how = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                parsed, kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
            )
        OmegaConf.copy_cache(from_config=self.master, to_config=config)
        return config
