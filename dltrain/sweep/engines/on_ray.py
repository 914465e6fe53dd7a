"""Jobs as tasks of a Ray cluster, or of the one that Ray starts on this machine."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig

from dltrain.errors import ConfigError, UserError
from dltrain.sweep.pool import Answer, Planned, perform
from dltrain.system.machine import die_with
from dltrain.trained.launch.job import SweepTask


@dataclass
class _Remote:
    planned: Planned
    slot: int
    reference: Any  # ray's
    is_cancelled: bool = False

    def answer(self) -> Answer:
        import ray

        try:
            answer: Answer = ray.get(self.reference)
        except ray.exceptions.RayError as error:  # the worker was killed, its node went away, or the task has a bug
            cause = str(getattr(error, "cause", error)).strip()
            return Answer(1, cause.splitlines()[0], is_lost=True)
        return answer

    def end(self) -> None:
        import ray

        if not self.is_cancelled:  # a second Ctrl-C would have it leave without saving
            self.is_cancelled = True
            ray.cancel(self.reference)  # as Ctrl-C in its process; one that waits is not started

    def kill(self) -> None:
        import ray

        ray.cancel(self.reference, force=True)


class OnRay:
    """``options``: ``ray.init`` and ``ray.remote``, the arguments of Ray's functions of these names.

    Connected until ``stack`` is closed.

    Raises:
        UserError: there is no cluster at that address.
        ConfigError: an argument that Ray does not take.
    """

    shows = False

    def __init__(self, stack: ExitStack, context: HydraContext, task: SweepTask, options: Mapping[str, Any]):
        import ray

        stack.enter_context(redirect_stdout(sys.stderr))  # a thread of Ray's would write there
        stack.callback(ray.shutdown)
        self.context = context
        self.task = task
        settings = options["ray"]
        try:
            ray.init(**settings["init"])
            self.remote = ray.remote(**settings["remote"])(_perform)
        except (ConnectionError, RuntimeError) as error:
            raise UserError(f"hydra/launcher=ray: {error}") from error
        except (TypeError, ValueError) as error:
            raise ConfigError([f"hydra.launcher.ray: {error}"]) from error

    def start(self, planned: Planned, slot: int) -> _Remote:
        sweep = os.getpid(), platform.node()
        sent = self.remote.remote(self.context, self.task, planned.config, os.getcwd(), sweep)
        return _Remote(planned, slot, sent)

    def ended(self, running: Sequence[_Remote], seconds: float) -> list[_Remote]:
        import ray

        ready, _ = ray.wait([job.reference for job in running], timeout=seconds)
        return [job for job in running if job.reference in ready]


def _perform(
    context: HydraContext, task: SweepTask, config: DictConfig, directory: str, sweep: tuple[int, str]
) -> Answer:
    """Run a job on a worker, in the directory of the command, where its paths and modules are.

    ``sweep``: the process of the sweep and its machine. A job on that machine ends with it, others as Ray ends them.
    """
    if sweep[1] == platform.node():
        die_with(sweep[0])
    os.chdir(directory)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return perform(context, task, config)
