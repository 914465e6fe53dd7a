"""Device, precision, seeds and what a run leaves of them in its process, and averaged weights."""

import math
import os
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dltrain.errors import ConfigError
from dltrain.system.device import Precision, fits, pick_device, pick_precision, process_state
from dltrain.training.state import ExponentialMovingAverage

CPU = torch.device("cpu")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def settings() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a deterministic run sets for cuBLAS goes when the test ends."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "set")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_seed_sets_python_numpy_and_torch_as_their_own_functions_do(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    expected = draws()
    with process_state(seed, deterministic=False):
        assert draws() == expected


def test_other_seeds_draw_other_numbers():
    drawn = []
    for seed in (1, 2):
        with process_state(seed, deterministic=False):
            drawn.append(draws())
    assert all(one != other for one, other in zip(*drawn, strict=True))


def test_the_random_states_of_the_process_go_on_as_if_nothing_had_run():
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(7)
    expected = draws(), draws()
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(7)
    first = draws()
    with process_state(3, deterministic=False):
        draws()
    assert (first, draws()) == expected


@pytest.mark.parametrize("deterministic", [False, True])
def test_settings_are_in_force_inside_and_put_back_behind(deterministic):
    before = settings()
    with process_state(1, deterministic):
        assert settings() == (deterministic, not deterministic)
    assert settings() == before


@pytest.mark.parametrize("before", [(False, False), (False, True), (True, False), (True, True)], ids=str)
def test_settings_of_the_process_come_back_whatever_they_were(before):
    own = settings()
    try:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        for deterministic in (True, False):
            with process_state(1, deterministic):
                pass
            assert settings() == before
    finally:
        torch.use_deterministic_algorithms(own[0])
        torch.backends.cudnn.benchmark = own[1]


def test_a_process_that_only_warns_of_what_cannot_be_repeated_goes_on_doing_so():
    own = settings()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        for deterministic in (True, False):
            with process_state(1, deterministic):
                assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert settings()[0] and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(own[0])


