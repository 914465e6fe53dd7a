"""A sweep from its start to its end: its folder, its sweeper, and its result. Imports no torch."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from dltrain.config.compose import Composer
from dltrain.config.session import context_of
from dltrain.runs.folder import locked_sweep_folder
from dltrain.sweep.combinations import Combinations
from dltrain.sweep.launcher import Jobs
from dltrain.sweep.ledger import is_sweep
from dltrain.sweep.result import finish_sweep
from dltrain.sweep.search import Search
from dltrain.system.answer import on_terminal, print_json
from dltrain.trained.launch.job import SweepTask


def run_sweep(composer: Composer, cfg: DictConfig, command: str) -> bool:
    """Run the jobs of the sweep ``cfg`` and show the result; returns whether all of them are done.

    ``command`` is what was typed.

    Raises:
        UserError: the folder cannot be the sweep's, or its sweeper or its launcher has a problem.
    """
    _register(composer, command)
    context = context_of(cfg, composer.loader)
    name, folder = cfg.hydra.job.config_name, Path(str(cfg.hydra.sweep.dir)).absolute()
    context.callbacks.on_multirun_start(config=cfg, config_name=name)
    # dltrain's launchers look where each job would write; with others no job that is done may be on another disk.
    with locked_sweep_folder(folder, job_links=_keeps_ledger(cfg)):
        sweeper = Plugins.instance().instantiate_sweeper(
            config=cfg, hydra_context=context, task_function=SweepTask(tuple(composer.flags.words))
        )
        typed: Any = OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)
        sweeper.sweep(typed)
        is_done = _finish(cfg, folder)
    context.callbacks.on_multirun_end(config=cfg, config_name=name)
    return is_done


def _finish(cfg: DictConfig, folder: Path) -> bool:
    # Other launchers than dltrain's keep no ledger, and a search whose trials are done starts none.
    if _keeps_ledger(cfg) or is_sweep(folder):
        return finish_sweep(folder)
    if not on_terminal():
        print_json({"status": "done", "sweep": str(folder)})
    return True


def _keeps_ledger(cfg: DictConfig) -> bool:
    return str(cfg.hydra.launcher._target_).startswith("hydra_plugins.dltrain.")


def _register(composer: Composer, command: str) -> None:
    """Make dltrain's plugins known to Hydra, which takes them from the package ``hydra_plugins`` only."""
    try:
        package = importlib.import_module("hydra_plugins")  # there if another plugin is installed
    except ImportError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    module = sys.modules["hydra_plugins.dltrain"] = ModuleType("hydra_plugins.dltrain")
    vars(package)["dltrain"] = module
    for plugin in (Jobs, Combinations, Search):
        vars(module)[plugin.__name__] = plugin
        plugin.__module__ = module.__name__
        Plugins.instance().register(plugin)
    Jobs.composer, Jobs.command = composer, command
