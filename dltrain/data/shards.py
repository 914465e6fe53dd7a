"""Data sets in shards, of any size: WebDataset's tar files, or Parquet files."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dltrain.data.adapted import ToFloat
from dltrain.data.base import Data, Facts, Fitted, Task
from dltrain.data.folders import describe_folder, part_folders, part_in, subfolders, text_of
from dltrain.data.images.decode import WHITE, decoding_of
from dltrain.data.images.transforms import Normalize, make_augment, require_augment, statistics_of, stored_statistics
from dltrain.data.shard_files.contents import Picture
from dltrain.data.shard_files.index import Index, Runs, indexed
from dltrain.data.shard_files.samples import (
    Layout,
    ShardSamples,
    Targets,
    class_lookup,
    classes_of,
    layout_of,
    measured,
    with_white_measured,
)
from dltrain.data.splits import Split
from dltrain.data.stated import Stated
from dltrain.errors import ConfigError, DataError, listed
from dltrain.system.files import kind_of

log = logging.getLogger(__name__)

_SUFFIXES = (".tar", ".parquet")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
_MEASURED = 512  # images, which give the mean of a channel to about 1 % without reading the whole data set


@Stated(folders={"root": "shards, *.tar or *.parquet"})
def shards(
    root: str,
    input: str | None = None,
    target: str | None = None,
    task: Task = "classification",
    class_names: Sequence[str] | None = None,
    image_size: int | Sequence[int] = 32,
    channels: int = 3,
    background: str | int | None = None,
    white: float | str = WHITE,
    ignore: Sequence[str] = (),
    shuffle_window: int = 4096,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
    fitted: Fitted | None = None,
) -> Data:
    """Shards in ``root/train/``, or ``root/train-*``, with ``val`` and ``test`` where they exist.

    A tar file holds samples as WebDataset writes them: ``000.jpg`` and ``000.cls``, or ``000.json`` with a key
    ``label``. A Parquet file holds a sample a row: a column of encoded images and a column of labels, or columns of a
    table. Samples are read when they are needed and not kept; memory does not grow with their number.

    A part without shards is held out of the training shards: exactly its share, in runs of up to 128 neighbouring
    samples (of Parquet: row groups) that ``split_seed`` draws. ``limit`` draws such runs as well.

    Args:
        input: suffix of the member, or name of the column, that the network reads; ``None``: by the first shard.
        target: suffix, key of the JSON member, or column of the label; by default ``cls`` or ``label``.
        class_names: names of the classes, in the order of their numbers; else of a file ``classes.txt`` in ``root``,
            else by the labels in the shards.
        background: what shows where an image is transparent: see :func:`dltrain.data.image_folder.image_folder`.
        white: the value that becomes 255 in images of more than 8 bits a pixel; ``auto`` measures it.
        ignore: columns of a table that are not read.
        shuffle_window: number of samples, from runs all over the shards, that are shuffled together.
        fitted: measured by an earlier run, whose classes, scales and columns are kept.

    Raises:
        DataError: there are no shards, one is damaged, or a sample lacks its input or its label.
    """
    decoding = decoding_of(image_size, channels, background, white, _images_of(fitted))
    require_augment(augment, decoding.shape)
    files = shard_files(root)
    top = Path(os.path.expanduser(root)).resolve()
    layout = layout_of(files["train"], decoding, input, target, task, shuffle_window)
    indices = {part: indexed(paths, layout.shards, task, f"{top} ({part})") for part, paths in files.items()}
    split = Split(val_fraction, test_fraction, limit, split_seed)
    parts = split.parts({part: index.runs() for part, index in indices.items()})
    index, train = indices["train"], parts["train"]
    layout = measured(layout, index, train, ignore, split_seed, fitted)
    if white == "auto" and not fitted:
        layout = with_white_measured(layout, index, train, split_seed)
    known = fitted.facts.class_names if fitted else ()
    stated = classes_of(top, class_names, layout, known, index) if task == "classification" else ()
    names = known or stated
    scale = (0.0, 1.0) if names else _mean_and_std(index, train, fitted)
    targets = {
        part: Targets(class_lookup(index, layout, stated, names) if names else None, *scale)
        for part, index in indices.items()
    }
    samples = {
        part: ShardSamples(indices.get(part, index), layout, drawn, targets.get(part, targets["train"]), shuffle_window)
        for part, drawn in parts.items()
    }
    if names and not fitted:
        _warn_of_absent(samples, names)
    facts = Facts(
        name=text_of(top.name),
        task=task,
        kind=layout.kind,
        input_shape=layout.shape,
        num_outputs=len(names) or 1,
        class_names=names,
        feature_names=layout.feature_names,
        target_name="" if layout.kind == "image" and names else layout.target,
        target_mean=scale[0],
        target_std=scale[1],
    )
    described = "; ".join(f"{part} {describe_folder(top, paths)}" for part, paths in files.items())
    data = Data(facts, samples["train"], samples.get("val"), samples.get("test"), files=described)
    return _prepared(data, layout, augment, split_seed, fitted)


def _mean_and_std(index: Index, train: Runs, fitted: Fitted | None) -> tuple[float, float]:
    """Mean and deviation of the values of the training part; a deviation of 0 becomes 1."""
    if fitted:
        return fitted.facts.target_mean, fitted.facts.target_std

    def mean_of(changed: Callable[[np.ndarray], np.ndarray]) -> float:
        blocks = (block.view(np.float64) for block in index.labels_of(train))
        return sum(float(changed(block).sum()) for block in blocks) / len(train)

    mean = mean_of(lambda block: block)
    return mean, math.sqrt(mean_of(lambda block: (block - mean) ** 2)) or 1.0


def _warn_of_absent(samples: Mapping[str, ShardSamples], names: Sequence[str]) -> None:
    train = samples["train"]
    counts = torch.zeros(len(names), dtype=torch.int64)
    for block in train.index.labels_of(train.runs):
        counts += torch.bincount(train.targets(block), minlength=len(names))
    absent = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    if absent:
        log.warning("no sample of these classes is left to train on: %s", listed(absent))


def _prepared(data: Data, layout: Layout, augment: Mapping[str, Any] | None, seed: int, fitted: Fitted | None) -> Data:
    """``data`` with the transform and the augmentation of its inputs, measured on some of the training part."""
    if not layout.has_pixels and any((augment or {}).values()):
        raise ConfigError(["dataset.augment changes images, and these shards hold none"])
    if layout.kind == "table" and layout.preprocessing:
        return replace(data, preprocessing=layout.preprocessing)
    if not layout.has_pixels:
        return replace(data, transform=ToFloat())
    if fitted:
        mean, std = stored_statistics(fitted.preprocessing)
    else:
        assert isinstance(data.train, ShardSamples)
        sample = replace(data.train, runs=data.train.runs.limited(_MEASURED, seed))
        pieces = torch.split(torch.arange(len(sample)), 128)
        mean, std = statistics_of((sample.take(piece)[0] for piece in pieces), layout.shape[0])
    return replace(
        data,
        transform=Normalize(mean, std),
        augment=make_augment(augment, mean, layout.shape),
        preprocessing={"mean": mean.tolist(), "std": std.tolist(), "levels": 255, **_decoded_by(layout)},
    )


def _images_of(fitted: Fitted | None) -> dict[str, Any] | None:
    """How an earlier run decoded images, if its samples were images."""
    return fitted.preprocessing if fitted and fitted.facts.kind == "image" else None


def _decoded_by(layout: Layout) -> dict[str, Any]:
    decode = getattr(layout.shards, "decode", None)
    if not isinstance(decode, Picture):  # arrays of pixels, which need no decoding
        return {}
    return {"background": decode.decoding.background, "white": decode.decoding.white}


def shard_files(root: str) -> dict[str, list[Path]]:
    """The shards of each part, in the order of their names.

    A part is a folder ``train/``, ``val/`` or ``test/``, or the shards with that word in their names, in any usual
    spelling: ``train-000000.tar``, ``imagenet1k-validation-00.tar``. If no part is for training, all shards are.

    Raises:
        DataError: there is no such folder, or it holds no shards, or shards of both formats.
    """
    top = Path(os.path.expanduser(root)).resolve()
    if not top.is_dir():
        raise DataError(f"there is no folder '{root}'; dataset.root must hold shards, *.tar or *.parquet")
    loose = _shards_in(top)
    folders = part_folders(top)
    parts: dict[str, list[Path]] = {}
    for part in ("train", "val", "test"):
        inside = _shards_in(folders[part]) if part in folders else []
        if shards := inside or [path for path in loose if part_in(path.stem) == part]:
            parts[part] = shards
    _warn_of_unknown(top, [folder for folder in subfolders(top).values() if folder not in folders.values()])
    if "train" not in parts and loose:
        parts = {"train": loose}
    if "train" not in parts:
        raise DataError(f"'{root}' holds no shards{_hint(top)}: put them into '{top / 'train'}' as *.tar or *.parquet")
    kinds = {path.suffix.lower() for files in parts.values() for path in files}
    if len(kinds) > 1:
        raise DataError(f"'{root}' holds shards of two formats, {' and '.join(sorted(kinds))}; keep one of them")
    return parts


def _shards_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    for path in paths:
        if kind := kind_of(path):
            log.warning("%s is left out: it is %s, no file", path, kind)
    return sorted(path for path in paths if path.is_file())


def _warn_of_unknown(top: Path, folders: list[Path]) -> None:
    if unknown := [f"'{text_of(folder.name)}'" for folder in folders if _shards_in(folder)]:
        log.warning("%s: shards in %s are left out: parts are called train, val and test", top, ", ".join(unknown))


def _hint(top: Path) -> str:
    packed = [path.name for path in sorted(top.rglob("*")) if path.name.endswith(_COMPRESSED)]
    return f"; '{packed[0]}' is compressed, which shards must not be" if packed else ""
