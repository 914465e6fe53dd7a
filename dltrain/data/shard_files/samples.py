"""Samples that stay in their shards until they are wanted."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dltrain.data.shard_files.formats import Layout
from dltrain.data.shard_files.index import Index, Runs
from dltrain.errors import DataError

_BLOCK = 1 << 20  # labels that are looked at at a time


@dataclass(frozen=True)
class Targets:
    """The labels of an index as targets: the class of each of its labels, or values standardised."""

    classes: Tensor | None
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, labels: np.ndarray) -> Tensor:
        if self.classes is not None:
            return self.classes[torch.from_numpy(labels)]
        return torch.from_numpy((labels.view(np.float64) - self.mean) / self.std).float().unsqueeze(1)


@dataclass(frozen=True, eq=False)
class ShardSamples:
    """The samples of some ``runs``, read each time they are taken; an epoch shuffles ``window`` of them at a time."""

    index: Index
    layout: Layout
    runs: Runs
    targets: Targets
    window: int

    def __len__(self) -> int:
        return len(self.runs)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.runs.numbers(indices).numpy()
        rows = np.array(self.index.rows[numbers])
        inputs = self.layout.shards.read(self.index, numbers, rows[:, :-1])
        return inputs, self.targets(np.ascontiguousarray(rows[:, -1]))

    def names(self, indices: Tensor) -> list[str]:
        return [self.index.name(self.layout.shards, number) for number in self.runs.numbers(indices).tolist()]

    def order(self, draw: Callable[..., torch.Generator] | None, first: int) -> Iterator[Tensor]:
        return self.runs.stretches(self.window, draw, first)

    def to(self, device: torch.device) -> "ShardSamples":
        return self

    @property
    def nbytes(self) -> int:
        return len(self) * math.prod(self.layout.shape) * (1 if self.layout.has_pixels else 4)

    @property
    def streamed(self) -> bool:
        return True


def label_blocks(index: Index, runs: Runs) -> Iterator[np.ndarray]:
    """The labels of some samples as the index has them, a block at a time."""
    for start in range(0, len(runs), _BLOCK):
        numbers = runs.numbers(torch.arange(start, min(start + _BLOCK, len(runs))))
        yield np.ascontiguousarray(index.rows[numbers.numpy(), -1])


def classes_of(
    top: Path, named: Sequence[str] | None, layout: Layout, known: Sequence[str], train: Index
) -> tuple[str, ...]:
    """What the labels of the shards in ``top`` name or number, from the first place that tells it.

    These are ``named`` by the user, a file ``classes.txt``, the shards' own metadata, ``known`` from an earlier run,
    and at last the labels of the training shards, in the order of their names or numbers.

    Raises:
        DataError: these are less than two, or one comes twice.
    """
    listed = top / "classes.txt"
    if named is not None:
        names = list(map(str, named))
    elif listed.is_file():
        try:
            text = listed.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise DataError(f"'{listed}' cannot be read as UTF-8 text: {error}") from error
        names = list(filter(None, map(str.strip, text.splitlines())))
    elif layout.class_names or known:
        names = list(layout.class_names or known)
    else:
        numbers = all(name.isdecimal() for name in train.classes)
        names = sorted(train.classes, key=(lambda name: (int(name), name)) if numbers else None)
    if len(names) < 2 or len(set(names)) < len(names):
        found = f"found {', '.join(names) or 'none'}"
        raise DataError(f"'{top}': a classification needs at least two classes with different names; {found}")
    return tuple(names)


def class_lookup(index: Index, layout: Layout, own: Sequence[str], names: Sequence[str]) -> Tensor:
    """The place in ``names`` of each of the labels in the index (labels,) int64, where ``own`` are the shards' classes.

    A label is a name of ``own``, or its number from 0 where these are no numbers themselves.

    Raises:
        DataError: a label is neither, or names a class that is not in ``names``; the first sample with it is told.
    """
    numbers = {name: str(number) for number, name in enumerate(own)}
    are_numbers = any(name.isdecimal() for name in own)
    meant = {name: name for name in own} | ({} if are_numbers else {number: name for name, number in numbers.items()})
    places = {name: place for place, name in enumerate(names)}
    found = []
    for code, label in enumerate(index.classes):
        name = meant.get(label)
        if name not in places:
            where = index.name(layout.shards, index.first_with(-1, code))
            listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise DataError(
                f"{where}: the label '{label}' is none of the {len(names)} classes ({listed}), nor a number of one;"
                " dataset.class_names, or a file classes.txt beside the shards, names all of them"
            )
        found.append(places[name])
    return torch.tensor(found)
