"""Values that are not finite, memory that is short, loggers that fail: each is made to happen, and told or mended."""

import json
import math
from pathlib import Path

import pytest
import torch
from test_trainer import CPU, assert_equal_weights, assert_state_equal, images, make_trainer
from torch import Tensor, nn

from dltrain.data.base import Arrays
from dltrain.errors import TrainingError, UserError
from dltrain.loggers import Loggers
from dltrain.loggers.csv import CSVLogger
from dltrain.models import MLP
from dltrain.runs import checkpoint
from dltrain.runs.writer import Due
from dltrain.schedulers import Schedule
from dltrain.system.device import Precision
from dltrain.training.monitor import Best
from dltrain.training.recovery import FiniteWatch, Recovery, diagnose


class Spoiled(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient * math.inf


class Spoiling(nn.Module):
    """Hands on its input, but in the training steps ``steps`` (from 1) multiplies output or gradient by infinity.

    The step counts with the samples, so that a batch that is computed again meets the same fate.
    """

    def __init__(self, where: str, *steps: int):
        super().__init__()
        self.where = where
        self.steps = steps
        self.trainer = None

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.trainer.step + 1 not in self.steps:
            return inputs
        return inputs * math.inf if self.where == "output" else Spoiled.apply(inputs)


def spoiled(folder: Path, where: str, *steps: int, **options):
    """A trainer of 4 steps an epoch whose network spoils some of them."""
    torch.manual_seed(0)
    layer = Spoiling(where, *steps)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), layer, nn.Tanh(), nn.Linear(6, 10))
    if where == "output":
        model[3] = nn.Identity()  # tanh would make infinity finite
    trainer = make_trainer(folder, model, images(32, (5,)), **options)
    layer.trainer = trainer
    return trainer


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("output", r"the first layer whose output is not finite is 2 \(Spoiling\)"),
        ("gradient", r"the first layer, from the end, whose gradient is not finite is 1 \(BatchNorm1d\)"),
    ],
)
@pytest.mark.parametrize("immediate", [True, False], ids=["at once", "asynchronously"])
def test_the_message_has_the_step_the_learning_rate_the_layer_and_advice(tmp_path, where, told, immediate):
    trainer = spoiled(tmp_path, where, 7)
    trainer.recovery.watch._immediate = immediate
    # Noticed asynchronously, the weights have become infinite by then, from the first layer on.
    told = told if immediate else r"the weights \d\.\w+ are not finite"
    message = rf"step 7 \(epoch 2, learning rate 0.05\) is not finite; {told}.*optim\.lr.*clip_norm.*on_nonfinite"
    with pytest.raises(TrainingError, match=message):
        trainer.fit()


def test_the_state_saved_before_stays_the_last_one(tmp_path):
    for immediate in (True, False):
        trainer = spoiled(tmp_path, "gradient", 7, due=Due(every_n_epochs=None, every_n_steps=1))
        trainer.recovery.watch._immediate = immediate
        with pytest.raises(TrainingError):
            trainer.fit()
        trainer.checkpoints.settle()
        content = checkpoint.load(tmp_path / "last.pt")
        assert content["trainer"]["step"] == 6
        assert all(bool(weight.isfinite().all()) for weight in content["model"].values())


def test_inputs_that_are_not_finite_are_told_as_such(tmp_path):
    samples = images(32, (5,))
    samples.inputs[3, 2] = math.nan
    trainer = make_trainer(tmp_path, MLP((5,), 10), samples)
    with pytest.raises(TrainingError, match="the inputs of the batch themselves are not finite; look at the data"):
        trainer.fit()


def test_weights_that_are_not_finite_are_told_by_name(tmp_path):
    model = MLP((5,), 10)
    with torch.no_grad():
        model.layers[1].bias[0] = math.nan
    trainer = make_trainer(tmp_path, model, images(32, (5,)))
    with pytest.raises(TrainingError, match=r"step 1 .*the weights layers\.1\.bias are not finite"):
        trainer.fit()


