"""Where the samples of many shards lie and what their labels are: read in a single pass, then mapped from the cache."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dltrain.data.base import Task
from dltrain.data.cache import cache_folder, cached_rows, key_of
from dltrain.data.workers import forked
from dltrain.errors import DataError
from dltrain.system.machine import core_count

log = logging.getLogger(__name__)

_FORMAT = 1  # raised when the same shards would be indexed otherwise
_MOST_CLASSES = 100_000
_ROWS = 1 << 20  # of the index that are looked at together
_SECONDS_BETWEEN_REPORTS = 10

Labels = tuple[Sequence[str], np.ndarray] | np.ndarray  # names and the place of each sample's; or values float64
Block = tuple[np.ndarray, Labels]


class Shards(Protocol):
    """A format of shards, set up for the input and the label that a sample has."""

    @property
    def columns(self) -> int:
        """How many numbers say where an input lies in its file."""
        ...

    @property
    def reads(self) -> tuple[object, ...]:
        """What of a sample is read; it is part of the key under which an index is cached."""
        ...

    def scan(self, path: Path) -> Iterator[Block]:
        """Places (m, columns) int64 and labels of the samples of a file, in groups that are best read together.

        Raises:
            DataError: the file is damaged, or a sample lacks its input or its label.
        """
        ...

    def read(self, index: "Index", numbers: np.ndarray, places: np.ndarray) -> Tensor:
        """The inputs (batch, ...) of the samples ``numbers`` (batch,), which lie at ``places`` (batch, columns).

        Raises:
            DataError: an input is damaged or has another shape.
        """
        ...

    def name(self, path: Path, row: int, place: np.ndarray) -> str:
        """What messages call the sample ``row`` (from 0) of a file."""
        ...


@dataclass(frozen=True, eq=False)
class Runs:
    """Samples ``starts[i]``, ``starts[i] + 1``, ... of all shards, ``lengths[i]`` of them; both (m,) int64, ascending.

    A run is read at once. A part of a data set is a list of runs, whose memory does not grow with their samples.
    """

    starts: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        """The number of samples."""
        return int(self.lengths.sum())

    @cached_property
    def ends(self) -> Tensor:
        return self.lengths.cumsum(0)

    def numbers(self, indices: Tensor) -> Tensor:
        """The numbers in all shards of the samples ``indices`` (batch,) of these runs."""
        run = torch.searchsorted(self.ends, indices, right=True)
        return self.starts[run] + indices - (self.ends - self.lengths)[run]

    def limited(self, count: int, seed: int) -> "Runs":
        """At most ``count`` samples, drawn as :meth:`hold_out` does."""
        return self.hold_out(count, seed)[1]

    def hold_out(self, count: int, seed: int) -> tuple["Runs", "Runs"]:
        """The other samples, and at most ``count`` in whole runs that ``seed`` draws, of which the last is cut."""
        order = torch.randperm(len(self.lengths), generator=torch.Generator().manual_seed(seed))
        shuffled = self.lengths[order]
        taken = (count - (shuffled.cumsum(0) - shuffled)).clamp(min=0).minimum(shuffled)
        lengths = torch.empty_like(self.lengths).index_copy_(0, order, taken)
        return (
            _without_empty(self.starts + lengths, self.lengths - lengths),
            _without_empty(self.starts, lengths),
        )

    def drawn_numbers(self, count: int, seed: int) -> np.ndarray:
        """The numbers in all shards of at most ``count`` samples that ``seed`` draws."""
        sample = self.limited(count, seed)
        numbers: np.ndarray = sample.numbers(torch.arange(len(sample))).numpy()
        return numbers

    def stretches(self, window: int, draw: Callable[..., torch.Generator] | None, first: int) -> Iterator[Tensor]:
        """Indices of these samples from place ``first`` of an epoch on, about ``window`` (and whole runs) at a time.

        The runs are shuffled by ``draw(0)``, then the samples of the runs ``k`` that begin within the same ``window``
        by ``draw(k + 1)``: nothing depends on what was read before. Without ``draw`` nothing is shuffled.
        """
        if draw is None:
            for start in range(first, len(self), window):
                yield torch.arange(start, min(start + window, len(self)))
            return
        order = torch.randperm(len(self.lengths), generator=draw(0))
        lengths = self.lengths[order]
        ends = lengths.cumsum(0)
        counts = torch.unique_consecutive((ends - lengths) // window, return_counts=True)[1]
        run = stop = 0
        for number, count in enumerate(counts.tolist()):
            runs, run = order[run : run + count], run + count
            start, stop = stop, int(ends[run - 1])
            if stop > first:
                yield self._shuffled(runs, draw(number + 1))[max(first - start, 0) :]

    def _shuffled(self, runs: Tensor, generator: torch.Generator) -> Tensor:
        lengths = self.lengths[runs]
        first = (self.ends - self.lengths)[runs] - (lengths.cumsum(0) - lengths)
        indices = torch.repeat_interleave(first, lengths) + torch.arange(int(lengths.sum()))
        return indices[torch.randperm(len(indices), generator=generator)]


def _without_empty(starts: Tensor, lengths: Tensor) -> Runs:
    return Runs(starts[lengths > 0], lengths[lengths > 0])


@dataclass(frozen=True, eq=False)
class Index:
    """The samples of ``files``, numbered through.

    ``groups`` holds the sizes of the groups of samples of each file that are best read together; ``classes`` the labels
    as they are written, in the order in which they come first, none for a regression.
    """

    files: tuple[Path, ...]
    groups: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]
    path: Path

    @cached_property
    def rows(self) -> np.ndarray:
        """(n, columns + 1) int64: the place of each input, and its class or the bits of its value; mapped read-only."""
        rows: np.ndarray = np.load(self.path, mmap_mode="r")
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "rows"}  # mapped anew where it arrives

    @cached_property
    def group_starts(self) -> np.ndarray:
        """The number of the first sample of each group, and then the number of all samples."""
        return np.cumsum([0, *(length for lengths in self.groups for length in lengths)])

    @cached_property
    def first_groups(self) -> np.ndarray:
        """The number of the first group of each file, and then the number of all groups."""
        return np.cumsum([0, *map(len, self.groups)])

    def runs(self) -> Runs:
        """All samples."""
        starts = torch.from_numpy(self.group_starts)
        return Runs(starts[:-1], starts.diff())

    def group_of(self, numbers: np.ndarray) -> np.ndarray:
        groups: np.ndarray = np.searchsorted(self.group_starts, numbers, side="right") - 1
        return groups

    def file_of(self, numbers: np.ndarray) -> np.ndarray:
        starts = self.group_starts[self.first_groups]
        files: np.ndarray = np.searchsorted(starts, numbers, side="right") - 1
        return files

    def name(self, shards: Shards, number: int) -> str:
        """What messages call a sample, and its file."""
        file = int(self.file_of(np.array(number)))
        row = number - int(self.group_starts[self.first_groups[file]])
        return f"'{self.files[file]}', {shards.name(self.files[file], row, self.rows[number, :-1])}"

    def first_of(self, label: int) -> int:
        """The number of the first sample of class ``label``."""
        blocks = range(0, len(self.rows), _ROWS)
        matches = (start + np.flatnonzero(self.rows[start : start + _ROWS, -1] == label) for start in blocks)
        return int(next(numbers[0] for numbers in matches if len(numbers)))

    def labels_of(self, runs: Runs) -> Iterator[np.ndarray]:
        """The labels of the samples of ``runs`` as the index holds them, a block at a time."""
        for start in range(0, len(runs), _ROWS):
            numbers = runs.numbers(torch.arange(start, min(start + _ROWS, len(runs))))
            yield np.ascontiguousarray(self.rows[numbers.numpy(), -1])


def indexed(files: Sequence[Path], shards: Shards, task: Task, source: str) -> Index:
    """The index of ``files``, from the cache where they have not changed since it was made.

    Raises:
        DataError: a file is damaged, a sample lacks its input or its label, or the cache cannot be written.
    """
    key = key_of(files, ("shards", _FORMAT, task, *shards.reads))

    def rows(about: dict[str, Any]) -> Iterator[np.ndarray]:
        log.info("indexing %d shard%s of %s", len(files), "s" * (len(files) != 1), source)
        classes: dict[str, int] = {}
        groups: list[list[int]] = []
        reported = time.monotonic()
        for path, blocks in zip(files, _scanned(files, shards), strict=True):
            groups.append([])
            for places, labels in blocks:
                first = sum(groups[-1])
                groups[-1].append(len(places))
                yield np.column_stack([places, _as_numbers(labels, classes, shards, path, first, places)])
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                log.info("indexed %d of %d shards", len(groups), len(files))
        if not any(map(sum, groups)):
            raise DataError(f"'{source}': its shards hold no sample")
        about.update(groups=groups, classes=list(classes))

    try:
        array, about = cached_rows(key, shards.columns + 1, source, rows)
    except OSError as error:
        where = f"into the cache '{cache_folder()}' ($DLTRAIN_CACHE names another folder)"
        raise DataError(f"{source}: the index of its shards cannot be written {where}: {error}") from error
    index = Index(tuple(files), tuple(map(tuple, about["groups"])), tuple(about["classes"]), Path(array.filename))  # type: ignore[attr-defined]
    assert len(index.rows) == index.group_starts[-1]
    return index


def _scanned(files: Sequence[Path], shards: Shards) -> Iterator[Iterable[Block]]:
    """The result of :meth:`Shards.scan` for each file, several files at once where there are many."""
    workers = min(core_count(), len(files) // 4)
    if workers < 2:
        yield from map(shards.scan, files)
        return
    with forked(workers) as pool:
        ahead: deque[Future[list[Block]]] = deque()
        for path in files:
            ahead.append(pool.submit(_scan, shards, path))
            if len(ahead) > 2 * workers:  # so that they do not pile up where writing is slow
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _scan(shards: Shards, path: Path) -> list[Block]:
    return list(shards.scan(path))


def _as_numbers(
    labels: Labels, classes: dict[str, int], shards: Shards, path: Path, first: int, places: np.ndarray
) -> np.ndarray:
    """Labels as int64: the place in ``classes``, which grows, or the bits of a value."""
    if isinstance(labels, tuple):
        names, codes = labels
        known = np.array([classes.setdefault(name, len(classes)) for name in names], np.int64)
        if len(classes) > _MOST_CLASSES:
            raise DataError(
                f"'{path}': more than {_MOST_CLASSES:,} different labels, which are no classes;"
                " dataset.task=regression takes numbers, dataset.target names another label"
            )
        return known[codes]
    bad = np.flatnonzero(~np.isfinite(labels))
    if len(bad):
        row = int(bad[0])
        raise DataError(f"'{path}', {shards.name(path, first + row, places[row])}: the label is no finite number")
    return labels.astype(np.float64).view(np.int64)
