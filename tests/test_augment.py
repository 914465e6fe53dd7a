"""Random changes of training images: each against a plain loop over the images, one by one."""

from dataclasses import fields

import pytest
import torch
import yaml
from conftest import CONF
from torch import Tensor

from dltrain.config.limits import AUGMENT
from dltrain.data.images.transforms import Augment, make_augment
from dltrain.errors import ConfigError

MEAN = torch.tensor([10.0, 20.0, 30.0])


def batch(count: int = 16, side: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.rand(count, Augment.draws, generator=generator)


def test_crop_cuts_each_image_from_its_black_border_at_the_place_that_its_draws_name():
    images, draws = batch()
    cropped = Augment(MEAN, crop=2)(images, draws)
    for image, draw, found in zip(images, draws, cropped, strict=True):
        bordered = torch.zeros(3, 13, 13, dtype=torch.uint8)
        bordered[:, 2:11, 2:11] = image
        down, right = int(draw[0] * 5), int(draw[1] * 5)
        assert torch.equal(found, bordered[:, down : down + 9, right : right + 9])
    assert not torch.equal(cropped, images)


def test_flip_mirrors_the_images_whose_draw_is_below_a_half():
    images, draws = batch()
    flipped = Augment(MEAN, flip=True)(images, draws)
    for image, draw, found in zip(images, draws, flipped, strict=True):
        assert torch.equal(found, image.flip(-1) if draw[2] < 0.5 else image)
    assert 0 < sum(draws[:, 2] < 0.5) < len(draws)


def test_cutout_covers_a_square_around_its_draws_with_the_mean_and_nothing_else():
    images, draws = batch()
    covered = Augment(MEAN, cutout=4)(images, draws)
    for image, draw, found in zip(images, draws, covered, strict=True):
        down, right = int(draw[6] * 9) - 2, int(draw[7] * 9) - 2
        expected = image.clone()
        square = expected[:, max(down, 0) : down + 4, max(right, 0) : right + 4]
        square.copy_(MEAN.view(3, 1, 1).expand_as(square))
        assert torch.equal(found, expected)


def test_brightness_contrast_and_saturation_equal_their_formulas():
    images, draws = batch()
    raw = images.float()
    factors = 1 + 0.4 * (2 * draws - 1)
    brighter = Augment(MEAN, brightness=0.4)(images, draws)
    torch.testing.assert_close(brighter, (raw * factors[:, 3].view(-1, 1, 1, 1)).clamp(0, 255))
    grey = raw.mean((1, 2, 3), keepdim=True)
    contrast = Augment(MEAN, contrast=0.4)(images, draws)
    torch.testing.assert_close(contrast, (grey + factors[:, 4].view(-1, 1, 1, 1) * (raw - grey)).clamp(0, 255))
    grey = raw.mean(1, keepdim=True)
    saturated = Augment(MEAN, saturation=0.4)(images, draws)
    torch.testing.assert_close(saturated, (grey + factors[:, 5].view(-1, 1, 1, 1) * (raw - grey)).clamp(0, 255))


def test_what_happens_to_an_image_does_not_depend_on_the_others_in_its_batch():
    images, draws = batch()
    augment = Augment(MEAN, crop=2, flip=True, cutout=3, brightness=0.2, contrast=0.2, saturation=0.2)
    together = augment(images, draws)
    alone = torch.cat([augment(images[i : i + 1], draws[i : i + 1]) for i in range(len(images))])
    torch.testing.assert_close(together, alone)


def test_without_options_there_is_no_augmentation():
    assert make_augment(None, MEAN, (3, 9, 9)) is None
    assert make_augment({}, MEAN, (3, 9, 9)) is None
    assert make_augment({"crop": 0, "flip": False, "brightness": 0.0}, MEAN, (3, 9, 9)) is None


def test_the_options_are_those_that_the_configuration_knows():
    assert [field.name for field in fields(Augment)][1:] == list(AUGMENT)


@pytest.mark.parametrize("path", sorted((CONF / "dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_image_set_offers_each_option_that_its_channels_allow(path):
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "augment" in options:
        assert make_augment(options["augment"], MEAN, (3, 9, 9)) is None
        grey = path.stem in ("digits", "mnist", "fashion_mnist")
        assert list(options["augment"]) == [name for name in AUGMENT if not (grey and name == "saturation")]


@pytest.mark.parametrize(
    ("options", "shape", "fragments"),
    [
        ({"crop": 9}, (3, 9, 9), ["dataset.augment.crop=9"]),
        ({"cutout": 9}, (3, 9, 12), ["dataset.augment.cutout=9", "below 9"]),
        ({"saturation": 0.5}, (1, 9, 9), ["saturation", "three channels"]),
    ],
)
def test_an_option_that_the_images_cannot_have_is_named(options, shape, fragments):
    with pytest.raises(ConfigError) as caught:
        make_augment(options, MEAN[: shape[0]], shape)
    for fragment in fragments:
        assert fragment in str(caught.value)