def test_a_loss_that_is_not_finite_while_every_layer_is_says_so(tmp_path):
    class Undefined(nn.Module):
        def forward(self, outputs, targets):
            return outputs.sum() * 0 / 0

    trainer = make_trainer(tmp_path, MLP((5,), 10), images(32, (5,)), loss=Undefined())
    with pytest.raises(TrainingError, match="every layer's output is finite, the loss of them is not"):
        trainer.fit()


def test_a_learning_rate_that_is_far_too_high_is_exit_1_and_advice(dltrain):
    outcome = dltrain("dataset.limit=100", "trainer.epochs=5", "optim.lr=1e20", "optim.momentum=0")
    assert outcome.code == 1
    assert outcome.stderr.count("training diverged") == 1
    assert "learning rate 1e+20" in outcome.stderr and "Traceback" not in outcome.stderr
    assert outcome.result["status"] == "failed"


@pytest.mark.parametrize("where", ["output", "gradient"])
def test_a_skipped_step_leaves_weights_buffers_and_draws_as_they_were(tmp_path, where):
    """The run equals one by hand that takes every step but that one."""
    trainer = spoiled(tmp_path, where, 3, on_nonfinite="skip", epochs=1)
    by_hand = spoiled(tmp_path, where)
    twin, optimizer = by_hand.model, by_hand.optimizer
    trainer.fit()
    twin.train()
    trainer.train.set_epoch(0)
    for number, (inputs, targets) in enumerate(trainer.train, 1):
        if number != 3:
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(inputs), targets).backward()
            optimizer.step()
    assert_equal_weights(trainer.model, twin)
    (event,) = trainer.recovery.events
    assert (event["event"], event["step"]) == ("step skipped", 3)
    assert checkpoint.load(tmp_path / "last.pt")["trainer"]["events"] == trainer.recovery.events
    assert math.isfinite(trainer.history[0]["train/loss"])


def test_an_epoch_of_which_every_step_is_skipped_still_ends(tmp_path):
    trainer = spoiled(tmp_path, "output", 1, 2, 3, 4, on_nonfinite="skip", epochs=2)
    trainer.fit()
    assert trainer.epoch == 2
    assert math.isnan(trainer.history[0]["train/loss"])
    assert trainer.best.epoch == 2


@pytest.mark.parametrize("immediate", [True, False], ids=["at once", "asynchronously"])
def test_a_rollback_goes_back_to_the_last_state_and_on_at_half_the_rate(tmp_path, immediate):
    trainer = spoiled(tmp_path, "gradient", 7, on_nonfinite="rollback", epochs=3)
    trainer.recovery.watch._immediate = immediate
    layer = trainer.model[2]
    real = trainer.load_state_dict

    def mended(*arguments, **keywords):
        layer.steps = ()
        real(*arguments, **keywords)

    trainer.load_state_dict = mended
    trainer.fit()
    assert [row["lr"] for row in trainer.history] == [0.05, 0.025, 0.025]
    (event,) = trainer.recovery.events
    assert (event["event"], event["step"], event["to"]) == ("rollback", 7, 4)
    # The same by hand: an epoch, then two at half the rate from its state.
    twin = spoiled(tmp_path, "gradient", epochs=1)
    twin.fit()
    twin.epochs = 3
    twin.optimizer.param_groups[0]["lr"] = 0.025
    twin.fit()
    assert_equal_weights(trainer.model, twin.model)


def test_a_rollback_gives_up_after_a_few_times(tmp_path):
    trainer = spoiled(tmp_path, "gradient", 7, on_nonfinite="rollback")
    with pytest.raises(TrainingError, match=r"step 7 .*learning rate 0\.0015625"):
        trainer.fit()
    assert [event["event"] for event in trainer.recovery.events] == ["rollback"] * 5


