"""Data sets in shards: order, resumption, formats and mistakes, against webdataset, image_folder and closed forms."""

import gc
import io
import json
import os
import pickle
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from importlib import util
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made import on_terminal, write_images
from PIL import Image
from torch import Tensor
from webdataset import tariterators

from dltrain.data import cache
from dltrain.data.base import Data, names_of
from dltrain.data.image_folder import image_folder
from dltrain.data.loader import Loader
from dltrain.data.shard_files import index as shard_index
from dltrain.data.shard_files import parquet as parquet_shards
from dltrain.data.shard_files import tar as tar_shards
from dltrain.data.shard_files.writing import write_shards
from dltrain.data.shards import shards
from dltrain.distributed.process_group import ProcessGroup
from dltrain.errors import DataError
from dltrain.system import extras
from dltrain.system.extras import install_line
from dltrain.training.progress import View

CPU = torch.device("cpu")
AUGMENT = {"crop": 2, "flip": True, "contrast": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """700 pictures to train on and 90 to test, as files and in shards of both formats with the same runs."""
    top = tmp_path_factory.mktemp("sharded")
    write_images(top / "photos", ("bat", "cat"), count=350, size=(8, 8))
    write_images(top / "photos", ("bat", "cat"), count=45, parts=("test",), size=(8, 8))
    for name in ("tar", "parquet"):
        write_shards(top / "photos", top / name, name, samples=256, seed=0)
    return top


@pytest.fixture(autouse=True)
def _no_workers_unless_they_are_named(monkeypatch) -> None:
    """Runs in this process read their samples themselves: ending their workers takes seconds."""
    monkeypatch.setattr("dltrain.data.loader.core_count", lambda: 0)


def read(root: Path, **options) -> Data:
    return shards(str(root), **{"image_size": 8, "shuffle_window": 200, "test_fraction": 0, **options})


def loader(data: Data, workers: int = 0, batch_size: int = 32, seed: int | None = 5) -> Loader:
    return Loader(data.train, batch_size, data.transform, CPU, seed, data.augment, workers=workers)


def batches(served: Loader, epoch: int = 0, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    served.set_epoch(epoch, start)
    return list(served)


def assert_equal(ones: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def rows(data: list[tuple[Tensor, Tensor]]) -> Counter[tuple[float, ...]]:
    """The samples of batches as a multiset."""
    flat = [torch.cat([inputs.flatten(1), targets.view(len(targets), -1).float()], 1) for inputs, targets in data]
    return Counter(map(tuple, torch.cat(flat).tolist()))


# Order


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["tar", "parquet"])
def test_any_number_of_workers_gives_the_same_batches_from_any_place_of_an_epoch_on(folder, name, workers):
    data = read(folder / name, augment=AUGMENT)
    expected, served = loader(data), loader(data, workers)
    for epoch, start in ((0, 0), (1, 0), (1, 7), (0, 19)):
        assert_equal(batches(served, epoch, start), batches(expected, epoch)[start:])
    assert not torch.equal(batches(expected, 0)[0][0], batches(expected, 1)[0][0])


def test_tar_and_parquet_give_the_same_batches(folder):
    assert_equal(*(batches(loader(read(folder / name, augment=AUGMENT))) for name in ("tar", "parquet")))


def test_an_epoch_is_every_picture_of_the_folder_once_prepared_as_image_folder_does(folder):
    files = image_folder(str(folder / "photos"), image_size=8, cache="memory", val_fraction=0)
    data = read(folder / "tar", val_fraction=0)
    raw = [files.train.take(torch.arange(len(files.train)))]
    served = Loader(data.train, 64, torch.nn.Identity(), CPU, seed=1, workers=0)
    for epoch in range(2):
        assert rows(batches(served, epoch)) == rows(raw)
    served = Loader(data.test, 64, torch.nn.Identity(), CPU, workers=0)
    assert rows(batches(served)) == rows([files.test.take(torch.arange(len(files.test)))])


def test_a_sample_is_named_by_its_member(folder):
    data, indices = read(folder / "tar"), torch.tensor([70, 3])
    pixels, _ = data.test.take(indices)
    for name, image in zip(names_of(data.test, indices), pixels.numpy(), strict=True):
        path, member = re.fullmatch(r"'(.+)', member '(.+)'", name).groups()
        with tarfile.open(path) as tar, Image.open(tar.extractfile(member)) as picture:
            np.testing.assert_array_equal(np.asarray(picture).transpose(2, 0, 1), image)


def test_channels_are_measured_as_of_a_folder_where_all_images_are(folder, monkeypatch):
    monkeypatch.setattr("dltrain.data.shards._MEASURED", 10_000)
    found = read(folder / "tar", val_fraction=0).preprocessing
    assert found == image_folder(str(folder / "photos"), image_size=8, val_fraction=0).preprocessing


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("batch_size", [1, 32, 233, 5000])
def test_batches_are_as_many_as_the_length_says_and_follow_the_announced_order(folder, seed, batch_size):
    served = loader(read(folder / "tar", val_fraction=0), batch_size=batch_size, seed=seed)
    cut = list(served._cut_from(0))
    assert len(cut) == len(served)
    assert torch.equal(torch.cat(cut), served.order())
    assert torch.equal(served.order().sort().values, torch.arange(700))
    assert (served.order().tolist() == list(range(700))) == (seed is None)


@pytest.mark.parametrize("name", ["tar", "parquet"])
@pytest.mark.parametrize("processes", [2, 5])
def test_of_each_batch_every_process_reads_its_own_part(folder, name, processes):
    data = read(folder / name)
    size = len(data.train) // 2 - 1  # so that the last batch has fewer samples than there are processes
    parts = []
    for rank in range(processes):
        process_group = ProcessGroup()
        process_group.rank, process_group.size = rank, processes
        served = loader(data, batch_size=size, seed=None)
        served.cut = process_group.cut
        parts.append(batches(served, start=1))
    whole = batches(loader(data, batch_size=size, seed=None), start=1)
    assert len(whole[-1][1]) < 5
    assert_equal(whole, [tuple(map(torch.cat, zip(*shares, strict=True))) for shares in zip(*parts, strict=True)])


def test_samples_stay_near_one_another_within_a_window_and_windows_mix_all_shards(folder):
    index = read(folder / "tar", val_fraction=0).train.index
    sizes = [length for group in index.groups for length in group]
    assert sizes == [128, 128, 128, 128, 128, 60]
    served = loader(read(folder / "tar", val_fraction=0, shuffle_window=256), seed=1)
    seen = set()
    for epoch in range(8):
        served.set_epoch(epoch)
        runs = [set(index.group_of(stretch.numpy()).tolist()) for stretch in served._order_from(0)]
        assert sorted(run for window in runs for run in window) == list(range(6))  # each run in one window
        assert all(len(window) <= 3 for window in runs)
        seen |= {tuple(sorted(window)) for window in runs}
    assert len(seen) > 8


def test_a_row_group_is_read_once_a_window_and_a_window_is_all_that_is_kept(folder, monkeypatch):
    data = read(folder / "parquet", val_fraction=0, shuffle_window=256)
    data.train.layout.shards.groups._kept.clear()  # what was read to measure the channels
    real, opened = parquet_shards.opened, []
    monkeypatch.setattr(parquet_shards, "opened", lambda path: opened.append(path) or real(path))
    batches(loader(data, batch_size=10))
    assert len(opened) == 6
    kept = data.train.layout.shards.groups._kept
    assert sum(rows for rows, _ in kept.values()) <= 256 + 2 * 128
    assert data.train.layout.shards.groups.__getstate__()["_kept"] == {}


def test_augmentation_belongs_to_the_sample_not_to_its_batch(folder):
    data = read(folder / "tar", augment=AUGMENT)
    ones, others = (batches(loader(data, batch_size=size)) for size in (7, 32))
    assert_equal([tuple(map(torch.cat, zip(*ones, strict=True)))], [tuple(map(torch.cat, zip(*others, strict=True)))])


# Parts


def test_parts_are_exact_disjoint_and_drawn_by_the_split_seed_alone(folder):
    def parts(**options) -> list[Counter]:
        data = read(folder / "parquet", val_fraction=0.3, test_fraction=0.2, **options)
        served = (Loader(part, 64, torch.nn.Identity(), CPU, workers=0) for part in (data.train, data.val, data.test))
        return [rows(batches(part)) for part in served]

    first = parts()
    assert [part.total() for part in first] == [490, 210, 90]
    assert first == parts()
    assert first[1] != parts(split_seed=1)[1]
    assert first[0] + first[1] == parts(split_seed=1)[0] + parts(split_seed=1)[1]


def test_a_limit_bounds_every_part(folder):
    data = read(folder / "tar", limit=50)
    assert [len(part) for part in (data.train, data.val, data.test)] == [50, 50, 50]


def test_a_set_without_further_parts_is_split_in_three(folder, tmp_path):
    for path in (folder / "tar" / "train").iterdir():
        (tmp_path / path.name).symlink_to(path)
    data = read(tmp_path, test_fraction=0.2)
    assert [len(part) for part in (data.train, data.val, data.test)] == [504, 56, 140]


@pytest.mark.parametrize("set_name", ["", "imagenet1k-"])
def test_shards_can_be_told_apart_by_their_names(folder, tmp_path, set_name):
    for name, part in (("train-0.tar", "train/000000.tar"), ("validation-0.tar", "test/000000.tar")):
        (tmp_path / f"{set_name}{name}").symlink_to(folder / "tar" / part)
    data = read(tmp_path)
    assert (len(data.train), len(data.val), data.test) == (256, 90, None)


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_the_verb_writes_what_the_folder_holds(verb, tmp_path, format):
    write_images(tmp_path / "photos", ("bat", "cat"), count=6, parts=("Training", "validation"), size=(8, 8))
    picture = Image.open(tmp_path / "photos" / "Training" / "cat" / "00.png")
    picture.save(tmp_path / "photos" / "Training" / "cat" / "more.tif")
    answer = verb("shards", "photos", "50% off", f"format={format}", "samples=5").result
    assert answer == {
        "status": "done",
        "out": "50% off",
        "format": format,
        "samples": {"train": 13, "val": 12},
        "shards": {"train": 3, "val": 3},
    }
    made, photos = read(tmp_path / "50% off"), image_folder(str(tmp_path / "photos"), 8, test_fraction=0)
    for part, other in ((made.train, photos.train), (made.val, photos.val)):
        assert rows([part.take(torch.arange(len(part)))]) == rows([other.take(torch.arange(len(other)))])
    assert made.facts.class_names == photos.facts.class_names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50% off", "photos"]


def test_the_verb_takes_classes_without_parts_and_the_seed_orders_them(verb, tmp_path):
    write_images(tmp_path / "photos", count=20, parts=(".",), size=(8, 8))
    (tmp_path / "empty").mkdir()
    for words in (["first"], ["second", "seed=0"], ["empty", "seed=1"]):
        assert verb("shards", "photos", *words).result["samples"] == {"train": 40}
    first, second, other = (taken(read(tmp_path / name, val_fraction=0)) for name in ("first", "second", "empty"))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0]) and rows([first]) == rows([other])


