"""The training loop, in the open: an epoch is train steps, evaluation, schedule, log, checkpoint, and maybe a stop."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dltrain.averaging import ExponentialMovingAverage
from dltrain.checkpoint import Checkpoints
from dltrain.data.loader import Loader
from dltrain.device import Precision
from dltrain.errors import TrainingError
from dltrain.inference import Loss, evaluate
from dltrain.loggers import Logger
from dltrain.losses import Penalty
from dltrain.metrics import MeanLoss, MetricsFactory
from dltrain.monitor import Best, EarlyStopping
from dltrain.progress import View
from dltrain.schedulers import Schedule

log = logging.getLogger(__name__)

Row = dict[str, float]


@dataclass
class Trainer:
    """Everything a training run works with; :meth:`fit` runs it.

    ``accumulate`` cuts each batch of ``train`` into so many micro-batches, whose gradients add up to the batch's
    (exactly so for losses that are means over samples, without batch norm). ``clip_norm`` bounds the norm of all
    gradients together, ``clip_value`` each gradient. With ``ema`` the averaged weights are the ones evaluated.
    ``compiled`` is ``model`` as ``torch.compile`` returns it; state is always read from ``model``.
    """

    model: nn.Module
    loss: Loss
    optimizer: Optimizer
    train: Loader
    val: Loader | None
    metrics: MetricsFactory
    precision: Precision
    epochs: int
    best: Best
    checkpoints: Checkpoints
    view: View
    schedule: Schedule | None = None
    penalty: Penalty | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: ExponentialMovingAverage | None = None
    early_stopping: EarlyStopping | None = None
    loggers: Sequence[Logger] = ()
    compiled: Callable[[Tensor], Tensor] | None = None

    epoch: int = 0  # epochs finished
    step: int = 0  # optimizer steps taken
    history: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scaler = self.precision.scaler()
        self.network = self.model if self.compiled is None else self.compiled

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights are evaluated and kept: the averaged one where there is one."""
        return self.ema.model if self.ema else self.model

    def fit(self) -> None:
        """Train until ``epochs`` are done or early stopping says so.

        Raises:
            TrainingError: the training loss is no longer finite.
        """
        while self.epoch < self.epochs:
            train_loss, lr = self.train_epoch()
            self.epoch += 1
            row = {"epoch": self.epoch, "step": self.step, "lr": lr, "train/loss": train_loss, **self.validate()}
            if self.schedule:
                self.schedule.after_epoch(row)
            self.history.append(row)
            improved = self.best.update(self.epoch, row)
            for logger in self.loggers:
                logger.log(row)
            self.view.epoch(row, self.best)
            self.checkpoints.after_epoch(self, improved)
            if self.early_stopping:
                self.early_stopping.update(self.epoch, row)
                if self.early_stopping.should_stop:
                    log.info("stopped early at epoch %d: %s", self.epoch, self.early_stopping)
                    break
        self.checkpoints.finish(self)

    def train_epoch(self) -> tuple[float, float]:
        """Take a step for each batch; returns the mean loss over samples and the last step's learning rate."""
        self.train.set_epoch(self.epoch)
        self.model.train()
        total = MeanLoss(self.precision.device)
        lr = 0.0
        for inputs, targets in self.train:
            self.train_step(inputs, targets, total)
            self.step += 1
            lr = self.optimizer.param_groups[0]["lr"]
            if self.schedule:
                self.schedule.after_step()
            self.view.step(total)
        train_loss = total.compute()
        if not math.isfinite(train_loss):
            raise TrainingError(
                f"training diverged: the loss of epoch {self.epoch + 1} is {train_loss} (learning rate {lr:g}, up to"
                f" step {self.step}); try a smaller optim.lr, or trainer.clip_norm=1"
            )
        return train_loss, lr

    def train_step(self, inputs: Tensor, targets: Tensor, total: MeanLoss) -> None:
        """One optimizer step over a batch; its loss goes into ``total``, and nothing waits for the device."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.accumulate == 1:
            self.backward(inputs, targets, total, share=1.0)
        else:
            for part, part_targets in zip(inputs.chunk(self.accumulate), targets.chunk(self.accumulate), strict=True):
                self.backward(part, part_targets, total, share=len(part_targets) / len(targets))
        if self.clip_norm or self.clip_value:
            self.clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update()

    def backward(self, inputs: Tensor, targets: Tensor, total: MeanLoss, share: float) -> None:
        """Add the gradients of ``share`` times the mean loss over these samples."""
        with self.precision.autocast():
            loss = self.loss(self.network(inputs), targets)
        total.update(loss, len(targets))
        objective = loss + self.penalty() if self.penalty else loss
        self.scaler.scale(objective if share == 1.0 else objective * share).backward()  # type: ignore[no-untyped-call]

    def clip(self) -> None:
        """Bound the gradients, in their own scale."""
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        if self.clip_value:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)

    def validate(self) -> Row:
        """Metrics of the validation part as ``val/...``; none without one."""
        if self.val is None:
            return {}
        metrics = evaluate(self.evaluated, self.val, self.loss, self.metrics(), self.precision)
        return {f"val/{name}": value for name, value in metrics.compute().items()}

    def state_dict(self) -> dict[str, Any]:
        """The state between two epochs, in plain types and tensors."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "ema": self.ema.model.state_dict() if self.ema else None,
            "best": self.best.state_dict(),
            "early_stopping": self.early_stopping.state_dict() if self.early_stopping else None,
        }