def test_a_rollback_mends_a_rate_that_is_too_high(tmp_path):
    """The loss is w ** 2 / 2 for a single weight, which SGD multiplies by 1 - lr: it diverges at rates above 2."""

    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, inputs):
            return self.weight.expand(len(inputs), 10)

    model = Weight()
    trainer = make_trainer(
        tmp_path,
        model,
        images(4000, (5,)),
        loss=lambda outputs, targets: outputs.square().mean() / 2,
        optimizer=torch.optim.SGD(model.parameters(), lr=6.0),
        on_nonfinite="rollback",
        epochs=1,
    )
    trainer.fit()
    assert [event["event"] for event in trainer.recovery.events] == ["rollback"] * 2
    assert trainer.history[0]["lr"] == 1.5
    assert abs(float(model.weight.detach())) < 1e-6


def test_a_rollback_over_several_epochs_neither_doubles_rows_nor_keeps_a_best_epoch_that_is_undone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    trainer = spoiled(tmp_path / "checkpoints", "gradient", 15, on_nonfinite="rollback", epochs=5)
    trainer.due = Due(every_n_epochs=2)
    trainer.best = Best("train/loss")
    trainer.loggers = Loggers({"csv": lambda history: CSVLogger(tmp_path, {}, history)})
    layer, real = trainer.model[2], trainer.load_state_dict
    undone = []

    def mended(*arguments, **keywords):
        layer.steps = ()
        undone.append(trainer.best.epoch)
        real(*arguments, **keywords)
        undone.append(trainer.best.epoch)

    trainer.load_state_dict = mended
    trainer.fit()
    trainer.loggers.close({})
    assert undone == [3, 2]
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4", "5"]
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    assert best["epoch"] == trainer.best.epoch
    assert best["metrics"] == trainer.history[best["epoch"] - 1]


@pytest.mark.parametrize("name", ["ExponentialLR", "OneCycleLR", "CosineAnnealingLR", "LambdaLR"])
def test_the_half_rate_of_a_rollback_stays_under_a_schedule(tmp_path, name):
    def scheduled(*steps):
        torch.manual_seed(0)
        trainer = spoiled(tmp_path, "gradient", *steps, on_nonfinite="rollback", epochs=3)
        arguments = {
            "ExponentialLR": {"gamma": 0.9},
            "OneCycleLR": {"max_lr": 0.1, "total_steps": 12},
            "CosineAnnealingLR": {"T_max": 12},
            "LambdaLR": {"lr_lambda": lambda step: 1 / (step + 1)},
        }
        scheduler = getattr(torch.optim.lr_scheduler, name)(trainer.optimizer, **arguments[name])
        trainer.schedule = Schedule(scheduler, "step")
        return trainer

    whole, rolled = scheduled(), scheduled(7)
    layer, real = rolled.model[2], rolled.load_state_dict

    def mended(*arguments, **keywords):
        layer.steps = ()
        real(*arguments, **keywords)

    rolled.load_state_dict = mended
    whole.fit()
    rolled.fit()
    rates = [[row["lr"] for row in trainer.history] for trainer in (whole, rolled)]
    assert rates[1] == pytest.approx([rates[0][0], rates[0][1] / 2, rates[0][2] / 2])


def test_infinite_gradients_of_a_scaled_loss_do_not_count(tmp_path):
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, MLP((5,), 10), images(32, (5,)), precision=Precision(CPU, torch.float16))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # far more than float16 can hold
    trainer.fit()
    assert trainer.epoch == 2 and trainer.recovery.events == []
    assert trainer.scaler.get_scale() < 2.0**40
    assert checkpoint.load(tmp_path / "last.pt")["trainer"]["scaler"]["scale"] == trainer.scaler.get_scale()


def test_a_loss_that_is_not_finite_counts_with_a_scaled_loss_as_well(tmp_path):
    trainer = spoiled(tmp_path, "output", 3, precision=Precision(CPU, torch.float16))
    with pytest.raises(TrainingError, match=r"step 3 .*2 \(Spoiling\)"):
        trainer.fit()


