"""Checkpoint files: plain types and tensors, readable with ``weights_only=True``, never half-written."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from dltrain.trainer import Trainer

FORMAT = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path`` by way of a temporary file, so that ``path`` is always a whole checkpoint."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save({"format": FORMAT, **content}, temporary)
    os.replace(temporary, path)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, its tensors on ``device``; runs no code of the file."""
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return content


class Checkpoints:
    """Keeps ``last.pt``, from which a run can go on, and ``best.pt``, the weights of the best epoch.

    Both hold ``header`` (what rebuilds the network: configuration as text, facts of the data, preprocessing), the
    evaluated weights as ``model`` and the metrics of their epoch; ``last.pt`` the state of the trainer as well.
    """

    def __init__(self, folder: Path, header: dict[str, Any], every_n_epochs: int = 1):
        self.folder = folder
        self.header = header
        self.every_n_epochs = every_n_epochs
        self._saved_epoch = 0

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    def after_epoch(self, trainer: "Trainer", improved: bool) -> None:
        """Save what this epoch calls for."""
        if improved:
            save(self.best, self._content(trainer))
        if trainer.epoch % self.every_n_epochs == 0:
            self._save_last(trainer)

    def finish(self, trainer: "Trainer") -> None:
        """At the end of training ``last.pt`` is up to date, and ``best.pt`` exists even if no epoch was ever best."""
        if self._saved_epoch != trainer.epoch:
            self._save_last(trainer)
        if not self.best.exists():
            save(self.best, self._content(trainer))

    def _save_last(self, trainer: "Trainer") -> None:
        save(self.last, {**self._content(trainer), "trainer": trainer.state_dict()})
        self._saved_epoch = trainer.epoch

    def _content(self, trainer: "Trainer") -> dict[str, Any]:
        metrics = dict(trainer.history[-1]) if trainer.history else {}
        return {**self.header, "epoch": trainer.epoch, "metrics": metrics, "model": trainer.evaluated.state_dict()}
