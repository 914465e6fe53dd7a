"""The only evaluation loop: validation and test during a run, and every verb that uses a trained network."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from dltrain.distributed.strategy import is_sharded
from dltrain.losses import weighing_of
from dltrain.system.device import Precision
from dltrain.training.metrics import Metrics

Key = TypeVar("Key")
Loss = Callable[[Tensor, Tensor], Tensor]


def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: Loss, metrics: Metrics, precision: Precision
) -> Metrics:
    """Run ``model`` over ``batches`` in evaluation mode and gather ``metrics``; the model's mode is put back."""
    training, weighing = model.training, weighing_of(loss)
    model.eval()
    # FSDP keeps the memory of the layers it gathers, and tensors of inference mode are of no use in training.
    without_gradients = torch.no_grad() if is_sharded(model.parameters()) else torch.inference_mode()
    try:
        with without_gradients:
            for inputs, targets in batches:
                rows = len(targets)  # 0 where more processes than samples share a batch; these compute all the same
                inputs, targets = stand_in(inputs, targets)
                with precision.autocast():
                    outputs = model(inputs)
                    losses = weighing.of_batch(outputs, targets) if weighing else (loss(outputs, targets),)
                if rows:
                    metrics.update(outputs, targets, *losses)
    finally:
        model.train(training)
    return metrics


def stand_in(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The batch itself, or where it is empty, which few networks can compute, a sample of zeros."""
    if len(targets):
        return inputs, targets
    return inputs.new_zeros(1, *inputs.shape[1:]), targets.new_zeros(1, *targets.shape[1:])


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Iterable[tuple[Key, Tensor]], precision: Precision
) -> Iterator[tuple[Key, Tensor]]:
    """The outputs of ``model`` for ``batches``, each with its key, as float32 on the CPU, one batch at a time."""
    training = model.training
    model.eval()
    try:
        for key, inputs in batches:
            with precision.autocast():
                outputs = model(inputs)
            yield key, outputs.float().cpu()
    finally:
        model.train(training)
