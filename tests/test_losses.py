"""Losses and penalties against torch and against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dltrain.errors import MismatchError
from dltrain.losses import BCEWithLogitsLoss, Penalty, for_task, require_fitting
from dltrain.models import CNN

CLASSIFICATION = [nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, BCEWithLogitsLoss]
REGRESSION = [nn.MSELoss, nn.L1Loss, nn.HuberLoss]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


def test_bce_with_logits_of_classes_equals_torchs_of_their_one_hot_rows(logits):
    targets = torch.tensor([3, 0, 1, 1, 2, 0, 3])
    one_hot = torch.eye(4)[targets]
    assert torch.equal(BCEWithLogitsLoss()(logits, targets), F.binary_cross_entropy_with_logits(logits, one_hot))


def test_bce_with_logits_takes_several_labels_a_sample_as_torch_does(logits):
    targets = (logits > 0.3).float()
    assert torch.equal(BCEWithLogitsLoss()(logits, targets), F.binary_cross_entropy_with_logits(logits, targets))


def test_bce_with_logits_passes_on_torchs_own_arguments(logits):
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    targets = torch.tensor([3, 0, 1, 1, 2, 0, 3])
    expected = F.binary_cross_entropy_with_logits(logits, torch.eye(4)[targets], pos_weight=weight)
    assert torch.equal(BCEWithLogitsLoss(pos_weight=weight)(logits, targets), expected)


def test_bce_with_logits_computes_in_the_dtype_of_the_outputs(logits):
    assert BCEWithLogitsLoss()(logits.double(), torch.zeros(7, dtype=torch.int64)).dtype == torch.float64


def test_the_usual_loss_follows_the_task():
    assert type(for_task("classification")) is nn.CrossEntropyLoss
    assert type(for_task("regression")) is nn.MSELoss


def test_the_usual_loss_of_classes_takes_what_cross_entropy_takes():
    loss = for_task("classification", torch.tensor([1.0, 8.0]), ignore_index=0, label_smoothing=0.1)
    assert (loss.weight.tolist(), loss.ignore_index, loss.label_smoothing) == ([1.0, 8.0], 0, 0.1)
    with pytest.raises(MismatchError, match=r"loss=auto takes weight, .* is regression$"):
        for_task("regression", torch.tensor([1.0, 8.0]), label_smoothing=0.1)


@pytest.mark.parametrize("loss", [*CLASSIFICATION, nn.NLLLoss, nn.SmoothL1Loss], ids=lambda loss: loss.__name__)
def test_a_loss_of_the_task_or_one_that_is_not_known_fits(loss):
    require_fitting(loss(), "classification")


@pytest.mark.parametrize(
    ("loss", "task", "fitting"),
    [(loss, "regression", "mse, l1, huber") for loss in CLASSIFICATION]
    + [(loss, "classification", "cross_entropy, bce_with_logits") for loss in REGRESSION],
)
def test_a_loss_of_another_task_is_refused_and_those_that_fit_are_named(loss, task, fitting):
    with pytest.raises(MismatchError, match=rf"{loss.__name__} .* is {task}; losses that fit: {fitting}$"):
        require_fitting(loss(), task)


@pytest.mark.parametrize(("l1", "l2"), [(0.1, 0.0), (0.0, 0.2), (0.1, 0.2)])
def test_the_penalty_is_the_sum_of_absolute_and_of_squared_weights(l1, l2):
    model = CNN((1, 8, 8), 3, channels=[4], hidden_sizes=[5]).double()
    weights = torch.cat([model.get_parameter(f"{name}.weight").flatten() for name in WEIGHTS])
    expected = l1 * weights.abs().sum() + l2 * (weights**2).sum()
    torch.testing.assert_close(Penalty(model.parameters(), l1, l2)(), expected)


def test_the_penalty_has_the_gradient_of_its_formula():
    model = nn.Linear(3, 2)
    Penalty(model.parameters(), 0.1, 0.2)().backward()
    torch.testing.assert_close(model.weight.grad, 0.1 * model.weight.sign() + 0.4 * model.weight)


def test_neither_biases_nor_the_scales_of_batch_norm_are_penalised():
    model = CNN((1, 8, 8), 3, channels=[4], hidden_sizes=[5])
    Penalty(model.parameters(), 0.1, 0.2)().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"{name}.weight" for name in WEIGHTS}


WEIGHTS = ("features.0.0", "classifier.1", "classifier.4")  # the convolution and the two linear layers
