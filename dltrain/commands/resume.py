"""``dltrain resume RUN [--force] [overrides]``: go on exactly where the run stopped."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dltrain import config
from dltrain.commands.arguments import run_of
from dltrain.config.earlier import locate_files, of_run, require_trusted
from dltrain.runs.find import find_run, started_elsewhere
from dltrain.runs.folder import locked_run_folder
from dltrain.runs.record import read_config, read_environment, read_result
from dltrain.system import process
from dltrain.system.log import log_to
from dltrain.trained.launch.start import command_of, launched


def resume(arguments: Sequence[str]) -> None:
    """Go on with a run in its folder, with its configuration but for the overrides.

    Raises:
        UserError: there is no such run, or the overrides would make it a different run (unless ``--force``).
    """
    words = [word for word in arguments if word != "--force"]
    run, overrides = run_of(words, "dltrain resume RUN [--force] [overrides]")
    path, checkpoint = find_run(run)
    before = read_config(path)
    for read in (read_result, read_environment):  # what is wrong with them is reported before anything takes time
        read(path)
    kept = [f"trainer.devices={before['trainer'].get('devices', 1)}"] if before else []
    kept += [f"device={before['device']}"] if "device" in before else []
    if launched("resume", arguments, [*kept, *overrides], path):
        return
    from dltrain.trained.resume import find_resumable
    from dltrain.trained.train import train

    command = command_of(["resume", *arguments])
    with process.signals_handled() as stop, locked_run_folder(path.resolve(), command) as folder:
        log_to(folder.path / "train.log")
        resumable = find_resumable(str(checkpoint or path), path)
        assert resumable is not None  # it raises where a run that is named has no checkpoint
        cfg = _configuration(resumable.composed, overrides, folder.path)
        require_trusted(cfg)  # before the check, which imports the user's classes
        if cfg.trust:  # as when the run began: classes of the working directory need not be installed
            sys.path.insert(0, os.getcwd())
        config.check(cfg)
        train(cfg, folder, stop, resumable, force="--force" in arguments)


def _configuration(composed: Any, overrides: Sequence[str], folder: Path) -> Any:
    """Apply the overrides; paths in either are relative to the directory in which they were typed."""
    started = started_elsewhere(folder)
    if not started:
        return of_run(composed, overrides)
    locate_files(composed, started)
    cfg = of_run(composed, overrides)
    locate_files(cfg, os.getcwd())
    return cfg
