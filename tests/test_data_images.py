"""Image data sets against scikit-learn, Pillow, torchvision, and files that the test writes itself."""

import gzip
import hashlib
import os
import pickle
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from torch import Tensor

from dltrain.data.base import Data, Samples
from dltrain.data.bundled import digits
from dltrain.data.image_folder import image_folder
from dltrain.data.torchvision_sets import cifar10, cifar100, fashion_mnist, mnist
from dltrain.errors import ConfigError, DataError

GENERATOR = np.random.default_rng(5)
COLOURS = GENERATOR.integers(0, 256, (6, 6, 3), dtype=np.uint8)
GREYS = GENERATOR.integers(0, 256, (6, 6), dtype=np.uint8)


def everything(part: Samples | None) -> tuple[Tensor, Tensor]:
    assert part is not None
    return part.take(torch.arange(len(part)))


def parts(data: Data) -> list[Samples]:
    return [part for part in (data.train, data.val, data.test) if part is not None]


def assert_equal_data(one: Data, other: Data) -> None:
    for left, right in zip(parts(one), parts(other), strict=True):
        for got, wanted in zip(everything(left), everything(right), strict=True):
            assert torch.equal(got, wanted)


def rows(inputs: Tensor, targets: Tensor) -> list[tuple[int, ...]]:
    """Each sample as a tuple of its pixels and its class, sorted: the samples as a multiset."""
    return sorted(map(tuple, torch.cat([inputs.flatten(1).long(), targets.long().unsqueeze(1)], 1).tolist()))


def grey(value: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("L", size, value)


def write(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_classes(folder: Path, values: dict[str, Sequence[int]]) -> Path:
    """A folder a class, with an image of one grey for each value, in the order of the values."""
    for name, shades in values.items():
        for index, shade in enumerate(shades):
            write(folder / name / f"{index:03}.png", grey(shade))
    return folder


def read_one(folder: Path, image: Image.Image, suffix: str = ".png", channels: int = 3, size=6, **options) -> Tensor:
    """``image`` (channels, height, width) as ``image_folder`` hands it out."""
    write(folder / "train" / "a" / f"image{suffix}", image, **options)
    write(folder / "train" / "b" / "other.png", grey(0))
    data = image_folder(str(folder), image_size=size, channels=channels, val_fraction=0, test_fraction=0)
    return everything(data.train)[0][0]


def chw(image: Image.Image | np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


# digits


def test_digits_are_those_of_scikit_learn():
    images, labels = everything(digits(val_fraction=0, test_fraction=0).train)
    expected = load_digits()
    assert np.array_equal(images[:, 0].numpy(), expected.images)
    assert np.array_equal(labels.numpy(), expected.target)


def test_digits_state_their_facts():
    facts = digits().facts
    assert (facts.name, facts.task, facts.kind) == ("digits", "classification", "image")
    assert facts.input_shape == (1, 8, 8)
    assert facts.num_outputs == 10
    assert facts.class_names == tuple("0123456789")


def test_digits_are_split_into_tenths_and_fifths():
    assert [len(part) for part in parts(digits())] == [1294, 144, 359]


def test_the_split_of_digits_is_the_same_on_every_call_whatever_the_seed_of_torch():
    torch.manual_seed(1)
    first = digits()
    torch.manual_seed(2)
    assert_equal_data(first, digits())


def test_the_split_seed_chooses_another_split():
    assert rows(*everything(digits().test)) != rows(*everything(digits(split_seed=1).test))


def test_every_digit_is_in_exactly_one_part():
    found = [row for part in parts(digits()) for row in rows(*everything(part))]
    assert sorted(found) == rows(*everything(digits(val_fraction=0, test_fraction=0).train))


def test_each_class_gives_its_share_of_digits_to_each_part():
    data = digits()
    counts = [torch.bincount(everything(part)[1], minlength=10) for part in parts(data)]
    total = sum(counts)
    assert (counts[2] - 0.2 * total).abs().max() <= 1
    assert (counts[1] - 0.1 * (total - counts[2])).abs().max() <= 1


def test_limit_bounds_every_part_and_keeps_samples_of_that_part():
    whole, few = digits(), digits(limit=20)
    for part, short in zip(parts(whole), parts(few), strict=True):
        assert len(short) == 20
        assert set(rows(*everything(short))) <= set(rows(*everything(part)))


def test_limit_beyond_the_size_of_a_part_changes_nothing():
    assert_equal_data(digits(), digits(limit=5000))


def test_without_a_validation_fraction_there_is_no_validation_part_and_its_images_are_trained_on():
    data = digits(val_fraction=0)
    assert data.val is None
    assert len(data.train) == 1294 + 144
    assert torch.equal(everything(data.test)[0], everything(digits().test)[0])


def test_the_transform_gives_the_training_part_zero_mean_and_unit_deviation():
    data = digits()
    inputs = data.transform(everything(data.train)[0])
    assert inputs.dtype == torch.float32
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_take_gives_the_samples_in_the_order_asked_for_with_repeats():
    part = digits().train
    inputs, targets = everything(part)
    picks = torch.tensor([7, 0, 7, 3])
    assert torch.equal(part.take(picks)[0], inputs[picks])
    assert torch.equal(part.take(picks)[1], targets[picks])


# image_folder: what the pixels are


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".PNG", ".tif", ".TIFF"])
def test_lossless_formats_give_the_pixels_that_were_written(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    assert torch.equal(read_one(tmp_path, Image.fromarray(COLOURS), suffix, **options), chw(COLOURS))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".webp"])
def test_lossy_formats_give_what_pillow_decodes(tmp_path, suffix):
    got = read_one(tmp_path, Image.fromarray(COLOURS), suffix, quality=80)
    with Image.open(tmp_path / "train" / "a" / f"image{suffix}") as image:
        assert torch.equal(got, chw(image.convert("RGB")))


