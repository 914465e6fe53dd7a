"""Write images in class folders as tar or Parquet shards: copied unchanged, in a seeded order."""

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from dltrain.data.folders import labelled_images, text_of
from dltrain.errors import DataError, UserError, cause_of
from dltrain.system.extras import require_extras

Format = Literal["tar", "parquet"]
Sample = tuple[Path, int]
_ROW_GROUP = 128  # rows of a Parquet file that are read together


def write_shards(folder: Path, out: Path, format: Format, samples: int, seed: int) -> dict[str, int]:
    """Write the images of ``folder`` as ``out/train/000000.tar``, ..., at most so many ``samples`` each, and their
    classes as ``out/classes.txt``; returns the number of images of each part.

    ``out`` exists once it is complete.

    Raises:
        UserError: ``out`` holds something already or cannot be written, or a package is missing.
        DataError: ``folder`` has no classes, or an image cannot be read.
    """
    require_extras(["webdataset" if format == "tar" else "pyarrow"], "shards", f"format={format}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"'{out}' is there already, and holds something else: shards go into a new or an empty folder")
    classes, parts = labelled_images(folder)
    for name in classes:
        if [line.strip() for line in name.splitlines()] != [name]:
            raise DataError(f"class {name!r} cannot stand in classes.txt, which has a name a line: rename its folder")
    write = _write_tar if format == "tar" else _write_parquet
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as temporary:
            whole = Path(temporary) / "shards"
            for part, images in parts.items():
                pairs = list(zip(images.paths, images.labels, strict=True))
                random.Random(seed).shuffle(pairs)
                (whole / part).mkdir(parents=True)
                write(whole / part, pairs, samples)
            (whole / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
            os.replace(whole, out)
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error}") from error
    return {part: len(images.paths) for part, images in parts.items()}


def _write_tar(folder: Path, samples: Sequence[Sample], most: int) -> None:
    from webdataset import ShardWriter

    pattern = str(folder).replace("%", "%%") + "/%06d.tar"
    with ShardWriter(pattern, maxcount=most, verbose=0) as shards:
        for number, (path, label) in enumerate(samples):
            shards.write({"__key__": f"{number:09}", path.suffix[1:].lower(): _content(path), "cls": label})


def _write_parquet(folder: Path, samples: Sequence[Sample], most: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    for number, shard in enumerate(_pieces(samples, most)):
        with pq.ParquetWriter(folder / f"{number:06}.parquet", schema) as writer:
            for piece in _pieces(shard, _ROW_GROUP):
                images = [{"bytes": _content(path), "path": text_of(path.name)} for path, _ in piece]
                labels = [label for _, label in piece]
                writer.write_table(pa.table({"image": images, "label": labels}, schema))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {cause_of(error)}") from error


def _pieces(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
