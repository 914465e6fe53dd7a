"""Metrics of a whole part of the data: sums stay on the device and are read once, at the end.

Names are the field's; a mean over batches of different sizes is the mean over samples, and that of a loss which weighs
samples the mean by their weights.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dltrain.data.base import Facts
from dltrain.distributed.process_group import ProcessGroup
from dltrain.report.metrics import NAMES


class Metrics(Protocol):
    """Gathers batches; ``compute`` returns what they amount to."""

    names: tuple[str, ...]

    def update(self, outputs: Tensor, targets: Tensor, loss: Tensor, weight: Tensor | int | None = None) -> None:
        """Add a batch: ``outputs`` (batch, num_outputs), its ``targets`` and its mean ``loss``; never synchronises.

        With a ``weight`` the loss is a total, which is divided by the sum of all weights.
        """
        ...

    def merge(self, process_group: ProcessGroup) -> None:
        """Take in what the other processes of ``process_group`` have gathered from their parts of the same batches."""
        ...

    def compute(self) -> dict[str, float]:
        """The metrics of all batches since the start; the one place that waits for the device."""
        ...


MetricsFactory = Callable[[], Metrics]


def metrics_for(facts: Facts, device: torch.device) -> Metrics:
    """A new, empty set of the metrics of the data set's task."""
    if facts.task == "classification":
        return ClassificationMetrics(facts.num_outputs, device)
    return RegressionMetrics(facts.num_outputs, facts.target_std, device)