def test_a_compiled_network_says_which_layer_it_was(tmp_path):
    trainer = spoiled(tmp_path, "output", 2)
    trainer.network = torch.compile(trainer.model, backend="eager")
    with pytest.raises(TrainingError, match=r"step 2 .*2 \(Spoiling\)"):
        trainer.fit()


def test_sparse_gradients_are_watched(tmp_path):
    watch = FiniteWatch(CPU)
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    assert watch.note(1, torch.tensor(0.0), [table.weight.grad]) is None
    (table(torch.tensor([2])) * math.inf).sum().backward()
    assert watch.note(2, torch.tensor(0.0), [table.weight.grad]) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("in_loss", [True, False], ids=["loss", "gradient"])
def test_the_watch_that_does_not_wait_names_the_first_bad_step(device, in_loss, bad):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    watch = FiniteWatch(torch.device(device))
    watch._immediate = False
    good, spoilt = torch.tensor([1.0, 2.0], device=device), torch.tensor([1.0, bad], device=device)
    found = None
    for step in range(1, 61):
        is_bad = step >= 7
        loss = spoilt[1] if in_loss and is_bad else good[0]
        found = found or watch.note(step, loss, [good, good if in_loss or not is_bad else spoilt])
        assert found is None or step >= 20
    assert found == watch.look(wait=True) == 7
    watch.reset()
    assert watch.look(wait=True) is None


@pytest.mark.gpu
def test_a_step_is_watched_without_waiting_for_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda")
    watch = FiniteWatch(device)
    loss, gradients = torch.ones((), device=device), [torch.ones(3, device=device)]
    watch.note(1, loss, gradients)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 100):
            watch.note(step, loss, gradients)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("immediate", [True, False], ids=["at once", "asynchronously"])
def test_finite_values_are_never_reported_also_where_their_squares_are_infinite(immediate):
    watch = FiniteWatch(CPU)
    watch._immediate = immediate
    gradients = [torch.full((9,), 1e38), torch.full((9,), -3e38)]
    assert all(watch.note(step, torch.tensor(3e38), gradients) is None for step in range(1, 50))
    assert watch.look(wait=True) is None


def test_the_diagnosis_removes_its_hooks():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    inputs = torch.ones(1, 2)

    def backward():
        loss = model(inputs).sum()
        loss.backward()
        return loss.detach()

    assert diagnose(model, backward, inputs).startswith("computed again, the batch gives finite values")
    assert not any(layer._forward_hooks for layer in model.modules())


# Memory


class Hungry(MLP):
    """Has memory for so many samples at a time."""

    room = 3
    in_training = True

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > self.room and self.training == self.in_training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much\nand more")
        return super().forward(inputs)


def in_double_precision(count: int) -> Arrays:
    samples = images(count, (5,))
    return Arrays(samples.inputs.double(), samples.targets)


def test_a_batch_that_does_not_fit_is_computed_in_more_parts_with_the_same_result(tmp_path):
    torch.manual_seed(0)
    model = Hungry((5,), 10).double()
    twin = MLP((5,), 10).double()
    twin.load_state_dict(model.state_dict())
    short = make_trainer(tmp_path, model, in_double_precision(32))
    by_hand = make_trainer(tmp_path, twin, in_double_precision(32), accumulate=4)
    short.fit()
    by_hand.fit()
    assert short.accumulate == 4
    for left, right in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)
    assert short.history[1]["train/loss"] == pytest.approx(by_hand.history[1]["train/loss"], rel=1e-12)
    assert [event["accumulate"] for event in short.recovery.events] == [2, 4]
    assert checkpoint.load(tmp_path / "last.pt")["trainer"]["accumulate"] == 4


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=["allocator", "oneDNN", "C++", "Python"],
)
def test_a_cpu_says_in_many_ways_that_it_has_no_memory(tmp_path, error):
    class Small(MLP):
        room = 2

        def forward(self, inputs):
            if len(inputs) > self.room:
                raise error
            return super().forward(inputs)

    trainer = make_trainer(tmp_path, Small((5,), 10), images(32, (5,)), val=images(16, (5,)))
    trainer.fit()
    assert trainer.accumulate == 4 and trainer.val.batch_size == 2
    trainer.model.room = 0
    with pytest.raises(TrainingError, match=r"out of memory even for single samples at step 9: .+; try a smaller"):
        trainer.gradients(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))


