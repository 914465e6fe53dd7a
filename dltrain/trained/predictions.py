"""Outputs of a network as rows: a class with probabilities, or values in the units of the target."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from dltrain import losses
from dltrain.data.base import Facts, NamedBatch
from dltrain.trained.loaded import Loaded
from dltrain.training.inference import Loss, predict

Columns = dict[str, type]  # name -> str, int or float
Row = list[Any]


def columns_of(facts: Facts) -> Columns:
    """The columns of a run's predictions, with their types."""
    named: Columns = {"input": str}
    if facts.kind == "table":
        named["row"] = int
    if facts.task == "classification":
        return named | {"class": str, "confidence": float} | {f"p_{name}": float for name in facts.class_names}
    return named | ({"time": str} if facts.kind == "series" else {}) | {"value": float}


def predicted_rows(loaded: Loaded, batches: Iterable[NamedBatch]) -> Iterator[Row]:
    """The rows of ``batches`` of raw samples, one batch at a time."""
    device = loaded.precision.device
    ready = ((names, loaded.transform(raw.to(device))) for names, raw in batches)
    for names, outputs in predict(loaded.model, ready, loaded.precision):
        yield from rows_of(loaded.facts, loaded.loss, names, outputs)


def rows_of(facts: Facts, loss: Loss, names: Sequence[tuple[Any, ...]], outputs: Tensor) -> Iterator[Row]:
    """A row for each prediction, of a series for each step, from ``outputs`` (batch, num_outputs) float32."""
    for name, row in zip(names, predictions(outputs, loss, facts).tolist(), strict=True):
        if facts.task == "classification":
            best = max(range(len(row)), key=row.__getitem__)
            yield [*name, facts.class_names[best], row[best], *row]
        elif facts.kind == "series":
            path, times = name
            yield from ([path, time, value] for time, value in zip(times, row, strict=True))
        else:
            yield [*name, *row]


def predictions(outputs: Tensor, loss: Loss, facts: Facts) -> Tensor:
    """Probabilities (batch, classes), or values (batch, num_outputs) in the units of the target, float64.

    ``loss`` is that with which the network was trained.
    """
    predicted = losses.predictions(loss, outputs.double(), facts.task)
    return predicted if facts.task == "classification" else original(predicted, facts)


def original(values: Tensor, facts: Facts) -> Tensor:
    """Standardised ``values`` in the units of the target, float64."""
    return values.double() * facts.target_std + facts.target_mean
