"""A job, which is a run alone or within a sweep: folder, signals, training. Imports no torch before it trains."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dltrain import config
from dltrain.config import session
from dltrain.errors import quoted
from dltrain.runs.folder import RunFolder, discarded_unless_begun, locked_run_folder
from dltrain.runs.record import read_result
from dltrain.system import process
from dltrain.system.answer import silenced, stdout_reserved
from dltrain.trained.launch import start
from dltrain.training.monitor import Pruning


def run_alone(context: Any, cfg: Any, arguments: Sequence[str]) -> float:
    """Run ``cfg`` as ``dltrain`` with the ``arguments``; returns the best value of the monitored metric.

    ``context`` is Hydra's. Nothing is written before the folder is locked, and known to be free.
    """
    with process.signals_handled() as stop, stdout_reserved():
        if _takes_several(cfg):  # Hydra's callbacks and files are those of rank 0
            return _run_together(cfg, arguments, session.output_folder(cfg))
        context.callbacks.on_run_start(config=cfg, config_name=cfg.hydra.job.config_name)
        return _run(context, cfg, arguments, stop)


def _run(
    context: Any, cfg: Any, arguments: Sequence[str], stop: process.StopRequest, pruning: Pruning | None = None
) -> float:
    with locked_run_folder(session.output_folder(cfg), start.command_of(arguments)) as folder:
        folder.require_free(cfg.resume)

        def task(job_cfg: Any) -> float:
            session.current_job(says=not process.is_worker())  # the launcher of this process has said so
            return _train(job_cfg, folder, stop, pruning)

        return session.run_as_job(context, cfg, task)


@dataclass(frozen=True)
class SweepTask:
    """Runs the jobs of a sweep; ``words`` are the flags that each of them has when it is run alone."""

    words: Sequence[str]

    def run(self, context: Any, cfg: Any, pruning: Pruning | None = None) -> float:
        """Run a job of dltrain's launchers, which have checked ``cfg``; ``pruning`` may end it early."""
        arguments = [*self.words, *session.overrides_of(cfg)]
        with process.signals_handled() as stop, silenced(), stdout_reserved():
            if _takes_several(cfg):
                resume = ["resume=auto"] if cfg.resume == "auto" else []  # set by the launcher
                return _run_together(cfg, [*arguments, *resume], session.output_folder(cfg))
            return _run(context, cfg, arguments, stop, pruning)

    def __call__(self, cfg: Any) -> float:
        """Run a job of another launcher in the folder that it made, perhaps in another process, for Hydra."""
        job = session.current_job()
        path, arguments = Path(job.runtime.output_dir), [*self.words, *job.overrides.task]
        command = start.command_of(arguments)
        with process.signals_handled() as stop, silenced(), stdout_reserved(), discarded_unless_begun(path, command):
            config.check(cfg)
            if _takes_several(cfg):
                return _run_together(cfg, arguments, path)
            with locked_run_folder(path, command) as folder:
                folder.require_free(cfg.resume)
                return _train(cfg, folder, stop)


def _train(cfg: Any, folder: RunFolder, stop: process.StopRequest, pruning: Pruning | None = None) -> float:
    from dltrain.config.interpolation import write_out
    from dltrain.trained.resume import find_resumable  # imports torch: time enough for a signal
    from dltrain.trained.train import train

    write_out(cfg)
    return train(cfg, folder, stop, find_resumable(cfg.resume, folder.path), pruning=pruning)


def _takes_several(cfg: Any) -> bool:
    """Whether this process only starts others, which run the job."""
    return cfg.trainer.devices != 1 and not process.is_worker()


def _run_together(cfg: Any, arguments: Sequence[str], path: Path) -> float:
    """Run ``dltrain`` with ``arguments`` in the folder ``path``, in as many processes as ``cfg`` asks for; returns the
    best value of the monitored metric.
    """
    with discarded_unless_begun(path, start.command_of(arguments)):
        command = shlex.join(["dltrain", *arguments])
        start.launch([*arguments, f"hydra.run.dir={quoted(path)}"], cfg.trainer.devices, cfg.device, command, path)
    best = read_result(path).get("best", {})
    return float(best.get("val", {}).get(str(best.get("monitor")).removeprefix("val/"), "nan"))
