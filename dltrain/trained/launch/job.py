"""One job, a run alone or one of a sweep: its folder, its signals, and the training in it. No torch until it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dltrain import config
from dltrain.config import session
from dltrain.runs.folder import discarded_unless_begun, locked_run_folder
from dltrain.system import signals, worker
from dltrain.system.answer import silenced, stdout_reserved
from dltrain.trained.launch import start
from dltrain.training.monitor import Pruning


def run_alone(context: Any, cfg: Any, arguments: Sequence[str]) -> float:
    """Run ``cfg`` as ``dltrain`` with the ``arguments``; returns the best value of the monitored metric.

    ``context`` is Hydra's. Nothing is written before the folder is this process's own, and free.
    """
    with signals.handled() as stop, stdout_reserved():
        if _takes_several(cfg):  # Hydra's callbacks and files are those of rank 0
            return _run_together(cfg, arguments, session.output_folder(cfg))
        context.callbacks.on_run_start(config=cfg, config_name=cfg.hydra.job.config_name)
        return _run(context, cfg, arguments, stop)


def _run(
    context: Any, cfg: Any, arguments: Sequence[str], stop: signals.StopRequest, pruning: Pruning | None = None
) -> float:
    with locked_run_folder(session.output_folder(cfg), start.command_of(arguments)) as folder:
        folder.require_free(cfg.resume)

        def task(job_cfg: Any) -> float:
            session.current_job(says=not worker.is_worker())  # who has started this process has said so
            from dltrain.trained.train import train  # imports torch: time enough for a signal

            return train(job_cfg, folder, stop, pruning)

        return session.run_as_job(context, cfg, task)


@dataclass(frozen=True)
class SweepTask:
    """What the jobs of a sweep do; ``words`` are the flags of one of them, run alone."""

    words: Sequence[str]

    def run(self, context: Any, cfg: Any, pruning: Pruning | None = None) -> float:
        """Run a job of a launcher of dltrain's, which has checked ``cfg``; ``pruning`` may end it early."""
        arguments = [*self.words, *session.overrides_of(cfg)]
        with signals.handled() as stop, silenced(), stdout_reserved():
            if _takes_several(cfg):
                goes_on = ["resume=auto"] if cfg.resume == "auto" else []  # set by the launcher
                return _run_together(cfg, arguments, session.output_folder(cfg), goes_on)
            return _run(context, cfg, arguments, stop, pruning)

    def __call__(self, cfg: Any) -> float:
        """Hydra's task function: a job of another launcher, perhaps in a process of its own, in the folder it made."""
        job = session.current_job()
        path, arguments = Path(job.runtime.output_dir), [*self.words, *job.overrides.task]
        command = start.command_of(arguments)
        with signals.handled() as stop, silenced(), stdout_reserved(), discarded_unless_begun(path, command):
            config.check(cfg)
            if _takes_several(cfg):
                return _run_together(cfg, arguments, path)
            with locked_run_folder(path, command) as folder:
                folder.require_free(cfg.resume)
                from dltrain.trained.train import train

                return train(cfg, folder, stop)


def _takes_several(cfg: Any) -> bool:
    """Whether other processes are to run it, which this one starts."""
    return cfg.trainer.devices != 1 and not worker.is_worker()


def _run_together(cfg: Any, arguments: Sequence[str], path: Path, further: Sequence[str] = ()) -> float:
    with discarded_unless_begun(path, start.command_of(arguments)):
        return start.run_together([*arguments, *further], cfg, path)
