"""Hydra around a command: its state in the process, what it prints, and how it runs a job."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import Any

from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from dltrain.config.command_line import Flags, parser_for_help
from dltrain.config.hydra_internals import Callbacks, ConfigLoaderImpl, Hydra, SourcesRegistry
from dltrain.config.hydra_section import NAMELESS
from dltrain.config.loader import FileConfigSource, ImportlibResourcesConfigSource
from dltrain.errors import UserError
from dltrain.system.answer import stdout

_RESOLVERS = ("dltrain_unique", "hydra", "now", "python_version")  # ours, and those that Hydra adds


@contextmanager
def hydra_session() -> Iterator[None]:
    """Within, Hydra is as dltrain needs it, whatever the process has used it for; after it Hydra is as it was.

    Classes of the working directory can be named as a ``_target_`` without installing them.
    """
    sys.path.insert(0, os.getcwd())
    Plugins.instance()  # imports them, once for the process, which puts their files into the store
    kept = [
        (GlobalHydra.instance(), "hydra"),
        (VersionBase.instance(), "version_base"),
        (HydraConfig.instance(), "cfg"),
        (ConfigStore.instance(), "repo"),
        (SourcesRegistry.instance(), "types"),
        (JobRuntime.instance(), "conf"),
    ]
    before = [getattr(singleton, name) for singleton, name in kept]
    absent = [name for name in _RESOLVERS if not OmegaConf.has_resolver(name)]
    try:
        _set_up()
        yield
    finally:
        for (singleton, name), value in zip(kept, before, strict=True):
            setattr(singleton, name, value)
        for name in absent:
            OmegaConf.clear_resolver(name)


def _copied(groups: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(node) if isinstance(node, dict) else node for name, node in groups.items()}


def _set_up() -> None:
    GlobalHydra.instance().clear()
    JobRuntime.instance().conf = OmegaConf.create({"name": NAMELESS})
    readers = {reader.scheme(): reader for reader in (FileConfigSource, ImportlibResourcesConfigSource)}
    SourcesRegistry.instance().types = {**SourcesRegistry.instance().types, **readers}
    version.setbase(None)
    setup_globals()
    # Two runs never share a folder, however close they start. Cached: a sweep has the same value throughout.
    OmegaConf.register_new_resolver("dltrain_unique", lambda: token_hex(4), use_cache=True, replace=True)
    # Hydra would check the keys of a launcher that dltrain has a file for against the plugin's of the same name.
    ConfigStore.instance().repo = repo = _copied(ConfigStore.instance().repo)
    for file in files("dltrain.conf").joinpath("hydra/launcher").iterdir():
        repo.get("hydra", {}).get("launcher", {}).pop(file.name, None)


def show(flags: Flags, name: str, loader: ConfigLoaderImpl) -> None:
    """Print Hydra's answer to ``--cfg``, ``--info``, ``--hydra-help``, or to a shell that completes.

    ``name`` is that of the primary file.
    """
    hydra = Hydra("dltrain", loader)
    with contextlib.redirect_stdout(stdout()):
        if flags.hydra_help:
            hydra.hydra_help(name, parser_for_help(), flags)
        elif flags.shell_completion:
            hydra.shell_completion(name, flags.overrides)
        elif flags.info:
            hydra.show_info(flags.info, name, flags.overrides)
        else:
            try:
                hydra.show_cfg(name, flags.overrides, flags.cfg or "", flags.package, flags.resolve)
            except SystemExit as leave:
                message = f"--package={flags.package}: dltrain --cfg {flags.cfg} shows what there is"
                raise UserError(message) from leave


def context_of(cfg: DictConfig, loader: ConfigLoaderImpl) -> HydraContext:
    """Set up Hydra's log; returns what its launchers and :func:`run_as_job` need beside the configuration."""
    hydra = Hydra("dltrain", loader)
    GlobalHydra.instance().initialize(hydra)
    configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
    if cfg.hydra.verbose:  # Hydra tells what it composes of as it composes, so once more
        typed: Any = OmegaConf.to_container(cfg.hydra.overrides, resolve=False)
        texts = [*typed["hydra"], *typed["task"]]
        hydra.compose_config(cfg.hydra.job.config_name, texts, cfg.hydra.mode, with_log_configuration=True)
    return HydraContext(config_loader=loader, callbacks=Callbacks(cfg))


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return the configuration without Hydra's, in which ``${hydra:...}`` resolves as it would in the run."""
    HydraConfig.instance().set_config(cfg)
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def is_of_sweep(cfg: DictConfig) -> bool:
    return bool(cfg.hydra.mode == RunMode.MULTIRUN)


@contextmanager
def _answered_by(cfg: DictConfig) -> Iterator[None]:
    """Within, ``${hydra:...}`` resolves to values of ``cfg``."""
    hydra: Any = HydraConfig.instance()
    before = hydra.cfg
    hydra.cfg = cfg  # HydraConfig.set_config() would copy it
    try:
        yield
    finally:
        hydra.cfg = before


def output_folder(cfg: DictConfig) -> Path:
    """Return the folder that Hydra will choose for a run or a job of a sweep."""
    with _answered_by(cfg):
        places = (cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir) if is_of_sweep(cfg) else (cfg.hydra.run.dir,)
        return Path(*map(str, places)).absolute()


def overrides_of(cfg: DictConfig) -> list[str]:
    """Return the overrides of a job, as they would be typed for a run of its own."""
    with _answered_by(cfg):
        return list(cfg.hydra.overrides.task)


def run_as_job(context: HydraContext, cfg: DictConfig, task: Callable[[Any], float]) -> float:
    """Have Hydra write ``.hydra/`` and set up log and environment, and call ``task``; returns or raises what it does.

    Raises:
        UserError: the folder cannot be written to.
    """
    place, part = ("hydra.sweep.dir", "hydra.sweep.subdir") if is_of_sweep(cfg) else ("hydra.run.dir", None)
    try:
        done = run_job(task, cfg, place, part, context)
    except OSError as error:  # run_job returns errors of the task
        raise UserError(f"the run folder cannot be made: {error}; name another with hydra.run.dir=...") from error
    if not is_of_sweep(cfg):
        context.callbacks.on_run_end(config=cfg, config_name=cfg.hydra.job.config_name, job_return=done)
    if done.status == JobStatus.FAILED:
        raise done._return_value  # the property would print a line of Hydra's
    value: float = done.return_value
    return value


def current_job(says: bool = True) -> Any:
    """Return Hydra's configuration of the job that runs, and go to the directory where the command was typed.

    With ``hydra.job.chdir`` Hydra has gone to the run folder, where no relative path of the user's leads anywhere.
    With ``says`` a warning is logged that ``hydra.job.chdir`` has no effect.
    """
    job = HydraConfig.get()
    if job.job.chdir:
        os.chdir(job.runtime.cwd)
        if says:
            logging.getLogger("dltrain").warning(
                "hydra.job.chdir=true has no effect: relative paths mean the directory where the command was typed, %s",
                job.runtime.cwd,
            )
    return job
