"""Runs by their names: the folder that a path means, and whether all files in it are of the same run."""

import contextlib
import os
from pathlib import Path

from dltrain.errors import RecordError, UserError
from dltrain.runs.record import read_environment, read_result
from dltrain.system.files import kind_of


def path_of(name: str) -> Path:
    """The path ``name``, with ``~`` as the home directory; that of an unknown user stays as it is."""
    return Path(os.path.expanduser(name))


def is_there(name: str) -> bool:
    """Whether the path exists; ``name`` may be any text, also one for which ``Path.exists`` raises."""
    return os.path.exists(path_of(name))


def find_run(name: str) -> tuple[Path, Path | None]:
    """The run folder that ``name`` (the folder, or a checkpoint file in it) means, and the checkpoint if named.

    Raises:
        UserError: there is no such run.
    """
    path = path_of(name)
    if os.path.isfile(path):  # Path.is_file raises for some texts
        if path.absolute().parent.name != "checkpoints":
            raise UserError(
                f"'{name}' is in no run folder, where it would be in checkpoints/; copy the folder as a whole"
            )
        return path.absolute().parent.parent, path
    if not os.path.isdir(path):
        what = f"'{name}' is {kind}, no run" if (kind := kind_of(path)) else f"there is no run '{name}'"
        raise UserError(f"{what}; name a run folder, such as outputs/<date>/<time>, or a checkpoint")
    if not (path / "checkpoints").is_dir() and not (path / "config.yaml").exists():
        raise UserError(f"'{name}' is no run folder: it has neither checkpoints/ nor config.yaml")
    require_one_run(path)
    return path, None


def started_elsewhere(run: Path) -> str:
    """The directory in which a run was started; empty where it is the working directory, or not known."""
    started = str(read_environment(run).get("working_directory", ""))
    return "" if started == os.getcwd() else started


def require_one_run(folder: Path, checkpoint: Path | None = None, run_id: str | None = None) -> str | None:
    """The ``run_id`` of all files in ``folder``; files of earlier versions have none, and fit any.

    ``run_id`` is that of ``checkpoint``, which the caller has read.

    Raises:
        UserError: they are of several runs.
    """
    ids: dict[Path, str] = {}
    for name, read in (("environment.json", read_environment), ("result.json", read_result)):
        with contextlib.suppress(RecordError):  # raised again by the function that needs the file
            ids[folder / name] = read(folder).get("run_id", "")
    if checkpoint:
        ids[checkpoint] = run_id or ""
    known = [(path, file_id) for path, file_id in ids.items() if file_id]
    for path, file_id in known[1:]:
        first, expected = known[0]
        if file_id != expected:
            raise UserError(
                f"'{path}' is of another run ({file_id[:8]!r}) than '{first}' ({expected[:8]!r});"
                " put the run's own file in its place, or take it away"
            )
    return known[0][1] if known else None