def palette_image() -> Image.Image:
    image = Image.fromarray(GREYS % 4).convert("P")
    image.putpalette(COLOURS[0].flatten()[:12].tolist() + [0] * 756)
    return image


ALPHA = Image.fromarray(GREYS[::-1].copy())
WITH_ALPHA = Image.fromarray(COLOURS)
WITH_ALPHA.putalpha(ALPHA)
GREY_TWICE = np.stack([GREYS] * 3, 2)
MODES = {
    # mode: image, options of its PNG file, colours expected
    "L": (Image.fromarray(GREYS), {}, GREY_TWICE),
    "LA": (Image.merge("LA", (Image.fromarray(GREYS), ALPHA)), {}, GREY_TWICE),
    "P": (palette_image(), {}, COLOURS[0][GREYS % 4]),
    "P with one transparent colour": (palette_image(), {"transparency": 1}, COLOURS[0][GREYS % 4]),
    "P with an alpha a colour": (palette_image(), {"transparency": bytes([0, 9, 99, 255])}, COLOURS[0][GREYS % 4]),
    "RGB with a transparent colour": (Image.fromarray(COLOURS), {"transparency": (1, 2, 3)}, COLOURS),
    "RGBA": (WITH_ALPHA, {}, COLOURS),
    "I;16": (Image.fromarray(GREYS.astype(np.uint16) * 256 + 77), {}, GREY_TWICE),
    "1": (Image.fromarray(GREYS > 127), {}, np.where(GREY_TWICE > 127, 255, 0)),
}


@pytest.mark.parametrize(("image", "options", "expected"), MODES.values(), ids=MODES)
def test_every_mode_becomes_rgb_without_a_warning(tmp_path, image, options, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_one(tmp_path, image, **options), chw(expected.astype(np.uint8)))


@pytest.mark.parametrize(("image", "options", "expected"), MODES.values(), ids=MODES)
def test_every_mode_becomes_grey_as_pillow_weighs_the_colours(tmp_path, image, options, expected):
    wanted = np.array(Image.fromarray(expected.astype(np.uint8)).convert("L"))
    assert np.array_equal(read_one(tmp_path, image, channels=1, **options)[0].numpy(), wanted)


def test_cmyk_becomes_what_pillow_converts_it_to(tmp_path):
    got = read_one(tmp_path, Image.fromarray(COLOURS).convert("CMYK"), ".jpg")
    with Image.open(tmp_path / "train" / "a" / "image.jpg") as image:
        assert image.mode == "CMYK"
        assert torch.equal(got, chw(image.convert("RGB")))


