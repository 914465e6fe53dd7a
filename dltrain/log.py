"""Where log records go: files get all of them, stderr those that the live view does not show already."""

import logging
import sys

EPOCHS = "dltrain.epochs"  # one line an epoch


class StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at the moment: a live view replaces it while it is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == EPOCHS and sys.stderr.isatty():
            return
        prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        print(f"{prefix}{self.format(record)}", file=sys.stderr)
