"""``metrics.csv``: a row an epoch, appended."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class CSVLogger:
    """Appends each row to ``metrics.csv`` and flushes it; the columns are those of the first row."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self._file = open(folder / "metrics.csv", "w", newline="", encoding="utf-8")  # noqa: SIM115  # until close()
        self._writer: csv.DictWriter[str] | None = None

    def log(self, row: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()

    def close(self, result: Mapping[str, float]) -> None:
        self._file.close()
