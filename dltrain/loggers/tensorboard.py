"""TensorBoard event files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dltrain.loggers import flatten
from dltrain.system.extras import require_extras

if TYPE_CHECKING:
    from torch import Tensor, nn


class TensorBoardLogger:
    """Writes every metric as a scalar over epochs, and the configuration with the test metrics as hyper-parameters.

    The files lie in ``<run>/tensorboard``: ``tensorboard --logdir outputs`` shows all runs.

    Args:
        pictures: number of images of the training part that are shown, before augmentation; 0 for none.
        histograms: each weight gets a histogram every so many epochs; ``None`` for none.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        history: Sequence[Mapping[str, float]] = (),
        pictures: int = 16,
        histograms: int | None = None,
    ):
        require_extras(["tensorboard"], "tensorboard", "logger=tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        events = folder / "tensorboard"
        # What a killed run had logged after its last checkpoint is hidden.
        self._writer = SummaryWriter(events, purge_step=len(history) + 1 if events.exists() else None)
        self._config = config
        self._pictures = 0 if history else pictures  # a run that goes on has shown them
        self._histograms = histograms
        self._model: nn.Module | None = None

    def watch(self, model: "nn.Module", images: "Callable[[int], Tensor | None]") -> None:
        self._model = model
        shown = images(self._pictures) if self._pictures else None
        if shown is not None:
            self._writer.add_images("train/images", shown, 0)

    def log(self, row: Mapping[str, float]) -> None:
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, epoch)
        if self._model is not None and self._histograms and epoch % self._histograms == 0:
            for name, parameter in self._model.named_parameters():
                self._writer.add_histogram(f"weights/{name}", parameter.detach().float().cpu(), epoch)

    def close(self, result: Mapping[str, float]) -> None:
        if result:
            self._writer.add_hparams(flatten(self._config), dict(result), run_name=".")
        self._writer.close()
