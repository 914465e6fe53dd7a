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
from dltrain.system.log import log_to
from dltrain.trained.launch.start import command_of, launched


def resume(arguments: Sequence[str]) -> None:
    """Go on with a run in its own folder, with its own configuration but for the overrides.

    Raises:
        UserError: there is no such run, or the overrides would make it another one (unless ``--force``).
    """
    words = [word for word in arguments if word != "--force"]
    run, overrides = run_of(words, "dltrain resume RUN [--force] [overrides]")
    path, checkpoint = find_run(run)
    before = read_config(path)
    for read in (read_result, read_environment):  # what is wrong with one is told before anything takes its time
        read(path)
    own = [f"trainer.devices={before['trainer'].get('devices', 1)}"] if before else []
    own += [f"device={before['device']}"] if "device" in before else []
    if launched("resume", arguments, [*own, *overrides], path):
        return
    from dltrain.system import signals
    from dltrain.trained.resume import find_resumable
    from dltrain.trained.train import train

    command = command_of(["resume", *arguments])
    with signals.handled() as stop, locked_run_folder(path.resolve(), command) as folder:
        log_to(folder.path / "train.log")
        found = find_resumable(str(checkpoint or path), path)
        assert found is not None  # it raises where a run that is named has no checkpoint
        cfg = _configuration(found.composed, overrides, folder.path)
        require_trusted(cfg)  # before the check, which imports classes that are not dltrain's own
        if cfg.trust:  # as when the run began: classes of the working directory need not be installed
            sys.path.insert(0, os.getcwd())
        config.check(cfg)
        train(cfg, folder, stop, found, force="--force" in arguments)


def _configuration(own: Any, overrides: Sequence[str], folder: Path) -> Any:
    """The run's own with the overrides; each names its files from the directory in which it was typed."""
    started = started_elsewhere(folder)
    if not started:
        return of_run(own, overrides)
    locate_files(own, started)
    cfg = of_run(own, overrides)
    locate_files(cfg, os.getcwd())
    return cfg
