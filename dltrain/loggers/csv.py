"""``metrics.csv``: a row an epoch, appended."""

import contextlib
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dltrain.system.files import written_whole


class CSVLogger:
    """Appends each row to ``metrics.csv`` and flushes it; the columns are those of the first row.

    The rows of ``history`` come first: epochs that a killed run had logged after its last checkpoint are dropped.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], history: Sequence[Mapping[str, float]] = ()):
        path = folder / "metrics.csv"
        self._writer: csv.DictWriter[str] | None = None
        with written_whole(path) as temporary:  # the open file goes along under its new name
            self._file = open(temporary, "w", newline="", encoding="utf-8")  # noqa: SIM115  # until close()
            for row in history:
                self.log(row)

    def log(self, row: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), lineterminator="\n")
            self._writer.writeheader()
        try:
            self._writer.writerow(row)
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):  # else what could not be written is tried again, and fails, much later
                self._file.close()
            raise

    def close(self, result: Mapping[str, float]) -> None:
        self._file.close()
