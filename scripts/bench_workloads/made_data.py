"""Data of the right shape where there is no real one, each made once."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PER_CLASS = {"train": 5000, "test": 1000}


def image_folder(cache: Path) -> Path:
    """50,000 + 10,000 JPEG files of 32 × 32 in ten classes, each about as large as a photograph of CIFAR-10."""
    return _made_once(cache / "images", _write_images)


def series(cache: Path) -> Path:
    """A CSV file of 5,000 steps: two waves and noise."""
    return _made_once(cache / "series", _write_series) / "series.csv"


def _made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``write`` under another name first, so that it is there as a whole or not at all."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            write(temporary)
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_images(folder: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    for part, count in _PER_CLASS.items():
        for name in _CLASSES:
            (folder / part / name).mkdir(parents=True)
            tint = generator.integers(0, 64, 3, dtype=np.uint8)  # so that there is something to learn
            # Soft patches compress as photographs do: about 0.9 kB at the quality that most programs write.
            patches = generator.integers(0, 192, (count, 8, 8, 3), dtype=np.uint8) + tint
            for number, pixels in enumerate(patches):
                image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
                image.save(folder / part / name / f"{number:04}.jpg", quality=75)


def _write_series(folder: Path) -> None:
    steps = np.arange(5000)
    noise = np.random.default_rng(0).normal(0, 0.1, len(steps))
    values = np.sin(2 * np.pi * steps / 24) + 0.5 * np.sin(2 * np.pi * steps / 170) + noise
    lines = "\n".join(f"{value:.6f}" for value in values)
    (folder / "series.csv").write_text(f"value\n{lines}\n", encoding="utf-8")