def test_an_error_inside_puts_everything_back_and_goes_on():
    before = settings(), random.getstate(), torch.get_rng_state()
    with pytest.raises(KeyError), process_state(1, deterministic=True):
        draws()
        raise KeyError
    assert settings() == before[0]
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_deterministic_run_refuses_operations_that_are_not():
    with process_state(1, deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(2).put_(torch.tensor([0]), torch.tensor([1.0]), accumulate=False)


@pytest.mark.parametrize(("given", "expected"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_a_deterministic_run_makes_cublas_repeatable_unless_the_user_has_chosen(given, expected, monkeypatch):
    if given:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    with process_state(1, deterministic=False):
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == given
    with process_state(1, deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == expected


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(1, True, "cuda"), (1, False, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_takes_cuda_then_mps_then_the_cpu(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(expected)


@pytest.mark.parametrize(("name", "there"), [("cuda", True), ("cuda:1", True), ("cuda:2", False), ("mps", False)])
def test_a_device_by_name_is_taken_when_the_machine_has_it(name, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if there:
        assert pick_device(name) == torch.device(name)
    else:
        with pytest.raises(ConfigError, match=rf"device='{name}': this machine has no such device; device=auto"):
            pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:-1", "", "CPU"])
def test_what_is_no_device_is_refused_with_what_there_is(name):
    with pytest.raises(ConfigError, match=rf"device='{name}' is none of auto, cpu, cuda, cuda:N, mps"):
        pick_device(name)


@pytest.mark.parametrize("name", ["meta", "cpu:1", "xpu"])
def test_a_device_that_cannot_train_here_is_refused(name):
    with pytest.raises(ConfigError, match="no such device"):
        pick_device(name)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16), ("auto", None)]
)
def test_precision_by_name_on_the_cpu(name, dtype):
    assert pick_precision(name, CPU) == Precision(CPU, dtype)


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_auto_precision_is_bfloat16_on_a_gpu_that_computes_in_it(supported, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert pick_precision("auto", torch.device("cuda")).dtype == dtype


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_the_dtype_and_leaves_float32_alone_without_one(dtype):
    layer = nn.Linear(3, 2)
    with Precision(CPU, dtype).autocast():
        assert layer(torch.ones(1, 3)).dtype == (dtype or torch.float32)
    assert layer.weight.dtype == torch.float32


def test_only_float16_scales_the_loss():
    enabled = [Precision(CPU, dtype).scaler().is_enabled() for dtype in (None, torch.bfloat16, torch.float16)]
    assert enabled == [False, False, True]


def test_data_always_fit_the_memory_of_the_cpu():
    assert fits(2**60, CPU)


@pytest.mark.parametrize(("nbytes", "expected"), [(500, True), (501, False)])
def test_data_fit_a_gpu_within_half_of_its_free_memory(nbytes, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 80_000))
    assert fits(nbytes, torch.device("cuda")) == expected


# Averaged weights


def trained(model: nn.Module, *averages: object, steps: int = 6) -> None:
    """Random steps: each changes all weights and the statistics of batch norm."""
    for _ in range(steps):
        model.train()(torch.randn(8, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in averages:
            average.update() if isinstance(average, ExponentialMovingAverage) else average.update_parameters(model)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_average_equals_torchs_own_from_its_second_update_on(model):
    def ramped(averages, weights, number):  # torch counts its first update, which copies, and ours does not
        get_ema_multi_avg_fn(min(0.3, number / (9 + number)))(averages, weights, number)

    theirs = AveragedModel(model, multi_avg_fn=ramped, use_buffers=True)
    theirs.update_parameters(model)  # the first one copies
    ours = ExponentialMovingAverage(model, 0.3)
    trained(model, ours, theirs)
    assert ours.updates == theirs.n_averaged - 1
    for (name, average), expected in zip(
        ours.model.state_dict().items(), theirs.module.state_dict().values(), strict=True
    ):
        if average.is_floating_point():
            torch.testing.assert_close(average, expected, msg=name)


def test_the_average_is_the_weighted_sum_of_all_weights_so_far(model):
    ours = ExponentialMovingAverage(model, 0.25)
    expected = model[0].weight.detach().clone()
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25):
        trained(model, ours, steps=1)
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(ours.model[0].weight, expected)


def test_the_average_of_a_short_run_is_near_its_weights_and_not_where_they_began(model):
    ours = ExponentialMovingAverage(model, 0.9999)
    initial = model[0].weight.detach().clone()
    trained(model, ours, steps=100)
    share = math.prod((1 + t) / (10 + t) for t in range(100))  # of the initial weights
    assert share < 1e-9
    assert (ours.model[0].weight - initial).norm() > 0.5 * (model[0].weight - initial).norm()


def test_counters_are_copied_and_not_averaged(model):
    ours = ExponentialMovingAverage(model, 0.9)
    trained(model, ours)
    assert int(ours.model[1].num_batches_tracked) == int(model[1].num_batches_tracked) == 6


def test_a_weight_that_two_layers_share_is_averaged_once(model):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    ours = ExponentialMovingAverage(tied, 0.5)
    before = tied[0].weight.detach().clone()
    trained(tied, ours, steps=1)
    assert ours.model[1].weight is ours.model[0].weight
    torch.testing.assert_close(ours.model[0].weight, 0.1 * before + 0.9 * tied[0].weight.detach())


def test_the_average_is_for_evaluation_and_leaves_the_model_alone(model):
    ours = ExponentialMovingAverage(model, 0.9)
    trained(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours.update()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not ours.model.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in ours.model.parameters())


def test_an_average_goes_on_with_the_state_that_is_loaded_into_either_network(model):
    ours, other = ExponentialMovingAverage(model, 0.9), nn.Sequential(*(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    other.append(nn.Linear(4, 2))
    resumed = ExponentialMovingAverage(other, 0.9)
    trained(model, ours)
    other.load_state_dict(model.state_dict())
    resumed.model.load_state_dict(ours.model.state_dict())
    resumed.updates = ours.updates
    ours.update()
    resumed.update()
    for one, two in zip(ours.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)
