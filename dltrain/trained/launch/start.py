"""Starts the processes of a run on this machine, as ``torchrun --standalone`` does, but with dltrain's exit codes."""

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

from dltrain.errors import ConfigError, Interrupted
from dltrain.runs.record import read_result
from dltrain.system import process
from dltrain.system.answer import give
from dltrain.system.process import COMMAND, LAUNCHER, leave_closed_terminal, signals_handled_by
from dltrain.trained.launch.ending import Leftovers, settle_failure, settle_signal

_SECONDS_TO_SAVE = 60  # for a process that was asked to stop, before it is killed


def command_of(arguments: Sequence[str]) -> str:
    """The command line that reproduces a run with ``arguments``."""
    return os.environ[COMMAND] if process.is_launched_by_dltrain() else shlex.join(["dltrain", *arguments])


def launched(verb: str, arguments: Sequence[str], overrides: Sequence[str], path: Path | None = None) -> bool:
    """Run ``dltrain verb`` with ``arguments`` in several processes, if ``trainer.devices`` among the ``overrides`` asks
    for them; returns whether it does. See :func:`launch`.
    """
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    devices = given.get("trainer.devices", "1")
    if devices == "1" or process.is_worker():
        return False
    if devices != "auto" and not (devices.isdecimal() and int(devices)):
        raise ConfigError([f"trainer.devices={devices}: it must be a whole number of at least 1, or auto"])
    count = devices if devices == "auto" else int(devices)
    launch([verb, *arguments], count, given.get("device", "auto"), shlex.join(["dltrain", verb, *arguments]), path)
    return True


def launch(arguments: Sequence[str], devices: int | str, device: str, command: str, path: Path | None = None) -> None:
    """Run ``python -m dltrain`` with ``arguments`` in each of so many processes.

    Raises:
        TrainingError: a process failed, with its exit code; rank 0 may have said why.
        Interrupted: the run was asked to stop.
    """
    # torch's launcher logs at length what the run itself reports.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    # At their end most processes would log, with stacks, that the launcher's store is closed.
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
            signals_to_handle="SIGQUIT",  # the others are handled below
            shutdown_timeout=_SECONDS_TO_SAVE,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        before = read_result(path) if path else {}
        ended: Interrupted | dict[int, int] = {}
        try:
            with _stopped_by_signals():
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
    if isinstance(ended, Interrupted):  # outside of "except", so that torch's error is not the context
        settle_signal(ended, leftovers)
    settle_failure(ended, leftovers)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Within, the first signal lets torch's launcher end its processes; at a second it would leave them running."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    has_come = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal has_come
        leave_closed_terminal()
        if not has_come:
            has_come = True
            raise SignalException(f"signal {number}", sigval=signal.Signals(number))

    with signals_handled_by(end):
        yield


def _count(wanted: int | str, device: str, gpus: int) -> int:
    """The number of processes: a process per GPU unless a number is given."""
    if isinstance(wanted, str):
        return max(gpus, 1) if device in ("auto", "cuda") else 1
    if device == "cuda" or (device == "auto" and gpus):
        if wanted > gpus:
            raise ConfigError([f"trainer.devices={wanted}: this machine has {gpus} GPUs; add device=cpu for its cores"])
    elif device != "cpu" and device != "auto":
        raise ConfigError([f"trainer.devices={wanted} and device={device}: use device=cuda, a GPU each, or device=cpu"])
    return wanted