def test_the_parts_are_remembered_when_the_run_goes_on(tmp_path):
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, Hungry((5,), 10), images(32, (5,)), epochs=1)
    trainer.fit()
    again = make_trainer(tmp_path, Hungry((5,), 10), images(32, (5,)))
    again.load_state_dict(checkpoint.load(tmp_path / "last.pt")["trainer"])
    again.fit()
    assert len(again.recovery.events) == 2


def test_no_memory_even_for_single_samples_ends_the_run(tmp_path):
    model = Hungry((5,), 10)
    model.room = 0
    with pytest.raises(TrainingError, match=r"out of memory even for single samples at step 1: CUDA .* much; try"):
        make_trainer(tmp_path, model, images(32, (5,))).fit()


def test_batches_are_cut_into_so_many_parts_and_no_more(tmp_path):
    """Thousands of single samples would be computed for as long as anybody waits."""
    samples = images(4096, (5,))
    model = Hungry((5,), 10)
    model.room = 1
    trainer = make_trainer(tmp_path, model, samples)
    trainer.train.batch_size = 4096
    with pytest.raises(TrainingError, match=r"out of memory even for a batch in 64 parts at step 1: CUDA"):
        trainer.fit()
    assert [event["accumulate"] for event in trainer.recovery.events] == [2, 4, 8, 16, 32, 64]
    model.in_training = False
    trainer.train.batch_size = 1024
    loader = make_trainer(tmp_path, model, samples, val=samples).val
    loader.batch_size = 1024
    with pytest.raises(TrainingError, match=r"out of memory in an evaluation, in batches of 16: CUDA"):
        trainer.evaluate(loader)


def test_on_oom_stop_ends_the_run_at_once(tmp_path):
    trainer = make_trainer(tmp_path, Hungry((5,), 10), images(32, (5,)), on_oom="stop")
    with pytest.raises(TrainingError, match=r"out of memory at step 1: .*dataset\.batch_size"):
        trainer.fit()
    assert trainer.accumulate == 1


def test_what_is_advised_where_memory_is_short_can_help():
    """Several processes cannot halve, and single samples cannot be halved."""
    for several, least, on_oom in ((False, False, "stop"), (True, False, "halve"), (False, True, "halve")):
        recovery = Recovery(torch.device("cpu"), on_oom=on_oom, is_alone=not several)
        with pytest.raises(TrainingError, match=r"dataset\.batch_size or model.*bf16") as caught:
            recovery.halve(32 if least else 1, 32, 1, torch.OutOfMemoryError("too much"))
        assert ("on_oom=halve" in str(caught.value)) == (not several and not least)


def test_an_evaluation_that_does_not_fit_is_done_in_smaller_batches_with_the_same_result(tmp_path):
    torch.manual_seed(0)
    model = Hungry((5,), 10).double()
    model.in_training = False
    twin = MLP((5,), 10).double()
    twin.load_state_dict(model.state_dict())
    samples = in_double_precision(32)
    short, roomy = (make_trainer(tmp_path, net, samples, val=samples) for net in (model, twin))
    metrics = [trainer.validate() for trainer in (short, roomy)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-12)
    assert short.val.batch_size == 2
    assert [event["evaluation_batch"] for event in short.recovery.events] == [4, 2]


