"""A sweep from its start to its end: its folder, its sweeper, and what won. Imports no torch."""

from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from dltrain.config.compose import Composer
from dltrain.config.session import context_of
from dltrain.runs.folder import locked_sweep_folder
from dltrain.sweep.launcher import register
from dltrain.sweep.ledger import is_sweep
from dltrain.sweep.result import finish_sweep
from dltrain.system.answer import on_terminal, print_json
from dltrain.trained.launch.job import SweepTask


def run_sweep(composer: Composer, cfg: DictConfig, command: str) -> bool:
    """Run the jobs of the sweep ``cfg`` and say what won; returns whether all of them are done.

    ``command`` is what was typed.

    Raises:
        UserError: the folder cannot be the sweep's, or what else its sweeper and its launcher say.
    """
    register(composer, command)
    context = context_of(cfg, composer.loader)
    name, folder = cfg.hydra.job.config_name, Path(str(cfg.hydra.sweep.dir)).absolute()
    context.callbacks.on_multirun_start(config=cfg, config_name=name)
    # Our launchers look where each job would write; where they do not, no job that is done may be on another disk.
    with locked_sweep_folder(folder, job_links=_has_our_launcher(cfg)):
        sweeper = Plugins.instance().instantiate_sweeper(
            config=cfg, hydra_context=context, task_function=SweepTask(tuple(composer.flags.words))
        )
        typed: Any = OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)
        sweeper.sweep(typed)
        is_done = _finish(cfg, folder)
    context.callbacks.on_multirun_end(config=cfg, config_name=name)
    return is_done


def _finish(cfg: DictConfig, folder: Path) -> bool:
    # Another launcher than ours keeps no ledger, and a search that finds its trials done starts none.
    if _has_our_launcher(cfg) or is_sweep(folder):
        return finish_sweep(folder)
    if not on_terminal():
        print_json({"status": "done", "sweep": str(folder)})
    return True


def _has_our_launcher(cfg: DictConfig) -> bool:
    return str(cfg.hydra.launcher._target_).startswith("hydra_plugins.dltrain.")
