"""``dltrain check`` inside Hydra: called where a run or a sweep would start, it looks instead, and ends the process."""

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dltrain import config
from dltrain.errors import ConfigError, UserError


class Rehearsal(Callback):
    """Hydra calls it before it makes a folder; the process ends here, with the exit code of what was found."""

    def on_run_start(self, config: DictConfig, **keywords: Any) -> None:
        """Check the configuration and what it would cost to train."""
        self._end_with(lambda: _check_run(config))

    def on_multirun_start(self, config: DictConfig, **keywords: Any) -> None:
        """Check the configuration of every job of a sweep, and list them."""
        self._end_with(lambda: _check_sweep(config, keywords["config_name"]))

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


def _check_sweep(cfg: DictConfig, config_name: str) -> None:
    sweeper = str(cfg.hydra.sweeper._target_)
    if not sweeper.endswith(".BasicSweeper"):
        raise UserError(f"check -m lists the jobs that commas make; {sweeper} chooses its jobs as it goes")
    jobs = _jobs([*(f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()), *_task(cfg)])
    hydra_overrides = OmegaConf.to_container(cfg.hydra.overrides.hydra)
    assert isinstance(hydra_overrides, list)
    problems = []
    for number, job in enumerate(jobs):
        try:
            composed = compose(config_name, [*job, *hydra_overrides], return_hydra_config=True)
            config.check(_without_hydra(composed))
        except (UserError, HydraException, OmegaConfBaseException) as error:
            problems.append(f"job {number} ({' '.join(job)}): {error}")
    if problems:
        raise ConfigError(problems)
    from dltrain.commands.jobs import list_jobs

    list_jobs(jobs)


def _task(cfg: DictConfig) -> list[str]:
    return [str(override) for override in cfg.hydra.overrides.task]


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper makes and orders them."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    # A key that is given twice has the last word, in its first place.
    choices = {override.get_key_element(): _choices(override) for override in parsed}
    return [list(job) for job in itertools.product(*choices.values())]


def _choices(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: a sweep takes values with commas, or range(...), not an interval")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _without_hydra(cfg: DictConfig) -> DictConfig:
    """The configuration of the run itself, with ``${hydra:...}`` answered as it would be."""
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg
