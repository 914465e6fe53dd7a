"""Where log records go: files get all of them, stderr those that the live view does not show."""

import contextlib
import logging
import logging.config
import os
import sys
from importlib.resources import files
from pathlib import Path

from dltrain.system.streams import printable

EPOCHS = "dltrain.epochs"  # the logger of a line an epoch


class QuietFileHandler(logging.FileHandler):
    """Leaves out what cannot be written: the run itself says, once, that the disk is full."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # from opening the file
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        return None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def can_redraw() -> bool:
    """Whether stderr is a terminal on which lines can be redrawn."""
    capable = os.name == "nt" or os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
    return capable and sys.stderr.isatty()


class StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at the moment: a live view replaces it while it is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == EPOCHS and can_redraw():
            return
        prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        print(f"{prefix}{printable(self.format(record))}", file=sys.stderr)


def write_to(path: Path) -> None:
    """Append all that this process and the programs it calls write to stdout and stderr to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):  # what verbs print goes to stderr already
            stream.flush()
            os.dup2(file.fileno(), descriptor)


def log_to(path: Path | None, speaks: bool = True) -> None:
    """Set logging up as Hydra does for a training run, with ``path`` as the file: for verbs without Hydra.

    Without ``speaks``, as in all but rank 0 of several processes, nothing is logged to stderr.
    """
    import yaml

    text = (files("dltrain.conf") / "hydra" / "job_logging" / "dltrain.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        settings["handlers"]["file"]["filename"] = str(path)
    else:
        del settings["handlers"]["file"]
        settings["root"]["handlers"].remove("file")
    if not speaks:
        settings["handlers"]["stderr"] = {"class": "logging.NullHandler"}  # without one, Python writes to stderr
    logging.config.dictConfig(settings)
