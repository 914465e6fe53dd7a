"""Metrics of a whole part of the data: sums stay on the device and are read once, at the end.

Names are the field's; a mean over batches of different sizes is the mean over samples, and that of a loss which weighs
samples the mean by their weights. How each metric is read stands in :mod:`dltrain.report.metrics`.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dltrain.data.base import Facts
from dltrain.distributed.process_group import ProcessGroup
from dltrain.losses import predictions, scores
from dltrain.report.metrics import NAMES


class Metric(Protocol):
    """One of the group ``metric``: made anew for each part of the data that is evaluated.

    In a run of several processes it also needs a method ``merge(process_group)``, which takes in what the others have
    gathered: ``process_group.sum(tensor)`` adds up a tensor over all processes in place, and
    ``process_group.gather(value)`` returns a list with the value of each process.
    """

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (batch, classes) and classes (batch,) int64, or predicted and true values
        (batch, num_outputs) float64 in the units of the target."""
        ...

    def compute(self) -> float | Tensor:
        """The metric of all batches so far."""
        ...


class Metrics(ABC):
    """Gathers batches; ``compute`` returns the loss, the metrics of the task, and those of the group ``metric``."""

    def __init__(self, facts: Facts, device: torch.device, loss: Any = None, added: Mapping[str, Metric] | None = None):
        self.facts = facts
        self.loss = MeanLoss(device)
        self.trained_with = loss
        self.added = {name: copy.deepcopy(metric) for name, metric in (added or {}).items()}
        for metric in self.added.values():
            if isinstance(metric, nn.Module):
                metric.to(device)
        self.names: tuple[str, ...] = (*NAMES[facts.task], *self.added)
        self._start(device)

    def update(self, outputs: Tensor, targets: Tensor, loss: Tensor, weight: Tensor | int | None = None) -> None:
        """Add a batch: ``outputs`` (batch, num_outputs), its ``targets`` and its mean ``loss``; never synchronises.

        With a ``weight`` the loss is a total, which is divided by the sum of all weights.
        """
        if weight is None:
            self.loss.update(loss, len(targets))
        else:
            self.loss.add(loss, weight)
        self._update(scores(self.trained_with, outputs), targets)
        if self.added:
            precise = outputs.to(sum_dtype(outputs.device))
            predicted = self._in_units(predictions(self.trained_with, precise, self.facts.task))
            for metric in self.added.values():
                metric.update(predicted, self._in_units(targets))

    def merge(self, process_group: ProcessGroup) -> None:
        """Take in what the other processes of ``process_group`` have gathered from their parts of the same batches."""
        self.loss = self.loss.merge(process_group)
        self._merge(process_group)
        if process_group.size > 1:
            for metric in self.added.values():
                metric.merge(process_group)  # type: ignore[attr-defined]  # build() has seen to it

    def compute(self) -> dict[str, float]:
        """The metrics of all batches since the start; the one place that waits for the device."""
        added = {name: float(metric.compute()) for name, metric in self.added.items()}
        return {"loss": self.loss.compute(), **self._compute(), **added}

    def _in_units(self, values: Tensor) -> Tensor:
        if self.facts.task == "classification":
            return values
        return values.to(sum_dtype(values.device)) * self.facts.target_std + self.facts.target_mean

    @abstractmethod
    def _start(self, device: torch.device) -> None: ...

    @abstractmethod
    def _update(self, outputs: Tensor, targets: Tensor) -> None: ...

    @abstractmethod
    def _merge(self, process_group: ProcessGroup) -> None: ...

    @abstractmethod
    def _compute(self) -> dict[str, float]: ...


MetricsFactory = Callable[[], Metrics]


def metrics_for(
    facts: Facts, device: torch.device, loss: Any = None, added: Mapping[str, Metric] | None = None
) -> Metrics:
    """New, empty metrics of the data set's task, for outputs of a network that was trained with ``loss``.

    Those ``added`` are copied, so that nothing of an evaluation before is in them.
    """
    kind = ClassificationMetrics if facts.task == "classification" else RegressionMetrics
    return kind(facts, device, loss, added)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The dtype of sums: float64, but float32 on mps, which has no float64."""
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
        """The mean loss over the samples of all processes; this process's stays as it is."""
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


