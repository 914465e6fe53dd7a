"""Losses and penalties against torch and against their formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dltrain.data.base import Arrays, Facts
from dltrain.data.loader import Loader
from dltrain.errors import MismatchError
from dltrain.losses import BCEWithLogitsLoss, Penalty, for_task, require_fitting, weighing_of
from dltrain.models import CNN, MLP
from dltrain.system.device import Precision
from dltrain.training.inference import evaluate
from dltrain.training.metrics import MeanLoss, metrics_for
from tests.test_trainer import make_trainer

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


def test_the_penalty_of_half_the_weight_decay_is_the_same_step_of_the_weights():
    torch.manual_seed(0)
    one = nn.Linear(3, 2)
    other = copy.deepcopy(one)
    Penalty(one.parameters(), 0.0, 0.05)().backward()
    torch.optim.SGD(one.parameters(), lr=0.1).step()
    other.weight.grad, other.bias.grad = torch.zeros(2, 3), torch.zeros(2)
    bias = other.bias.detach().clone()
    torch.optim.SGD(other.parameters(), lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(one.weight, other.weight)
    assert torch.equal(one.bias, bias) and not torch.equal(other.bias, bias)


def test_neither_biases_nor_the_scales_of_batch_norm_are_penalised():
    model = CNN((1, 8, 8), 3, channels=[4], hidden_sizes=[5])
    Penalty(model.parameters(), 0.1, 0.2)().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"{name}.weight" for name in WEIGHTS}


WEIGHTS = ("features.0.0", "classifier.1", "classifier.4")  # the convolution and the two linear layers


# Losses that are no means over samples

CPU = torch.device("cpu")
WEIGHT = torch.tensor([1.0, 10.0, 0.5, 0.0], dtype=torch.float64)


class OfItsOwn(nn.Module):
    """A loss of a user's, by weights that follow from the targets."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(outputs, targets, reduction="none") * targets
        return losses.sum() / self.batch_weight(targets)

    def batch_weight(self, targets: Tensor) -> Tensor:
        return targets.sum()