NO_SHARDS = {
    ("photos",): "two folders are wanted, the images and where the shards go: dltrain shards FOLDER OUT",
    ("nowhere", "out"): "there is no folder 'nowhere'; it must hold <class>/<images>, or train/<class>/<images>",
    ("photos", "photos"): "'photos' is there already",
    ("photos", "out", "format=zip"): "format=zip is not allowed: it must be one of tar, parquet",
    ("photos", "out", "fromat=tar"): "fromat=tar is no key of this verb; did you mean 'format'?",
    ("photos", "out", "--format", "tar"): "--format is no key of this verb; did you mean 'format'?",
    ("photos", "out", "samples=0"): "samples=0 is not allowed: it must be a whole number of at least 1",
    ("photos/train", "out", "seed=x"): "seed=x is not allowed",
    ("photos/train/bat", "out"): "'photos/train/bat' must hold a folder for each class, at least two; found none",
    ("lines", "out"): "rename its folder",
}


@pytest.mark.parametrize(("words", "message"), NO_SHARDS.items(), ids=map(" ".join, NO_SHARDS))
def test_a_mistake_with_the_verb_is_one_message_exit_2_and_no_folder(verb, tmp_path, words, message):
    write_images(tmp_path / "photos", ("bat", "cat"), count=2)
    write_images(tmp_path / "lines", ("bat", "ca\nt"), count=2)
    outcome = verb("shards", *words)
    assert (outcome.code, outcome.result["status"]) == (2, "invalid")
    assert message in outcome.stderr and outcome.stderr.startswith("dltrain: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "photos"]


def test_shards_that_cannot_be_written_whole_are_not_there(verb, tmp_path, monkeypatch):
    write_images(tmp_path / "photos", ("bat", "cat"), count=2)

    def full(self, sample):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("webdataset.ShardWriter.write", full)
    outcome = verb("shards", "photos", "out")
    assert (outcome.code, "'out' cannot be written: [Errno 28] No space left" in outcome.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_terminal_is_told_how_to_train_on_them(tmp_path):
    write_images(tmp_path / "photos", ("bat", "cat"), count=2)
    code, shown = on_terminal(tmp_path, "shards", "photos", "my shards")
    assert code == 0
    assert re.search(r"train\W+4\W+1\W", shown)
    assert "dltrain dataset=shards 'dataset.root=\"my shards\"'" in shown


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_transparent_and_deep_images_are_those_of_a_folder(tmp_path, format):
    draw = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(draw.integers(0, 4096, (8, 8), dtype=np.uint16)).save(folder / f"{number}.tif")
    write_shards(tmp_path / "photos", tmp_path / "shards", format, samples=10, seed=0)
    options = {"background": "#336699", "white": "auto", "val_fraction": 0}
    made = read(tmp_path / "shards", **options)
    photos = image_folder(str(tmp_path / "photos"), 8, test_fraction=0, **options)
    assert rows([taken(made)]) == rows([taken(photos)])
    stored = {"background": "#336699", "white": 4095.0}
    assert made.preprocessing.items() >= stored.items() and photos.preprocessing.items() >= stored.items()


def test_shards_of_no_known_part_are_named(folder, tmp_path, caplog):
    for name, part in (("Train", "train"), ("extra", "test")):
        (tmp_path / name).symlink_to(folder / "tar" / part)
    read(tmp_path)
    assert "shards in 'extra' are left out: parts are called train, val and test" in caplog.text


# Formats


def write_tar(path: Path, *samples: dict[str, bytes | str]) -> Path:
    """A tar file as other programs write it: each sample has its name as ``__key__``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            for suffix, content in sample.items():
                if suffix != "__key__":
                    member = tarfile.TarInfo(f"{sample['__key__']}.{suffix}")
                    data = content.encode() if isinstance(content, str) else content
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return path


def png(grey: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def greys(labels: list[str], suffix: str = "cls", count: int = 3) -> list[dict[str, bytes | str]]:
    """Samples whose grey is the place of their label."""
    return [
        {"__key__": f"{number:04}", "png": png(number % len(labels)), suffix: labels[number % len(labels)]}
        for number in range(count * len(labels))
    ]


def taken(data: Data) -> tuple[Tensor, Tensor]:
    return data.train.take(torch.arange(len(data.train)))


def test_samples_are_those_that_webdataset_finds(folder, tmp_path):
    names = ["a/x", "a/y", "b/x", "__meta__/x", "c"]
    path = write_tar(
        tmp_path / "train" / "0.tar",
        *({"__key__": name, "JPG": name, "seg.png": b"2", "cls": "0"} for name in names),
    )
    with open(path, "rb") as file:
        ours = [
            (key, {suffix: tar_shards.content_of(file, place) for suffix, place in members.items()})
            for key, members in tar_shards.members_of(path, file)
        ]
        file.seek(0)
        members = ({**member, "__url__": ""} for member in tariterators.tar_file_iterator(file))
        theirs = list(tariterators.group_by_keys(members))
    assert ours == [
        (sample["__key__"], {name: value for name, value in sample.items() if not name.startswith("__")})
        for sample in theirs
    ]
    assert len(ours) == 4


CLASSES = [
    # labels of grey 0, 1, 2, the file classes.txt, the classes, and the places of 0, 1, 2 among them
    (["dog", "cat", "ox"], None, ("cat", "dog", "ox"), [1, 0, 2]),
    (["2", "10", "1"], None, ("1", "2", "10"), [1, 2, 0]),
    (["1", "0", "2"], "cat\ndog\nox\nyak\n", ("cat", "dog", "ox", "yak"), [1, 0, 2]),
    (["ox", "dog", "cat"], "ox\ndog\ncat\n", ("ox", "dog", "cat"), [0, 1, 2]),
    (["7", "5", "6"], "7\n6\n5\n", ("7", "6", "5"), [0, 2, 1]),
]


@pytest.mark.parametrize(("labels", "listed", "names", "places"), CLASSES)
def test_a_label_is_the_name_of_a_class_or_its_number(tmp_path, labels, listed, names, places):
    write_tar(tmp_path / "train" / "0.tar", *greys(labels))
    if listed:
        (tmp_path / "classes.txt").write_text(listed)
    data = read(tmp_path, val_fraction=0)
    inputs, targets = taken(data)
    assert data.facts.class_names == names
    assert targets.tolist() == [places[grey] for grey in inputs[:, 0, 0, 0].tolist()]


def test_a_list_of_classes_that_is_no_text_is_named(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", *greys(["0", "1"]))
    (tmp_path / "classes.txt").write_bytes("löwe\nkatze\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt' cannot be read as UTF-8 text"):
        read(tmp_path, val_fraction=0)


def test_a_label_can_be_a_key_of_a_json_member(tmp_path):
    labels = [
        json.dumps({"label": 1, "kind": "b"}),
        json.dumps({"label": 0, "kind": "b"}),
        json.dumps({"label": 1, "kind": "a"}),
    ]
    write_tar(tmp_path / "train" / "0.tar", *greys(labels, "json"))
    assert taken(read(tmp_path, val_fraction=0))[1].tolist() == [1, 0, 1] * 3
    assert taken(read(tmp_path, val_fraction=0, target="kind"))[1].tolist() == [1, 1, 0] * 3


def test_a_regression_standardises_its_numbers(tmp_path):
    values = [1.5, -2.0, 7.25]
    write_tar(tmp_path / "train" / "0.tar", *greys([f"{value}\n" for value in values], "age"))
    data = read(tmp_path, val_fraction=0, task="regression", target="age")
    facts = data.facts
    assert (facts.target_mean, facts.target_std) == pytest.approx((np.mean(values), np.std(values)))
    found = taken(data)[1] * facts.target_std + facts.target_mean
    assert found[:, 0].tolist() == pytest.approx(values * 3)


@pytest.mark.parametrize("shape", [(5,), (4, 2), (3, 6, 6)])
@pytest.mark.parametrize("kind", [np.float64, np.uint8])
def test_numpy_arrays_are_samples_as_they_are(tmp_path, shape, kind):
    arrays = np.random.default_rng(0).integers(0, 255, (6, *shape)).astype(kind)
    samples = [{"__key__": str(n), "npy": npy(array), "cls": str(n % 2)} for n, array in enumerate(arrays)]
    write_tar(tmp_path / "train" / "0.tar", *samples)
    data = read(tmp_path, val_fraction=0)
    assert data.facts.input_shape == shape
    assert data.facts.kind == {1: "table", 2: "series", 3: "image"}[len(shape)]
    assert np.array_equal(taken(data)[0].numpy(), arrays)
    assert data.transform(taken(data)[0]).dtype == torch.float32


def test_parquet_of_hugging_face_tells_the_names_of_its_classes(tmp_path):
    features = {"image": {"_type": "Image"}, "label": {"names": ["ox", "ant"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    images = [{"bytes": png(grey), "path": None} for grey in (0, 1, 0)]
    (tmp_path / "train").mkdir()
    table = pa.table({"image": images, "label": [0, 1, 0]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "train" / "0.parquet")
    data = read(tmp_path, val_fraction=0)
    assert data.facts.class_names == ("ox", "ant")
    assert taken(data)[1].tolist() == taken(data)[0][:, 0, 0, 0].tolist() == [0, 1, 0]


def test_columns_of_a_table_are_features_and_their_run_can_be_used_as_any_other(dltrain, verb, tmp_path):
    generator = np.random.default_rng(0)
    size = generator.normal(20, 5, 600)
    frame = pl.DataFrame(
        {
            "id": np.arange(600).astype(str),
            "size": size,
            "colour": generator.choice(["red", "blue"], 600),
            "price": 3 * size + generator.normal(0, 0.1, 600),
        }
    ).with_columns(pl.when(pl.col("size") > 30).then(None).otherwise(pl.col("size")).alias("size"))
    (tmp_path / "houses").mkdir()
    for number in range(3):
        frame[number::3].write_parquet(tmp_path / "houses" / f"{number}.parquet", row_group_size=50)
    data = read(tmp_path / "houses", task="regression", target="price", ignore=["id"], val_fraction=0)
    assert data.facts.feature_names == ("size", "size is missing", "colour=red", "colour=blue", "colour=other") or (
        data.facts.feature_names == ("size", "size is missing", "colour=blue", "colour=red", "colour=other")
    )
    assert data.facts.target_mean == pytest.approx(frame["price"].mean())
    run = dltrain(
        *("dataset=shards", "dataset.root=houses", "dataset.task=regression", "dataset.target=price"),
        *("dataset.ignore=[id]", "model=mlp", "trainer.epochs=3", "dataset.shuffle_window=100"),
    )
    assert run.code == 0, run.stderr
    assert verb("evaluate", run.result["run"]).result["metrics"] == run.result["test"]
    predicted = verb("predict", run.result["run"], "houses/0.parquet")
    assert len(predicted.stdout.splitlines()) == 201


# Index


def test_an_index_is_made_once_and_again_when_a_shard_changes(folder, tmp_path, monkeypatch):
    path = write_tar(tmp_path / "train" / "0.tar", *greys(["a", "b"]))
    assert len(read(tmp_path, val_fraction=0).train) == 6
    with monkeypatch.context() as patch:
        patch.setattr(tar_shards.TarShards, "scan", None)
        assert len(read(tmp_path, val_fraction=0).train) == 6
    write_tar(path, *greys(["a", "b"], count=4))
    assert len(read(tmp_path, val_fraction=0).train) == 8


@pytest.mark.parametrize("damage", ["zeros", "noise", "places", "groups"])
def test_a_damaged_index_is_made_again_and_not_blamed_on_the_shards(folder, tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setenv("DLTRAIN_CACHE", str(tmp_path))
    expected = batches(loader(read(folder / "tar")))
    for path in tmp_path.glob("*.npy"):
        content, about = bytearray(path.read_bytes()), path.with_suffix(".json")
        if damage == "groups":
            about.write_text(about.read_text().replace("groups", "grapes"))
        elif damage == "places":  # one bit of one number
            content[200] ^= 1
        else:
            content[128:] = bytes(len(content) - 128) if damage == "zeros" else os.urandom(len(content) - 128)
        path.write_bytes(content)
    assert_equal(batches(loader(read(folder / "tar"))), expected)
    assert caplog.text.count("is made again: it does not match its checksum") == 2  # train and test


def test_many_shards_are_indexed_by_processes_to_the_same_index(tmp_path, monkeypatch):
    for number in range(9):
        write_tar(tmp_path / "train" / f"{number}.tar", *greys(["abcdefghi"[number], "z"], count=number + 1))
    alone = read(tmp_path, val_fraction=0).train.index
    expected, classes, groups = np.array(alone.rows), alone.classes, alone.groups
    cache.clear()
    monkeypatch.setattr(shard_index, "core_count", lambda: 2)
    together = read(tmp_path, val_fraction=0).train.index
    assert np.array_equal(together.rows, expected)
    assert (together.classes, together.groups) == (classes, groups)


def test_samples_travel_to_another_process_without_the_index(folder):
    data = read(folder / "tar")
    travelled = pickle.dumps(data.train)
    assert len(travelled) < 20_000
    wanted = torch.tensor([3, 500, 3])
    assert torch.equal(pickle.loads(travelled).take(wanted)[0], data.train.take(wanted)[0])


# Runs


RUN = ("dataset=shards", "dataset.root=tar", "dataset.image_size=8", "dataset.shuffle_window=300", "trainer.epochs=2")


def test_a_run_is_evaluated_and_reported_as_any_other(dltrain, verb, folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = dltrain(*RUN, "optim.lr=1e-9", "hydra.run.dir=evaluated", "dataset.augment.flip=true")
    assert run.code == 0, run.stderr
    other = dltrain(*RUN, "optim.lr=1e-9", "hydra.run.dir=other", "dataset.augment.flip=true", "dataset.root=parquet")
    assert (other.result["best"], other.result["test"]) == (run.result["best"], run.result["test"])
    for root in ("tar", "parquet"):  # the same samples, whose labels are numbers of the same classes
        answer = verb("evaluate", "evaluated", f"dataset.root={root}").result
        assert answer["metrics"] == run.result["test"]
        assert answer["samples"] == 90
    assert verb("evaluate", "evaluated", "split=val").result["metrics"] == run.result["best"]["val"]
    verb("report", "evaluated")
    assert (folder / "evaluated" / "report.html").read_text().count("data:image/png") >= 1
    assert verb("predict", "evaluated", "photos/test/cat").stdout.count("\n") == 46


def test_a_run_that_is_stopped_in_the_middle_of_an_epoch_ends_as_one_that_nobody_stopped(dltrain, folder, monkeypatch):
    monkeypatch.chdir(folder)
    whole = dltrain(*RUN, "dataset.augment={crop:2,flip:true}", "hydra.run.dir=whole")
    real, steps = View.step, []

    def stopped(self, total):
        real(self, total)
        steps.append(1)
        if len(steps) == 14:
            os.kill(os.getpid(), 15)

    with monkeypatch.context() as patch:
        patch.setattr(View, "step", stopped)
        assert dltrain(*RUN, "dataset.augment={crop:2,flip:true}", "hydra.run.dir=stopped").code == 143
    resumed = dltrain("resume", "stopped")
    for part in ("best", "test"):
        assert resumed.result[part] == whole.result[part]


# Mistakes


def cut(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def no_shards(root: Path) -> None:
    (root / "train").mkdir(parents=True)


def compressed(root: Path) -> None:
    no_shards(root)
    (root / "train" / "0.tar.gz").touch()


def two_formats(root: Path) -> None:
    write_tar(root / "train" / "0.tar", *greys(["a", "b"]))
    (root / "train" / "0.parquet").touch()


def no_tar(root: Path) -> None:
    no_shards(root)
    (root / "train" / "0.tar").write_text("hello " * 500)


def cut_within_a_member(root: Path) -> None:
    path = write_tar(root / "train" / "0.tar", *greys(["a", "b"]))
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data
    path.write_bytes(path.read_bytes()[: end + 1])


def cut_behind_a_member(root: Path) -> None:
    path = write_tar(root / "train" / "0.tar", *greys(["a", "b"]))
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-2].offset
    path.write_bytes(path.read_bytes()[:end])


def without_label(root: Path) -> None:
    samples = greys(["a", "b"])
    del samples[3]["cls"]
    write_tar(root / "train" / "0.tar", *samples)


def without_image(root: Path) -> None:
    samples = greys(["a", "b"])
    del samples[3]["png"]
    write_tar(root / "train" / "0.tar", *samples)


def twice(root: Path) -> None:
    write_tar(root / "train" / "0.tar", *greys(["a", "b"])[:1] * 2)


def broken_image(root: Path) -> None:
    samples = greys(["a", "b"])
    samples[3]["png"] = b"no picture"
    write_tar(root / "train" / "0.tar", *samples)


def beyond_the_classes(root: Path) -> None:
    write_tar(root / "train" / "0.tar", *greys(["0", "1", "2"]))
    (root / "classes.txt").write_text("ox\nant\n")


def unknown_class(root: Path) -> None:
    write_tar(root / "train" / "0.tar", *greys(["a", "b"]))
    write_tar(root / "val" / "9.tar", *greys(["a", "c"]))


def one_class(root: Path) -> None:
    write_tar(root / "train" / "0.tar", *greys(["a"]))


def labelled_by(text: str) -> Callable[[Path], object]:
    return lambda root: write_tar(root / "train" / "0.tar", *greys([text, '{"label": 1}'], "json"))


damaged_json = labelled_by("{")


def parquet(root: Path, **columns) -> Path:
    no_shards(root)
    pq.write_table(pa.table(columns), root / "train" / "0.parquet")
    return root / "train" / "0.parquet"


def cut_parquet(root: Path) -> None:
    cut(parquet(root, image=[png(), png()], label=["a", "b"]), 10)


def without_labels(root: Path) -> None:
    parquet(root, image=[png(), png()], kind=["a", "b"])


def null_label(root: Path) -> None:
    parquet(root, image=[png(), png(), png()], label=["a", "b", None])


def null_image(root: Path) -> None:
    parquet(root, image=[png(), png(), None], label=["a", "b", "a"])


def numbers_as_labels(root: Path) -> None:
    parquet(root, image=[png(), png()], label=[0.5, 1.5])


def nothing_but_labels(root: Path) -> None:
    parquet(root, label=["a", "b", "a"])


BAD = [
    # what prepares the folder, further words of the command line, fragments that the one message must have
    (lambda root: None, [], ["dataset.root='bad' (command line)", "no such folder", "*.tar or *.parquet"]),
    (no_shards, [], ["'bad' holds no shards", "bad/train"]),
    (compressed, [], ["'0.tar.gz' is compressed"]),
    (two_formats, [], ["two formats, .parquet and .tar"]),
    (no_tar, [], ["train/0.tar' is no whole, uncompressed tar file"]),
    (cut_within_a_member, [], ["train/0.tar' is no whole", "unexpected end of data"]),
    (cut_behind_a_member, [], ["train/0.tar' is no whole", "it has no end"]),
    (without_label, [], ["train/0.tar', sample '0003' has no label", "a member .cls", "It has .png"]),
    (
        greys_of := lambda root: write_tar(root / "train" / "0.tar", *greys(["a", "b"])),
        ["dataset.target=age"],
        ["sample '0000' has no label", "a member .age"],
    ),
    (greys_of, ["dataset.input=jpg"], ["first sample has no input, .jpg, but .png, .cls", "dataset.input"]),
    (greys_of, ["dataset.task=regression"], ["train/0.tar': a label is no number", "'a'"]),
    (greys_of, ["dataset.task=ranking"], ["dataset.task='ranking'", "classification, regression"]),
    (greys_of, ["dataset.shuffle_window=0"], ["dataset.shuffle_window"]),
    (
        greys_of,
        ["dataset.class_names=[x,y]"],
        ["train/0.tar', member '0000.png': the label 'a' is none of the 2 classes"],
    ),
    (greys_of, ["dataset.augment.crop=8", "dataset.image_size=8"], ["dataset.augment.crop=8"]),
    (without_image, [], ["train/0.tar', sample '0003' has no input", "only .cls"]),
    (twice, [], ["train/0.tar' is no whole", "0000.png: duplicate file name"]),
    (broken_image, [], ["train/0.tar', member '0003.png' cannot be read: it is no image"]),
    (beyond_the_classes, [], ["train/0.tar', member '0002.png': the label '2' is none of the 2 classes (ox, ant)"]),
    (unknown_class, [], ["val/9.tar', member '0001.png': the label 'c'", "(a, b)"]),
    (one_class, [], ["at least two classes", "found a"]),
    (damaged_json, [], ["train/0.tar', member '0000.json' cannot be read as JSON"]),
    (labelled_by("[" * 100_000), [], ["'0000.json' cannot be read as JSON: maximum recursion depth"]),
    (labelled_by('{"label": ' + "9" * 5000 + "}"), [], ["'0000.json' cannot be read as JSON: Exceeds the limit"]),
    (labelled_by("[1, 2]"), [], ["sample '0000' has no label", "a text or number 'label' in .json"]),
    (
        labelled_by('{"label": 1e400}'),
        ["dataset.task=regression", "model=mlp"],
        ["member '0000.png': the label is no finite number"],
    ),
    (cut_parquet, [], ["train/0.parquet' is no whole Parquet file"]),
    (without_labels, [], ["has no column 'label'; dataset.target names one of image, kind"]),
    (without_labels, ["dataset.target=kinds"], ["dataset.target: ", "did you mean 'kind'?"]),
    (without_labels, ["dataset.target=kind", "dataset.input=kind"], ["dataset.input=kind", "no bytes"]),
    (null_label, [], ["train/0.parquet', row 3 has no 'label'"]),
    (null_image, [], ["train/0.parquet', row 3 has no image"]),
    (numbers_as_labels, [], ["column 'label' is of type double, which names no classes", "dataset.task=regression"]),
    (nothing_but_labels, ["model=mlp"], ["has no column to predict 'label' from"]),
]


@pytest.mark.parametrize(("prepare", "words", "fragments"), BAD, ids=[case[2][0][-50:] for case in BAD])
def test_bad_shards_get_one_message_exit_2_and_leave_nothing(dltrain, tmp_path, prepare, words, fragments):
    prepare(tmp_path / "bad")
    before = sorted(tmp_path.rglob("*"))
    outcome = dltrain("dataset=shards", "dataset.root=bad", "dataset.val_fraction=0", "dataset.test_fraction=0", *words)
    assert (outcome.code, outcome.result["status"]) == (2, "invalid")
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in fragments:
        assert fragment in outcome.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["tar", "parquet"])
def test_a_shard_that_is_damaged_meanwhile_is_named_in_one_message(tmp_path, name, workers):
    if name == "tar":
        path = write_tar(tmp_path / "train" / "0.tar", *greys(["a", "b"]))
    else:
        path = parquet(tmp_path, image=[png()] * 6, label=["a", "b"] * 3)
    served = loader(read(tmp_path, val_fraction=0), workers)
    if name == "parquet":
        served.samples.layout.shards.groups._kept.clear()
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=rf"train/0\.{name}'.*(sample \d cannot be read|no whole Parquet file)"):
        batches(served)
    del served
    gc.collect()  # ends the worker, which the error would keep


def test_arrays_of_two_shapes_end_a_run_that_meets_them_with_one_message(dltrain, tmp_path):
    samples = [{"__key__": str(n), "npy": npy(np.zeros(3 + n // 3)), "cls": str(n % 2)} for n in range(4)]
    write_tar(tmp_path / "arrays" / "0.tar", *samples)
    outcome = dltrain(
        "dataset=shards", "dataset.root=arrays", "dataset.val_fraction=0", "dataset.test_fraction=0", "model=mlp"
    )
    assert (outcome.code, outcome.result["status"]) == (2, "invalid")
    assert "arrays/0.tar', member '3.npy' cannot be read: its shape is (4,), where the first sample" in outcome.stderr


@pytest.mark.parametrize(("name", "package"), [("tar", "webdataset"), ("parquet", "pyarrow")])
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(dltrain, folder, monkeypatch, name, package):
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == package else util.find_spec(module))
    outcome = dltrain("dataset=shards", f"dataset.root={folder / name}")
    assert outcome.code == 2
    assert f"needs the package {package}: {install_line('shards')}" in outcome.stderr
