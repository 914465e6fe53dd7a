"""The training loop, in the open: an epoch is train steps, evaluation, schedule, log, checkpoint, and maybe a stop."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.data.loader import Loader
from dltrain.distributed.process_group import ProcessGroup
from dltrain.distributed.strategy import norm_of_shards, without_sum
from dltrain.system.device import random_state, set_random_state
from dltrain.training.inference import evaluate, stand_in
from dltrain.training.metrics import MeanLoss, Metrics
from dltrain.training.recovery import ALL_FINITE, NotFinite, diagnose, put_back
from dltrain.training.state import Row, State

log = logging.getLogger(__name__)


class Trainer(State):
    """The loop over the :class:`State` of a run; :meth:`fit` runs it, from wherever the state says.

    It does the same in all processes of the ``process_group``: each computes its part of every batch.
    """

    def fit(self) -> None:
        """Train until ``epochs`` are done, or early stopping or a pruner says so.

        Raises:
            TrainingError: a loss or gradient is not finite, no memory is left, or a checkpoint cannot be written.
            Interrupted: a signal came; the state is saved.
        """
        with self.stop.deferred():
            if self.recovery.rolls_back:
                self.save()  # there must be something to go back to
            while not self.finished:
                try:
                    self.train_epoch()
                    self.end_epoch(self.validate())
                except NotFinite as error:
                    self.roll_back(error)
            if self.step and not self.best.epoch:
                self.save_best()  # no epoch was ever best, but there must be weights
            self.settle()
        if self.process_group.size == 1:
            self.stop.check()  # a signal that came after the last step

    def train_epoch(self) -> None:
        """Take a step for each batch that the current epoch has left."""
        self.train.set_epoch(self.epoch, self.batch)
        self.view.begin_epoch(self.epoch, self.batch)
        self.model.train()
        for inputs, targets in self.profile.batches(self.train):
            self.lr = self.optimizer.param_groups[0]["lr"]
            self.train_step(inputs, targets)
            self.profile.end_step()
            self.step += 1
            self.batch += 1
            if self.schedule:
                self.schedule.after_step()
            self.view.step(self.total)
            if self.cores:
                self.cores.after_step()
            signal, time_is_up = self.process_group.agree(self.stop.number, self.due.time_is_up)
            if time_is_up or self.due.after_step(self.step):
                self.save()
            if signal:
                self.settle()
        self.require_finite()

    def end_epoch(self, metrics: Row) -> None:
        """Schedule, log, keep what is to be kept."""
        train_loss = self.total.merge(self.process_group).compute()
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
        buffers = self.recovery.copies(self.model.buffers())
        unit = self.unit(targets)
        loss = self.gradients(inputs, targets, unit)
        if self.clip_norm or self.clip_value:
            with self.profile.phase("optimizer"):
                self.clip()
        watched = [] if self.scaler.is_enabled() else [p.grad for p in self.parameters if p.grad is not None]
        if self.sharded:
            watched = [norm_of_shards(watched, self.process_group)]
        # Each of several processes has another loss, but they must all come to the same conclusion.
        shared_loss = loss if self.process_group.size == 1 else torch.zeros_like(loss)
        bad = self.recovery.note(self.step + 1, shared_loss, watched)
        if bad is not None:
            self.not_finite(bad, (inputs, targets))
            put_back(buffers)
            return
        with self.profile.phase("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.ema:
            with self.profile.phase("optimizer"):
                self.ema.update()
        if self.weighing is None:
            self.total.update(loss, len(targets))
        else:
            self.total.add(*self.weighing.of_steps(loss, len(targets), unit))

    def unit(self, targets: Tensor) -> Tensor | float | None:
        """What a sample of the whole batch counts in its loss on average; ``None`` where all count alike."""
        if self.weighing is None:
            return None
        return self.weighing.unit(targets, self.samples(targets), self.process_group.sum)

    def samples(self, targets: Tensor) -> int:
        """Samples of the whole batch, of which this process has the ``targets``."""
        return len(targets) if self.process_group.size == 1 else self.train.size_of(self.batch)

    def gradients(self, inputs: Tensor, targets: Tensor, unit: Tensor | float | None = None) -> Tensor:
        """Set the gradients of the loss of a batch, and return it; smaller micro-batches if memory is short.

        ``unit`` is the batch's :meth:`unit`. Where several processes share the batch, the loss is the mean over this
        process's samples.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                if self.accumulate == 1 and self.process_group.size == 1:
                    return self.backward(inputs, targets, 1.0, unit)
                return self.accumulated(inputs, targets, unit)
            except (RuntimeError, MemoryError) as error:
                self.accumulate = self.recovery.halve(self.accumulate, len(targets), self.step + 1, error)

    def accumulated(self, inputs: Tensor, targets: Tensor, unit: Tensor | float | None) -> Tensor:
        """:meth:`gradients` in micro-batches, of each of which this process has a slice."""
        group, samples = self.process_group, self.samples(targets)
        slices = group.slices(samples, self.micro_batches(samples))
        rows = [len(batch_slice) for batch_slice in slices]
        total = torch.zeros_like(self.total.total)
        parts = zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True)
        for batch_slice, part in zip(slices, parts, strict=True):
            sums = nullcontext() if batch_slice is slices[-1] else without_sum(self.network)
            with group.computing(batch_slice), sums:
                # The processes' gradients are averaged, so these shares of them add up to the whole batch's.
                loss = self.backward(*part, len(batch_slice) * group.size / samples, unit)
            total += loss.to(total.dtype) * (len(batch_slice) / max(len(targets), 1))
        return total

    def backward(self, inputs: Tensor, targets: Tensor, share: float, unit: Tensor | float | None) -> Tensor:
        """Add the gradients of ``share`` times the mean loss over these samples; returns the loss itself."""
        rows = len(targets)
        inputs, targets = stand_in(inputs, targets)
        with self.profile.phase("forward"):
            with self.precision.autocast():
                outputs = self.network(inputs)
                if self.weighing is None:
                    loss = self.loss(outputs, targets)
                else:
                    loss = self.weighing.of_part(outputs, targets, rows, unit)
            objective = loss + self.penalty() if self.penalty else loss
        if self.process_group.size > 1:  # gradients are shared, so they tell the others of a bad loss
            objective = objective * torch.where(loss.detach().isfinite(), share, math.nan)
        elif share != 1.0:
            objective = objective * share
        with self.profile.phase("backward"):
            self.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def clip(self) -> None:
        """Bound the gradients, without the scale of mixed precision."""
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.parameters if parameter.grad is not None]
        if self.clip_value:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)

    def validate(self) -> Row:
        """Metrics of the validation part, if any, as ``val/...``."""
        if self.val is None:
            return {}
        with self.profile.phase("validation"):
            return {f"val/{name}": value for name, value in self.evaluate(self.val).compute().items()}

    def evaluate(self, loader: Loader) -> Metrics:
        """Metrics of the evaluated weights over ``loader``, in smaller batches if memory is short."""
        if self.process_group.size > 1 and not self.sharded:
            # Statistics of layers, which each process has of other rows.
            self.process_group.broadcast_tensors(self.evaluated.buffers())
        while True:
            try:
                batches = self._until_stopped(loader)
                metrics = evaluate(self.evaluated, batches, self.loss, self.metrics(), self.precision)
                metrics.merge(self.process_group)
                return metrics
            except (RuntimeError, MemoryError) as error:
                loader.batch_size = self.recovery.halve_evaluation(
                    loader.batch_size, self.train.batch_size, self.step, error
                )

    def _until_stopped(self, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        draws = random_state()
        for batch in loader:
            signal, _ = self.process_group.agree(self.stop.number, False)
            if signal:
                set_random_state(draws)  # the evaluation will be taken again from its start
                self.settle()
            yield batch

    def settle(self) -> None:
        """Have the state on the disk, and leave if a signal has asked for it, in this process or another."""
        if self.due.has_unsaved(self.epoch, self.step):
            self.save()
        self.checkpoints.wait()
        (signal,) = self.process_group.agree_now(self.stop.number)
        if signal:
            self.stop.note(signal)
            self.stop.check()

    def save_best(self) -> None:
        """Keep the weights of this epoch as the best."""
        with self.profile.phase("checkpoints"):
            self.checkpoints.save_best(self._content())

    def save(self) -> None:
        """Keep the state, to go on from."""
        with self.profile.phase("checkpoints"):
            self.require_finite()  # else this would be a state that nobody can go on from
            self.seconds, self._began = self.seconds + time.perf_counter() - self._began, time.perf_counter()
            saved = self.checkpoints.save_last({**self._content(), "trainer": self.state_dict()})
            self.due.saved(self.epoch, self.step)
            if self.recovery.rolls_back:
                self.recovery.keep(saved["trainer"], self.checkpoints.newest_best)

    def roll_back(self, error: NotFinite) -> None:
        """Take up the last state that was saved and go on with half the learning rate, a few times at most.

        Raises:
            TrainingError: that was not asked for, or did not help.
        """
        place = f"epoch {self.epoch + 1}, learning rate {self.lr:g}"
        state, best, factor = self.recovery.roll_back(error, place)
        self.load_state_dict(state)
        self.checkpoints.restore_best(best)
        self.loggers.rewind(self.history)
        self.scale_learning_rate(factor)

    def require_finite(self) -> None:
        """Wait until it is known whether all steps so far were finite, and act on a step that was not."""
        if (bad := self.recovery.watch.look(wait=True)) is not None:
            self.not_finite(bad)

    def not_finite(self, step: int, batch: tuple[Tensor, Tensor] | None = None) -> None:
        """Act on ``step``, as ``on_nonfinite`` says; its ``batch`` is given where the step is not taken yet."""
        inputs, targets = batch or next(iter(self.train))
        self.recovery.skip(step, self.first_layer_not_finite(inputs, targets))

    def first_layer_not_finite(self, inputs: Tensor, targets: Tensor) -> str:
        """Where values of a batch stop being finite, in a sentence; the first process that knows says so."""
        if self.sharded:
            return "in which layer it began cannot be found in a network that lies in shards"
        device = self.precision.device
        network, self.network = self.network, self.model  # a wrapped network does not say what its layers do
        # A skipped step leaves the draws of those after it alone.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            try:
                cause = diagnose(self.model, lambda: self.gradients_alone(inputs, targets), inputs)
            finally:
                self.network = network
        causes = self.process_group.gather(cause)
        rank = next((rank for rank, cause in enumerate(causes) if cause != ALL_FINITE), 0)
        return cause if self.process_group.size == 1 else f"rank {rank}: {causes[rank]}"

    def gradients_alone(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """:meth:`gradients` of this process's part without those of the others, which may be looking elsewhere."""
        if self.process_group.size == 1:
            return self.gradients(inputs, targets, self.unit(targets))
        self.optimizer.zero_grad(set_to_none=True)
        unit = self.weighing.unit(targets, max(len(targets), 1), ProcessGroup().sum) if self.weighing else None
        return self.backward(inputs, targets, 1.0, unit)

    def _content(self) -> dict[str, Any]:
        metrics = dict(self.history[-1]) if self.history else {}
        return {"epoch": self.epoch, "metrics": metrics, "model": self.evaluated.state_dict()}
