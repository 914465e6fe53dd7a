"""What a sample of shards holds, and samples that stay in their shards until they are wanted."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dltrain.data.base import Fitted, Kind, Streamed, Task
from dltrain.data.folders import IMAGES
from dltrain.data.images.decode import Decoding, white_for
from dltrain.data.shard_files.contents import NumpyFile, Picture, largest_in
from dltrain.data.shard_files.index import Index, Runs, Shards
from dltrain.data.shard_files.parquet import ParquetImages, ParquetRows, RowGroups, class_names_in, columns_of, frame_of
from dltrain.data.shard_files.tar import TarShards, content_of, members_of
from dltrain.data.tables.columns import sort_columns
from dltrain.data.tables.encoder import TableEncoder
from dltrain.data.tables.frames import require_columns
from dltrain.errors import DataError, listed
from dltrain.system.extras import require_extras

_IMAGES = tuple(suffix.removeprefix(".") for suffix in IMAGES)
_KINDS: dict[int, Kind] = {1: "table", 2: "series", 3: "image"}
_ROWS = 100_000  # on which the columns of a table are measured
_DEEP_SAMPLE = 100  # images whose largest value is measured
_CATEGORIES = 50  # values of a column that get a feature each


@dataclass(frozen=True)
class Layout:
    """Shards with what a sample of them is; ``has_pixels``: inputs are uint8 images of the same levels."""

    shards: Shards
    kind: Kind
    shape: tuple[int, ...]
    has_pixels: bool = False
    target: str = ""
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)


def layout_of(
    files: Sequence[Path], decoding: Decoding, input: str | None, target: str | None, task: Task, window: int
) -> Layout:
    """What the training shards ``files`` hold; :func:`measured` adds the features of a table.

    Raises:
        UserError: a package that reads them is not installed.
        DataError: the first shard is damaged, or nothing in it looks like an input and a label.
    """
    if files[0].suffix.lower() == ".tar":
        require_extras(["webdataset"], "shards", "dataset=shards of tar files")
        return _tar_layout(files[0], decoding, input, target, task)
    require_extras(["pyarrow"], "shards", "dataset=shards of Parquet files")
    image, label, others = columns_of(files[0], input, target)
    names = class_names_in(files[0], label)
    if image is not None:
        pictures = ParquetImages(label, task, RowGroups([image], window), Picture(decoding))
        return Layout(pictures, "image", decoding.shape, has_pixels=True, target=label, class_names=names)
    rows = ParquetRows(label, task, RowGroups(others, window), TableEncoder({}, {}))
    return Layout(rows, "table", (), target=label, class_names=names)


def measured(
    layout: Layout, index: Index, train: Runs, ignore: Sequence[str], seed: int, fitted: Fitted | None
) -> Layout:
    """``layout`` with the features of a table, measured on up to 100,000 rows of the training part."""
    rows = layout.shards
    if not isinstance(rows, ParquetRows):
        return layout
    if fitted:
        encoder = TableEncoder.of(fitted.preprocessing)
    else:
        path = str(index.files[0])
        ignored = require_columns(pl.DataFrame(schema=rows.groups.columns), ignore, path, "dataset.ignore")
        kept = RowGroups([name for name in rows.groups.columns if name not in ignored], 0)
        groups = (frame_of(table)[within] for _, within, table in kept.select(index, train.drawn_numbers(_ROWS, seed)))
        frame = pl.concat(groups, how="vertical_relaxed")
        numeric, texts, frame = sort_columns(frame, path, (), (), _CATEGORIES)
        if not numeric and not texts:
            raise DataError(f"'{path}' has no column to predict '{layout.target}' from")
        encoder = TableEncoder.fit(frame, numeric, texts, _CATEGORIES)
    return replace(
        layout,
        shards=replace(rows, groups=RowGroups(encoder.columns, rows.groups.window), encoder=encoder),
        shape=(len(encoder.feature_names),),
        feature_names=encoder.feature_names,
        preprocessing=encoder.stored(),
    )


def with_white_measured(layout: Layout, index: Index, train: Runs, seed: int) -> Layout:
    """``layout`` with the value of white in images of more than 8 bits, measured on some of the training part."""
    images = layout.shards
    if not isinstance(images, TarShards | ParquetImages) or not isinstance(images.decode, Picture):
        return layout
    numbers = train.drawn_numbers(_DEEP_SAMPLE, seed)
    places = np.array(index.rows[numbers])[:, :-1]
    largest = replace(images, decode=largest_in).read(index, numbers, places)
    decoding = images.decode.decoding._replace(white=white_for(largest.flatten().tolist()))
    return replace(layout, shards=replace(images, decode=Picture(decoding)))


def _tar_layout(path: Path, decoding: Decoding, input: str | None, target: str | None, task: Task) -> Layout:
    with open(path, "rb") as file:
        key, members = next(members_of(path, file), ("", {}))
        inputs = (input,) if input else _IMAGES if any(suffix in members for suffix in _IMAGES) else ("npy",)
        suffix = next((suffix for suffix in members if suffix in inputs), None)
        if suffix is None:
            has = ", ".join(f".{suffix}" for suffix in members) or "nothing"
            wanted = f".{input}" if input else f"{', '.join(f'.{suffix}' for suffix in _IMAGES)} or .npy"
            raise DataError(
                f"'{path}': the first sample has no input, {wanted}, but {has}; dataset.input names a suffix"
            )
        label = target or "label"
        if not suffix.endswith("npy"):
            shards = TarShards(inputs, target, task, Picture(decoding))
            return Layout(shards, "image", decoding.shape, has_pixels=True, target=label)
        content = content_of(file, members[suffix])
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"'{path}', member '{key}.{suffix}' is no NumPy file: {error}") from error
    if array.ndim not in _KINDS or array.dtype.kind not in "biuf":
        raise DataError(
            f"'{path}', member '{key}.{suffix}' has shape {array.shape} of {array.dtype}: a sample is an array of"
            " numbers, (features,), (steps, features) or (channels, height, width)"
        )
    has_pixels = array.ndim == 3 and array.dtype == np.uint8
    shards = TarShards(inputs, target, task, NumpyFile(array.shape, array.dtype == np.uint8))
    return Layout(shards, _KINDS[array.ndim], array.shape, has_pixels, label)


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
