"""Losses, which of them fits what, and penalties on the weights."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dltrain.errors import MismatchError

# Which option of the ``loss`` group fits which task; a class that is not here is the user's own and is trusted.
_FITTING: dict[str, dict[str, type[nn.Module]]] = {
    "classification": {"cross_entropy": nn.CrossEntropyLoss, "bce_with_logits": nn.BCEWithLogitsLoss},
    "regression": {"mse": nn.MSELoss, "l1": nn.L1Loss, "huber": nn.HuberLoss},
}


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """Binary cross entropy of each output on its own, against the one-hot class or against targets of 0 and 1.

    ``outputs`` (batch, num_outputs) logits; ``targets`` (batch,) int64 class indices, or (batch, num_outputs).
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.dim() < outputs.dim():
            targets = F.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
        return super().forward(outputs, targets)


def for_task(
    task: str, weight: Tensor | None = None, ignore_index: int = -100, label_smoothing: float = 0.0
) -> nn.Module:
    """The usual loss of a task: cross entropy for classification, the mean squared error for regression.

    The other arguments are those of :class:`torch.nn.CrossEntropyLoss`.

    Raises:
        MismatchError: one of them is given for a regression.
    """
    if task == "classification":
        return nn.CrossEntropyLoss(weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
    if weight is not None or ignore_index != -100 or label_smoothing:
        told = "loss=auto takes weight, ignore_index and label_smoothing for classification alone"
        raise MismatchError(f"{told}, but the task of the data set is {task}")
    return nn.MSELoss()


def require_fitting(loss: nn.Module, task: str) -> None:
    """Raise :class:`MismatchError` for one of the known losses that belongs to another task."""
    for other, losses in _FITTING.items():
        if other != task and isinstance(loss, tuple(losses.values())):
            raise MismatchError(
                f"loss {type(loss).__name__} is for {other}, but the task of the data set is {task};"
                f" losses that fit: {', '.join(_FITTING[task])}"
            )


class Penalty:
    """``l1 * sum |w| + l2 * sum w²`` over the weights: parameters of two or more dimensions, so neither biases nor
    the scales of batch norm. ``train/loss`` is reported without it."""

    def __init__(self, parameters: Iterable[nn.Parameter], l1: float, l2: float):
        self.weights = [parameter for parameter in parameters if parameter.dim() > 1]
        self.l1 = l1
        self.l2 = l2

    def __call__(self) -> Tensor:
        terms = []
        if self.l1:
            terms.append(self.l1 * torch.stack([weight.abs().sum() for weight in self.weights]).sum())
        if self.l2:
            terms.append(self.l2 * torch.stack([weight.square().sum() for weight in self.weights]).sum())
        return torch.stack(terms).sum()