@pytest.mark.parametrize("size", [4, [5, 3], [12, 20]])
def test_images_are_resized_as_pillow_does_to_height_and_width(tmp_path, size):
    height, width = size if isinstance(size, list) else (size, size)
    image = Image.fromarray(COLOURS)
    got = read_one(tmp_path, image, size=size)
    assert got.shape == (3, height, width)
    assert torch.equal(got, chw(image.resize((width, height), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_their_exif_data_say(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = read_one(tmp_path, Image.fromarray(COLOURS[:4]), suffix, size=[6, 4], exif=exif)
    with Image.open(tmp_path / "train" / "a" / f"image{suffix}") as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    assert torch.equal(got, chw(upright.resize((4, 6), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00nonsense", b"Exif\x00\x00"])
def test_damaged_exif_data_do_not_keep_an_image_out(tmp_path, exif):
    assert torch.equal(read_one(tmp_path, Image.fromarray(COLOURS), exif=exif), chw(COLOURS))


# image_folder: which images are in which part


def test_folders_that_are_given_become_the_parts_with_classes_in_the_order_of_their_names(tmp_path):
    write_classes(tmp_path / "train", {"b": [1, 2, 3], "a": [4, 5]})
    write_classes(tmp_path / "val", {"a": [6], "b": [7]})
    write_classes(tmp_path / "test", {"a": [8], "b": [9]})
    data = image_folder(str(tmp_path), image_size=4, channels=1)
    shades = [everything(part)[0][:, 0, 0, 0].tolist() for part in parts(data)]
    assert shades == [[4, 5, 1, 2, 3], [6, 7], [8, 9]]
    assert [everything(part)[1].tolist() for part in parts(data)] == [[0, 0, 1, 1, 1], [0, 1], [0, 1]]
    assert data.facts.class_names == ("a", "b")
    assert data.facts.input_shape == (1, 4, 4)


def test_a_missing_part_is_held_out_of_the_training_images_stratified_and_the_same_on_every_call(tmp_path):
    write_classes(tmp_path, {"a": range(40), "b": range(100, 160)})
    first, second = (image_folder(str(tmp_path), 4, 1, val_fraction=0.25, test_fraction=0.2) for _ in range(2))
    assert [torch.bincount(everything(part)[1]).tolist() for part in parts(first)] == [[24, 36], [8, 12], [8, 12]]
    shades = torch.cat([everything(part)[0][:, 0, 0, 0] for part in parts(first)])
    assert shades.sort().values.tolist() == [*range(40), *range(100, 160)]
    assert_equal_data(first, second)


def test_a_given_test_folder_is_left_alone_when_the_validation_part_is_held_out(tmp_path):
    write_classes(tmp_path / "train", {"a": range(10), "b": range(10, 20)})
    write_classes(tmp_path / "test", {"a": [200], "b": [201]})
    data = image_folder(str(tmp_path), 4, 1, val_fraction=0.1)
    assert [len(part) for part in parts(data)] == [18, 2, 2]
    assert everything(data.test)[0][:, 0, 0, 0].tolist() == [200, 201]


def test_files_of_other_kinds_hidden_files_and_inner_folders_are_no_images(tmp_path):
    folder = write_classes(tmp_path / "train", {"a": [1], "b": [2]})
    (folder / "a" / "notes.txt").write_text("not an image")
    (folder / "a" / ".hidden.png").write_text("not an image")
    (folder / "a" / "inner.png").mkdir()
    (folder / ".cache").mkdir()
    assert len(image_folder(str(tmp_path), val_fraction=0, test_fraction=0).train) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "Test"),
        ("Training", "Validation", "Testing"),
        ("train", "valid", "TEST"),
        ("training_set", "validation-data", "test set"),
        ("trainset", "valset", "testdata"),
        ("train_images", "val_images", "test_images"),
    ],
    ids="-".join,
)
def test_parts_are_known_by_any_usual_spelling(tmp_path, names):
    for shade, name in enumerate(names):
        write_classes(tmp_path / name, {"a": [10 * shade], "b": [10 * shade + 1]})
    data = image_folder(str(tmp_path), image_size=4, channels=1)
    assert data.facts.class_names == ("a", "b")
    assert [everything(part)[0][:, 0, 0, 0].tolist() for part in parts(data)] == [[0, 1], [10, 11], [20, 21]]


def test_classes_may_be_called_as_a_part_is_at_times(tmp_path):
    write_classes(tmp_path, {"valid": [1, 2], "invalid": [3, 4]})
    data = image_folder(str(tmp_path), image_size=4, channels=1, val_fraction=0, test_fraction=0)
    assert data.facts.class_names == ("invalid", "valid")
    assert everything(data.train)[1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("second", "warned"), [("seg_test", True), ("tea_pot", False)])
def test_classes_that_have_the_words_for_parts_in_their_names_are_doubted(tmp_path, caplog, second, warned):
    write_classes(tmp_path, {"seg_train": [1, 2], second: [3, 4]})
    assert image_folder(str(tmp_path), 4, 1).facts.class_names == tuple(sorted(["seg_train", second]))
    doubt = "'seg_test', 'seg_train' are taken for classes; if they are parts, call them train, val and test"
    assert (doubt in caplog.text) == warned


def test_parts_without_one_for_training_are_named(tmp_path):
    write_classes(tmp_path / "test", {"a": [1], "b": [2]})
    write_classes(tmp_path / "val", {"a": [3], "b": [4]})
    with pytest.raises(DataError, match="has 'test' and 'val' but no folder 'train' beside"):
        image_folder(str(tmp_path), 4, 1)


def test_a_link_to_nothing_is_left_out_and_counted(tmp_path, caplog):
    folder = write_classes(tmp_path / "train", {"a": [1], "b": [2]})
    (folder / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert len(image_folder(str(tmp_path), val_fraction=0, test_fraction=0).train) == 2
    assert "left out: 1 .png without content" in caplog.text


def test_what_is_left_out_beside_the_training_part_is_named(tmp_path, caplog):
    write_classes(tmp_path / "train", {"a": [1], "b": [2]})
    write_classes(tmp_path / "extra", {"a": [3], "b": [4]})
    write(tmp_path / "train" / "loose.png", grey(5))
    data = image_folder(str(tmp_path), val_fraction=0, test_fraction=0)
    assert len(data.train) == 2
    assert "left out beside the training part: 'extra'" in caplog.text
    assert "train: left out, as they lie in no folder of a class: 1 images" in caplog.text


@pytest.mark.parametrize("with_empty_folder", [True, False])
def test_a_class_may_be_absent_from_a_part_but_that_for_training(tmp_path, caplog, with_empty_folder):
    write_classes(tmp_path / "train", {"a": [1], "b": [2], "c": [3]})
    write_classes(tmp_path / "test", {"a": [4], "c": [5]})
    write_classes(tmp_path / "val", {"b": [6]})
    if with_empty_folder:
        (tmp_path / "test" / "b").mkdir()
    data = image_folder(str(tmp_path), 4, 1)
    assert data.facts.class_names == ("a", "b", "c")
    assert [everything(part)[1].tolist() for part in parts(data)] == [[0, 1, 2], [1], [0, 2]]
    assert "test: no image of b;" in caplog.text


def test_links_to_folders_count_and_links_to_a_folder_above_do_not(tmp_path, caplog):
    write_classes(tmp_path / "elsewhere", {"more": [3, 4]})
    folder = write_classes(tmp_path / "photos" / "train", {"a": [1], "b": [2]})
    (folder / "a" / "linked").symlink_to(tmp_path / "elsewhere" / "more")
    for loop, place in {"b/up": folder.parent, "b/here": folder / "b", "b/self": folder / "b" / "self"}.items():
        (folder / loop).symlink_to(place)
    data = image_folder(str(folder.parent), 4, 1, val_fraction=0, test_fraction=0)
    inputs, targets = everything(data.train)
    assert inputs[:, 0, 0, 0].tolist() == [1, 3, 4, 2]
    assert targets.tolist() == [0, 0, 0, 1]
    assert "2 link to a folder above" in caplog.text


def test_a_class_whose_name_is_no_utf_8_has_one_that_is(tmp_path):
    write_classes(tmp_path, {os.fsdecode(b"caf\xe9"): [1], "tea": [2]})
    data = image_folder(str(tmp_path), 4, 1, val_fraction=0, test_fraction=0)
    assert data.facts.class_names == ("caf\\xe9", "tea")
    assert everything(data.train)[0][:, 0, 0, 0].tolist() == [1, 2]


# image_folder: what is transparent, deep, or no image


def on(background: str | int | None, image: Image.Image, folder: Path, channels: int = 3, **options) -> Tensor:
    write(folder / "a" / "image.png", image, **options)
    write(folder / "b" / "other.png", grey(0))
    data = image_folder(str(folder), 6, channels, background, val_fraction=0, test_fraction=0)
    return everything(data.train)[0][0]


SHAPE = np.zeros((6, 6, 4), np.uint8)
SHAPE[2:4, 1:5, 3] = 255  # a black shape on a transparent ground


@pytest.mark.parametrize(
    ("background", "ground"),
    [("white", [255] * 3), ("#102030", [16, 32, 48]), (0, [0] * 3), (200, [200] * 3), ("Navy", [0, 0, 128])],
)
def test_the_background_shows_where_an_image_is_transparent(tmp_path, background, ground):
    expected = np.where(SHAPE[..., 3:] == 255, 0, np.array(ground, np.uint8))
    assert torch.equal(on(background, Image.fromarray(SHAPE), tmp_path), chw(expected.astype(np.uint8)))


@pytest.mark.parametrize("mode", ["LA", "P", "RGBA", "L", "I;16"])
def test_whatever_way_an_image_is_transparent(tmp_path, mode):
    ink, clear = 0, 9
    options = {}
    levels = np.where(SHAPE[..., 3] == 255, ink, clear).astype(np.uint8)
    if mode in ("LA", "RGBA"):
        image = Image.fromarray(SHAPE).convert(mode)
    else:
        image = Image.fromarray(levels.astype(np.uint16) if mode == "I;16" else levels)
        image = image.convert("P") if mode == "P" else image
        options = {"transparency": clear}
    expected = np.where(SHAPE[..., 3] == 255, 0, 255)
    for channels in (1, 3):
        assert (on("white", image, tmp_path / str(channels), channels, **options).numpy() == expected).all()


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    half = np.full((6, 6, 4), (0, 0, 0, 51), np.uint8)
    assert (on("white", Image.fromarray(half), tmp_path) == 204).all()


@pytest.mark.parametrize("background", ["whit", 256, -1, "#12", True, [1, 2]])
def test_what_is_no_colour_is_refused(tmp_path, background):
    with pytest.raises(ConfigError, match=r"dataset\.background must be a colour such as white"):
        on(background, Image.fromarray(SHAPE), tmp_path)


def deep(bits: int) -> np.ndarray:
    """Every value that is to become a level of 256, from 0 to the largest of so many bits."""
    return (np.arange(256, dtype=np.uint16) << (bits - 8) | (1 << (bits - 8)) - 1).reshape(16, 16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_all_256_levels_are_kept_of_images_of_more_than_8_bits(tmp_path, suffix, bits):
    write(tmp_path / "a" / f"image{suffix}", Image.fromarray(deep(bits)))
    write(tmp_path / "b" / f"dim{suffix}", Image.fromarray(deep(bits) // 4))
    data = image_folder(str(tmp_path), 16, 1, white="auto", val_fraction=0, test_fraction=0)
    first, second = everything(data.train)[0][:, 0]
    assert first.flatten().tolist() == list(range(256))
    assert second.flatten().tolist() == [level // 4 for level in range(256)]  # one scale for the whole folder
    assert data.preprocessing["white"] == 2**bits - 1


@pytest.mark.parametrize(("largest", "white"), [(1.0, 1.0), (0.4, 1.0), (1.5, 3.0), (900.5, 1023.0)])
def test_floating_point_images_are_scaled_as_well(tmp_path, largest, white):
    values = np.linspace(0, largest, 36, dtype=np.float32).reshape(6, 6)
    values[0, 0] = np.nan
    write(tmp_path / "a" / "image.tiff", Image.fromarray(values))
    write(tmp_path / "b" / "other.png", grey(0))
    data = image_folder(str(tmp_path), 6, 1, white="auto", val_fraction=0, test_fraction=0)
    expected = np.minimum(np.nan_to_num(values.astype(np.float64)) * (256 / white), 255).astype(np.uint8)
    assert np.array_equal(everything(data.train)[0][0, 0].numpy(), expected)
    assert data.preprocessing["white"] == white


def test_a_postscript_file_is_no_image_and_starts_no_program(tmp_path, monkeypatch):
    write_classes(tmp_path / "photos", {"a": [1], "b": [2]})
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a" / "script.png", "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments: pytest.fail("Ghostscript was called"))
    with pytest.raises(
        DataError,
        match=r"1 of 3.*\n.*script\.png': cannot identify image file: it is no image of a known format \(JPEG",
    ):
        image_folder(str(tmp_path / "photos"), val_fraction=0, test_fraction=0)


@pytest.mark.parametrize("error", [struct.error("unpack"), KeyError("tag"), EOFError(), MemoryError(), RuntimeError()])
def test_whatever_pillow_raises_names_the_file(tmp_path, monkeypatch, error):
    write_classes(tmp_path, {"a": [1], "b": [2]})
    write(tmp_path / "a" / "odd.gif", grey(3))

    def load(image: Image.Image) -> None:
        raise error

    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.load", load)
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read:\n.*a/odd\.gif': \S+"):
        image_folder(str(tmp_path), val_fraction=0, test_fraction=0)


@pytest.mark.parametrize("changed", ["val", "test"])
def test_statistics_are_those_of_the_training_images_alone(tmp_path, changed):
    write_classes(tmp_path / "train", {"a": [10, 20], "b": [30, 80]})
    write_classes(tmp_path / changed, {"a": [0], "b": [255]})
    data = image_folder(str(tmp_path), 4, 1, val_fraction=0, test_fraction=0)
    batch = torch.tensor([0, 35, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    expected = (batch.double() - 35) / np.std([10, 20, 30, 80])
    torch.testing.assert_close(data.transform(batch), expected.float())


def test_a_channel_that_never_changes_becomes_zero(tmp_path):
    write_classes(tmp_path, {"a": [7, 7], "b": [7]})
    data = image_folder(str(tmp_path), 4, val_fraction=0, test_fraction=0)
    assert not data.transform(everything(data.train)[0]).any()


def test_all_unreadable_images_are_named_at_once(tmp_path):
    write_classes(tmp_path, {"a": [1, 2], "b": [3]})
    broken = [tmp_path / "a" / "000.png", tmp_path / "b" / "000.png"]
    for path in broken:
        path.write_bytes(b"no image")
    with pytest.raises(DataError) as raised:
        image_folder(str(tmp_path), val_fraction=0, test_fraction=0)
    assert all(str(path) in str(raised.value) for path in broken)
    assert "2 of 3" in str(raised.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_a_file_that_is_cut_short_is_named_whatever_its_format(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = write(tmp_path / "a" / f"cut{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_classes(tmp_path, {"b": [1]})
    with pytest.raises(DataError, match=rf"a/cut\{suffix}"):
        image_folder(str(tmp_path), val_fraction=0, test_fraction=0)


def test_a_fraction_that_leaves_nothing_is_refused(tmp_path):
    write_classes(tmp_path, {"a": [1], "b": [2]})
    with pytest.raises(ConfigError, match="fraction"):
        image_folder(str(tmp_path), val_fraction=1.0)


# image_folder: bad input on the command line


def two_classes(folder: Path) -> Path:
    return write_classes(folder / "photos" / "train", {"cat": [1, 2, 3], "dog": [4, 5, 6]})


def no_train_folder(folder: Path) -> None:
    (folder / "photos").mkdir()


def only_one_class(folder: Path) -> None:
    write_classes(folder / "photos" / "train", {"cat": [1]})


def empty_class(folder: Path) -> None:
    (two_classes(folder) / "bird").mkdir()


def class_without_images(folder: Path) -> None:
    empty_class(folder)
    (folder / "photos" / "train" / "bird" / "readme.txt").write_text("later")


def unreadable_image(folder: Path) -> None:
    (two_classes(folder) / "dog" / "not.jpg").write_text("this is text")


def empty_image(folder: Path) -> None:
    (two_classes(folder) / "dog" / "void.png").touch()


def truncated_image(folder: Path) -> None:
    path = write(two_classes(folder) / "dog" / "cut.jpg", Image.effect_noise((64, 64), 50))
    path.write_bytes(path.read_bytes()[:900])


def unreadable_test_image(folder: Path) -> None:
    two_classes(folder)
    write_classes(folder / "photos" / "test", {"cat": [1], "dog": [2]})
    (folder / "photos" / "test" / "cat" / "bad.bmp").write_text("this is text")


def unknown_validation_class(folder: Path) -> None:
    two_classes(folder)
    write_classes(folder / "photos" / "val", {"cat": [1], "dogs": [2]})


def no_test_image(folder: Path) -> None:
    two_classes(folder)
    (folder / "photos" / "test" / "cat").mkdir(parents=True)


def two_validation_folders(folder: Path) -> None:
    two_classes(folder)
    write_classes(folder / "photos" / "val", {"cat": [1], "dog": [2]})
    write_classes(folder / "photos" / "Validation", {"cat": [1], "dog": [2]})


def link_to_the_classes_as_a_class(folder: Path) -> None:
    train = two_classes(folder)
    (train / "loop").symlink_to(train)


BAD_FOLDERS = [
    # what prepares the folder, fragments that the one message must have
    (lambda folder: None, ["dataset.root='photos' (command line)", "no such folder"]),
    (no_train_folder, ["photos", "a folder for each class", "found none"]),
    (only_one_class, ["photos/train", "at least two", "only 'cat'"]),
    (empty_class, ["class 'bird' is empty", "photos/train/bird"]),
    (class_without_images, ["class 'bird' is empty", ".jpeg", "photos/train/bird"]),
    (unreadable_image, ["1 of ", "photos/train/dog/not.jpg"]),
    (empty_image, ["1 of ", "photos/train/dog/void.png"]),
    (truncated_image, ["1 of ", "photos/train/dog/cut.jpg", "truncated"]),
    (unreadable_test_image, ["1 of ", "photos/test/cat/bad.bmp"]),
    (unknown_validation_class, ["photos/val/dogs", "not a class of the training folder", "did you mean 'dog'?"]),
    (no_test_image, ["photos/test' holds no image of any class"]),
    (two_validation_folders, ["photos/Validation' and '", "photos/val' are both the val part; keep one of them"]),
    (link_to_the_classes_as_a_class, ["class 'loop' is empty"]),
]


@pytest.mark.parametrize(("prepare", "fragments"), BAD_FOLDERS, ids=[row[0].__name__ for row in BAD_FOLDERS])
def test_a_bad_image_folder_gets_one_message_exit_2_and_leaves_nothing(dltrain, tmp_path, prepare, fragments):
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    outcome = dltrain("dataset=image_folder", "dataset.root=photos", "dataset.val_fraction=0")
    assert outcome.code == 2
    assert outcome.result["status"] == "invalid"
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in fragments:
        assert fragment in outcome.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_root_whose_name_is_no_utf_8_is_refused(dltrain, tmp_path):
    write_classes(tmp_path / os.fsdecode(b"caf\xe9"), {"a": [1], "b": [2]})
    outcome = dltrain("dataset=image_folder", os.fsdecode(b"dataset.root=caf\xe9"))
    assert (outcome.code, outcome.result["status"]) == (2, "invalid")
    assert "'dataset.root=caf\\udce9' is no UTF-8 text" in outcome.stderr and "rename" in outcome.stderr


def test_an_image_folder_of_mixed_sizes_modes_and_formats_trains(dltrain, tmp_path):
    folder = two_classes(tmp_path)
    write(folder / "cat" / "large.webp", Image.new("RGB", (50, 20), "red"))
    write(folder / "dog" / "alpha.png", Image.new("RGBA", (9, 31), "blue"))
    write(folder / "dog" / "print.jpg", Image.new("CMYK", (3, 3)))
    write(folder / "cat" / "plain.bmp", Image.new("1", (8, 8)))
    outcome = dltrain("dataset=image_folder", "dataset.root=photos", "trainer.epochs=1")
    assert outcome.code == 0
    assert outcome.result["status"] == "done"


# MNIST's file format

IMAGES = GENERATOR.integers(0, 256, (50, 28, 28), dtype=np.uint8)
LABELS = np.arange(50, dtype=np.uint8) % 10
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
ARRAYS = dict(zip(NAMES, (IMAGES[:40], LABELS[:40], IMAGES[40:], LABELS[40:]), strict=True))


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_idx(folder: Path, suffix: str = "", **replaced: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ARRAYS.items():
        content = replaced.get(name.replace("-", "_"), idx(array))
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["MNIST/raw", "MNIST", "."])
def test_a_local_copy_of_mnist_is_used_as_it_is(tmp_path, layout, suffix):
    write_idx(tmp_path / layout, suffix)
    data = mnist(str(tmp_path), val_fraction=0)
    assert data.facts.input_shape == (1, 28, 28)
    for part, images, labels in [(data.train, IMAGES[:40], LABELS[:40]), (data.test, IMAGES[40:], LABELS[40:])]:
        inputs, targets = everything(part)
        assert np.array_equal(inputs[:, 0].numpy(), images)
        assert np.array_equal(targets.numpy(), labels)


@pytest.mark.parametrize(("load", "name"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, load, name):
    write_idx(tmp_path / name / "raw")
    data, theirs = load(str(tmp_path), val_fraction=0), getattr(torchvision.datasets, name)(str(tmp_path))
    inputs, targets = everything(data.train)
    assert torch.equal(inputs[:, 0], theirs.data)
    assert torch.equal(targets, theirs.targets)


def test_the_classes_of_fashion_mnist_are_those_of_torchvision(tmp_path):
    write_idx(tmp_path)
    assert list(fashion_mnist(str(tmp_path)).facts.class_names) == torchvision.datasets.FashionMNIST.classes


def test_the_validation_part_of_mnist_is_stratified_and_never_of_the_test_files(tmp_path):
    write_idx(tmp_path)
    data = mnist(str(tmp_path), val_fraction=0.25)
    assert torch.bincount(everything(data.val)[1]).tolist() == [1] * 10
    held_in = torch.cat([everything(part)[0] for part in (data.train, data.val)])
    labels = torch.cat([everything(part)[1] for part in (data.train, data.val)])
    assert rows(held_in, labels) == rows(torch.from_numpy(IMAGES[:40]), torch.from_numpy(LABELS[:40]))


def test_only_the_files_that_are_missing_are_named(tmp_path):
    write_idx(tmp_path, ".gz")
    (tmp_path / (NAMES[3] + ".gz")).unlink()
    with pytest.raises(DataError, match=NAMES[3]) as raised:
        mnist(str(tmp_path))
    assert NAMES[0] not in str(raised.value)
    assert str(tmp_path / "MNIST" / "raw") in str(raised.value)


BAD_IDX = [
    ("cut short", {"train_images_idx3_ubyte": idx(IMAGES[:40])[:-1]}, "train-images-idx3-ubyte"),
    ("too long", {"train_labels_idx1_ubyte": idx(LABELS[:40]) + b"0"}, "train-labels-idx1-ubyte"),
    ("another format", {"t10k_images_idx3_ubyte": b"<html>not found</html>"}, "t10k-images-idx3-ubyte"),
    ("empty", {"t10k_labels_idx1_ubyte": b""}, "t10k-labels-idx1-ubyte"),
    ("too few labels", {"train_labels_idx1_ubyte": idx(LABELS[:39])}, "40 images"),
    ("label out of range", {"t10k_labels_idx1_ubyte": idx(LABELS[:10] + 1)}, "label 10"),
]


@pytest.mark.parametrize(("replaced", "fragment"), [row[1:] for row in BAD_IDX], ids=[row[0] for row in BAD_IDX])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_that_is_not_whole_is_named(tmp_path, replaced, fragment, suffix):
    write_idx(tmp_path, suffix, **replaced)
    with pytest.raises(DataError, match=fragment):
        mnist(str(tmp_path))


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(idx(IMAGES[:40]))[:-200]], ids=["other", "cut"])
def test_a_gz_file_that_does_not_unpack_is_named(tmp_path, content):
    write_idx(tmp_path, ".gz")
    (tmp_path / (NAMES[0] + ".gz")).write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz' cannot be read"):
        mnist(str(tmp_path))


# CIFAR's file format


@pytest.fixture
def cifar_files(tmp_path, monkeypatch):
    """Writes a small CIFAR in the true format, and has torchvision expect the checksums of these files."""

    def write_files(name: str, key: str, meta_key: str, classes: list[str]) -> dict[str, tuple[np.ndarray, list[int]]]:
        kind = getattr(torchvision.datasets, name)
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        contents = {}

        def dump(file: str, content: dict) -> str:
            (folder / file).write_bytes(pickle.dumps(content, protocol=2))
            return hashlib.md5((folder / file).read_bytes()).hexdigest()

        def dump_batches(files: Sequence[str]) -> list[list[str]]:
            checksums = []
            for file in files:
                images = GENERATOR.integers(0, 256, (20, 3072), dtype=np.uint8)
                labels = [int(label) for label in GENERATOR.permutation(20) % len(classes)]
                contents[file] = images.reshape(-1, 3, 32, 32), labels
                checksums.append([file, dump(file, {"data": images, key: labels, "filenames": ["x.png"] * 20})])
            return checksums

        for part in ("train_list", "test_list"):
            monkeypatch.setattr(kind, part, dump_batches([file for file, _ in getattr(kind, part)]))
        meta = {**kind.meta, "md5": dump(kind.meta["filename"], {meta_key: classes})}
        monkeypatch.setattr(kind, "meta", meta)
        return contents

    return write_files


CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_CLASSES = [f"class {number}" for number in range(100)]


@pytest.mark.parametrize(
    ("load", "arguments", "test_file"),
    [
        (cifar10, ("CIFAR10", "labels", "label_names", CIFAR10_CLASSES), "test_batch"),
        (cifar100, ("CIFAR100", "fine_labels", "fine_label_names", CIFAR100_CLASSES), "test"),
    ],
    ids=["cifar10", "cifar100"],
)
def test_cifar_is_read_from_its_pickled_files(tmp_path, cifar_files, load, arguments, test_file):
    contents = cifar_files(*arguments)
    data = load(str(tmp_path), val_fraction=0)
    assert list(data.facts.class_names) == arguments[3]
    assert (data.facts.input_shape, data.facts.num_outputs) == ((3, 32, 32), len(arguments[3]))
    test = contents.pop(test_file)
    train = [np.concatenate(arrays) for arrays in zip(*contents.values(), strict=True)]
    for part, (images, labels) in [(data.train, train), (data.test, test)]:
        inputs, targets = everything(part)
        assert np.array_equal(inputs.numpy(), images)
        assert targets.tolist() == list(labels)


def test_a_cifar_file_with_another_checksum_is_refused(tmp_path, cifar_files):
    cifar_files("CIFAR10", "labels", "label_names", CIFAR10_CLASSES)
    with (tmp_path / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="not found whole"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("option", "fragments"),
    [
        ("mnist", ["'data/MNIST/raw'", *NAMES]),
        ("fashion_mnist", ["'data/FashionMNIST/raw'", *NAMES]),
        ("cifar10", ["'data/cifar-10-batches-py'", "data_batch_1", "data_batch_5", "test_batch", "batches.meta"]),
        ("cifar100", ["'data/cifar-100-python'", "train", "test", "meta"]),
    ],
)
def test_files_that_are_not_there_are_named_with_their_folder_and_the_key_that_downloads(
    dltrain, tmp_path, option, fragments
):
    outcome = dltrain(f"dataset={option}")
    assert outcome.code == 2
    assert outcome.stderr.count("dltrain: ") == 1
    for fragment in [*fragments, "dataset.root", "dataset.download=true"]:
        assert fragment in outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "module", "fragments"),
    [
        ("mnist", "mnist", ["data/MNIST/raw", NAMES[0]]),
        ("cifar10", "cifar", ["data/cifar-10-batches-py", "data_batch_1"]),
    ],
)
def test_a_download_without_a_network_names_the_files_and_where_to_put_them(
    dltrain, monkeypatch, option, module, fragments
):
    def offline(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    outcome = dltrain(f"dataset={option}", "dataset.download=true")
    assert outcome.code == 2
    assert outcome.result["status"] == "invalid"
    for fragment in ["the download failed", "no route to host", *fragments]:
        assert fragment in outcome.stderr
