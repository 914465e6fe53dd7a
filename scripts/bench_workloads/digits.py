"""(b) The cnn on the digits that ship with dltrain: batch 32, SGD with lr 0.05 and momentum 0.9, 20 epochs.

dltrain lays the weights of its cnn channels last; by hand one gets torch's default. Rivals are measured with either.
"""

import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bench_workloads.clock import run_dltrain
from bench_workloads.loops import findings, plain_loop

EPOCHS = 20
BATCH = 32
EVALUATION_BATCH = 256  # what dltrain takes too


def dltrain(device: str, **_: Any) -> dict[str, Any]:
    return _dltrain(device)


def dltrain_without_checkpoints(device: str, **_: Any) -> dict[str, Any]:
    """All but a checkpoint each epoch; one is still written at the end, and of the best epochs."""
    return _dltrain(device, "trainer.checkpoint.every_n_epochs=null")


def _dltrain(device: str, *more: str) -> dict[str, Any]:
    overrides = ["dataset=digits", f"dataset.batch_size={BATCH}", "model=cnn", f"trainer.epochs={EPOCHS}"]
    overrides += ["optim=sgd", "optim.lr=0.05", "optim.momentum=0.9", f"device={device}"]
    return {**run_dltrain([*overrides, *more]), "cached_mb": 1797 * 64 / 1e6}


def plain(device: str, **_: Any) -> dict[str, Any]:
    """The usual loop: TensorDataset, DataLoader, torch's own defaults for SGD."""
    return _plain(device, torch.contiguous_format)


def plain_channels_last(device: str, **_: Any) -> dict[str, Any]:
    return _plain(device, torch.channels_last)


def _plain(device: str, layout: torch.memory_format) -> dict[str, Any]:
    train, val = _loaders()
    torch.manual_seed(1)
    model = _cnn(layout).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    began = time.perf_counter()
    ends, val_loss = plain_loop(model, nn.CrossEntropyLoss(), optimizer, train, val, EPOCHS, device)
    return findings(began, ends, val_loss)


def lightning(device: str, **_: Any) -> dict[str, Any]:
    """Lightning with what dltrain does too, a CSV log and checkpoints of the last and the best epoch, and no more."""
    return _lightning(device, torch.contiguous_format)


def lightning_channels_last(device: str, **_: Any) -> dict[str, Any]:
    return _lightning(device, torch.channels_last)


def _lightning(device: str, layout: torch.memory_format) -> dict[str, Any]:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    with tempfile.TemporaryDirectory() as folder:
        return _fit(
            device,
            layout,
            logger=CSVLogger(folder),
            callbacks=[ModelCheckpoint(folder, monitor="val_loss", save_last=True)],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )


def lightning_bare(device: str, **_: Any) -> dict[str, Any]:
    """Lightning with everything switched off."""
    return _fit(
        device,
        torch.contiguous_format,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def lightning_defaults(device: str, **_: Any) -> dict[str, Any]:
    """Lightning as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        return _fit(device, torch.contiguous_format, default_root_dir=folder)


def _fit(device: str, layout: torch.memory_format, **options: Any) -> dict[str, Any]:
    import lightning.pytorch as pl

    train, val = _loaders()
    pl.seed_everything(1, verbose=False)
    module = _lightning_module(layout)
    accelerator = "gpu" if device == "cuda" else "cpu"
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator=accelerator, devices=1, **options)
    began = time.perf_counter()
    trainer.fit(module, train, val)
    found = findings(began, [time.perf_counter()], float(trainer.callback_metrics["val_loss"]))
    return {name: found[name] for name in ("fit", "val_loss", "peak_mb")}


def _lightning_module(layout: torch.memory_format) -> Any:
    import lightning.pytorch as pl

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = _cnn(layout)
            self.loss = nn.CrossEntropyLoss()

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            inputs, targets = batch
            loss = self.loss(self.model(inputs), targets)
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            inputs, targets = batch
            self.log("val_loss", self.loss(self.model(inputs), targets))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Classifier()


def _loaders() -> tuple[DataLoader, DataLoader]:
    """The same images in the same parts as dltrain's, normalised before the clock starts."""
    from dltrain.data.bundled import digits

    data = digits()
    train, val = (
        TensorDataset(data.transform(inputs), targets)
        for inputs, targets in (part.take(torch.arange(len(part))) for part in (data.train, data.val) if part)
    )
    return DataLoader(train, batch_size=BATCH, shuffle=True), DataLoader(val, batch_size=EVALUATION_BATCH)


def _cnn(layout: torch.memory_format) -> nn.Module:
    from dltrain.models import CNN

    return CNN((1, 8, 8), 10).to(memory_format=layout)
