"""Turns images in class folders into tar or Parquet shards. Images are copied as they are, in a seeded order."""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from webdataset import ShardWriter

from dltrain.data.folders import IMAGES as SUFFIXES

Sample = tuple[Path, int]
_ROW_GROUP = 128  # rows: what is read of a Parquet file at a time


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds train/<class>/*, and val/ and test/ where there are any")
    parser.add_argument("out", type=Path, help="gets train/000000.tar, ... and classes.txt")
    parser.add_argument("--format", choices=["tar", "parquet"], default="tar")
    parser.add_argument("--samples", type=int, default=10_000, help="of a shard, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    options = parser.parse_args(arguments)
    classes = sorted(path.name for path in (options.folder / "train").iterdir() if path.is_dir())
    write = write_tar if options.format == "tar" else write_parquet
    for part in ("train", "val", "test"):
        samples = labelled(options.folder / part, classes)
        if samples:
            random.Random(options.seed).shuffle(samples)
            (options.out / part).mkdir(parents=True)
            write(options.out / part, samples, options.samples)
            print(f"{part}: {len(samples):,} images")
    (options.out / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")


def labelled(folder: Path, classes: Sequence[str]) -> list[Sample]:
    """The images of each class with its number."""
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]


def write_tar(folder: Path, samples: Sequence[Sample], most: int) -> None:
    with ShardWriter(f"{folder}/%06d.tar", maxcount=most, verbose=0) as shards:
        for number, (path, label) in enumerate(samples):
            shards.write({"__key__": f"{number:09}", path.suffix[1:].lower(): path.read_bytes(), "cls": label})


def write_parquet(folder: Path, samples: Sequence[Sample], most: int) -> None:
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    for number, shard in enumerate(_pieces(samples, most)):
        with pq.ParquetWriter(folder / f"{number:06}.parquet", schema) as writer:
            for piece in _pieces(shard, _ROW_GROUP):
                images = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in piece]
                labels = [label for _, label in piece]
                writer.write_table(pa.table({"image": images, "label": labels}, schema))


def _pieces(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


if __name__ == "__main__":
    main()
