"""The loop that people write by hand, and how a measurement says what it found."""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def plain_loop(
    model: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    train: Iterable[tuple[Tensor, Tensor]],
    val: Iterable[tuple[Tensor, Tensor]],
    epochs: int,
    device: str,
) -> tuple[list[float], float]:
    """Train and validate, following both losses; returns when each epoch ended and the last validation loss."""
    ends, losses = [], []
    for _ in range(epochs):
        model.train()
        total, count = 0.0, 0
        for inputs, targets in train:
            inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            optimizer.zero_grad()
            loss = loss_function(model(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(targets)
            count += len(targets)
        losses.append((total / count, validate(model, loss_function, val, device)))
        ends.append(time.perf_counter())
    return ends, losses[-1][1]


@torch.no_grad()
def validate(
    model: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    val: Iterable[tuple[Tensor, Tensor]],
    device: str,
) -> float:
    """The mean loss over the validation samples."""
    model.eval()
    total, count = 0.0, 0
    for inputs, targets in val:
        inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        total += loss_function(model(inputs), targets).item() * len(targets)
        count += len(targets)
    return total / count


def findings(began: float, ends: Sequence[float], val_loss: float) -> dict[str, Any]:
    """A measurement from the time it began and the times at which its epochs ended, in seconds and MB.

    ``epoch`` is the steady one: the median of all but the first, where there are more. The memory is the maximum
    resident set of this process, without its workers.
    """
    epochs = [end - start for start, end in zip([began, *ends], ends, strict=False)]
    steady = sorted(epochs[1:] or epochs)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "first": epochs[0],
        "epoch": (steady[(len(steady) - 1) // 2] + steady[len(steady) // 2]) / 2,
        "fit": ends[-1] - began,
        "val_loss": val_loss,
        "peak_mb": resident / 1e6,
    }
