"""The configuration of each job of a sweep. Imports no torch."""

import contextlib
import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dltrain.config import check
from dltrain.config.overrides import chooses
from dltrain.config.translate import is_composition_error, translated, unadded, unapplied
from dltrain.errors import ConfigError

_UNAPPLIED = (HydraException, OmegaConfBaseException, ValueError)


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
            return self._composed(overrides)
        except Exception as error:
            if not is_composition_error(error):
                raise
            raise ConfigError(translated(error)) from error

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        parsed = self._parser.parse_overrides(list(overrides))
        repository = self.loader.repository  # type: ignore[attr-defined]  # of Hydra's only loader
        options = tuple(text for text, one in zip(overrides, parsed, strict=True) if chooses(one, repository))
        if options not in self._bases:
            self._bases[options] = self.loader.load_sweep_config(self.master, list(options))
        config = copy.deepcopy(self._bases[options])
        unknown = [one for one in parsed if one.input_line not in options and not _apply(one, config)]
        _note_overrides(config, parsed)
        OmegaConf.copy_cache(from_config=self.master, to_config=config)
        check(config)
        if unknown:
            raise ConfigError([unadded(one) for one in unknown])
        return config


def _apply(override: Override, config: DictConfig) -> bool:
    """Apply it; false where the key was not there and had to be added, for the check to say whose it is not."""
    try:
        ConfigLoaderImpl._apply_overrides_to_config([override], config)
    except _UNAPPLIED as error:
        if override.is_delete() or "Could not override" not in str(error):
            raise ConfigError([unapplied(override, error, config)]) from error
        with open_dict(config):
            OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
        return False
    return True


def _note_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """What Hydra notes of a configuration: which overrides it was composed with."""
    with open_dict(config.hydra):
        config.hydra.overrides.task = [one.input_line for one in overrides]
        how = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            list(overrides), kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
        )


class SweepLoader(ConfigLoaderImpl):
    """Composes a sweep as a whole of what fits it as a whole; a key may be one of options that are yet to be chosen.

    Whether each job can take it, the check of the jobs has to say.
    """

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
        values = [
            one
            for one in parsed
            if not (one.is_hydra_override() or one.is_sweep_override() or chooses(one, repository))
        ]
        others = [one.input_line or "" for one in parsed if one not in values]
        config = super().load_configuration(config_name, others, run_mode, from_shell, validate_sweep_overrides)
        for one in values:
            with contextlib.suppress(*_UNAPPLIED):
                self._apply_overrides_to_config([one], config)
        _note_overrides(config, [one for one in parsed if not one.is_hydra_override()])
        return config