class ClassificationMetrics(Metrics):
    """Accuracy, macro precision, recall and F1, and for more than 10 classes top-5 accuracy.

    The macro averages run over the classes that occur among targets or predictions, and a class that is never
    predicted (or never occurs) has precision (or recall) 0, as in scikit-learn.
    """

    def _start(self, device: torch.device) -> None:
        classes = self.facts.num_outputs
        # A row for each true class, a column for each predicted class, kept flat.
        self.counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        self.top5 = torch.zeros((), dtype=torch.int64, device=device) if classes > 10 else None
        if self.top5 is None:
            self.names = tuple(name for name in self.names if name != "top5_accuracy")

    def _update(self, outputs: Tensor, targets: Tensor) -> None:
        cells = targets * self.facts.num_outputs + outputs.argmax(1)
        # index_add_ rather than bincount, which asks the device for the largest value.
        self.counts.index_add_(0, cells, torch.ones_like(cells))
        if self.top5 is not None:
            self.top5 += (outputs.topk(5, 1).indices == targets.unsqueeze(1)).sum()

    def _merge(self, process_group: ProcessGroup) -> None:
        process_group.sum(self.counts)
        if self.top5 is not None:
            process_group.sum(self.top5)

    @property
    def confusion(self) -> Tensor:
        """Counts (num_classes, num_classes) int64 on the CPU: rows are true classes, columns predicted ones."""
        return self.counts.view(self.facts.num_outputs, self.facts.num_outputs).cpu()

    def _compute(self) -> dict[str, float]:
        confusion = self.confusion.double()
        occurring = (confusion.sum(0) + confusion.sum(1)) > 0
        result = {"accuracy": float(confusion.trace() / confusion.sum())}
        if self.top5 is not None:
            result["top5_accuracy"] = float(self.top5) / float(confusion.sum())
        return result | {name: float(values[occurring].mean()) for name, values in _scores(confusion).items()}


def _scores(confusion: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 of each class, from counts (true, predicted) float64."""
    hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return {
        "precision": hits / predicted.clamp(min=1),
        "recall": hits / true.clamp(min=1),
        "f1": 2 * hits / (true + predicted).clamp(min=1),
    }


def by_class(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support (true samples) of each class, from ``confusion`` (true, predicted)."""
    columns = {name: values.tolist() for name, values in _scores(torch.tensor(confusion, dtype=torch.float64)).items()}
    return [
        {"name": name, **{score: values[row] for score, values in columns.items()}, "support": sum(confusion[row])}
        for row, name in enumerate(class_names)
    ]


class RegressionMetrics(Metrics):
    """Mean absolute error, root mean squared error and R².

    ``mae`` and ``rmse`` are in the target's original units, ``mae_scaled`` and ``rmse_scaled`` in its standard
    deviations, as the loss. R² is the mean over outputs of ``1 - residual / total`` sums of squares; an output
    whose targets never change has none and is left out.
    """

    def _start(self, device: torch.device) -> None:
        # The first target: taken off the others, so that their variance survives a large common offset.
        self.origin: Tensor | None = None
        # absolute errors, squared errors, targets, squared targets, samples
        self.sums = torch.zeros(5, self.facts.num_outputs, dtype=sum_dtype(device), device=device)

    def _update(self, outputs: Tensor, targets: Tensor) -> None:
        targets = targets.to(self.sums.dtype)
        errors = outputs.to(self.sums.dtype) - targets
        if self.origin is None:
            self.origin = targets[0].clone()
        targets = targets - self.origin
        self.sums[:4] += torch.stack((errors.abs(), errors.square(), targets, targets.square())).sum(1)
        self.sums[4] += len(targets)

    def _merge(self, process_group: ProcessGroup) -> None:
        if process_group.size > 1:
            self._move_origin(process_group)
        process_group.sum(self.sums)

    def _move_origin(self, process_group: ProcessGroup) -> None:
        """Count from the same origin as all processes: that of the first that has seen a target."""
        origins = process_group.gather(None if self.origin is None else self.origin.cpu())
        first = next((origin for origin in origins if origin is not None), None)
        if first is None or self.origin is None:
            return
        first = first.to(self.origin.device)
        shift = self.origin - first
        _, _, total, squared, count = self.sums
        squared += 2 * shift * total + count * shift.square()
        total += count * shift
        self.origin = first

    def by_output(self) -> list[dict[str, float]]:
        """``mae`` and ``rmse`` of each output, in the target's original units: of each step of a forecast."""
        sums, std = self.sums.cpu().double(), self.facts.target_std
        absolute, squared = (sums[:2] / sums[4]).tolist()
        return [{"mae": mae * std, "rmse": math.sqrt(mse) * std} for mae, mse in zip(absolute, squared, strict=True)]

    def _compute(self) -> dict[str, float]:
        absolute, squared, total, total_squared, samples = self.sums.cpu().double()
        count, std = float(samples[0]), self.facts.target_std
        mae = float(absolute.mean()) / count
        rmse = math.sqrt(float(squared.mean()) / count)
        spread = total_squared - total.square() / count
        varying = spread > 0
        r2 = float((1 - squared[varying] / spread[varying]).mean()) if varying.any() else math.nan
        return {"mae": mae * std, "rmse": rmse * std, "r2": r2, "mae_scaled": mae, "rmse_scaled": rmse}
