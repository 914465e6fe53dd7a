"""Starts the processes of a run on this machine, as ``torchrun --standalone`` does, and reports how they ended."""

import json
import logging
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Any, NoReturn

from dltrain.errors import SIGNALLED, ConfigError, Interrupted, TrainingError
from dltrain.runs.record import read_result
from dltrain.system import process
from dltrain.system.answer import give
from dltrain.system.files import write_json
from dltrain.system.process import (
    ANSWERED_FILE,
    COMMAND,
    ERROR_FILE,
    HANDLED_SIGNALS,
    LAUNCHER,
    leave_closed_terminal,
    signals_handled_by,
)

_SECONDS_TO_SAVE = 60  # for a process that was asked to stop, before it is killed
_EXIT_CODES = {1, 2, *(Interrupted(number).exit_code for number in HANDLED_SIGNALS)}  # that dltrain ends with
_CLOSING = {-signal.SIGTERM, -getattr(signal, "SIGKILL", signal.SIGTERM)}  # how the launcher ends the others


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


class Leftovers:
    """The files that the processes of a run left, and the result in its folder ``path``, if it has any.

    ``before`` is what ``result.json`` held when they began.
    """

    def __init__(self, logs: Path, path: Path | None, before: Mapping[str, Any]):
        self.errors = {int(file.parent.name): _text_of(file) for file in logs.glob(f"*/*/*/{ERROR_FILE}")}
        self.has_answered = any(logs.glob(f"*/*/0/{ANSWERED_FILE}"))
        self.path = path
        self.result = read_result(path) if path else {}
        if self.result == before:
            self.result = {}

    @property
    def has_reported(self) -> bool:
        """Whether rank 0 has said on stderr why it ended."""
        return 0 in self.errors

    def finish(self, status: str, cause: str = "") -> None:
        """Write to ``result.json`` how the run ended, unless rank 0 knew, and show it where rank 0 has not."""
        from dltrain.trained.result import show  # imports all of training

        is_done = self.result.get("status") == "done"
        is_wrong = self.result.get("status") == "running" or (bool(cause) and not self.has_reported)
        if self.path and self.result and not is_done and is_wrong:
            self.result |= {"status": status} | ({"error": cause} if cause else {})
            write_json(self.path / "result.json", self.result)
        if self.result and not self.has_answered and (is_done or not self.has_reported):
            show(self.result)


def settle_signal(error: Interrupted, leftovers: Leftovers) -> NoReturn:
    """End this process, the launcher, which a signal asked to stop.

    Raises:
        Interrupted: ``error``.
    """
    leftovers.finish("interrupted")
    error.is_reported = leftovers.has_reported
    raise error


def settle_failure(codes: Mapping[int, int], leftovers: Leftovers) -> None:
    """Raise why a run ended whose ranks ended with ``codes``, in the order of their ends; negative: by a signal.

    Raises:
        TrainingError: a rank failed; rank 0 may have said why. Where the run was done before, that is a warning.
        Interrupted: all ranks were asked to stop, but not by the launcher.
    """
    from dltrain.trained.resume import how_to_go_on

    killed = _killed(codes, leftovers)
    rank = next((rank for rank in codes if rank in leftovers.errors), next(iter(codes)))
    code, said = codes[rank], leftovers.errors.get(rank)
    if code > SIGNALLED and not killed:
        settle_signal(Interrupted(code - SIGNALLED), leftovers)
    cause = killed or (f"rank {rank} ended with exit code {code}" if said is None else f"rank {rank}: {said}")
    hint = ""
    if leftovers.path and leftovers.result.get("status") not in ("failed", "interrupted"):  # else it is in the log
        hint = how_to_go_on(leftovers.path)
    leftovers.finish("failed", cause)
    if killed and leftovers.result.get("status") == "done":
        print(f"warning: {killed}, when the run was done", file=sys.stderr)
        return
    error = TrainingError(f"{cause}{hint}")
    error.exit_code = 1 if killed else code
    error.is_reported = leftovers.has_reported and not any(map(_is_foreign, codes.values()))
    raise error


def _killed(codes: Mapping[int, int], leftovers: Leftovers) -> str:
    """Say which rank was killed or left by itself; empty where each ended as dltrain ends."""
    is_explained = False  # by a rank that ended earlier
    for number, (rank, code) in enumerate(codes.items()):
        if _is_foreign(code):
            return f"rank {rank} left by itself, with exit code {code}"
        by_launcher = code in _CLOSING and (is_explained or (code == -signal.SIGTERM and number > 0))
        if code < 0 and not by_launcher:
            return f"rank {rank} was killed by signal {-code}"
        is_explained |= rank in leftovers.errors
    return ""


def _is_foreign(code: int) -> bool:
    """Whether the user's code ended the process with this exit code, which rank 0 does not know."""
    return code >= 0 and code not in _EXIT_CODES


def _text_of(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["message"]["message"])
    except (OSError, ValueError, KeyError, TypeError):  # of a process that was killed while it wrote
        return "it failed"
