"""``metrics.csv``: a row an epoch, appended."""

import contextlib
import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class CSVLogger:
    """Appends each row to ``metrics.csv`` and flushes it; the columns are those of the first row.

    The rows of ``history`` come first: epochs that a killed run had logged behind its last checkpoint are dropped.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], history: Sequence[Mapping[str, float]] = ()):
        path = folder / "metrics.csv"
        temporary = path.with_name("metrics.csv.tmp")
        self._file = open(temporary, "w", newline="", encoding="utf-8")  # noqa: SIM115  # until close()
        self._writer: csv.DictWriter[str] | None = None
        for row in history:
            self.log(row)
        os.replace(temporary, path)  # the open file goes along under its new name

    def log(self, row: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), lineterminator="\n")
            self._writer.writeheader()
        try:
            self._writer.writerow(row)
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):  # else what could not be written is tried again, and told, much later
                self._file.close()
            raise

    def close(self, result: Mapping[str, float]) -> None:
        self._file.close()
