"""Samples that stay in their shards until they are wanted, and the classes that their labels mean."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dltrain.data.base import Streamed
from dltrain.data.shard_files.formats import Layout
from dltrain.data.shard_files.index import Index, Runs
from dltrain.errors import DataError, listed


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
class ShardSamples(Streamed):
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

    @property
    def nbytes(self) -> int:
        return len(self) * math.prod(self.layout.shape) * (1 if self.layout.has_pixels else 4)


def classes_of(
    top: Path, named: Sequence[str] | None, layout: Layout, known: Sequence[str], train: Index
) -> tuple[str, ...]:
    """The names of the classes of the shards in ``top``, in the order of their numbers.

    The first of these that exists: ``named`` by the user, a file ``classes.txt``, the shards' metadata, ``known`` from
    an earlier run, and the labels of the training shards in the order of their names or numbers.

    Raises:
        DataError: there are fewer than two, or a name comes twice.
    """
    file = top / "classes.txt"
    if named is not None:
        names = list(map(str, named))
    elif file.is_file():
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise DataError(f"'{file}' cannot be read as UTF-8 text: {error}") from error
        names = list(filter(None, map(str.strip, text.splitlines())))
    elif layout.class_names or known:
        names = list(layout.class_names or known)
    else:
        numbers = all(name.isdecimal() for name in train.classes)
        names = sorted(train.classes, key=(lambda name: (int(name), name)) if numbers else None)
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"'{top}': a classification needs at least two classes with different names;"
            f" found {', '.join(names) or 'none'}"
        )
    return tuple(names)


def class_lookup(index: Index, layout: Layout, stated: Sequence[str], names: Sequence[str]) -> Tensor:
    """The place in ``names`` of each of the labels in the index (labels,) int64, where ``stated`` are the shards'
    classes.

    A label is a name of ``stated``, or its number from 0 where these are no numbers themselves.

    Raises:
        DataError: a label is neither, or names a class that is not in ``names``; the message names its first sample.
    """
    meanings = {name: name for name in stated}
    if not any(name.isdecimal() for name in stated):
        meanings |= {str(number): name for number, name in enumerate(stated)}
    places = {name: place for place, name in enumerate(names)}
    lookup = []
    for code, label in enumerate(index.classes):
        name = meanings.get(label)
        if name not in places:
            sample = index.name(layout.shards, index.first_of(code))
            raise DataError(
                f"{sample}: the label '{label}' is none of the {len(names)} classes ({listed(names)}), nor a number of"
                " one; dataset.class_names, or a file classes.txt beside the shards, names all of them"
            )
        lookup.append(places[name])
    return torch.tensor(lookup)
