"""What a sample of shards holds, by the first shard or as the user names it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dltrain.data.base import Fitted, Kind, Task
from dltrain.data.folders import IMAGES
from dltrain.data.images.decode import Decoding, white_for
from dltrain.data.shard_files.contents import NumpyFile, Picture, largest_in
from dltrain.data.shard_files.index import Index, Runs, Shards
from dltrain.data.shard_files.parquet import ParquetImages, ParquetRows, RowGroups, class_names_in, columns_of, frame_of
from dltrain.data.shard_files.tar import TarShards, content_of, members_of
from dltrain.data.tables.columns import sort_columns
from dltrain.data.tables.encoder import TableEncoder
from dltrain.data.tables.frames import require_columns
from dltrain.errors import DataError
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
