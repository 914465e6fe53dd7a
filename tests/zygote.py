"""Runs the command line in fresh processes without waiting for imports: each is forked from one that has them already.

That one is forked before the first test, while no library has started threads yet, which would be lost in a fork. The
command line is in the same state when it forks the jobs of a sweep.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path


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
        with tempfile.TemporaryDirectory() as folder:
            self._ours.send((list(arguments), os.getcwd(), dict(os.environ), list(sys.path), folder))
            code = self._ours.recv()
            return code, Path(folder, "1").read_text(encoding="utf-8"), Path(folder, "2").read_text(encoding="utf-8")

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self._pid, 0)


def _serve(requests: Connection) -> None:
    import dltrain.commands.train  # noqa: F401

    while True:
        try:
            arguments, directory, environment, path, folder = requests.recv()
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            _main(arguments, directory, environment, path, folder)
        _, status = os.waitpid(pid, 0)
        requests.send(os.waitstatus_to_exitcode(status))


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
