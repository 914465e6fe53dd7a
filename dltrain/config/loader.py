"""Hydra's loader of configurations, for dltrain's own files, and for sweeps of which not every job has every key."""

import contextlib
import os
from collections.abc import Sequence

from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from dltrain.config.hydra_internals import ConfigLoaderImpl, create_automatic_config_search_path, get_overrides_dirname
from dltrain.config.overrides import chooses
from dltrain.errors import UserError

UNAPPLIED = (HydraException, OmegaConfBaseException, ValueError)  # of an override that a configuration does not take


class Loader(ConfigLoaderImpl):
    """Composes a sweep as a whole of what fits it as a whole; a key may be one of options that are yet to be chosen.

    Whether each job can take it, the check of the jobs has to say.
    """

    @classmethod
    def of(cls, folder: str | os.PathLike[str] | None) -> "Loader":
        """What composes of dltrain's own files and those in ``folder``."""
        path = create_automatic_config_search_path(None, None, "pkg://dltrain.conf")
        if folder is not None:
            if not os.path.isdir(folder):
                raise UserError(f"--config-dir={folder}: there is no such folder")
            files = f"file://{os.path.abspath(folder)}"
            path.prepend("command-line", files, SearchPathQuery(provider="schema", path=None))
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
        values = [
            one
            for one in parsed
            if not (one.is_hydra_override() or one.is_sweep_override() or chooses(one, repository))
        ]
        others = [one.input_line or "" for one in parsed if one not in values]
        config = super().load_configuration(config_name, others, run_mode, from_shell, validate_sweep_overrides)
        for one in values:
            with contextlib.suppress(*UNAPPLIED):
                self._apply_overrides_to_config([one], config)
        note_overrides(config, [one for one in parsed if not one.is_hydra_override()])
        return config


def note_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Have the configuration say, as Hydra has it, which overrides it was composed with."""
    with open_dict(config.hydra):
        config.hydra.overrides.task = [one.input_line for one in overrides]
        how = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            list(overrides), kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
        )
