"""Classic image data sets in torchvision's file layout; torchvision is imported only for downloads and CIFAR."""

import gzip
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.base import Data
from dltrain.data.images.labelled import DecodedImages, image_data
from dltrain.data.splits import Split
from dltrain.data.stated import Stated
from dltrain.errors import DataError, cause_of

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@Stated(task="classification", classes=10, held_out=True)
def mnist(
    root: str,
    download: bool = False,
    val_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
) -> Data:
    """MNIST (LeCun et al., 1998): 60,000 and 10,000 handwritten digits, grey, 28 × 28."""
    parts = _idx_parts("MNIST", root, download)
    split = Split(val_fraction, limit=limit, seed=split_seed)
    return image_data("mnist", tuple("0123456789"), parts, split=split, augment=augment)


@Stated(task="classification", classes=10, held_out=True)
def fashion_mnist(
    root: str,
    download: bool = False,
    val_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
) -> Data:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 and 10,000 pictures of clothes, grey, 28 × 28."""
    parts = _idx_parts("FashionMNIST", root, download)
    split = Split(val_fraction, limit=limit, seed=split_seed)
    return image_data("fashion_mnist", _FASHION, parts, split=split, augment=augment)


@Stated(task="classification", classes=10, held_out=True)
def cifar10(
    root: str,
    download: bool = False,
    val_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
) -> Data:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 colour photographs of ten kinds, 32 × 32."""
    names, parts = _cifar_parts("CIFAR10", root, download)
    split = Split(val_fraction, limit=limit, seed=split_seed)
    return image_data("cifar10", names, parts, split=split, augment=augment)


@Stated(task="classification", classes=100, held_out=True)
def cifar100(
    root: str,
    download: bool = False,
    val_fraction: float = 0.1,
    limit: int | None = None,
    split_seed: int = 0,
    augment: Mapping[str, Any] | None = None,
) -> Data:
    """CIFAR-100 (Krizhevsky, 2009): 50,000 and 10,000 colour photographs of a hundred kinds, 32 × 32."""
    names, parts = _cifar_parts("CIFAR100", root, download)
    split = Split(val_fraction, limit=limit, seed=split_seed)
    return image_data("cifar100", names, parts, split=split, augment=augment)


def _idx_parts(dataset: str, root: str, download: bool) -> dict[str, DecodedImages]:
    top = Path(os.path.expanduser(root))
    folders = [top / dataset / "raw", top / dataset, top]
    wanted = [name for names in _IDX_FILES.values() for name in names]
    if download and not all(_find_idx(folders, name) for name in wanted):
        _torchvision_set(dataset, root, train=True, download=True)
    missing = [name for name in wanted if not _find_idx(folders, name)]
    if missing:
        raise DataError(
            f"{dataset}: {', '.join(missing)} (or the same with .gz) not found in '{folders[0]}';"
            " put the files there, name another folder with dataset.root, or download them with dataset.download=true"
        )
    return {part: _read_idx_part(folders, names) for part, names in _IDX_FILES.items()}


def _read_idx_part(folders: list[Path], names: tuple[str, str]) -> DecodedImages:
    image_path, label_path = (_find_idx(folders, name) for name in names)
    assert image_path is not None and label_path is not None
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if len(images) != len(labels):
        raise DataError(f"'{image_path}' holds {len(images)} images, but '{label_path}' {len(labels)} labels")
    if len(labels) and labels.max() >= 10:
        raise DataError(f"'{label_path}' holds the label {int(labels.max())}, where 0 to 9 are expected")
    return DecodedImages(labels.long(), images.unsqueeze(1))


def _find_idx(folders: list[Path], name: str) -> Path | None:
    candidates = (folder / (name + suffix) for folder in folders for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or not; format: yann.lecun.com/exdb/mnist.

    Raises:
        DataError: it is no such file, or is cut short.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {cause_of(error)}") from error
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != start + math.prod(shape):
        raise DataError(f"'{path}' is not a whole IDX file of unsigned bytes with {dimensions} dimensions")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy())


def _cifar_parts(dataset: str, root: str, download: bool) -> tuple[list[str], dict[str, DecodedImages]]:
    parts = {}
    for name, train in (("train", True), ("test", False)):
        part = _torchvision_set(dataset, root, train, download)
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        parts[name] = DecodedImages(torch.tensor(part.targets), images)
    return part.classes, parts


def _torchvision_set(dataset: str, root: str, train: bool, download: bool) -> Any:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, dataset)
    try:
        return kind(os.path.expanduser(root), train=train, download=download)
    except (RuntimeError, OSError) as error:  # not there or damaged, no network
        folder = Path(os.path.expanduser(root)) / getattr(kind, "base_folder", f"{dataset}/raw")
        lists = [getattr(kind, key, []) for key in ("resources", "train_list", "test_list")]
        names = [name for files in lists for name, _ in files]
        names += [kind.meta["filename"]] if hasattr(kind, "meta") else []
        hint = f"the download failed ({error}); " if download else "download them with dataset.download=true, or "
        raise DataError(
            f"{dataset}: the files {', '.join(names)} were not found whole in '{folder}'; {hint}"
            f"put them there by hand, or name another folder with dataset.root"
        ) from error
