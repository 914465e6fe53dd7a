"""The only evaluation loop: validation and test during a run, and every verb that looks at a trained network."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from dltrain.device import Precision
from dltrain.metrics import Metrics

Loss = Callable[[Tensor, Tensor], Tensor]


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: Loss, metrics: Metrics, precision: Precision
) -> Metrics:
    """Run ``model`` over ``batches`` in evaluation mode and gather ``metrics``; the model's mode is put back."""
    training = model.training
    model.eval()
    try:
        for inputs, targets in batches:
            with precision.autocast():
                outputs = model(inputs)
                batch_loss = loss(outputs, targets)
            metrics.update(outputs, targets, batch_loss)
    finally:
        model.train(training)
    return metrics
