"""Starts the processes of a run on this machine, as ``torchrun --standalone`` does, with dltrain's own exit codes."""

import logging
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Any

from dltrain.errors import ConfigError, Interrupted, quoted
from dltrain.runs.record import read_result
from dltrain.system import worker
from dltrain.system.answer import give
from dltrain.system.signals import handled_by, leave_closed_terminal
from dltrain.system.worker import COMMAND, LAUNCHER
from dltrain.trained.launch.ending import Leftovers, settle_failure, settle_signal

_SECONDS_TO_SAVE = 60  # before a process that was asked to stop is killed


def command_of(arguments: Sequence[str]) -> str:
    """The command line that reproduces a run with ``arguments``."""
    return os.environ[COMMAND] if worker.is_launched_by_dltrain() else shlex.join(["dltrain", *arguments])


def run_together(arguments: Sequence[str], cfg: Any, path: Path) -> float:
    """Run ``dltrain`` with ``arguments`` in the folder ``path``, in as many processes as ``cfg`` says.

    Returns the best value of the monitored metric.

    Raises:
        TrainingError: a process has failed, with its exit code; rank 0 may have told why.
        Interrupted: the run was asked to stop; rank 0 may have told so.
    """
    command, places = shlex.join(["dltrain", *arguments]), [f"hydra.run.dir={quoted(path)}"]
    launch([*arguments, *places], cfg.trainer.devices, cfg.device, command, path)
    best = read_result(path).get("best", {})
    return float(best.get("val", {}).get(str(best.get("monitor")).removeprefix("val/"), "nan"))


def launched(verb: str, arguments: Sequence[str], overrides: Sequence[str], path: Path | None = None) -> bool:
    """Whether ``dltrain verb`` with ``arguments`` was run in several processes, as ``trainer.devices`` among the
    ``overrides`` asks for; see :func:`run_together`.
    """
    given = dict(word.split("=", 1) for word in overrides if "=" in word)
    devices = given.get("trainer.devices", "1")
    if devices == "1" or worker.is_worker():
        return False
    if devices != "auto" and not (devices.isdecimal() and int(devices)):
        raise ConfigError([f"trainer.devices={devices}: it must be a whole number of at least 1, or auto"])
    count = devices if devices == "auto" else int(devices)
    launch([verb, *arguments], count, given.get("device", "auto"), shlex.join(["dltrain", verb, *arguments]), path)
    return True


def launch(arguments: Sequence[str], devices: int | str, device: str, command: str, path: Path | None = None) -> None:
    """``python -m dltrain`` with ``arguments`` in each of so many processes; see :func:`run_together`."""
    # torch's launcher logs what the run itself reports, at length.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    # Its processes would tell, with stacks, that the launcher's store has gone, which is how most of them end.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    count = _count(devices, device, torch.cuda.device_count())
    os.environ[COMMAND], os.environ[LAUNCHER] = command, str(os.getpid())
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=token_hex(4),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            signals_to_handle="SIGQUIT",  # the others below
            shutdown_timeout=_SECONDS_TO_SAVE,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        before = read_result(path) if path else {}
        ended: Interrupted | dict[int, int] = {}
        try:
            with _ended_once():
                elastic_launch(config, sys.executable)("-m", "dltrain", *arguments)
        except SignalException as error:
            ended = Interrupted(error.sigval)
        except ChildFailedError as error:
            ended = {rank: failure.exitcode for rank, failure in error.failures.items()}
        if not ended:
            return
        leftovers = Leftovers(Path(logs), path, before)
        if leftovers.has_answered:
            give()
    if isinstance(ended, Interrupted):  # outside of "except": torch's own message is not why
        settle_signal(ended, leftovers)
    settle_failure(ended, leftovers)


@contextmanager
def _ended_once() -> Iterator[None]:
    """Within, the first signal has torch's launcher end its processes; it would leave them behind at a second one."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    has_come = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal has_come
        leave_closed_terminal()
        if not has_come:
            has_come = True
            raise SignalException(f"signal {number}", sigval=signal.Signals(number))

    with handled_by(end):
        yield


def _count(wanted: int | str, device: str, gpus: int) -> int:
    """How many processes: one a GPU unless a number is given."""
    if isinstance(wanted, str):
        return max(gpus, 1) if device in ("auto", "cuda") else 1
    if device == "cuda" or (device == "auto" and gpus):
        if wanted > gpus:
            raise ConfigError([f"trainer.devices={wanted}: this machine has {gpus} GPUs; add device=cpu for its cores"])
    elif device != "cpu" and device != "auto":
        raise ConfigError([f"trainer.devices={wanted} and device={device}: use device=cuda, a GPU each, or device=cpu"])
    return wanted
