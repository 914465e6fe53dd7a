"""A sweep from its start to its end: its folder, its sweeper, and its result. Imports no torch."""

import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dltrain.config import sweeps
from dltrain.config.compose import Composer
from dltrain.config.session import context_of
from dltrain.runs.folder import locked_sweep_folder
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


class Combinations(Sweeper):
    """Passes jobs to the launcher ``max_batch_size`` at a time; the launcher composes them.

    Hydra's sweeper composes every job beforehand, raises at the first that is wrong, and keeps the last of several
    dictionaries of a key, where a single run takes all.
    """

    config: DictConfig
    context: HydraContext

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None):
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra passes."""
        self.config = config
        self.context = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[Any]]:
        """Launch every combination; returns the launcher's answers to each batch."""
        texts = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        batches = self.batches(OverridesParser.create(self.context.config_loader).parse_overrides(texts))
        OmegaConf.save(self.config, Path(self.config.hydra.sweep.dir) / "multirun.yaml")
        answers = []
        begun = 0
        for batch in batches:
            answers.append(self.launcher.launch(batch, initial_job_idx=begun))
            for answer in answers[-1]:
                _ = answer.return_value  # raises what has ended a job of another launcher
            begun += len(batch)
        return answers

    def batches(self, overrides: list[Any]) -> list[list[list[str]]]:
        """The jobs, each a list of overrides, in batches."""
        jobs = [list(job) for job in itertools.product(*sweeps.choices(overrides))]
        size = self.max_batch_size or max(len(jobs), 1)
        return [jobs[start : start + size] for start in range(0, max(len(jobs), 1), size)]
