"""What a trainer does when a step goes wrong: values that are not finite, or memory that is short."""

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from dltrain.data.loader import Loader
from dltrain.errors import TrainingError
from dltrain.system.device import is_out_of_memory
from dltrain.training.finite import NOTHING_FOUND, diagnose
from dltrain.training.state import State

log = logging.getLogger(__name__)

_MOST_ROLLBACKS = 5
_MOST_PARTS = 64  # of a batch: what does not fit then is rarely its samples, and so many parts take their time


class NotFinite(Exception):
    """A loss or gradient of ``step`` is not finite; the trainer's state is no longer to be used."""

    def __init__(self, step: int, cause: str):
        super().__init__(cause)
        self.step = step
        self.cause = cause


def not_finite(trainer: State, step: int, inputs: Tensor, backward: Callable[[], Tensor]) -> None:
    """Do what ``on_nonfinite`` says about ``step``; ``backward`` computes this process's gradients of ``inputs`` alone.

    Raises:
        NotFinite: unless the step is to be skipped.
    """
    cause = _describe(trainer, inputs, backward)
    trainer.watch.reset()
    if trainer.on_nonfinite != "skip":
        raise NotFinite(step, cause)
    trainer.events.append({"event": "step skipped", "step": step, "cause": cause})
    log.warning("step %d is skipped: its loss or a gradient is not finite; %s", step, cause)


def _describe(trainer: State, inputs: Tensor, backward: Callable[[], Tensor]) -> str:
    if trainer.sharded:
        return "in which layer it began cannot be found in a network that lies in shards"
    device = trainer.precision.device
    network, trainer.network = trainer.network, trainer.model  # a wrapped network does not say what its layers do
    # A skipped step leaves the draws of those behind it alone.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            cause = diagnose(trainer.model, backward, inputs)
        finally:
            trainer.network = network
    causes = trainer.world.gather(cause)
    found = [(rank, cause) for rank, cause in enumerate(causes) if cause != NOTHING_FOUND]
    rank, cause = (found or [(0, cause)])[0]
    return cause if trainer.world.size == 1 else f"rank {rank}: {cause}"


def buffers(trainer: State) -> list[tuple[Tensor, Tensor]]:
    """What a forward pass itself changes, such as running statistics, each with a copy."""
    return [(buffer, buffer.clone()) for buffer in trainer.model.buffers()]


def put_back(kept: list[tuple[Tensor, Tensor]]) -> None:
    """Undo what was done to :func:`buffers` since."""
    for buffer, copied in kept:
        buffer.copy_(copied)


def roll_back(trainer: State, error: NotFinite) -> None:
    """Take up the last state that was saved and go on with half the learning rate, a few times at most.

    Raises:
        TrainingError: that was not asked for, or did not help.
    """
    rollbacks = 1 + sum(event["event"] == "rollback" for event in trainer.events)
    if trainer.on_nonfinite != "rollback" or rollbacks > _MOST_ROLLBACKS:
        raise TrainingError(
            f"training diverged: the loss or a gradient of step {error.step} (epoch {trainer.epoch + 1}, learning rate"
            f" {trainer.lr:g}) is not finite; {error.cause}. Try a smaller optim.lr, trainer.clip_norm=1, or"
            " trainer.on_nonfinite=skip or rollback"
        ) from error
    events = trainer.events
    # A copy, because the optimizer takes the tensors themselves and changes them in place.
    trainer.load_state_dict(copy.deepcopy(trainer.saved["trainer"]))
    trainer.checkpoints.restore_best(trainer.saved["best"])
    trainer.loggers.rewind(trainer.history)
    before = sum(event["event"] == "rollback" for event in trainer.events)
    scale_learning_rate(trainer, 0.5 ** (rollbacks - before))
    trainer.events = [*events, {"event": "rollback", "step": error.step, "to": trainer.step, "cause": error.cause}]
    log.warning(
        "step %d is not finite; %s. Back to step %d, at half the learning rate", error.step, error.cause, trainer.step
    )


def scale_learning_rate(trainer: State, factor: float) -> None:
    """Multiply the learning rate, and what a schedule computes it from, by ``factor``."""
    for group in trainer.optimizer.param_groups:
        for name in {"lr", "initial_lr", "max_lr", "min_lr"} & set(group):  # the last two are OneCycleLR's
            group[name] *= factor
    if trainer.schedule:
        trainer.schedule.scale(factor)


def halve(trainer: State, samples: int, error: RuntimeError) -> None:
    """After ``error``, cut batches of ``samples`` into twice as many micro-batches, which leaves the gradient as it is.

    Raises:
        RuntimeError: the error, where it is not about memory.
        TrainingError: micro-batches cannot be smaller, or are not to be.
    """
    if not is_out_of_memory(error):
        raise error
    single = trainer.accumulate >= samples // trainer.smallest
    at_least = single or trainer.accumulate >= _MOST_PARTS
    if trainer.on_oom == "stop" or at_least or trainer.world.size > 1:
        fewest = "single samples" if trainer.smallest == 1 else "pairs of samples"
        fewest = fewest if single else f"a batch in {trainer.accumulate} parts"
        least = f" even for {fewest}" if at_least else ""
        halves = "" if at_least or trainer.world.size > 1 else ", trainer.on_oom=halve"  # where it can help
        raise TrainingError(
            f"out of memory{least} at step {trainer.step + 1}: {str(error).splitlines()[0]}; try a smaller"
            f" dataset.batch_size or model{halves}, or trainer.precision=bf16"
        ) from error
    torch.cuda.empty_cache()
    trainer.accumulate *= 2
    parts, step = trainer.accumulate, trainer.step + 1
    trainer.events.append({"event": "out of memory", "step": step, "accumulate": parts})
    log.warning("out of memory at step %d: batches are computed in %d parts from here on", step, parts)


def halve_batches(trainer: State, loader: Loader, error: RuntimeError) -> None:
    """After ``error``, evaluate in batches of half the size; raises as :func:`halve` does."""
    if not is_out_of_memory(error):
        raise error
    least = max(trainer.train.batch_size // _MOST_PARTS, 1)
    if trainer.on_oom == "stop" or loader.batch_size <= least or trainer.world.size > 1:
        raise TrainingError(
            f"out of memory in an evaluation, in batches of {loader.batch_size}: {str(error).splitlines()[0]}; try a"
            " smaller dataset.batch_size or model, or trainer.precision=bf16"
        ) from error
    torch.cuda.empty_cache()
    loader.batch_size = max(loader.batch_size // 2, 1)
    trainer.events.append({"event": "out of memory", "step": trainer.step, "evaluation_batch": loader.batch_size})
    log.warning("out of memory in an evaluation: its batches have %d samples from here on", loader.batch_size)