class Reshaping(nn.CrossEntropyLoss):
    """A class of a user's that computes something else, and does not say by what it divides."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)


WEIGHED = {
    "weights": nn.CrossEntropyLoss(WEIGHT),
    "weights and smoothing": nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
    "a class ignored": nn.CrossEntropyLoss(ignore_index=0),
    "all of them": nn.CrossEntropyLoss(WEIGHT, ignore_index=0, label_smoothing=0.2),
    "nll": nn.NLLLoss(WEIGHT, ignore_index=0),
    "its own": OfItsOwn(),
    "sum": nn.CrossEntropyLoss(WEIGHT, reduction="sum"),
}
weighed = pytest.mark.parametrize("loss", WEIGHED.values(), ids=WEIGHED)


def unevenly() -> Arrays:
    """50 samples of 4 classes; batches of 8, and parts of them, that hold the class 0 alone come first."""
    generator = torch.Generator().manual_seed(7)
    targets = torch.cat(
        [torch.zeros(11, dtype=torch.int64), torch.randint(1, 4, (38,), generator=generator), torch.ones(1).long()]
    )
    return Arrays(torch.randn(50, 5, generator=generator, dtype=torch.float64), targets)


class InOrder(Loader):
    """Every epoch as the samples lie."""

    def __init__(self, samples: Arrays, batch_size: int):
        super().__init__(samples, batch_size, nn.Identity(), CPU)


def of_all(loss: nn.Module, model: nn.Module, samples: Arrays) -> Tensor:
    """The loss of all samples in one batch, as it is reported: a sum by sample."""
    value = loss(model(samples.inputs), samples.targets).detach()
    return value / len(samples) if getattr(loss, "reduction", "") == "sum" else value


@weighed
@pytest.mark.parametrize("batch_size", [1, 8, 50])
def test_an_evaluation_in_batches_is_that_of_the_whole_part_in_one(loss, batch_size):
    torch.manual_seed(0)
    model, samples = MLP((5,), 4).double(), unevenly()
    metrics = metrics_for(Facts("test", "classification", "table", (5,), 4), CPU)
    found = evaluate(model, InOrder(samples, batch_size), loss, metrics, Precision(CPU)).compute()
    assert found["loss"] == pytest.approx(float(of_all(loss, model, samples)), rel=1e-12)
    assert found["accuracy"] == pytest.approx(
        float((model(samples.inputs).argmax(1) == samples.targets).double().mean())
    )


@weighed
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_micro_batches_are_the_batch_in_one_whatever_they_weigh(tmp_path, loss, parts):
    """Weights after an epoch, and with a learning rate of 0 the loss of the epoch."""
    torch.manual_seed(0)
    model, samples = MLP((5,), 4).double(), unevenly()
    plain, still = copy.deepcopy(model), copy.deepcopy(model)
    trainers = []
    for network, lr in ((model, 0.1), (still, 0.0)):
        optimizer = torch.optim.SGD(network.parameters(), lr=lr)
        penalty = Penalty(network.parameters(), 0.0, 0.01) if lr else None
        options = {"optimizer": optimizer, "loss": loss, "accumulate": parts, "epochs": 1, "penalty": penalty}
        trainers.append(make_trainer(tmp_path, network, samples, **options))
        trainers[-1].train = InOrder(samples, 8)
        trainers[-1].fit()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    penalty = Penalty(plain.parameters(), 0.0, 0.01)
    for inputs, targets in InOrder(samples, 8):
        optimizer.zero_grad()
        value = loss(plain(inputs), targets)
        ((value if value.isfinite() else 0) + penalty()).backward()  # a batch of which nothing counts is 0 / 0 in torch
        optimizer.step()
    for (name, ours), torchs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-12, msg=name)
    assert trainers[1].history[0]["train/loss"] == pytest.approx(float(of_all(loss, still, samples)), rel=1e-12)


@weighed
def test_smaller_micro_batches_for_lack_of_memory_change_nothing(tmp_path, loss):
    class Hungry(MLP):
        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(inputs)

    torch.manual_seed(0)
    short, samples = Hungry((5,), 4).double(), unevenly()
    roomy = MLP((5,), 4).double()
    roomy.load_state_dict(short.state_dict())
    trainers = [make_trainer(tmp_path, network, samples, loss=loss, val=samples) for network in (short, roomy)]
    for trainer in trainers:
        trainer.fit()
    assert trainers[0].accumulate == 4
    assert trainers[0].val.batch_size == 2
    for one, other in zip(trainers[0].history, trainers[1].history, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(ignore_index=0), OfItsOwn()], ids=["torch's", "its own"])
def test_a_batch_of_which_nothing_counts_moves_nothing(tmp_path, loss):
    torch.manual_seed(0)
    model = MLP((5,), 4).double()
    before = copy.deepcopy(model.state_dict())
    samples = Arrays(torch.randn(8, 5, dtype=torch.float64), torch.zeros(8, dtype=torch.int64))
    trainer = make_trainer(tmp_path, model, samples, loss=loss, epochs=1)
    trainer.train_epoch()
    assert float(trainer.total.total) == float(trainer.total.count) == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_no_step_waits_for_the_device_to_know_a_weight():
    """A fake tensor has no value that could be asked for."""
    with FakeTensorMode():
        weighted = nn.CrossEntropyLoss(torch.ones(4), ignore_index=0, label_smoothing=0.1)
        for loss in (weighted, OfItsOwn(), nn.CrossEntropyLoss(reduction="sum")):
            weighing, mean = weighing_of(loss), MeanLoss(CPU)
            outputs, targets = torch.ones(6, 4, requires_grad=True), torch.ones(6, dtype=torch.int64)
            unit = weighing.unit(targets, 6, lambda total: total)
            part = weighing.of_part(outputs, targets, 6, unit)
            part.backward()
            mean.add(*weighing.of_steps(part.detach(), 6, unit))
            mean.add(*weighing.of_batch(outputs, targets))
            with pytest.raises(DataDependentOutputException):
                mean.compute()


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.MSELoss(),
        BCEWithLogitsLoss(pos_weight=WEIGHT),
        nn.MultiMarginLoss(weight=WEIGHT),
        Reshaping(WEIGHT),
        lambda outputs, targets: outputs.mean(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_mean_over_samples_is_taken_as_ever(loss):
    assert weighing_of(loss) is None


def test_probabilities_of_classes_are_a_mean_over_samples_whatever_the_weights(logits):
    targets = logits.softmax(1)
    loss = nn.CrossEntropyLoss(WEIGHT.float())
    mean = MeanLoss(CPU)
    for rows in (slice(0, 3), slice(3, 7)):
        mean.add(*weighing_of(loss).of_batch(logits[rows], targets[rows]))
    assert mean.compute() == pytest.approx(float(loss(logits, targets)), rel=1e-6)


def test_a_mean_by_weight_goes_on_from_its_state(tmp_path):
    first, second, whole = MeanLoss(CPU), MeanLoss(CPU), MeanLoss(CPU)
    batches = [(torch.tensor(2.0), torch.tensor(0.5)), (torch.tensor(3.0), torch.tensor(1.25))]
    for batch in batches:
        whole.add(*batch)
    first.add(*batches[0])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.add(*batches[1])
    assert second.compute() == whole.compute() == pytest.approx(5 / 1.75)
