"""TensorBoard event files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dltrain.loggers.extras import flatten, require_extra


class TensorBoardLogger:
    """Writes every metric as a scalar over epochs, and the configuration with the test metrics as hyper-parameters.

    The files lie in ``<run>/tensorboard``: ``tensorboard --logdir outputs`` shows all runs.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], history: Sequence[Mapping[str, float]] = ()):
        require_extra("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        events = folder / "tensorboard"
        # What a killed run had logged behind its last checkpoint is hidden.
        self._writer = SummaryWriter(events, purge_step=len(history) + 1 if events.exists() else None)
        self._config = config

    def log(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))

    def close(self, result: Mapping[str, float]) -> None:
        if result:
            self._writer.add_hparams(flatten(self._config), dict(result), run_name=".")
        self._writer.close()
