"""Runs the command line in fresh processes without waiting for imports: each is forked from one that has them already.

That one is forked before the first test, while no library has started threads yet, which would be lost in a fork. The
command line is in the same state when it forks the jobs of a sweep.
"""

import contextlib
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

_SECONDS_TO_END = 30  # a process may first wait for what another has to say


class Zygote:
    """A process that forks the others."""

    def __init__(self) -> None:
        self._ours, theirs = Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            try:
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def run(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of ``dltrain`` with ``arguments``, in the working directory of now."""
        return self._run(arguments, [{}])[0]

    def run_together(self, arguments: Sequence[str], processes: int) -> list[tuple[int, str, str]]:
        """:meth:`run` in so many processes that share the run, with what ``torchrun`` would say in the environment."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        size = {"WORLD_SIZE": f"{processes}", "LOCAL_WORLD_SIZE": f"{processes}"}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        return self._run(arguments, [{**size, **place, "RANK": f"{n}", "LOCAL_RANK": f"{n}"} for n in range(processes)])

    def _run(self, arguments: Sequence[str], added: Sequence[dict[str, str]]) -> list[tuple[int, str, str]]:
        with tempfile.TemporaryDirectory() as folder:
            starts = []
            for number, environment in enumerate(added):
                files = Path(folder, str(number))
                files.mkdir()
                starts.append((list(arguments), os.getcwd(), {**os.environ, **environment}, list(sys.path), str(files)))
            self._ours.send(starts)
            codes = self._ours.recv()
            texts = [[Path(start[-1], name).read_text(encoding="utf-8") for name in ("1", "2")] for start in starts]
            return [(code, *text) for code, text in zip(codes, texts, strict=True)]

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self._pid, 0)


def _serve(requests: Connection) -> None:
    import dltrain.trained.train  # noqa: F401

    while True:
        try:
            starts = requests.recv()
        except EOFError:
            return
        pids = []
        _import_for(starts[0][0])
        for start in starts:
            pids.append(os.fork())
            if pids[-1] == 0:
                _main(*start)
        requests.send(_ended(pids))


def _import_for(arguments: Sequence[str]) -> None:
    """Import what every sweep with a study needs, before the first of them is forked."""
    if any(word.startswith(("pruner=", "hydra/sweeper=optuna")) for word in arguments):
        with contextlib.suppress(ImportError):
            from optuna.storages import RDBStorage  # noqa: F401


def _ended(pids: list[int]) -> list[int]:
    """The exit codes of processes; once one has failed, the others that share its run have some seconds to end."""
    codes: dict[int, int] = {}
    until = math.inf
    while len(codes) < len(pids):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
            if codes[pid]:
                until = min(until, time.monotonic() + _SECONDS_TO_END)
        elif time.monotonic() > until:
            for left in set(pids) - codes.keys():
                os.kill(left, signal.SIGKILL)
            until = math.inf
        else:
            time.sleep(0.01)
    return [codes[pid] for pid in pids]


def _main(
    arguments: Sequence[str], directory: str, environment: dict[str, str], path: Sequence[str], folder: str
) -> None:
    code = 70  # what nothing here leaves with
    try:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        for number, stream in ((1, "stdout"), (2, "stderr")):
            descriptor = os.open(Path(folder, str(number)), os.O_WRONLY | os.O_CREAT)
            os.dup2(descriptor, number)
            setattr(sys, stream, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        from dltrain import cli

        code = cli.main(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
