"""Which samples each part of a data set holds: held to what they were, for every data set and every option."""

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torchvision
from PIL import Image

from dltrain.data import bundled, torchvision_sets
from dltrain.data.adapted import adapted
from dltrain.data.base import Data, Samples, Windows, names_of
from dltrain.data.image_folder import image_folder
from dltrain.data.series import series
from dltrain.data.shards import shards
from dltrain.data.table import table
from dltrain.errors import DataError

IMAGES = 130
SPLITS: list[dict[str, Any]] = [
    {},
    {"split_seed": 1},
    {"split_seed": 12345, "val_fraction": 0.25, "test_fraction": 0.4},
    {"val_fraction": 0, "test_fraction": 0.3},
    {"val_fraction": 0.5, "test_fraction": 0},
    {"val_fraction": 0, "test_fraction": 0, "limit": 11, "split_seed": 3},
    {"limit": 7},
    {"val_fraction": 0.001, "test_fraction": 0.9, "split_seed": 2**40},
]


def indices_of(part: Samples) -> list[Any]:
    """What tells the samples of a part apart: their rows where the data show them."""
    if isinstance(part, Windows):
        return part.starts.tolist()
    names = names_of(part, torch.arange(len(part)))
    if all(names):
        return [name.rpartition("/")[2] for name in names]
    inputs, targets = part.take(torch.arange(len(part)))
    return [inputs.flatten(1).tolist(), targets.tolist()]


def digest(data: Data, column: int | None = None, rows: int = 0) -> str:
    """How many samples each part has, and a hash of which they are; ``column`` holds the row from 0 to ``rows``."""
    parts = {name: part for name in ("train", "val", "test") if (part := getattr(data, name)) is not None}
    if column is None:
        indices = {name: indices_of(part) for name, part in parts.items()}
    else:
        measured = data.preprocessing["numeric"]["row"]
        values = {name: part.take(torch.arange(len(part)))[0][:, column].double() for name, part in parts.items()}
        indices = {
            name: (value * measured["std"] + measured["mean"]).round().long().tolist() for name, value in values.items()
        }
        assert all(0 <= index < rows for part in indices.values() for index in part)
    sizes = "/".join(str(len(part)) for part in parts.values())
    return f"{sizes} {hashlib.sha256(json.dumps(indices).encode()).hexdigest()[:16]}"


