"""Images a second from shards beside single files that are decoded each time, without a network behind them."""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dltrain.data.base import Data
from dltrain.data.image_folder import image_folder
from dltrain.data.loader import Loader
from dltrain.data.shard_files.writing import write_shards
from dltrain.data.shards import shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--side", type=int, default=256, help="of the JPEG files, in pixels")
    parser.add_argument("--size", type=int, default=64, help="image_size that they are resized to")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DLTRAIN_CACHE"] = f"{folder}/cache"
        top = Path(folder)
        write_photos(top / "photos", options.images, options.side)
        for name in ("tar", "parquet"):
            write_shards(top / "photos", top / name, name, samples=10_000, seed=0)
        common = {"image_size": options.size, "val_fraction": 0, "test_fraction": 0}
        began = time.perf_counter()
        sets = {name: shards(str(top / name), **common) for name in ("tar", "parquet")}
        print(f"indexing and measuring two sets: {time.perf_counter() - began:.1f} s")
        sets["image_folder, cache=none"] = image_folder(str(top / "photos"), cache="none", **common)
        measure(sets, options.workers, options.rounds)


def write_photos(folder: Path, count: int, side: int) -> None:
    """JPEG files of noise that was smoothed, about as large as photographs are."""
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / "train" / "ab"[number % 2] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        noise.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)


def measure(sets: dict[str, Data], workers: int, rounds: int) -> None:
    loaders = {
        name: Loader(data.train, 64, data.transform, torch.device("cpu"), seed=0, workers=workers)
        for name, data in sets.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in sets}
    for epoch in range(rounds + 1):  # the first starts the workers
        for name, loader in loaders.items():
            loader.set_epoch(epoch)
            began = time.perf_counter()
            served = sum(len(targets) for _, targets in loader)
            if epoch:
                rates[name].append(served / (time.perf_counter() - began))
    print("| read from | images/s, median | least | most |\n|---|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {min(found):,.0f} | {max(found):,.0f} |")


if __name__ == "__main__":
    main()
