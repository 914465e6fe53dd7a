"""Outputs of a network as rows for people: a class with probabilities, or values in original units."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dltrain.data.base import Facts, NamedBatch
from dltrain.trained.loaded import Loaded
from dltrain.training.inference import Loss, predict

Columns = dict[str, type]  # name -> str, int or float
Row = list[Any]


def columns_of(facts: Facts) -> Columns:
    """Columns of the predictions of a run, with their types."""
    named: Columns = {"input": str}
    if facts.kind == "table":
        named["row"] = int
    if facts.task == "classification":
        return named | {"class": str, "confidence": float} | {f"p_{name}": float for name in facts.class_names}
    return named | ({"time": str} if facts.kind == "series" else {}) | {"value": float}


def predicted_rows(loaded: Loaded, batches: Iterable[NamedBatch]) -> Iterator[Row]:
    """The rows of ``batches`` of raw samples, as they come."""
    device = loaded.precision.device
    ready = ((names, loaded.transform(raw.to(device))) for names, raw in batches)
    for names, outputs in predict(loaded.model, ready, loaded.precision):
        yield from rows_of(loaded.facts, loaded.loss, names, outputs)


def rows_of(facts: Facts, loss: Loss, names: Sequence[tuple[Any, ...]], outputs: Tensor) -> Iterator[Row]:
    """One row a prediction, for ``outputs`` (batch, num_outputs) float32; a row a step for a series."""
    if facts.task == "classification":
        for name, row in zip(names, probabilities(outputs, loss).tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            yield [*name, facts.class_names[best], row[best], *row]
        return
    for name, row in zip(names, original(outputs, facts).tolist(), strict=True):
        if facts.kind == "series":
            path, times = name
            yield from ([path, time, value] for time, value in zip(times, row, strict=True))
        else:
            yield [*name, *row]


def probabilities(outputs: Tensor, loss: Loss) -> Tensor:
    """Probabilities (batch, classes) float64 of the ``loss`` that the network was trained with."""
    if isinstance(loss, torch.nn.BCEWithLogitsLoss):  # each class against all others
        return outputs.double().sigmoid()
    return torch.softmax(outputs.double(), 1)


def original(outputs: Tensor, facts: Facts) -> Tensor:
    """Standardised ``outputs`` in the units of the target, float64."""
    return outputs.double() * facts.target_std + facts.target_mean