def test_an_evaluation_without_memory_for_a_single_sample_ends_the_run(tmp_path):
    model = Hungry((5,), 10)
    model.room, model.in_training = 0, False
    trainer = make_trainer(tmp_path, model, images(32, (5,)), val=images(8, (5,)))
    with pytest.raises(TrainingError, match="out of memory in an evaluation"):
        trainer.fit()


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path):
    class Broken(MLP):
        def forward(self, inputs):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        make_trainer(tmp_path, Broken((5,), 10), images(32, (5,))).fit()


def test_what_was_mended_is_part_of_the_result(dltrain, tmp_path):
    (tmp_path / "hungry.py").write_text(
        "import torch\nfrom dltrain.models import MLP\n\n\nclass Hungry(MLP):\n    def forward(self, inputs):\n"
        "        if self.training and len(inputs) > 16:\n            raise torch.OutOfMemoryError('too much')\n"
        "        return super().forward(inputs)\n"
    )
    arguments = ("model=mlp", "model._target_=hungry.Hungry", "dataset.limit=64", "trainer.epochs=1")
    outcome = dltrain(*arguments)
    assert outcome.code == 0, outcome.stderr
    assert "out of memory at step 1: batches are computed in 2 parts" in outcome.stderr
    result = json.loads((outcome.folder / "result.json").read_text())
    assert result["events"] == [{"event": "out of memory", "step": 1, "accumulate": 2}]
    stopped = dltrain(*arguments, "trainer.on_oom=stop")
    assert stopped.code == 1 and "Traceback" not in stopped.stderr


# Loggers


class Failing:
    """A logger that raises at some call."""

    def __init__(self, folder, config, history=(), at="start"):
        self.at = at
        if at == "start":
            raise ConnectionError("no server\nat all")

    def log(self, row):
        if self.at == "log":
            raise ConnectionError("no server\nat all")

    def close(self, result):
        if self.at == "close":
            raise ConnectionError("no server\nat all")


@pytest.mark.parametrize("at", ["start", "log", "close"])
def test_a_logger_that_fails_costs_one_warning_and_never_the_run(dltrain, at):
    # By position: the class is this module's own, found where pytest has put it.
    broken = f"+logger.broken={{_target_:test_recovery.Failing,at:{at}}}"
    outcome = dltrain("dataset.limit=40", "trainer.epochs=3", broken)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr.count("warning: logger broken failed and is left out from here on: no server\n") == 1
    assert outcome.result["status"] == "done"
    assert len((outcome.folder / "metrics.csv").read_text().splitlines()) == 4


def test_a_logger_without_its_library_is_refused_before_the_run_and_leaves_nothing(dltrain, monkeypatch, tmp_path):
    def missing(*arguments):
        raise UserError("pip install it")

    monkeypatch.setattr("dltrain.loggers.tensorboard.require_extras", missing)
    outcome = dltrain("dataset.limit=40", "logger=[csv,tensorboard]")
    assert outcome.code == 2 and "pip install it" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_logger_without_its_library_leaves_an_older_run_as_it_was(dltrain, monkeypatch, tmp_path):
    assert dltrain("dataset.limit=40", "trainer.epochs=2", "hydra.run.dir=run").code == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.suffix in (".pt", ".csv", ".json")}

    def missing(*arguments):
        raise UserError("pip install it")

    monkeypatch.setattr("dltrain.loggers.tensorboard.require_extras", missing)
    assert dltrain("resume", "run", "trainer.epochs=3", "logger=[csv,tensorboard]").code == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_state_equals_itself_once_it_is_loaded(tmp_path):
    trainer = spoiled(tmp_path, "gradient")
    trainer.fit()
    again = spoiled(tmp_path / "again", "gradient")
    again.load_state_dict(checkpoint.load(tmp_path / "last.pt")["trainer"])
    assert_state_equal(again.model.state_dict(), trainer.model.state_dict())
    assert again.history == trainer.history
