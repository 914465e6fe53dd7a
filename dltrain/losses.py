"""Losses, which of them fits what, and penalties on the weights."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dltrain.errors import MismatchError

TASKS = ("classification", "regression")


@dataclass(frozen=True)
class Description:
    """What a loss says of itself: the ``task`` that it is for, the ``option`` of the group ``loss`` that names it, and
    what makes ``predictions`` of outputs (batch, num_outputs); ``None`` for what is not known."""

    task: str | None = None
    option: str | None = None
    predictions: Callable[[Tensor], Tensor] | None = None


# dltrain's and torch's losses, with what inherits from them.
_LOSSES: dict[type[nn.Module], Description] = {
    nn.CrossEntropyLoss: Description("classification", "cross_entropy"),
    nn.BCEWithLogitsLoss: Description("classification", "bce_with_logits", torch.sigmoid),  # each class by itself
    nn.MSELoss: Description("regression", "mse"),
    nn.L1Loss: Description("regression", "l1"),
    nn.HuberLoss: Description("regression", "huber"),
}


def describe(loss: Any) -> Description:
    """What ``loss`` says of itself: by its class, or the user's own by an attribute ``task`` and a method
    ``predictions(outputs)``."""
    known = next((text for kind, text in _LOSSES.items() if isinstance(loss, kind)), Description())
    task = getattr(loss, "task", None)
    return Description(task if task in TASKS else known.task, known.option, _method(loss) or known.predictions)


def _method(loss: Any) -> Callable[[Tensor], Tensor] | None:
    method = getattr(loss, "predictions", None)
    return method if callable(method) else None


def predictions(loss: Any, outputs: Tensor, task: str) -> Tensor:
    """Probabilities (batch, classes), or standardised values of the target, from ``outputs`` (batch, num_outputs).

    Unless the loss says otherwise these are the softmax of the outputs, or for a regression the outputs themselves.
    """
    if convert := describe(loss).predictions:
        return convert(outputs)
    return outputs.softmax(1) if task == "classification" else outputs


def scores(loss: Any, outputs: Tensor) -> Tensor:
    """What metrics compare with targets: the outputs, of which the largest is the class, or the values.

    Only a loss with a method ``predictions`` makes something else of them.
    """
    convert = _method(loss)
    return convert(outputs) if convert else outputs


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """Binary cross entropy of each output separately, against the one-hot class or against targets of 0 and 1.

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
        MismatchError: another argument is given for a regression.
    """
    if task == "classification":
        return nn.CrossEntropyLoss(weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
    if weight is not None or ignore_index != -100 or label_smoothing:
        raise MismatchError(
            "loss=auto takes weight, ignore_index and label_smoothing for classification alone,"
            f" but the task of the data set is {task}"
        )
    return nn.MSELoss()


def require_fitting(loss: nn.Module, task: str) -> None:
    """Raise :class:`MismatchError` for a loss that is for another task, as far as it says what it is for."""
    description = describe(loss)
    if description.task not in (None, task):
        options = [known.option for known in _LOSSES.values() if known.task == task and known.option]
        raise MismatchError(
            f"loss {type(loss).__name__} is for {description.task}, but the task of the data set is {task};"
            f" losses that fit: {', '.join(options)}"
        )


class ByWeight:
    """A loss that divides ``total(outputs, targets)`` by ``weight_of(targets)``, tensors () that wait for nothing.

    Its parts make up the loss of a batch so: ``unit`` is what a sample of the whole batch counts on average; parts that
    are scaled by it, and averaged over samples, are the loss of the whole. A mean over batches is a sum of totals,
    divided by the sum of weights. Where nothing has a weight, that is 0 / 0: it counts as 0, and has no gradient.
    """

    def __init__(self, total: Callable[[Tensor, Tensor], Tensor], weight_of: Callable[[Tensor], Tensor]):
        self.total = total
        self.weight_of = weight_of

    def unit(self, targets: Tensor, samples: int, summed: Callable[[Tensor], Tensor]) -> Tensor:
        """From this process's ``targets`` of a batch of ``samples`` in all; ``summed`` adds up over processes."""
        dtype = torch.float32 if targets.device.type == "mps" else torch.float64
        return summed(self.weight_of(targets).to(dtype)) / samples

    def of_part(self, outputs: Tensor, targets: Tensor, rows: int, unit: Any) -> Tensor:
        """The loss () of a part of a batch of which the first ``rows`` count, all or none, scaled by ``unit``."""
        total = self.total(outputs, targets)
        share = torch.where(unit != 0, 1 / unit, 0) if rows else torch.zeros_like(unit)
        return total * (share / max(rows, 1)).to(total.dtype)

    def of_steps(self, loss: Tensor, samples: int, unit: Any) -> tuple[Tensor, Tensor]:
        """Total and weight of the mean ``loss`` that was computed with ``unit`` for so many samples."""
        return loss * unit * samples, unit * samples

    def of_batch(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Total and weight of a batch."""
        return self.total(outputs, targets), self.weight_of(targets)


class Summed:
    """A loss that is the sum over a batch: steps follow the sum, and what is reported is the mean over samples.

    Its methods are those of :class:`ByWeight`.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]):
        self.loss = loss

    def unit(self, targets: Tensor, samples: int, summed: Callable[[Tensor], Tensor]) -> float:
        return 1 / samples

    def of_part(self, outputs: Tensor, targets: Tensor, rows: int, unit: Any) -> Tensor:
        return self.loss(outputs, targets) * (1 / (rows * unit) if rows else 0)

    def of_steps(self, loss: Tensor, samples: int, unit: Any) -> tuple[Tensor, int]:
        return loss * unit * samples, samples

    def of_batch(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return self.loss(outputs, targets), len(targets)


def weighing_of(loss: Any) -> ByWeight | Summed | None:
    """How the losses of parts make up that of a batch; ``None`` for a mean over samples.

    torch's losses are known. Other losses declare it: ``reduction = "sum"`` as torch's losses have it, or a method
    ``batch_weight(targets)`` that returns what its mean over a batch is divided by, a tensor (). A loss without either
    is taken for a mean over samples.
    """
    if getattr(loss, "reduction", "mean") == "sum":
        return Summed(loss)
    if weight_of := getattr(loss, "batch_weight", None):
        return ByWeight(lambda outputs, targets: _total(loss, weight_of, outputs, targets), weight_of)
    is_torchs = getattr(type(loss), "forward", None) in (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)
    # Below 0 there is no class that could be ignored.
    if not is_torchs or (loss.weight is None and loss.ignore_index < 0):
        return None
    summing = copy.copy(loss)
    summing.reduction = "sum"
    return ByWeight(summing, lambda targets: _weight_of_classes(loss, targets))


def _total(loss: Any, weight_of: Callable[[Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """A mean by weight times its weight; what is masked has no gradient, even after a division by 0."""
    weight = weight_of(targets)
    counts = weight != 0
    mean = loss(torch.where(counts, outputs, outputs.detach()), targets)
    return torch.where(counts, mean * weight, 0)


def _weight_of_classes(loss: nn.CrossEntropyLoss | nn.NLLLoss, targets: Tensor) -> Tensor:
    """What torch divides the sum by: the weights of the classes, without those of the class that is ignored."""
    if targets.is_floating_point():  # probabilities of the classes: a mean over samples, whatever the weights
        return targets.new_full((), targets.numel() / targets.shape[1])
    counted = targets != loss.ignore_index
    if loss.weight is None:
        return counted.sum()
    return (loss.weight[torch.where(counted, targets, 0)] * counted).sum()


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
