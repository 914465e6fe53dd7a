"""The training loop, in the open: an epoch is train steps, evaluation, schedule, log, checkpoint, and maybe a stop."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dltrain.data.loader import Loader
from dltrain.distributed.layers import least_samples
from dltrain.distributed.strategy import is_sharded, norm_of_shards, without_sum
from dltrain.distributed.world import World
from dltrain.loggers import Loggers
from dltrain.losses import Penalty, weighing_of
from dltrain.runs.checkpoint import Checkpoints, Due
from dltrain.schedulers import Schedule
from dltrain.system.device import Precision, random_state, set_random_state
from dltrain.system.machine import CoreWatch
from dltrain.system.signals import StopRequest
from dltrain.training import recovery, state
from dltrain.training.averaging import ExponentialMovingAverage
from dltrain.training.finite import FiniteWatch
from dltrain.training.inference import Loss, evaluate, stand_in
from dltrain.training.metrics import MeanLoss, Metrics, MetricsFactory
from dltrain.training.monitor import Best, EarlyStopping, Pruning
from dltrain.training.progress import View
from dltrain.training.recovery import NotFinite

log = logging.getLogger(__name__)

Row = dict[str, float]


@dataclass
class Trainer:
    """Everything a training run works with; :meth:`fit` runs it, from wherever its state says.

    ``accumulate`` cuts each batch of ``train`` into so many micro-batches, whose gradients add up to the batch's
    (exactly so without batch norm, for losses as :mod:`~.losses` knows them). ``clip_norm`` bounds the norm of all
    gradients together, ``clip_value`` each gradient. With ``ema`` the averaged weights are the ones evaluated.
    ``wrapped`` is ``model`` as ``torch.compile``, or what holds it in several processes, returns it; state is always
    read from ``model``.

    ``world`` are the processes that share the run: each computes its part of every batch, and ``fit`` does the same in
    all of them. Where there are several, ``on_oom`` is of no effect: the others could not know.

    ``on_nonfinite`` says what follows a loss or gradient that is not finite: ``stop`` the run, ``skip`` the step, or
    ``rollback`` to the last checkpoint and go on with half the learning rate. With ``on_oom`` ``halve`` a step that
    runs out of memory is taken again in micro-batches of half the size.
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
    due: Due = field(default_factory=Due)
    schedule: Schedule | None = None
    penalty: Penalty | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: ExponentialMovingAverage | None = None
    early_stopping: EarlyStopping | None = None
    pruning: Pruning | None = None
    loggers: Loggers = field(default_factory=Loggers)
    wrapped: Callable[[Tensor], Tensor] | None = None
    world: World = field(default_factory=World)
    cores: CoreWatch | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    on_oom: Literal["halve", "stop"] = "halve"

    epoch: int = 0  # epochs finished
    step: int = 0  # optimizer steps taken
    batch: int = 0  # batches of the current epoch that are done
    lr: float = 0.0  # of the last step
    seconds: float = 0.0  # spent on the run until it was saved last, by all processes that had a part in it
    history: list[Row] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)  # what went wrong and was mended

    def __post_init__(self) -> None:
        self.scaler = self.precision.scaler()
        self.network = self.model if self.wrapped is None else self.wrapped
        self.total = MeanLoss(self.precision.device)  # the training loss of the current epoch so far
        self.weighing = weighing_of(self.loss)
        self.smallest = least_samples(self.model, self.world)
        self.watch = FiniteWatch(self.precision.device)
        self.saved: dict[str, Any] = {}  # what a rollback goes back to
        self._began = time.perf_counter()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad and p.numel()]
        self.sharded = is_sharded(self.parameters)
        if self.world.size > 1:
            self.train.cut = lambda indices: self.world.cut(indices, self.micro_batches(len(indices)))

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights are evaluated and kept: the averaged one where there is one."""
        return self.ema.model if self.ema else self.model

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or early stopping or a pruner has ended the run."""
        return self.epoch >= self.epochs or any(
            rule.should_stop for rule in (self.early_stopping, self.pruning) if rule
        )

    def fit(self) -> None:
        """Train until ``epochs`` are done, or early stopping or a pruner says so.

        Raises:
            TrainingError: a loss or gradient is not finite, no memory is left, or a checkpoint cannot be written.
            Interrupted: a signal came; the state is saved.
        """
        with self.stop.deferred():
            if self.on_nonfinite == "rollback":
                self.save()  # there must be something to go back to
            while not self.finished:
                try:
                    self.train_epoch()
                    self.end_epoch(self.validate())
                except NotFinite as error:
                    recovery.roll_back(self, error)
            if self.step and not self.best.epoch:
                self.save_best()  # no epoch was ever best, but there must be weights
            self.settle()
        if self.world.size == 1:
            self.stop.check()  # a signal that came behind the last step

    def train_epoch(self) -> None:
        """Take a step for each batch that the current epoch has left."""
        self.train.set_epoch(self.epoch, self.batch)
        self.view.begin_epoch(self.epoch, self.batch)
        self.model.train()
        for inputs, targets in self.train:
            self.lr = self.optimizer.param_groups[0]["lr"]
            self.train_step(inputs, targets)
            self.step += 1
            self.batch += 1
            if self.schedule:
                self.schedule.after_step()
            self.view.step(self.total)
            if self.cores:
                self.cores.after_step()
            signal, time_is_up = self.world.agree(self.stop.number, self.due.time_is_up)
            if time_is_up or self.due.after_step(self.step):
                self.save()
            if signal:
                self.settle()
        self.require_finite()

    def end_epoch(self, metrics: Row) -> None:
        """Schedule, log, keep what is to be kept."""
        train_loss = self.total.merge(self.world).compute()
        self.epoch += 1
        self.batch, self.total = 0, MeanLoss(self.precision.device)
        row = {"epoch": self.epoch, "step": self.step, "lr": self.lr, "train/loss": train_loss, **metrics}
        if self.schedule:
            self.schedule.after_epoch(row)
        self.history.append(row)
        if self.best.update(self.epoch, row):
            self.save_best()
        if self.early_stopping:
            self.early_stopping.update(self.epoch, row)
        if self.pruning:
            self.pruning.update(self.epoch, row, asks=not self.finished)
        self.loggers.log(row)
        self.view.epoch(row, self.best)
        if self.due.after_epoch(self.epoch):
            self.save()
        if self.early_stopping and self.early_stopping.should_stop:
            log.info("stopped early at epoch %d: %s", self.epoch, self.early_stopping)
        if self.pruning and self.pruning.should_stop:
            log.info("%s", self.pruning)

    def train_step(self, inputs: Tensor, targets: Tensor) -> None:
        """One optimizer step over a batch; nothing waits for the device."""
        buffers = recovery.buffers(self) if self.on_nonfinite == "skip" else []
        unit = self.unit(targets)
        loss = self.gradients(inputs, targets, unit)
        if self.clip_norm or self.clip_value:
            self.clip()
        watched = [] if self.scaler.is_enabled() else [p.grad for p in self.parameters if p.grad is not None]
        if self.sharded:
            watched = [norm_of_shards(watched, self.world)]
        # Of several processes' losses each knows its own, but they must all come to the same conclusion.
        bad = self.watch.note(self.step + 1, loss if self.world.size == 1 else torch.zeros_like(loss), watched)
        if bad is None and self.on_nonfinite == "skip":
            bad = self.watch.look(wait=True)  # to leave out a step, it must be known before it is taken
        if bad is not None:
            recovery.not_finite(self, bad, (inputs, targets))
            recovery.put_back(buffers)
            return
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update()
        if self.weighing is None:
            self.total.update(loss, len(targets))
        else:
            self.total.add(*self.weighing.of_steps(loss, len(targets), unit))

    def unit(self, targets: Tensor) -> Tensor | float | None:
        """What a sample of the whole batch counts in its loss on average; ``None`` where all count alike."""
        if self.weighing is None:
            return None
        samples = len(targets) if self.world.size == 1 else self.train.size_of(self.batch)
        return self.weighing.unit(targets, samples, self.world.sum)

    def micro_batches(self, samples: int) -> int:
        """How many micro-batches a batch of so many samples is cut into."""
        return min(self.accumulate, max(samples // self.smallest, 1))

    def gradients(self, inputs: Tensor, targets: Tensor, unit: Tensor | float | None = None) -> Tensor:
        """Set the gradients of the loss of a batch, and return it; smaller micro-batches if memory is short.

        ``unit`` is the batch's :meth:`unit`. Where several processes share the batch, what is returned is the mean over
        this one's samples.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                if self.world.size > 1:
                    return self.gradients_together(inputs, targets, unit)
                if self.accumulate == 1:
                    return self.backward(inputs, targets, 1.0, unit)
                return self.accumulated(inputs, targets, unit)
            except RuntimeError as error:
                recovery.halve(self, len(targets), error)

    def accumulated(self, inputs: Tensor, targets: Tensor, unit: Tensor | float | None) -> Tensor:
        """:meth:`gradients` in micro-batches."""
        count = self.micro_batches(len(targets))
        total = torch.zeros_like(self.total.total)
        for part in zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True):
            share = len(part[1]) / len(targets)
            total += self.backward(*part, share, unit).to(total.dtype) * share
        return total

    def gradients_together(self, inputs: Tensor, targets: Tensor, unit: Tensor | float | None) -> Tensor:
        """:meth:`gradients` of this process's part of a batch; all processes end with those of the whole."""
        samples = self.train.size_of(self.batch)
        pieces = self.world.pieces(samples, self.micro_batches(samples))
        rows = [len(piece) for piece in pieces]
        total = torch.zeros_like(self.total.total)
        parts = zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True)
        for piece, part in zip(pieces, parts, strict=True):
            with self.world.at(piece), nullcontext() if piece is pieces[-1] else without_sum(self.network):
                # The processes' gradients are averaged, so these shares of them add up to the whole batch's.
                loss = self.backward(*part, len(piece) * self.world.size / samples, unit)
            total += loss.to(total.dtype) * len(piece)
        return total / max(len(targets), 1)

    def backward(self, inputs: Tensor, targets: Tensor, share: float, unit: Tensor | float | None) -> Tensor:
        """Add the gradients of ``share`` times the mean loss over these samples; returns the loss itself."""
        rows = len(targets)
        inputs, targets = stand_in(inputs, targets)
        with self.precision.autocast():
            outputs = self.network(inputs)
            if self.weighing is None:
                loss = self.loss(outputs, targets)
            else:
                loss = self.weighing.of_part(outputs, targets, rows, unit)
        objective = loss + self.penalty() if self.penalty else loss
        if self.world.size > 1:  # gradients are the same everywhere, so they carry the news of one process's loss
            objective = objective * torch.where(loss.detach().isfinite(), share, math.nan)
        elif share != 1.0:
            objective = objective * share
        self.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def clip(self) -> None:
        """Bound the gradients, in their own scale."""
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.parameters if parameter.grad is not None]
        if self.clip_value:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)

    def validate(self) -> Row:
        """Metrics of the validation part as ``val/...``; none without one."""
        if self.val is None:
            return {}
        return {f"val/{name}": value for name, value in self.evaluate(self.val).compute().items()}

    def evaluate(self, loader: Loader) -> Metrics:
        """Metrics of the evaluated weights over ``loader``, in smaller batches if memory is short."""
        if self.world.size > 1 and not self.sharded:
            self.world.send(self.evaluated.buffers())  # statistics that each process has of its own rows
        while True:
            try:
                batches = self._until_stopped(loader)
                metrics = evaluate(self.evaluated, batches, self.loss, self.metrics(), self.precision)
                metrics.merge(self.world)
                return metrics
            except RuntimeError as error:
                recovery.halve_batches(self, loader, error)

    def _until_stopped(self, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        draws = random_state()
        for batch in loader:
            signal, _ = self.world.agree(self.stop.number, False)
            if signal:
                set_random_state(draws)  # the evaluation will be taken again from its start
                self.settle()
            yield batch

    def settle(self) -> None:
        """Have the state on the disk, and leave if a signal has asked for it, in this process or another."""
        if self.due.is_behind(self.epoch, self.step):
            self.save()
        self.checkpoints.wait()
        (signal,) = self.world.agree_now(self.stop.number)
        if signal:
            self.stop.note(signal)
            self.stop.check()

    def save_best(self) -> None:
        """Keep the weights of this epoch as the best."""
        self.checkpoints.save_best(self._content())

    def save(self) -> None:
        """Keep the state, to go on from."""
        self.require_finite()  # else this would be a state that nobody can go on from
        self.seconds, self._began = self.seconds + time.perf_counter() - self._began, time.perf_counter()
        saved = self.checkpoints.save_last({**self._content(), "trainer": self.state_dict()})
        self.due.saved(self.epoch, self.step)
        if self.on_nonfinite == "rollback":
            self.saved = {**saved, "best": self.checkpoints.newest_best}

    def require_finite(self) -> None:
        """Wait until it is known that all steps so far were finite; what ``on_nonfinite`` says where one was not."""
        if (bad := self.watch.look(wait=True)) is not None:
            recovery.not_finite(self, bad)

    def _content(self) -> dict[str, Any]:
        metrics = dict(self.history[-1]) if self.history else {}
        return {"epoch": self.epoch, "metrics": metrics, "model": self.evaluated.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, in plain types and tensors."""
        return state.state_dict(self)

    def load_state_dict(self, saved: Mapping[str, Any], without: Sequence[str] = ()) -> None:
        """Go on from :meth:`state_dict` of a trainer that was built alike; parts in ``without`` stay as they are."""
        state.load_state_dict(self, saved, without)
