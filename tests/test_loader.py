"""The order of samples, the batches cut from it, and the splits, against what they promise."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dltrain.data.base import Arrays, Windows
from dltrain.data.images.transforms import Normalize, channel_statistics
from dltrain.data.loader import Loader
from dltrain.data.splits import Shuffled, Split
from dltrain.errors import ConfigError

CPU = torch.device("cpu")


def numbered(count: int) -> Arrays:
    """Sample ``i`` has the input ``10 * i`` and the target ``i``."""
    return Arrays(torch.arange(count).float().unsqueeze(1) * 10, torch.arange(count))


def loader(count: int, batch_size: int, seed: int | None = None, transform: nn.Module | None = None) -> Loader:
    return Loader(numbered(count), batch_size, transform or nn.Identity(), CPU, seed)


def served(batches: Loader) -> list[list[int]]:
    return [targets.tolist() for _, targets in batches]


# Loader


def test_without_a_seed_samples_come_as_they_lie():
    assert served(loader(7, 3)) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (10, 5), (11, 5), (5, 10), (1, 4), (4, 1)])
@pytest.mark.parametrize("seed", [None, 3])
def test_every_sample_comes_once_an_epoch_in_as_many_batches_as_the_length_says(count, batch_size, seed):
    batches = loader(count, batch_size, seed)
    for epoch in range(3):
        batches.set_epoch(epoch)
        found = served(batches)
        assert len(found) == len(batches)
        assert sorted(chain.from_iterable(found)) == list(range(count))


def test_batches_follow_the_order_that_is_announced():
    batches = loader(10, 4, seed=1)
    assert list(chain.from_iterable(served(batches))) == batches.order().tolist()


def test_inputs_stay_with_their_targets():
    for inputs, targets in loader(20, 6, seed=5):
        assert torch.equal(inputs[:, 0], targets * 10.0)


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    walked, fresh = loader(50, 8, seed=2), loader(50, 8, seed=2)
    for epoch in range(4):
        walked.set_epoch(epoch)
        list(walked)
        torch.rand(3)
    fresh.set_epoch(3)
    assert torch.equal(walked.order(), fresh.order())


def test_the_order_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    list(loader(50, 8, seed=2))
    assert torch.equal(torch.get_rng_state(), state)


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = set()
    for seed in (0, 1, 2**31, 2**32 - 1):
        batches = loader(50, 8, seed)
        for epoch in range(5):
            batches.set_epoch(epoch)
            orders.add(tuple(batches.order().tolist()))
    assert len(orders) == 20


def test_a_last_batch_of_one_joins_the_batch_before_it_when_shuffling():
    assert [len(batch) for batch in served(loader(9, 4, seed=1))] == [4, 5]
    assert [len(batch) for batch in served(loader(9, 4))] == [4, 4, 1]


def test_batches_of_one_stay_batches_of_one():
    assert [len(batch) for batch in served(loader(3, 1, seed=1))] == [1, 1, 1]


def test_the_transform_is_applied_to_whole_batches_of_inputs():
    class Negative(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return -inputs

    (inputs, targets), *_ = loader(6, 4, transform=Negative())
    assert torch.equal(inputs[:, 0], targets * -10.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_equal_those_on_the_cpu():
    cuda = torch.device("cuda")
    batches = Loader(numbered(50).to(cuda), 8, nn.Identity(), cuda, seed=4)
    for (inputs, targets), (wanted, labels) in zip(batches, loader(50, 8, seed=4), strict=True):
        assert inputs.is_cuda
        assert torch.equal(inputs.cpu(), wanted)
        assert torch.equal(targets.cpu(), labels)


# Arrays and Windows


def test_arrays_hand_out_the_samples_asked_for():
    inputs, targets = numbered(6).take(torch.tensor([4, 1, 4]))
    assert inputs.tolist() == [[40], [10], [40]]
    assert targets.tolist() == [4, 1, 4]


def test_arrays_say_how_much_memory_they_take():
    assert Arrays(torch.zeros(5, 2, 3), torch.zeros(5, dtype=torch.int64)).nbytes == 5 * 2 * 3 * 4 + 5 * 8


def windows(starts: list[int], window: int = 3, horizon: int = 2) -> Windows:
    values = torch.arange(20.0).view(10, 2)
    return Windows(values, values[:, 0].contiguous(), torch.tensor(starts), window, horizon)


def test_windows_are_slices_of_the_series():
    part = windows([0, 2, 5])
    inputs, targets = part.take(torch.tensor([2, 0, 2]))
    for sample, start in enumerate([5, 0, 5]):
        assert torch.equal(inputs[sample], part.values[start : start + 3])
        assert torch.equal(targets[sample], part.target[start + 3 : start + 5])
    assert len(part) == 3


def test_a_window_can_end_with_the_series():
    inputs, targets = windows([5]).take(torch.tensor([0]))
    assert inputs[0, -1].tolist() == [14, 15]
    assert targets.tolist() == [[16, 18]]


# splits


def holdout(count: int, fraction: float, seed: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    parts = Split(fraction, seed=seed).parts({"train": Shuffled.of(count, labels)})
    return parts["train"].indices, parts["val"].indices if "val" in parts else torch.empty(0)


def limited(indices: Tensor, limit: int | None, seed: int) -> Tensor:
    return Split(0, limit=limit, seed=seed).parts({"train": Shuffled(indices)})["train"].indices


def test_a_class_of_which_nothing_is_left_to_train_on_is_warned_of(caplog):
    kept, _ = holdout(6, 0.5, 0, torch.tensor([0, 0, 0, 1, 1, 7]))
    assert sorted(torch.tensor([0, 0, 0, 1, 1, 7])[kept].tolist()) == [0, 0, 1]
    assert "none is left to train on (from 0): 7" in caplog.text


def test_a_class_that_is_split_is_not_warned_of(caplog):
    holdout(60, 0.2, 0, torch.arange(60) % 3)
    assert caplog.text == ""


@pytest.mark.parametrize(("count", "fraction"), [(100, 0.2), (101, 0.1), (7, 0.5), (2, 0.9), (10, 0.01), (3, 0.99)])
@pytest.mark.parametrize("classes", [None, 2, 5])
def test_a_split_is_disjoint_complete_ascending_and_leaves_both_sides_something(count, fraction, classes):
    labels = None if classes is None else torch.arange(count) % classes
    kept, held = holdout(count, fraction, 0, labels)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(count))
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(held, held.sort().values)
    assert len(held) == min(max(round(count * fraction), 1), count - 1)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_each_class_is_held_out_in_proportion_to_within_one_sample(fraction):
    sizes = torch.tensor([3, 50, 200, 17])
    labels = torch.repeat_interleave(torch.arange(4), sizes)[torch.randperm(270, generator=torch.manual_seed(0))]
    _, held = holdout(270, fraction, 1, labels)
    assert (torch.bincount(labels[held], minlength=4) - fraction * sizes).abs().max() <= 1


def test_nothing_is_held_out_for_a_fraction_of_zero_or_of_a_single_sample():
    assert [len(part) for part in holdout(10, 0, 0)] == [10, 0]
    assert [len(part) for part in holdout(1, 0.5, 0)] == [1, 0]
    assert [len(part) for part in holdout(0, 0.5, 0)] == [0, 0]


def test_the_seed_alone_decides_what_is_held_out():
    torch.manual_seed(1)
    first = holdout(100, 0.2, 7)[1]
    torch.manual_seed(2)
    assert torch.equal(first, holdout(100, 0.2, 7)[1])
    assert not torch.equal(first, holdout(100, 0.2, 8)[1])


@pytest.mark.parametrize("fraction", [-0.1, 1, 2.5, math.nan])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        holdout(10, fraction, 0)


def test_a_limit_draws_so_many_in_their_order_and_not_the_first_ones():
    indices = torch.arange(100, 200)
    drawn = limited(indices, 10, 0)
    assert torch.equal(drawn, drawn.unique())
    assert set(drawn.tolist()) <= set(indices.tolist())
    assert drawn.tolist() != list(range(100, 110))
    assert torch.equal(drawn, limited(indices, 10, 0))


@pytest.mark.parametrize("limit", [None, 100, 101])
def test_a_limit_that_is_not_reached_changes_nothing(limit):
    assert torch.equal(limited(torch.arange(100), limit, 0), torch.arange(100))


# Transforms


def pictures(count: int = 30) -> Tensor:
    return torch.randint(256, (count, 3, 5, 4), generator=torch.manual_seed(3), dtype=torch.uint8)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_channel_statistics_are_those_of_numpy_however_they_are_chunked(chunk):
    images = pictures()
    mean, std = channel_statistics(images, chunk)
    np.testing.assert_allclose(mean.numpy(), images.numpy().astype(float).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std.numpy(), images.numpy().astype(float).std((0, 2, 3)), rtol=1e-12)


def test_normalised_images_have_zero_mean_and_unit_deviation_in_each_channel():
    images = pictures()
    found = Normalize(*channel_statistics(images))(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3), correction=0), torch.ones(3))


def test_a_channel_without_deviation_is_only_shifted():
    mean, std = torch.tensor([7.0]), torch.tensor([0.0])
    images = torch.tensor([7, 9], dtype=torch.uint8).view(2, 1, 1, 1)
    assert Normalize(mean, std)(images).flatten().tolist() == [0, 2]
