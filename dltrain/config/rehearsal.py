"""``dltrain check`` inside Hydra: called where a run or a sweep would start, it looks instead, and ends the process."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from dltrain import config
from dltrain.config import sweeps
from dltrain.errors import UserError


class Rehearsal(Callback):
    """Hydra calls it before it makes a folder; the process ends here, with the exit code of what was found."""

    def on_run_start(self, config: DictConfig, **keywords: Any) -> None:
        """Check the configuration and what it would cost to train."""
        self._end_with(lambda: _check_run(config))

    def on_multirun_start(self, config: DictConfig, **keywords: Any) -> None:
        """List the jobs of a sweep."""
        self._end_with(lambda: _list_jobs(config))

    def _end_with(self, check: Callable[[], None]) -> None:
        from dltrain.cli import report_error

        try:
            check()
        except BaseException as error:
            sys.exit(report_error(error))
        sys.exit(0)


def _check_run(cfg: DictConfig) -> None:
    folder = Path(cfg.hydra.run.dir)
    cfg = _without_hydra(cfg)
    config.check(cfg)
    from dltrain.commands.check import check

    check(cfg, folder)


def _list_jobs(cfg: DictConfig) -> None:
    """The jobs of a sweep, which were checked before Hydra was called, as its sweeper makes and orders them."""
    if not sweeps.is_basic(cfg):
        raise UserError(
            f"check -m lists the jobs that commas make; {cfg.hydra.sweeper._target_} chooses them as it goes"
        )
    typed = [str(override) for override in cfg.hydra.overrides.task]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which glob(...) asks for options
    parsed = parser.parse_overrides([*sweeps.params(cfg), *typed])
    from dltrain.commands.jobs import list_jobs

    list_jobs(list(itertools.product(*sweeps.choices(parsed))), sweeps.TRIED)


def _without_hydra(cfg: DictConfig) -> DictConfig:
    """The configuration of the run itself, with ``${hydra:...}`` answered as it would be."""
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg
