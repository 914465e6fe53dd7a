"""The run folder: locked while a process runs in it, written as the run proceeds, and looked up by its name."""

import contextlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any

from dltrain import __version__
from dltrain.errors import UserError
from dltrain.runs.find import path_of
from dltrain.runs.record import command_of, read_environment, read_or_warn, read_result
from dltrain.system.extras import overwritten_files
from dltrain.system.files import kind_of, remove_unfinished, write_json, write_text
from dltrain.system.machine import Lock

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "polars", "pillow")
_WRITTEN_BEFORE = {".hydra", "train.log"}  # in the folder of a run that has not begun
_OF_SWEEP = ("sweep.json", "multirun.yaml")
_FILES = (
    *("config.yaml", "environment.json", "metrics.csv", "result.json", "train.log"),
    *("multirun.yaml", "sweep.json", "sweep.csv"),  # of a sweep
)
_PAGES = ("report.html", "curves.png", "sweep.html")  # a run that cannot write these is done nevertheless
_FOLDERS = (".hydra", "checkpoints", "logs", "profile", "tensorboard", "wandb", "explain", ".submitit")
_WRITTEN = (*_FILES, *_PAGES, *_FOLDERS, "*.log", "sweep.*", "study.db*")


class RunFolder:
    """The folder of a run, in which Hydra writes ``.hydra/`` and ``train.log`` before the run begins.

    ``run_id`` stands in all files of the run once it has begun. ``writes`` is false in all but one of several
    processes.
    """

    def __init__(self, path: Path, command: str, writes: bool = True):
        self.path = path
        self.writes = writes
        self.command = command
        self.run_id = ""
        self._begun = time.perf_counter()
        self.result: dict[str, Any] = {}
        self._lock: Lock | None = None
        self._is_new = False
        self._before: dict[Path, bytes] = {}  # files of an older run which Hydra writes before this run begins
        self._logged = 0  # bytes of train.log, which is appended to

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def lock(self) -> None:
        """Keep other processes from running here; the lock ends with this process, however it ends.

        Raises:
            UserError: another process runs here, the folder cannot be written to, or a link in it leads out of it.
        """
        with contextlib.ExitStack() as unless_held:
            lock = Lock(self.path)
            unless_held.callback(lock.release)
            try:
                lock.take()
                require_writable(self.path)
                # Where there are no locks, another process may have made the folder.
                self._is_new = lock.is_held and {path.name for path in self.path.iterdir()} <= _WRITTEN_BEFORE
                self._before = {path: path.read_bytes() for path in self._of_hydra()}
                self._logged = self._log.stat().st_size if self._log.exists() else 0
            except BlockingIOError as error:
                raise UserError(
                    f"another process runs in '{self.path}'; wait for it, or name another folder with"
                    " hydra.run.dir=..., or hydra.sweep.dir=... for a sweep"
                ) from error
            except OSError as error:
                raise UserError(f"'{self.path}' cannot be used: {error}") from error
            unless_held.pop_all()
        self._lock = lock

    @property
    def _log(self) -> Path:
        return self.path / "train.log"

    def _of_hydra(self) -> list[Path]:
        """The files that Hydra has written."""
        paths = [self.path / "multirun.yaml", *(self.path / ".hydra").glob("*")]
        return [path for path in paths if path.is_file()]

    def require_free(self, resume: str) -> None:
        """Raise :class:`UserError` where a sweep lives, or an older run with which ``resume`` does not go on."""
        if any((self.path / name).exists() for name in _OF_SWEEP):
            raise UserError(f"'{self.path}' is the folder of a sweep: name another with hydra.run.dir=...")
        named = path_of(resume).resolve()  # a run folder, or a checkpoint within it
        goes_on = resume == "auto" or (resume != "off" and self.path.resolve() in (named, named.parent.parent))
        if not goes_on and any(self.checkpoints.glob("*.pt")):
            raise UserError(
                f"'{self.path}' holds the checkpoints of an older run; resume=auto goes on with it, and a new run needs"
                " another folder, hydra.run.dir=..., or this one without its checkpoints/"
            )

    def require_no_run(self) -> None:
        """Raise :class:`UserError` where a run lives, for a sweep."""
        if any((self.path / name).exists() for name in ("result.json", "checkpoints")):
            raise UserError(f"'{self.path}' is the folder of a run: name another with hydra.sweep.dir=...")

    def release(self) -> None:
        """Let other processes run here."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def begin(
        self,
        config_text: str,
        environment: Mapping[str, Any],
        resumed: float | None = None,
        run_id: str | None = None,
    ) -> None:
        """Write what is known before the first epoch; from here on the folder is a run, with status ``running``.

        ``resumed``: the seconds that the run in this folder has taken so far, if it goes on; ``run_id``: that of the
        run that goes on, if it has one.

        Raises:
            UserError: the folder cannot be written.
        """
        if not self.writes:
            return
        self.run_id = run_id or token_hex(16)
        try:
            self._begin(config_text, {"command": self.command, **environment, **_environment()}, resumed)
        except OSError as error:
            raise UserError(f"the run folder '{self.path}' cannot be written: {error}") from error

    def _begin(self, config_text: str, now: dict[str, Any], resumed: float | None) -> None:
        self.checkpoints.mkdir(exist_ok=True)
        remove_unfinished(self.path)
        remove_unfinished(self.checkpoints)
        earlier: dict[str, Any] = {}
        if resumed is not None:
            earlier = read_or_warn(read_environment, self.path)
            self.command = command_of(read_or_warn(read_result, self.path)) or self.command
            self._begun -= resumed
        else:  # weights without a state, from which resume=auto cannot go on, must not be taken for this run's
            for stale in (self.path / "result.json", *self.checkpoints.glob("*.pt")):
                stale.unlink(missing_ok=True)
        if earlier:
            now = {**earlier, "resumed": [*earlier.get("resumed", []), now]}
        write_text(self.path / "config.yaml", config_text)
        write_json(self.path / "environment.json", {**now, "run_id": self.run_id})
        self.write_result("running")

    def write_result(self, status: str, **entries: Any) -> dict[str, Any]:
        """Write ``result.json``: ``status`` is running, done, failed or interrupted; returns what was written."""
        self.result = {
            "status": status,
            "run": str(self.path),
            "run_id": self.run_id,
            **entries,
            "seconds": round(time.perf_counter() - self._begun, 3),
            "command": self.command,
        }
        if self.writes:
            write_json(self.path / "result.json", self.result)
        return self.result

    def discard(self) -> None:
        """Remove what was written for a run that never began, and the folders that are empty then.

        What was there before stays, and so does everything while another process runs here.
        """
        try:
            if self._lock is None:
                self.lock()
        except UserError:
            return
        try:
            self._remove_new()
        except OSError as error:  # why the run did not begin is what the user needs to know
            log.debug("'%s' was not removed: %s", self.path, error)
        finally:
            self.release()

    def _remove_new(self) -> None:
        if self._is_new and self.path != Path.cwd():
            shutil.rmtree(self.path)
        else:
            for path in self._of_hydra():
                if path not in self._before:
                    path.unlink()
            for path, content in self._before.items():
                if not path.is_file() or path.read_bytes() != content:
                    path.write_bytes(content)
            with contextlib.suppress(OSError):  # that of an older run has files
                (self.path / ".hydra").rmdir()
            if self._log.exists() and self._logged:
                os.truncate(self._log, self._logged)
            else:
                self._log.unlink(missing_ok=True)
        remove_empty(self.path)


def require_writable(path: Path) -> None:
    """Raise :class:`UserError` where something in the folder ``path`` of a run or sweep keeps it from being written.

    That is a link out of the folder, which may come from a stranger: what is written to the name would end up where
    the link leads. It is also a pipe or device, which keeps a writer waiting, and a folder in the place of a file. The
    folder itself may be a link, and so may what dltrain does not write.
    """
    for written in path.iterdir():
        if not any(written.match(pattern) for pattern in _WRITTEN):
            continue
        _require_within(written, path)
        is_file = written.name in _FILES
        if written.exists() and written.name in (_FILES + _FOLDERS) and is_file == written.is_dir():
            raise UserError(f"'{written}' must be a {'file' if is_file else 'folder'}: remove what is there")
        for folder, folders, files in os.walk(written):
            for name in (*folders, *files):
                _require_within(Path(folder, name), path)
                if name in folders and (os.path.basename(folder) == ".hydra" or name.endswith(".pt")):
                    raise UserError(f"'{Path(folder, name)}' must be a file: remove what is there")
            if os.path.basename(folder) == "wandb":  # each of its runs gets a new folder, with a link to a log
                folders.clear()


def _require_within(inner: Path, path: Path) -> None:
    if inner.is_symlink() and not (target := Path(os.path.realpath(inner))).is_relative_to(path.resolve()):
        raise UserError(
            f"'{inner}' is a link to '{target}', outside of this folder, where nothing may be written:"
            " put the file or folder itself in its place, or remove the link"
        )
    if (kind := kind_of(inner)) not in ("", "a folder"):
        raise UserError(f"'{inner}' is {kind}, to which no run can write: remove it")


def remove_empty(path: Path) -> None:
    """Remove the folder ``path`` and the two above it, as far as they are empty."""
    for folder in (path, *list(path.parents)[:2]):
        if folder.exists() and (folder == Path.cwd() or any(folder.iterdir())):
            break
        if folder.exists():
            folder.rmdir()


@contextmanager
def locked_run_folder(path: Path, command: str) -> Iterator[RunFolder]:
    """The run folder ``path``, for this process alone; restored unless the run begins.

    Raises:
        UserError: it cannot be made, another process runs there, or a link leads out of it.
    """
    with _locked(RunFolder(path, command), "hydra.run.dir") as folder:
        try:
            yield folder
        finally:
            if not folder.result:
                folder.discard()


@contextmanager
def locked_sweep_folder(path: Path, job_links: bool) -> Iterator[None]:
    """The folder ``path`` of a sweep, for this process alone; with ``job_links`` folders of jobs in it may be links.

    Raises:
        UserError: it cannot be made, another process runs there, a link leads out of it, or it is that of a run.
    """
    with _locked(RunFolder(path, ""), "hydra.sweep.dir") as folder:
        folder.require_no_run()
        for inner in path.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                require_writable(inner)
            elif inner.name.isdecimal() and not job_links:
                _require_within(inner, path)
        try:
            yield
        except UserError:
            if not any(inner.is_dir() for inner in path.iterdir()):  # no job has run
                folder.discard()
            raise


@contextmanager
def _locked(folder: RunFolder, key: str) -> Iterator[RunFolder]:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the run folder cannot be made: {error}; name another with {key}=...") from error
    folder.lock()
    try:
        yield folder
    finally:
        folder.release()


def is_in_use(path: Path) -> bool | None:
    """Whether a process runs in the folder ``path``; ``None`` where there are no locks to know it by."""
    lock = Lock(path)
    try:
        lock.take()
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    known = False if lock.is_held else None
    lock.release()
    return known


@contextmanager
def discarded_unless_begun(path: Path, command: str) -> Iterator[None]:
    """Within, an exception before a run has begun in ``path`` removes what Hydra has written there."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # why the run ended is what the user needs to know
            if not (path / "result.json").exists():
                RunFolder(path, command).discard()
        raise


def _environment() -> dict[str, Any]:
    overwritten = overwritten_files()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "working_directory": os.getcwd(),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "versions": {"dltrain": __version__} | {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        **({"overwritten_files": overwritten} if overwritten else {}),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit checked out in the working directory, with ``-dirty`` where files differ; ``None`` outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
