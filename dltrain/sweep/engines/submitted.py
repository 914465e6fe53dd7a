"""Jobs in the queue of a SLURM cluster, or as processes that submitit starts here, through submitit's executors.

The keys are those of Hydra's own submitit plugin. That plugin waits for all jobs and raises the first error; here each
job is submitted, watched and cancelled separately, so that the ledger is true.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig

from dltrain.errors import ConfigError, Interrupted, UserError
from dltrain.sweep.engines.forked import take_share
from dltrain.sweep.pool import Answer, Planned, perform
from dltrain.system.machine import die_with
from dltrain.trained.launch.job import SweepTask

_STATE_SECONDS = 5.0  # between two questions to SLURM for a job that has been cancelled
_WARNED, _CANCELLED = (Interrupted(number).exit_code for number in (signal.SIGUSR1, signal.SIGTERM))
_SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name", "stderr_to_stdout")


class Task:
    """What submitit pickles and runs: a job, with the configuration that was composed when it was submitted.

    At submitit's signal before a time limit or a preemption dltrain saves its state after the step; then submitit's
    handler puts the job back into the queue.

    ``share``: of a job on this machine, its slot and how many there are. It ends with the sweep, as its launcher, which
    is a process of submitit's, does not.
    """

    def __init__(self, context: HydraContext, task: SweepTask, config: DictConfig, share: tuple[int, int] | None):
        self.sweep = os.getpid()
        self.context = context
        self.task = task
        self.config = config
        self.share = share
        if config.resume == "off":  # a job that SLURM starts again goes on from what there is
            config.resume = "auto"

    def __call__(self) -> Answer:
        logging.getLogger("submitit").propagate = False  # its lines do not belong to the run
        if self.share is not None:
            die_with(self.sweep)
            take_share(*self.share)
        warning = _warning_signal()
        requeue: Any = signal.getsignal(warning)
        signal.signal(signal.SIGUSR1, requeue)  # before and after training, in which dltrain handles it
        if warning != signal.SIGUSR1:
            signal.signal(warning, lambda *_: signal.raise_signal(signal.SIGUSR1))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_CANCELLED))
        answer = perform(self.context, self.task, self.config)
        if answer.code == _WARNED:
            requeue(signal.SIGUSR1, None)  # leaves the process, or raises where there have been too many
        if answer.code == _CANCELLED:  # without a result: where SLURM itself starts the job again, it has not ended
            sys.exit(_CANCELLED)
        return answer

    def checkpoint(self) -> Any:
        """What submitit runs when it starts this job again: the same, which goes on from the run's checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass
class _InQueue:
    planned: Planned
    slot: int
    job: Any  # submitit's
    is_local: bool
    is_cancelled: bool = False
    asked: float = 0.0

    def answer(self) -> Answer:
        from submitit.core.utils import FailedJobError

        may_come_late = not (self.is_cancelled or self.is_local)  # over a network file system; submitit waits for it
        if may_come_late or self.job.paths.result_pickle.exists():
            error = self.job.exception()
            if error is None:
                answer: Answer = self.job.result()
                return answer
            if isinstance(error, FailedJobError):  # its traceback stands between two rules
                trace = str(error).split("-" * 22)[1].strip().splitlines()
                return self._lost([line for line in trace if not line.startswith(" ")][-1])
        state = "" if self.is_local else f" (state: {self.job.state})"
        return self._lost(f"job {self.job.job_id} left no result{state}")

    def _lost(self, cause: str) -> Answer:
        return Answer(1, f"{cause}; its output is in {self.job.paths.stderr}", is_lost=True)

    def has_ended(self) -> bool:
        forced = self.is_cancelled and time.monotonic() > self.asked + _STATE_SECONDS
        if forced:
            self.asked = time.monotonic()
        return bool(self.job.done(force_check=forced))

    def end(self) -> None:
        """SLURM sends SIGTERM, and SIGKILL after its KillWait; a job that waits in the queue leaves it."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self.is_local:  # submitit would have its process kill the job after a second
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(self.job.job_id), signal.SIGTERM)
            else:
                self.job.cancel(check=False)

    def kill(self) -> None:
        self.end()


class Submitted:
    """``cluster``: ``slurm`` or ``local``; ``options`` as in ``conf/hydra/launcher/submitit_slurm.yaml``.

    Raises:
        UserError: there is no SLURM here.
        ConfigError: an option that submitit does not take.
    """

    shows = False

    def __init__(self, cluster: str, context: HydraContext, task: SweepTask, at_once: int, options: Mapping[str, Any]):
        self.context = context
        self.task = task
        self.share_of = at_once if cluster == "local" else None
        self.executor = _executor(cluster, dict(options))

    def start(self, planned: Planned, slot: int) -> _InQueue:
        share = (slot, self.share_of) if self.share_of else None
        task = Task(self.context, self.task, planned.config, share)
        # Ctrl-C in a terminal goes to submitit's local processes too, which are to get one signal: that of end().
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return _InQueue(planned, slot, self.executor.submit(task), is_local=self.share_of is not None)
        finally:
            signal.signal(signal.SIGINT, before)

    def ended(self, running: Sequence[_InQueue], seconds: float) -> list[_InQueue]:
        ended = [job for job in running if job.has_ended()]
        if not ended:
            time.sleep(seconds)
        return ended


def _executor(cluster: str, options: dict[str, Any]) -> Any:
    import submitit

    logging.getLogger("submitit").setLevel(logging.WARNING)
    folder, timeouts = options.pop("submitit_folder"), options.pop("max_num_timeout")
    named = {key if key in _SHARED else f"{cluster}_{key}": value for key, value in options.items()}
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **{f"{cluster}_max_num_timeout": timeouts})
        executor.update_parameters(**named)
    except RuntimeError as error:
        raise UserError(f"hydra/launcher=submitit_{cluster}: {error}") from error
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise ConfigError([f"hydra.launcher: {error}"]) from error
    return executor


def _warning_signal() -> signal.Signals:
    """The signal that submitit gets before the end of a job."""
    import submitit

    return signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