def sum_dtype(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64, but float32 on mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class MeanLoss:
    """The mean loss over samples, or by their weights, from the mean losses of batches."""

    def __init__(self, device: torch.device):
        self.total = torch.zeros((), dtype=sum_dtype(device), device=device)
        self.count: Tensor | float = 0  # samples, or what they weigh, which lies on the device

    def update(self, loss: Tensor, count: int) -> None:
        """Add the mean ``loss`` () of ``count`` samples."""
        # In the dtype of the sum: a float16 loss times a large batch would be infinite.
        self.total.add_(loss.detach(), alpha=count)
        self.count = self.count + count

    def add(self, total: Tensor, weight: Tensor | int) -> None:
        """Add the ``total`` () of a batch that has this ``weight``, a number or a tensor () on the device."""
        self.total += total.detach()
        self.count = self.count + (weight.to(self.total.dtype) if isinstance(weight, Tensor) else weight)

    def merge(self, process_group: ProcessGroup) -> "MeanLoss":
        """The mean loss over the samples of all processes; this one's own stays as it is."""
        merged = MeanLoss(self.total.device)
        if process_group.size == 1:
            merged.load_state_dict(self.state_dict())
            return merged
        both = process_group.sum(torch.stack([self.total, torch.full_like(self.total, float(self.count))]))
        count = float(both[1])
        merged.load_state_dict({"total": both[0], "count": int(count) if count.is_integer() else count})
        return merged

    def compute(self) -> float:
        count = float(self.count)
        return float(self.total) / count if count else math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total.copy_(state["total"])
        count = state["count"]
        self.count = count.to(self.total.device) if isinstance(count, Tensor) else count


class ClassificationMetrics:
    """loss, accuracy, macro precision, recall and F1, and for more than 10 classes top-5 accuracy.

    The macro averages run over the classes that occur among targets or predictions, and a class that is never
    predicted (or never occurs) has precision (or recall) 0, as in scikit-learn.
    """

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.loss = MeanLoss(device)
        # One row a true class, one column a predicted class, kept flat.
        self.counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
        self.top5 = torch.zeros((), dtype=torch.int64, device=device) if num_classes > 10 else None
        absent = ("top5_accuracy",) if self.top5 is None else ()
        self.names = tuple(name for name in NAMES["classification"] if name not in absent)

    def update(self, outputs: Tensor, targets: Tensor, loss: Tensor, weight: Tensor | int | None = None) -> None:
        if weight is None:
            self.loss.update(loss, len(targets))
        else:
            self.loss.add(loss, weight)
        cells = targets * self.num_classes + outputs.argmax(1)
        # index_add_ rather than bincount, which asks the device for the largest value.
        self.counts.index_add_(0, cells, torch.ones_like(cells))
        if self.top5 is not None:
            self.top5 += (outputs.topk(5, 1).indices == targets.unsqueeze(1)).sum()

    def merge(self, process_group: ProcessGroup) -> None:
        self.loss = self.loss.merge(process_group)
        process_group.sum(self.counts)
        if self.top5 is not None:
            process_group.sum(self.top5)

    @property
    def confusion(self) -> Tensor:
        """Counts (num_classes, num_classes) int64 on the CPU: rows are true classes, columns predicted ones."""
        return self.counts.view(self.num_classes, self.num_classes).cpu()

    def compute(self) -> dict[str, float]:
        confusion = self.confusion.double()
        hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        occurring = (true + predicted) > 0
        precision = hits / predicted.clamp(min=1)
        recall = hits / true.clamp(min=1)
        f1 = 2 * hits / (true + predicted).clamp(min=1)
        result = {"loss": self.loss.compute(), "accuracy": float(hits.sum() / confusion.sum())}
        if self.top5 is not None:
            result["top5_accuracy"] = float(self.top5) / float(confusion.sum())
        averages = {"precision": precision, "recall": recall, "f1": f1}
        return result | {name: float(values[occurring].mean()) for name, values in averages.items()}


def by_class(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support (true samples) of each class, from ``confusion`` (true, predicted)."""
    counts = torch.tensor(confusion, dtype=torch.float64)
    hits, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    figures = {
        "precision": hits / predicted.clamp(min=1),
        "recall": hits / true.clamp(min=1),
        "f1": 2 * hits / (true + predicted).clamp(min=1),
    }
    return [
        {"name": name, **{key: float(values[row]) for key, values in figures.items()}, "support": int(true[row])}
        for row, name in enumerate(class_names)
    ]


class RegressionMetrics:
    """loss, mean absolute error, root mean squared error and R².

    ``mae`` and ``rmse`` are in the target's original units, ``mae_scaled`` and ``rmse_scaled`` in its standard
    deviations, as the loss. R² is the mean over outputs of ``1 - residual / total`` sums of squares; an output
    whose targets never change has none and is left out.
    """

    names = NAMES["regression"]

    def __init__(self, num_outputs: int, target_std: float, device: torch.device):
        self.target_std = target_std
        self.loss = MeanLoss(device)
        # The first target: taken off the others, so that their variance survives a large common offset.
        self.origin: Tensor | None = None
        # absolute errors, squared errors, targets, squared targets, samples
        self.sums = torch.zeros(5, num_outputs, dtype=sum_dtype(device), device=device)

    def update(self, outputs: Tensor, targets: Tensor, loss: Tensor, weight: Tensor | int | None = None) -> None:
        if weight is None:
            self.loss.update(loss, len(targets))
        else:
            self.loss.add(loss, weight)
        targets = targets.to(self.sums.dtype)
        errors = outputs.to(self.sums.dtype) - targets
        if self.origin is None:
            self.origin = targets[0].clone()
        targets = targets - self.origin
        self.sums[:4] += torch.stack((errors.abs(), errors.square(), targets, targets.square())).sum(1)
        self.sums[4] += len(targets)

    def merge(self, process_group: ProcessGroup) -> None:
        if process_group.size > 1:
            self._move_origin(process_group)
        self.loss = self.loss.merge(process_group)
        process_group.sum(self.sums)

    def _move_origin(self, process_group: ProcessGroup) -> None:
        """Count from the same origin as all processes: that of the first one that has seen a target."""
        origins = process_group.gather(None if self.origin is None else self.origin.cpu())
        origin = next((found for found in origins if found is not None), None)
        if origin is None or self.origin is None:
            return
        shift = self.origin - origin.to(self.origin.device)
        _, _, total, squared, count = self.sums
        squared += 2 * shift * total + count * shift.square()
        total += count * shift
        self.origin = origin.to(self.origin.device)

    def by_output(self) -> list[dict[str, float]]:
        """``mae`` and ``rmse`` of each output, in the target's original units: of each step of a forecast."""
        sums = self.sums.cpu().double()
        absolute, squared = (sums[:2] / sums[4]).tolist()
        return [
            {"mae": mae * self.target_std, "rmse": math.sqrt(mse) * self.target_std}
            for mae, mse in zip(absolute, squared, strict=True)
        ]

    def compute(self) -> dict[str, float]:
        absolute, squared, total, total_squared, samples = self.sums.cpu().double()
        count = float(samples[0])
        mae = float(absolute.mean()) / count
        rmse = math.sqrt(float(squared.mean()) / count)
        spread = total_squared - total.square() / count
        varying = spread > 0
        r2 = float((1 - squared[varying] / spread[varying]).mean()) if varying.any() else math.nan
        return {
            "loss": self.loss.compute(),
            "mae": mae * self.target_std,
            "rmse": rmse * self.target_std,
            "r2": r2,
            "mae_scaled": mae,
            "rmse_scaled": rmse,
        }