def without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def labels_of(count: int) -> np.ndarray:
    """Four classes, one of them rare, in no order."""
    return np.array([3 if number % 37 == 5 else (number * number + number // 3) % 3 for number in range(count)])


def write_folder(top: Path, parts: Mapping[str, int]) -> str:
    for part, count in parts.items():
        for number, label in enumerate(labels_of(count)):
            folder = top / part / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), number).save(folder / f"{number:03}.png")
    return str(top)


def write_rows(path: Path, rows: int, target: Callable[[int], str]) -> str:
    text = "row,y\n" + "".join(f"{row},{target(row)}\n" for row in range(rows))
    path.write_text(text)
    return str(path)


def write_mnist(root: Path) -> str:
    for name, count in (("train", 90), ("t10k", 30)):
        images = np.arange(count, dtype=np.uint8)[:, None, None] + np.zeros((count, 28, 28), np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels_of(count).astype(np.uint8))):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (root / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return str(root)


def write_tar(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels_of(count)):
            array = io.BytesIO()
            np.save(array, np.float32([number]))
            for suffix, content in (("npy", array.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:04}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, count: int, group: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({"row": np.arange(count, dtype=np.float64), "label": labels_of(count)})
    frame.write_parquet(path, row_group_size=group)


class Mapped:
    """A map-style data set of the user's, whose classes stand in ``targets`` or have to be read."""

    def __init__(self, count: int, with_targets: bool):
        self.labels = labels_of(count).tolist()
        if with_targets:
            self.targets = self.labels
        self.num_outputs = 4

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[list[float], int]:
        return [float(index)], self.labels[index]


def pairs(count: int, regression: bool = False) -> list[tuple[list[float], float]]:
    labels = labels_of(count).tolist()
    return [([float(row)], row / 2 if regression else label) for row, label in enumerate(labels)]


def digits(folder: Path, options: dict[str, Any]) -> str:
    return digest(bundled.digits(**options))


def diabetes(folder: Path, options: dict[str, Any]) -> str:
    data = bundled.diabetes(**options)
    parts = {name: getattr(data, name) for name in ("train", "val", "test")}
    mean, std = data.facts.target_mean, data.facts.target_std
    values = {
        name: (part.take(torch.arange(len(part)))[1].double() * std + mean).round().long().tolist()
        for name, part in parts.items()
        if part is not None
    }
    return f"{'/'.join(map(str, map(len, values.values())))} {hashlib.sha256(repr(values).encode()).hexdigest()[:16]}"


def sunspots(folder: Path, options: dict[str, Any]) -> str:
    return digest(bundled.sunspots(**without(options, "split_seed")))


def small_windows(folder: Path, options: dict[str, Any]) -> str:
    path = write_rows(folder / "s.csv", 400, lambda row: str(row % 17))
    return digest(series(path, "y", window=5, horizon=1, **without(options, "split_seed")))


def classes_of_a_table(folder: Path, options: dict[str, Any]) -> str:
    labels = labels_of(301)
    path = write_rows(folder / "t.csv", 301, lambda row: "abcd"[labels[row]] if row % 29 else "")
    return digest(table(path, "y", **options), column=0, rows=301)


def numbers_of_a_table(folder: Path, options: dict[str, Any]) -> str:
    path = write_rows(folder / "t.csv", 250, lambda row: f"{row * 0.37 + row % 7:.2f}")
    return digest(table(path, "y", **options), column=0, rows=250)


def folder_of_classes(folder: Path, options: dict[str, Any]) -> str:
    return digest(image_folder(write_folder(folder, {".": IMAGES}), image_size=2, cache="none", **options))


def folder_with_val(folder: Path, options: dict[str, Any]) -> str:
    root = write_folder(folder, {"train": IMAGES, "val": 40})
    return digest(image_folder(root, image_size=2, cache="none", **options))


def folder_with_test(folder: Path, options: dict[str, Any]) -> str:
    root = write_folder(folder, {"train": IMAGES, "test": 40})
    return digest(image_folder(root, image_size=2, cache="none", **options))


def mnist(folder: Path, options: dict[str, Any]) -> str:
    return digest(torchvision_sets.mnist(write_mnist(folder), **without(options, "test_fraction")))


def fashion_mnist(folder: Path, options: dict[str, Any]) -> str:
    return digest(torchvision_sets.fashion_mnist(write_mnist(folder), **without(options, "test_fraction")))


def cifar(name: str, folder: Path, options: dict[str, Any]) -> str:
    def read(root: str, train: bool, download: bool) -> SimpleNamespace:
        count = 100 if train else 30
        pixels = np.zeros((count, 32, 32, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
        return SimpleNamespace(data=pixels, targets=labels_of(count).tolist(), classes=list("abcd"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets, name.upper(), read)
        return digest(getattr(torchvision_sets, name)(str(folder), **without(options, "test_fraction")))


def cifar10(folder: Path, options: dict[str, Any]) -> str:
    return cifar("cifar10", folder, options)


def cifar100(folder: Path, options: dict[str, Any]) -> str:
    return cifar("cifar100", folder, options)


def tar_shards(folder: Path, options: dict[str, Any]) -> str:
    for number in range(3):
        write_tar(folder / f"train-{number}.tar", 140 + number)
    return digest(shards(str(folder), **options))


def parquet_shards(folder: Path, options: dict[str, Any]) -> str:
    for number in range(3):
        write_parquet(folder / "train" / f"{number}.parquet", 70 + number, group=9)
    return digest(shards(str(folder), **options))


def parquet_shards_with_val(folder: Path, options: dict[str, Any]) -> str:
    write_parquet(folder / "train" / "0.parquet", 150, group=4)
    write_parquet(folder / "val" / "0.parquet", 60, group=7)
    return digest(shards(str(folder), **options))


def own_pairs(folder: Path, options: dict[str, Any]) -> str:
    return digest(adapted(pairs(203), "own", **options))


def own_numbers(folder: Path, options: dict[str, Any]) -> str:
    return digest(adapted(pairs(203, regression=True), "own", **options))


def own_map_with_targets(folder: Path, options: dict[str, Any]) -> str:
    return digest(adapted(Mapped(203, with_targets=True), "own", **options))


def own_map_without_targets(folder: Path, options: dict[str, Any]) -> str:
    return digest(adapted(Mapped(203, with_targets=False), "own", **options))


def own_with_val(folder: Path, options: dict[str, Any]) -> str:
    return digest(adapted({"train": pairs(203), "val": pairs(31)}, "own", **options))


def own_with_all(folder: Path, options: dict[str, Any]) -> str:
    return digest(adapted((pairs(203), pairs(31), pairs(29)), "own", **options))


DATA_SETS = (
    *(digits, diabetes, sunspots, small_windows, classes_of_a_table, numbers_of_a_table, folder_of_classes),
    *(folder_with_val, folder_with_test, mnist, fashion_mnist, cifar10, cifar100, tar_shards, parquet_shards),
    *(parquet_shards_with_val, own_pairs, own_numbers, own_map_with_targets, own_map_without_targets),
    *(own_with_val, own_with_all),
)
# For each data set the digest of each of SPLITS. They are what the first version of dltrain drew; a run that is
# resumed or evaluated years later has to see the same samples, so none of them may ever change.
DIGESTS = {
    "digits": (
        "1294/144/359 ce454486a9ba4aef",
        "1294/144/359 e54e4b068e63571c",
        "808/270/719 853b8e7249d81016",
        "1258/539 33c199797ea56d0f",
        "899/898 728fba3f81859afe",
        "11 d515b7d591706947",
        "7/7/7 616c9f6833b50bc7",
        "179/1/1617 58790aa42250cf4c",
    ),
    "diabetes": (
        "319/35/88 6d16bb9b93704ca2",
        "319/35/88 02a972bb63f422c5",
        "199/66/177 f949e0e931dd0e56",
        "309/133 60a14de1b6819f46",
        "221/221 32ff89d5de0d027f",
        "11 616d603a9f700728",
        "7/7/7 a08d42b02da3b790",
        "43/1/398 5778cc8b9b481676",
    ),
    "sunspots": (
        "1971/215/553 57d648e2a62c013f",
        "1971/215/553 57d648e2a62c013f",
        "1210/412/1117 f50547699f83187d",
        "1915/835 7a92dc0948f4b12a",
        "1351/1399 122e4611c2ee1d47",
        "11 81bb7c793929d154",
        "7/7/7 d1b9ddd94ae8bfe5",
        "DataError",
    ),
    "small_windows": (
        "283/32/80 7340c28243c02fbc",
        "283/32/80 7340c28243c02fbc",
        "175/60/160 455124e30d1caf5a",
        "275/120 53aab3ea86fb478b",
        "195/200 637d5e77550ef372",
        "11 81bb7c793929d154",
        "7/7/7 06ac15bf738789ee",
        "34/1/360 19c7595d8b2ead67",
    ),
    "classes_of_a_table": (
        "209/23/58 c43c80c1dbf3f40a",
        "209/23/58 569309c8b690f03e",
        "130/44/116 f678bbbc9e943464",
        "203/87 a58f57ee6f3afc86",
        "145/145 14d872637789b651",
        "11 e3cc530afa2452e1",
        "7/7/7 638c1f3da4bed9b1",
        "28/1/261 8143c0bab98839a7",
    ),
    "numbers_of_a_table": (
        "180/20/50 e0785af40b3133c0",
        "180/20/50 910ce3e3b3a7ab3d",
        "112/38/100 7e1a2a3c7ee13114",
        "175/75 f56eea41603598bf",
        "125/125 237dc29e9352e2fa",
        "11 06c98f53a12cf82a",
        "7/7/7 d3cd34132c8ad5af",
        "24/1/225 f6f0ac62e55d6d9e",
    ),
    "folder_of_classes": (
        "105/12/13 5556b5c64bd4315e",
        "105/12/13 e809337c1c828b71",
        "58/20/52 9c0cf4bc4c7ccb84",
        "91/39 42c3f9e18c549edc",
        "65/65 423cbc3fc875f8b6",
        "11 bfcb6f88863af1b8",
        "7/7/7 5e388076b0f612c8",
        "12/1/117 b164c7987b149d82",
    ),
    "folder_with_val": (
        "117/40/13 a59e3150c03eb0a6",
        "117/40/13 144d781135613638",
        "78/40/52 d131cad140b25508",
        "91/40/39 7c292fd11a0dce45",
        "130/40 c107695e82b10817",
        "11/11 e5aea0bac15382af",
        "7/7/7 7bd2c475a4aaab81",
        "13/40/117 e7a4c0998ecb1f8c",
    ),
    "folder_with_test": (
        "117/13/40 e98fb4639b7c9bbf",
        "117/13/40 fe4f9907fe9ce580",
        "98/32/40 76e6ad3d75139d1b",
        "130/40 b891da61c966e3b1",
        "65/65/40 08b78dbd176ce8b4",
        "11/11 b6a87cfd536f2959",
        "7/7/7 612d48a9ba674fdd",
        "129/1/40 909b1d5a73f992b1",
    ),
    "mnist": (
        "81/9/30 d1060e3983b66647",
        "81/9/30 906cdea444874e89",
        "68/22/30 a29ccbd5fdc9b0b7",
        "90/30 974e29c8c572d1a3",
        "45/45/30 4231eb227361739b",
        "11/11 4a81ceb83f449d9a",
        "7/7/7 1ea85f22d7033d49",
        "89/1/30 c5b99536aab66bda",
    ),
    "fashion_mnist": (
        "81/9/30 d1060e3983b66647",
        "81/9/30 906cdea444874e89",
        "68/22/30 a29ccbd5fdc9b0b7",
        "90/30 974e29c8c572d1a3",
        "45/45/30 4231eb227361739b",
        "11/11 4a81ceb83f449d9a",
        "7/7/7 1ea85f22d7033d49",
        "89/1/30 c5b99536aab66bda",
    ),
    "cifar10": (
        "90/10/30 250d0dce14b91040",
        "90/10/30 90f67814ea68dade",
        "75/25/30 82e57218027a9233",
        "100/30 dad0c3fe74a0bf53",
        "50/50/30 41c06e0d8d66dedb",
        "11/11 9707ee8700151a6e",
        "7/7/7 fdd09dbdec3f433f",
        "99/1/30 49f81cb0268390e1",
    ),
    "cifar100": (
        "90/10/30 250d0dce14b91040",
        "90/10/30 90f67814ea68dade",
        "75/25/30 82e57218027a9233",
        "100/30 dad0c3fe74a0bf53",
        "50/50/30 41c06e0d8d66dedb",
        "11/11 9707ee8700151a6e",
        "7/7/7 fdd09dbdec3f433f",
        "99/1/30 49f81cb0268390e1",
    ),
    "tar_shards": (
        "343/38/42 3fcff745218cc591",
        "343/38/42 f363cce5fd56321d",
        "190/64/169 19529e281a2412dd",
        "296/127 abe3089047444f1f",
        "211/212 3669756eb32a93e2",
        "11 e9816257189be708",
        "7/7/7 af7ed2dda13af637",
        "41/1/381 81dd7a8f5db1a731",
    ),
    "parquet_shards": (
        "173/19/21 cc9a1840f47a1af2",
        "173/19/21 dae7cacbb8ab09ae",
        "96/32/85 de810a6c8ebbba74",
        "149/64 c1eba52e7acaddb6",
        "107/106 4664d9d8dcbf65c2",
        "11 0a57505bf6dc5c72",
        "7/7/7 a3c007f2ce64420a",
        "20/1/192 13a28026b852e285",
    ),
    "parquet_shards_with_val": (
        "135/60/15 7cbea2b9f7a1cd2b",
        "135/60/15 29e0abfbc1ba061a",
        "90/60/60 816fc4e9b9c7f989",
        "105/60/45 c0641ca16878055f",
        "150/60 2db70583161cce5b",
        "11/11 39581c8807a31450",
        "7/7/7 23dc671b1f530fc2",
        "15/60/135 f89a814715fd11f3",
    ),
    "own_pairs": (
        "183/20 fa0ebceaa6d72b7c",
        "183/20 aad3c9f6d6f1590e",
        "92/30/81 522c5f7599b34c0c",
        "142/61 61dbeb0cecaf8bee",
        "101/102 054069f2c1a74a6b",
        "11 73691ef0ce5e844f",
        "7/7 99af4df64a0c8a0f",
        "19/1/183 173b20ca138b00e4",
    ),
    "own_numbers": (
        "183/20 7f1dc6fa054c9277",
        "183/20 bbd0fd17c534c6a1",
        "92/30/81 7951f9dbbea8de43",
        "142/61 5860ef79745f5a1c",
        "101/102 d4b30aa12f4e71f9",
        "11 fd3de37c8770c250",
        "7/7 ed9e3c9cfd5f52ba",
        "19/1/183 bc02b1fddfd9594d",
    ),
    "own_map_with_targets": (
        "183/20 fa0ebceaa6d72b7c",
        "183/20 aad3c9f6d6f1590e",
        "92/30/81 522c5f7599b34c0c",
        "142/61 61dbeb0cecaf8bee",
        "101/102 054069f2c1a74a6b",
        "11 73691ef0ce5e844f",
        "7/7 99af4df64a0c8a0f",
        "19/1/183 173b20ca138b00e4",
    ),
    "own_map_without_targets": (
        "183/20 ee1356ef09e6467e",
        "183/20 26fad6d3911fe8bf",
        "92/30/81 c6444e0c70ddf429",
        "142/61 f78a794538bec8b2",
        "101/102 4d692d4376e509c1",
        "11 73691ef0ce5e844f",
        "7/7 9c32a4d02c27b346",
        "19/1/183 f1deaa67a7f4439b",
    ),
    "own_with_val": (
        "203/31 44157a2575db5fd7",
        "203/31 44157a2575db5fd7",
        "122/31/81 d81dcf7901604de7",
        "142/31/61 20327aea9013f53f",
        "203/31 44157a2575db5fd7",
        "11/11 60ba4c496abfb782",
        "7/7 5d45dbb0699ed481",
        "20/31/183 4311fb573a6b7f34",
    ),
    "own_with_all": (
        "203/31/29 758f7622b8891436",
        "203/31/29 758f7622b8891436",
        "203/31/29 758f7622b8891436",
        "203/31/29 758f7622b8891436",
        "203/31/29 758f7622b8891436",
        "11/11/11 c29834e0729ea506",
        "7/7/7 48aa424361992bbb",
        "203/31/29 758f7622b8891436",
    ),
}


def results(data_set: Callable[[Path, dict[str, Any]], str], folder: Path) -> Iterator[str]:
    for number, options in enumerate(SPLITS):
        place = folder / str(number)
        place.mkdir()
        try:
            yield data_set(place, options)
        except DataError as error:  # a part is too short for a window
            yield type(error).__name__


@pytest.mark.parametrize("data_set", DATA_SETS, ids=lambda data_set: data_set.__name__)
def test_no_split_ever_changes(data_set, tmp_path):
    assert tuple(results(data_set, tmp_path)) == DIGESTS[data_set.__name__]
