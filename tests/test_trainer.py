"""The loop against plain PyTorch, and what each of its options promises."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dltrain.data.base import Arrays, Facts
from dltrain.data.loader import Loader
from dltrain.errors import TrainingError
from dltrain.losses import Penalty
from dltrain.models import CNN, MLP, LeNet
from dltrain.runs import checkpoint
from dltrain.runs.writer import Checkpoints, Due
from dltrain.schedulers import Schedule
from dltrain.system.device import Precision
from dltrain.training.metrics import metrics_for
from dltrain.training.monitor import Best, EarlyStopping
from dltrain.training.progress import View
from dltrain.training.state import ExponentialMovingAverage
from dltrain.training.trainer import Trainer

CPU = torch.device("cpu")


def images(count: int, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> Arrays:
    generator = torch.Generator().manual_seed(7)
    return Arrays(
        torch.randn(count, *shape, generator=generator), torch.randint(classes, (count,), generator=generator)
    )


def make_trainer(folder: Path, model: nn.Module, samples: Arrays, batch_size: int = 8, **options) -> Trainer:
    facts = Facts("test", "classification", "image", tuple(samples.inputs.shape[1:]), 10)
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    val = options.pop("val", None)
    checkpoints = Checkpoints(folder, {"config": "", "facts": {}}, options.pop("keep", 0))
    defaults = {
        "loss": nn.CrossEntropyLoss(),
        "metrics": lambda: metrics_for(facts, CPU),
        "precision": Precision(CPU),
        "epochs": 2,
        "best": Best("train/loss"),
        "view": View(2, len(samples)),
    }
    return Trainer(
        model=model,
        optimizer=optimizer,
        train=Loader(samples, batch_size, nn.Identity(), CPU, seed=3),
        val=Loader(val, batch_size, nn.Identity(), CPU) if val else None,
        checkpoints=checkpoints,
        **(defaults | options),
    )


def plain_steps(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    loss = nn.CrossEntropyLoss()
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.001),
        lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.9, fused=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.001, fused=True),
    ],
    ids=["sgd", "adamw", "fused sgd", "fused adamw"],
)
def test_weights_equal_those_of_a_plain_loop_bit_for_bit(tmp_path, make_optimizer):
    torch.manual_seed(0)
    model = LeNet((3, 32, 32), 10)
    twin = copy.deepcopy(model)
    trainer = make_trainer(tmp_path, model, images(42), batch_size=4, optimizer=make_optimizer(model.parameters()))
    batches = []
    for epoch in range(2):
        trainer.train.set_epoch(epoch)
        batches += list(trainer.train)
    trainer.fit()
    plain_steps(twin, make_optimizer(twin.parameters()), batches)
    assert trainer.step == len(batches) == 22
    assert_equal_weights(model, twin)


def test_two_runs_from_the_same_seed_are_bitwise_equal(tmp_path):
    def run() -> Trainer:
        torch.manual_seed(5)
        trainer = make_trainer(tmp_path, CNN((1, 8, 8), 10, dropout=0.3), images(40, (1, 8, 8)))
        trainer.fit()
        return trainer

    first, second = run(), run()
    assert first.history == second.history
    assert_equal_weights(first.model, second.model)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_micro_batches_give_the_gradients_of_the_whole_batch_also_for_the_short_last_one(tmp_path, parts):
    torch.manual_seed(0)
    model = MLP((5,), 10).double()
    twin = copy.deepcopy(model)
    samples = images(21, (5,))  # batches of 8, 8 and 5
    samples = Arrays(samples.inputs.double(), samples.targets)
    whole = make_trainer(tmp_path, model, samples, epochs=1)
    split = make_trainer(tmp_path, twin, samples, epochs=1, accumulate=parts)
    whole.fit()
    split.fit()
    assert split.step == whole.step == 3
    assert split.history[0]["train/loss"] == pytest.approx(whole.history[0]["train/loss"], rel=1e-12)
    for left, right in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_clip_norm_bounds_the_norm_of_all_gradients_and_clip_value_each_of_them(tmp_path):
    torch.manual_seed(0)
    samples = images(8, (5,))
    for options, norm in [({"clip_norm": 0.01}, 0.01), ({"clip_value": 0.001}, None)]:
        trainer = make_trainer(tmp_path, MLP((5,), 10), samples, **options)
        trainer.train_step(samples.inputs, samples.targets)
        gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
        if norm:
            assert float(gradients.norm()) == pytest.approx(norm, rel=1e-3)
        else:
            assert float(gradients.abs().max()) == pytest.approx(0.001)


def test_the_penalty_adds_its_gradient_but_not_to_the_reported_loss(tmp_path):
    torch.manual_seed(0)
    samples = images(8, (5,))
    model = MLP((5,), 10, hidden_sizes=[])
    twin = copy.deepcopy(model)
    with_penalty = make_trainer(tmp_path, model, samples, penalty=Penalty(model.parameters(), 0.1, 0.2))
    without = make_trainer(tmp_path, twin, samples)
    weight = model.layers[1].weight.detach().clone()
    with_penalty.train_step(samples.inputs, samples.targets)
    without.train_step(samples.inputs, samples.targets)
    assert with_penalty.total.compute() == without.total.compute()
    expected = twin.layers[1].weight.grad + 0.1 * weight.sign() + 0.4 * weight
    torch.testing.assert_close(model.layers[1].weight.grad, expected)
    assert torch.equal(model.layers[1].bias.grad, twin.layers[1].bias.grad)


def test_with_averaging_the_averaged_weights_are_evaluated_and_kept(tmp_path):
    torch.manual_seed(0)
    model = MLP((5,), 10)
    samples = images(16, (5,))
    trainer = make_trainer(tmp_path, model, samples, val=samples, ema=ExponentialMovingAverage(model, 0.5))
    trainer.fit()
    saved = checkpoint.load(tmp_path / "last.pt")["model"]
    for name, weight in trainer.ema.model.state_dict().items():
        assert torch.equal(saved[name], weight)
        assert not torch.equal(saved[name], model.state_dict()[name])
    outputs = trainer.ema.model(samples.inputs)
    expected = nn.functional.cross_entropy(outputs, samples.targets).item()
    assert trainer.history[-1]["val/loss"] == pytest.approx(expected, rel=1e-5)


def test_a_step_scheduler_steps_once_an_optimizer_step_and_the_row_has_the_last_rate_used(tmp_path):
    torch.manual_seed(0)
    model = MLP((5,), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = Schedule(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), "step")
    trainer = make_trainer(tmp_path, model, images(24, (5,)), optimizer=optimizer, schedule=schedule, accumulate=2)
    trainer.fit()
    assert [row["step"] for row in trainer.history] == [3, 6]
    assert [row["lr"] for row in trainer.history] == [0.5**2, 0.5**5]


def test_an_epoch_scheduler_steps_after_the_epoch(tmp_path):
    model = MLP((5,), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = Schedule(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), "epoch")
    trainer = make_trainer(tmp_path, model, images(24, (5,)), optimizer=optimizer, schedule=schedule, epochs=3)
    trainer.fit()
    assert [row["lr"] for row in trainer.history] == [1.0, 0.5, 0.25]


def test_plateau_lowers_the_rate_when_its_metric_stays(tmp_path):
    model = MLP((5,), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # nothing is learned, so no epoch is better
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.5, patience=1)
    samples = images(8, (5,))
    schedule = Schedule(plateau, "epoch", "val/loss")
    trainer = make_trainer(
        tmp_path, model, samples, val=samples, optimizer=optimizer, schedule=schedule, epochs=6, batch_size=8
    )
    trainer.fit()
    assert plateau.num_bad_epochs == 1
    assert plateau.last_epoch == 6


def test_early_stopping_ends_the_run_after_patience_epochs_without_improvement(tmp_path):
    model = MLP((5,), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = make_trainer(
        tmp_path,
        model,
        images(8, (5,)),
        optimizer=optimizer,
        epochs=50,
        early_stopping=EarlyStopping(Best("train/loss"), patience=3),
    )
    trainer.fit()
    assert trainer.epoch == 4  # the first one is the best, three follow
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 4


def test_best_holds_the_weights_of_the_best_epoch_and_last_those_of_the_last(tmp_path):
    torch.manual_seed(0)
    train, val = images(32, (5,)), images(40, (5,))
    val = Arrays(val.inputs[32:], val.targets[32:])
    trainer = make_trainer(tmp_path, MLP((5,), 10), train, val=val, epochs=30, best=Best("val/loss"))
    trainer.fit()
    values = [row["val/loss"] for row in trainer.history]
    best, last = checkpoint.load(tmp_path / "best.pt"), checkpoint.load(tmp_path / "last.pt")
    assert best["epoch"] == trainer.best.epoch == values.index(min(values)) + 1 < last["epoch"] == 30
    assert best["metrics"] == trainer.history[best["epoch"] - 1]
    assert_state_equal(last["model"], trainer.model.state_dict())
    trainer.model.load_state_dict(best["model"])
    assert trainer.validate()["val/loss"] == min(values)


def assert_state_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        (Due(every_n_epochs=2), [(2, 6), (4, 12), (5, 15)]),
        # A state behind the last step of an epoch is one of before its validation.
        (Due(every_n_epochs=None, every_n_steps=4), [(1, 4), (2, 8), (3, 12), (5, 15)]),
        (Due(every_n_epochs=None), [(5, 15)]),
        (Due(every_n_epochs=None, every_n_minutes=1e-9), [((n - 1) // 3, n) for n in range(1, 16)] + [(5, 15)]),
    ],
    ids=["epochs", "steps", "only at the end", "time"],
)
def test_states_are_saved_when_they_are_due_and_at_the_end(tmp_path, due, expected):
    saved = []
    trainer = make_trainer(tmp_path, MLP((5,), 10), images(24, (5,)), epochs=5, due=due)
    real = trainer.checkpoints.save_last

    def watch(content):
        saved.append((content["trainer"]["epoch"], content["trainer"]["step"]))
        real(content)

    trainer.checkpoints.save_last = watch
    trainer.fit()
    assert saved == expected
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 5


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_the_best(tmp_path):
    model = MLP((5,), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    trainer = make_trainer(tmp_path, model, images(64, (5,)), optimizer=optimizer)
    with pytest.raises(TrainingError, match=r"diverged.*learning rate 1e\+30.*optim\.lr"):
        trainer.fit()
    assert trainer.best.epoch == 0


def test_train_loss_is_the_mean_over_samples_of_batches_of_different_sizes(tmp_path):
    model = MLP((5,), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    samples = images(11, (5,))
    trainer = make_trainer(tmp_path, model, samples, optimizer=optimizer, epochs=1)
    trainer.fit()
    expected = nn.functional.cross_entropy(model(samples.inputs), samples.targets).item()
    assert trainer.history[0]["train/loss"] == pytest.approx(expected, rel=1e-6)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(tmp_path):
    torch.manual_seed(0)
    seen = []

    class Watched(MLP):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            seen.append(outputs.dtype)
            return outputs

    model = Watched((5,), 10)
    trainer = make_trainer(tmp_path, model, images(64, (5,)), precision=Precision(CPU, torch.bfloat16), epochs=20)
    trainer.fit()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert trainer.history[-1]["train/loss"] < 0.5 * trainer.history[0]["train/loss"]


def test_float16_scales_the_loss_and_clips_in_the_gradients_own_scale(tmp_path):
    torch.manual_seed(0)
    samples = images(8, (5,))
    trainer = make_trainer(tmp_path, MLP((5,), 10), samples, precision=Precision(CPU, torch.float16), clip_norm=1e-3)
    assert trainer.scaler.is_enabled()
    trainer.train_step(samples.inputs, samples.targets)
    gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
    assert float(gradients.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_compiled_training_computes_the_same(tmp_path):
    torch.manual_seed(0)
    model = MLP((5,), 10, hidden_sizes=[8])
    twin = copy.deepcopy(model)
    samples = images(16, (5,))
    make_trainer(tmp_path, model, samples, wrapped=torch.compile(model, backend="aot_eager")).fit()
    make_trainer(tmp_path, twin, samples).fit()
    for left, right in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right)


def test_a_checkpoint_holds_plain_types_and_is_whole_at_any_time(tmp_path):
    trainer = make_trainer(tmp_path, MLP((5,), 10), images(8, (5,)))
    trainer.fit()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["format"] == checkpoint.FORMAT
    assert content["trainer"]["epoch"] == 2
    assert content["trainer"]["history"] == trainer.history
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "last.pt"}


def test_a_run_without_any_best_epoch_still_leaves_weights(tmp_path):
    class Never(Best):
        def update(self, epoch, metrics):
            return False

    trainer = make_trainer(tmp_path, MLP((5,), 10), images(8, (5,)), best=Never("train/loss"))
    trainer.fit()
    assert_state_equal(checkpoint.load(tmp_path / "best.pt")["model"], trainer.model.state_dict())


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 4), (8, 7), (5, 3)])
def test_batch_norm_never_gets_a_micro_batch_of_one_sample(tmp_path, batch_size, accumulate):
    model = MLP((5,), 10, batch_norm=True)
    trainer = make_trainer(tmp_path, model, images(23, (5,)), batch_size, accumulate=accumulate, epochs=1)
    trainer.fit()
    assert trainer.step == len(trainer.train)
