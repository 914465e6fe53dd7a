"""The decoded cache, and that every way to the same batch gives the same batch."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data import cache
from dltrain.data.image_folder import image_folder
from dltrain.data.images import decode
from dltrain.data.images.transforms import Augment
from dltrain.data.loader import Loader
from dltrain.errors import ConfigError, DataError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DLTRAIN_CACHE", str(folder))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for part, count in {"train": 20, "test": 5}.items():
        for name in "ab":
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, to: decode.Decoding) -> np.ndarray:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(decode, "decode", refuse)


def batches(loader: Loader, epochs: int = 2) -> list[torch.Tensor]:
    found = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found += [tensor for batch in loader for tensor in batch]
    return found


def assert_equal_batches(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("place", ["memory", "disk", "none"])
def test_batches_are_bitwise_the_same_wherever_images_are_kept_and_whoever_reads_them(images, place, workers):
    augment = {"crop": 2, "flip": True, "cutout": 3, "contrast": 0.3}

    def loader(place: str, workers: int) -> Loader:
        data = image_folder(str(images), image_size=8, cache=place, augment=augment)
        return Loader(data.train, 7, data.transform, CPU, 5, data.augment, workers=workers)

    expected = loader("memory", 0)
    served = loader(place, workers)
    assert served.samples.streamed == (place == "none")
    assert_equal_batches(batches(served), batches(expected))
    assert not torch.equal(batches(expected)[0], batches(expected)[-2])


def test_reading_in_other_processes_leaves_the_random_state_of_this_one_alone(images):
    data = image_folder(str(images), image_size=8, cache="none")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    batches(Loader(data.train, 7, data.transform, CPU, 5, workers=1))
    assert torch.equal(torch.rand(4), expected)


def test_augmentation_belongs_to_the_sample_not_to_its_batch(images):
    data = image_folder(str(images), image_size=8, augment={"crop": 2, "flip": True})

    def first_epoch(batch_size: int) -> torch.Tensor:
        return torch.cat([inputs for inputs, _ in Loader(data.train, batch_size, data.transform, CPU, 5, data.augment)])

    assert torch.equal(first_epoch(4), first_epoch(9))


def test_a_wrong_augmentation_is_told_before_anything_is_decoded(images, monkeypatch):
    forbid_decoding(monkeypatch)
    with pytest.raises(ConfigError, match=r"dataset.augment.crop=8 .* below 8"):
        image_folder(str(images), image_size=8, augment={"crop": 8})


def test_that_the_next_run_finds_them_is_said_once_they_are_decoded(images, monkeypatch, caplog):
    caplog.set_level("INFO", "dltrain")
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        with pytest.raises(AssertionError):
            image_folder(str(images), image_size=8)
    assert "next run" not in caplog.text
    image_folder(str(images), image_size=8)
    assert "next run" in caplog.text


def test_the_second_time_nothing_is_decoded(images, monkeypatch):
    first = image_folder(str(images), image_size=8)
    forbid_decoding(monkeypatch)
    second = image_folder(str(images), image_size=8)
    everything = torch.arange(len(first.train))
    assert torch.equal(first.train.take(everything)[0], second.train.take(everything)[0])


def test_from_another_folder_nothing_is_decoded_either(images, monkeypatch):
    image_folder(str(images), image_size=8)
    forbid_decoding(monkeypatch)
    monkeypatch.chdir(images.parent)
    assert len(image_folder(images.name, image_size=8).test) == 10


@pytest.mark.parametrize("change", ["content", "time", "file", "size", "channels", "background", "white"])
def test_other_files_or_another_decoding_are_decoded_anew(images, monkeypatch, change):
    image_folder(str(images), image_size=8)
    options: dict[str, Any] = {"image_size": 8}
    first = images / "train" / "a" / "0.png"
    if change == "content":
        Image.new("RGB", (30, 30)).save(first)
    elif change == "time":
        os.utime(first, ns=(1, 1))
    elif change == "file":
        first.rename(first.with_name("x.png"))
    else:
        other = {"size": {"image_size": 9}, "channels": {"channels": 1}, "background": {"background": "white"}}
        options |= other.get(change, {"white": 4095})
    forbid_decoding(monkeypatch)
    with pytest.raises(AssertionError, match="decoded again"):
        image_folder(str(images), **options)


def test_a_few_images_for_a_trial_are_not_kept(images, cache_folder):
    image_folder(str(images), image_size=8, limit=3)
    assert not cache_folder.exists()


def test_many_files_are_decoded_by_processes_to_the_same_pixels(images, monkeypatch):
    alone = image_folder(str(images), image_size=8, limit=39, cache="memory")
    monkeypatch.setattr(decode, "_POOL_PAYS_FROM", 1)
    monkeypatch.setattr(decode, "_CHUNK", 2)
    pooled = image_folder(str(images), image_size=8, limit=39, cache="memory")
    everything = torch.arange(len(alone.train))
    assert torch.equal(alone.train.take(everything)[0], pooled.train.take(everything)[0])


def test_a_broken_image_is_named_and_leaves_no_copy_in_the_cache(images, cache_folder):
    (images / "train" / "b" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 40 images cannot be read:\n .*3\.png"):
        image_folder(str(images), image_size=8)
    assert [path.suffix for path in cache_folder.iterdir()] == [".lock"]


def test_a_broken_image_that_a_worker_meets_is_named_in_one_message(images):
    data = image_folder(str(images), image_size=8, cache="none")
    (images / "train" / "b" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        batches(Loader(data.train, 7, data.transform, CPU, 5, workers=1))
    assert "3.png" in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nonsense", None])
def test_a_damaged_copy_is_made_again(images, cache_folder, damage):
    expected = image_folder(str(images), image_size=8).train.take(torch.arange(10))[0]
    for path in cache_folder.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-10] if damage is None else damage)
    assert torch.equal(image_folder(str(images), image_size=8).train.take(torch.arange(10))[0], expected)


@pytest.mark.parametrize("damage", ["zeros", "noise", "facts", "no facts"])
def test_a_copy_that_does_not_match_its_checksum_is_made_again_and_says_so(images, cache_folder, caplog, damage):
    expected = image_folder(str(images), image_size=8).train.take(torch.arange(36))[0]
    for path in cache_folder.glob("*.npy"):
        content = bytearray(path.read_bytes())
        if damage in ("zeros", "noise"):
            content[1000:2000] = bytes(1000) if damage == "zeros" else np.random.default_rng(0).bytes(1000)
            path.write_bytes(content)
        elif damage == "facts":
            path.with_suffix(".json").write_text("[1]")
        else:
            path.with_suffix(".json").unlink()
    assert torch.equal(image_folder(str(images), image_size=8).train.take(torch.arange(36))[0], expected)
    assert caplog.text.count("is made again: it does not match its checksum") == 2  # train and test
    caplog.clear()
    assert torch.equal(image_folder(str(images), image_size=8).train.take(torch.arange(36))[0], expected)
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written_costs_a_warning_not_the_run(images, cache_folder, caplog):
    expected = image_folder(str(images), image_size=8).train.take(torch.arange(10))[0]
    cache.clear()
    cache_folder.rmdir()
    cache_folder.write_text("a file where the folder should be")
    for place in ("auto", "memory", "disk"):
        data = image_folder(str(images), image_size=8, cache=place)
        assert torch.equal(data.train.take(torch.arange(10))[0], expected)
        assert "not kept for the next run" in caplog.text
        caplog.clear()


def test_a_full_disk_costs_a_warning_not_the_run(images, monkeypatch, caplog):
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert len(image_folder(str(images), image_size=8).train) == 36
    assert "No space left on device" in caplog.text


def test_auto_takes_memory_then_the_disk_then_neither(images, monkeypatch):
    from dltrain.data import image_folder as module

    def kept(memory: int, disk: int) -> bool:
        monkeypatch.setattr(module, "available_memory", lambda: memory)
        monkeypatch.setattr(module, "cache_limit", lambda: disk)
        return not image_folder(str(images), image_size=8).train.streamed

    assert kept(10**9, 0)
    assert kept(0, 10**9)
    assert not kept(0, 0)


def test_the_longest_unused_makes_room(cache_folder, monkeypatch):
    monkeypatch.setenv("DLTRAIN_CACHE_GB", str(230 / 1024**3))  # the first takes 178 with its header
    cache.cached("one", (50,), "", lambda array: array.fill(1))
    os.utime(cache_folder / "one.npy", (1, 1))
    cache.cached("two", (60,), "", lambda array: array.fill(2))
    assert [entry.path.name for entry in cache.entries()] == ["two.npy"]
    with pytest.raises(OSError, match="more than the cache may take"):
        cache.cached("three", (300,), "", lambda array: array.fill(3))


def test_what_a_run_has_mapped_stays_when_the_cache_is_cleared(cache_folder):
    array = cache.cached("0" * 32, (1000,), "", lambda array: array.fill(7))
    assert cache.clear() > 1000
    assert list(cache_folder.iterdir()) == []
    assert int(array.sum()) == 7000


def test_clearing_the_cache_spares_files_that_are_not_its_own(cache_folder):
    cache.cached("0" * 32, (10,), "", lambda array: array.fill(7))
    (cache_folder / "mine.npy").write_bytes(b"mine")
    (cache_folder / "config.json").write_text("{}")
    cache.clear()
    assert sorted(path.name for path in cache_folder.iterdir()) == ["config.json", "mine.npy"]


def test_writing_to_what_is_mapped_does_not_change_the_cache():
    array = cache.cached("some", (10,), "", lambda array: array.fill(7))
    array[:] = 0
    assert cache.cached("some", (10,), "", lambda array: array.fill(9)).tolist() == [7] * 10


def fill_slowly(folder: str, results: "multiprocessing.Queue[tuple[int, int]]") -> None:
    os.environ["DLTRAIN_CACHE"] = folder
    filled = 0

    def fill(array: np.ndarray) -> None:
        nonlocal filled
        filled += 1
        time.sleep(0.3)
        array.fill(7)

    array = cache.cached("shared", (10,), "", fill)
    results.put((filled, int(array.sum())))


def test_of_processes_that_start_at_once_one_decodes_and_the_others_wait(cache_folder):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=fill_slowly, args=(str(cache_folder), results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(filled for filled, _ in found) == [0, 0, 1]
    assert {total for _, total in found} == {70}


def test_dltrain_cache_lists_and_clears(images, shell, cache_folder):
    image_folder(str(images), image_size=8)
    listed = shell("cache").stdout
    assert str(images / "train") in listed and "40×3×8×8" in listed
    assert "GiB freed" in shell("cache", "clear").stdout
    assert list(cache_folder.iterdir()) == []
    wrong = shell("cache", "clean")
    assert wrong.returncode == 2 and "clean" in wrong.stderr


def test_draws_are_as_many_as_the_augmentation_takes():
    assert Augment(torch.zeros(3), crop=1).draws == 8


def test_classes_without_a_train_folder_may_stand_beside_a_test_folder(images):
    for name in "ab":
        (images / "train" / name).rename(images / name)
    (images / "train").rmdir()
    data = image_folder(str(images), image_size=8, val_fraction=0)
    assert data.facts.class_names == ("a", "b")
    assert (len(data.train), len(data.test)) == (40, 10)


def test_images_in_folders_of_a_class_count_and_other_files_are_told(images, caplog):
    (images / "train" / "a" / "more").mkdir()
    (images / "train" / "a" / "0.png").rename(images / "train" / "a" / "more" / "0.png")
    (images / "train" / "b" / "moving.mp4").write_bytes(b"no image")
    assert len(image_folder(str(images), image_size=8, val_fraction=0).train) == 40
    assert "1 .mp4" in caplog.text


@pytest.mark.parametrize("bound", ["abc", "nan", "-1"])
def test_a_bound_of_the_cache_that_is_no_number_names_its_variable(monkeypatch, capsys, bound):
    monkeypatch.setenv("DLTRAIN_CACHE_GB", bound)
    from dltrain import cli

    assert cli.main(["cache"]) == 2
    assert f"DLTRAIN_CACHE_GB='{bound}' must be a number of GiB" in capsys.readouterr().err


@pytest.mark.parametrize("bound", ["inf", "1e300"])
def test_without_a_bound_of_its_own_the_cache_may_take_half_of_the_disk(monkeypatch, bound):
    monkeypatch.setenv("DLTRAIN_CACHE_GB", "1e9")
    at_most = cache.cache_limit()
    monkeypatch.setenv("DLTRAIN_CACHE_GB", bound)
    assert cache.cache_limit() == pytest.approx(at_most, rel=0.1)  # others use the disk meanwhile
