"""Every schedule against its closed form, with the defaults of its YAML file, and the expressions that are refused."""

import io
import math
import random
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import options
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from torch import nn

from dltrain.build import build
from dltrain.errors import ConfigError
from dltrain.schedulers import Expression, LambdaLR, RandomLR, Schedule, linear_warmup_cosine
from dltrain.training.trainer import Trainer

EPOCHS = 30
STEPS = 3  # optimizer steps an epoch
LR = 0.08
DRAWN = {"random", "plateau"}  # no function of the time alone


@pytest.fixture
def run(composed, tmp_path: Path) -> Callable[..., Trainer]:
    """A run as the command line would build it, of ``EPOCHS`` epochs with ``STEPS`` steps each."""

    def built(scheduler: str, *overrides: str) -> Trainer:
        small = ["model=mlp", "model.hidden_sizes=[]", f"dataset.limit={8 * STEPS}", "dataset.batch_size=8"]
        always = [f"trainer.epochs={EPOCHS}", f"optim.lr={LR}", "logger=none", "device=cpu"]
        trainer = build(composed([f"scheduler={scheduler}", *small, *always, *overrides]), tmp_path).trainer
        assert len(trainer.train) == STEPS
        return trainer

    return built


def rates(trainer: Trainer, key: str = "lr", epochs: range = range(EPOCHS)) -> list[float]:
    """The value of the optimizer's ``key`` at each step, with the schedule stepped as the loop does."""
    values = []
    schedule = trainer.schedule or Schedule(torch.optim.lr_scheduler.ConstantLR(trainer.optimizer, 1.0))
    for epoch in epochs:
        for _ in range(STEPS):
            values.append(trainer.optimizer.param_groups[0][key])
            trainer.optimizer.step()
            schedule.after_step()
        schedule.after_epoch({"val/loss": 1.0 + epoch})
    return values


def half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def onecycle(t: int, total: int, low: float, high: float, end: float) -> float:
    """Up to ``high`` at interval ``0.3 * total - 1``, down to ``end`` at the last one."""
    peak = 0.3 * total - 1
    if t <= peak:
        return half_cosine(low, high, t / peak)
    return half_cosine(high, end, (t - peak) / (total - 1 - peak))


def warmup_cosine(t: int, total: int) -> float:
    warmup = total // 10
    return 0.01 + 0.99 * t / warmup if t < warmup else half_cosine(1, 0, (t - warmup) / (total - warmup))


# The multiplier of the learning rate at interval t of a run of so many.
CLOSED_FORMS: dict[str, Callable[[int, int], float]] = {
    "none": lambda t, total: 1,
    "step": lambda t, total: 0.1 ** (t // 10),
    "multistep": lambda t, total: 0.1 ** ((t >= 15) + (t >= 25)),
    "exponential": lambda t, total: 0.95**t,
    "lambda": lambda t, total: 0.95**t,
    "cosine": lambda t, total: half_cosine(1, 0, t / total),
    "onecycle": lambda t, total: onecycle(t, total, 1 / 25, 1, 1 / 25e4),
    "linear_warmup_cosine": warmup_cosine,
}


def test_every_schedule_of_the_group_has_a_test():
    assert set(options("scheduler")) == CLOSED_FORMS.keys() | DRAWN


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_every_schedule_equals_its_closed_form(name, interval, run):
    renamed = ["scheduler.lr_lambda='0.95 ** step'"] if (name, interval) == ("lambda", "step") else []
    trainer = run(name, f"scheduler.interval={interval}", *renamed)
    per_epoch, total = (STEPS, EPOCHS) if interval == "epoch" else (1, EPOCHS * STEPS)
    expected = [LR * CLOSED_FORMS[name](step // per_epoch, total) for step in range(EPOCHS * STEPS)]
    assert rates(trainer) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "overrides", "closed_form"),
    [
        ("step", ["step_size=7", "gamma=0.5"], lambda t: 0.5 ** (t // 7)),
        ("multistep", ["milestones=[2,5,9]", "gamma=0.5"], lambda t: 0.5 ** ((t >= 2) + (t >= 5) + (t >= 9))),
        ("exponential", ["gamma=0.9"], lambda t: 0.9**t),
        ("cosine", ["eta_min=0.02"], lambda t: half_cosine(1, 0.02 / LR, t / EPOCHS)),
        ("lambda", ["lr_lambda='(epoch + 1) ** -0.5'"], lambda t: (t + 1) ** -0.5),
        (
            "linear_warmup_cosine",
            ["interval=epoch", "warmup_fraction=0.5", "start_factor=0.2", "min_factor=0.1"],
            lambda t: 0.2 + 0.8 * t / 15 if t < 15 else half_cosine(1, 0.1, (t - 15) / 15),
        ),
    ],
)
def test_the_keys_of_a_schedule_are_those_of_its_formula(name, overrides, closed_form, run):
    trainer = run(name, *(f"scheduler.{override}" for override in overrides))
    expected = [LR * closed_form(epoch) for epoch in range(EPOCHS)]
    assert rates(trainer)[::STEPS] == pytest.approx(expected, rel=1e-9)


def test_onecycle_moves_the_momentum_the_other_way(run):
    total = EPOCHS * STEPS
    expected = [onecycle(step, total, 0.95, 0.85, 0.95) for step in range(total)]
    assert rates(run("onecycle"), "momentum") == pytest.approx(expected, rel=1e-9)


def test_the_schedule_that_warms_up_for_no_time_starts_at_the_full_rate():
    optimizer = sgd()
    linear_warmup_cosine(optimizer, total=10, warmup_fraction=0)
    assert optimizer.param_groups[0]["lr"] == LR


@pytest.mark.parametrize(
    ("monitor", "values"),
    [
        ("val/loss", [4.0, 3.0, 3.0, 3.1, 3.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        ("val/accuracy", [0.1, 0.2, 0.2, 0.1, 0.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]),
    ],
)
def test_plateau_follows_a_trace_computed_by_hand(monitor, values, run):
    schedule = ["patience=1", "factor=0.5", "cooldown=1", "min_lr=0.03"]
    trainer = run("plateau", f"scheduler.monitor={monitor}", *(f"scheduler.{key}" for key in schedule))
    trace = []
    for value in values:
        trainer.schedule.after_epoch({monitor: value, "train/loss": 0.0})
        trace.append(trainer.optimizer.param_groups[0]["lr"] / LR)
    # Two bad epochs halve the rate, the one that follows is a cooldown, and 0.03 / 0.08 is the floor.
    assert trace == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.375, 0.375, 0.375, 0.375]


def test_plateau_waits_its_default_patience_of_5_epochs_and_takes_a_tenth(run):
    expected = [LR] * 7 + [LR / 10] * 6 + [LR / 100] * 6 + [LR / 1e3] * 6 + [LR / 1e4] * 5
    assert rates(run("plateau"))[::STEPS] == pytest.approx(expected)


# Schedules that are made of others


NESTED = {
    "one behind the other": (
        [
            "_target_=torch.optim.lr_scheduler.SequentialLR",
            "milestones=[4,10]",
            "schedulers=[{_target_:torch.optim.lr_scheduler.LinearLR,start_factor:0.2,total_iters:4},"
            "{_target_:dltrain.schedulers.LambdaLR,lr_lambda:'0.9 ** epoch'},"
            "{_target_:torch.optim.lr_scheduler.CosineAnnealingLR,T_max:20}]",
        ],
        lambda t: 0.2 + 0.2 * t if t < 4 else 0.9 ** (t - 4) if t < 10 else half_cosine(1, 0, (t - 10) / 20),
    ),
    "several at once": (
        [
            "_target_=torch.optim.lr_scheduler.ChainedScheduler",
            "schedulers=[{_target_:torch.optim.lr_scheduler.ConstantLR,factor:0.1,total_iters:5},"
            "{_target_:torch.optim.lr_scheduler.ExponentialLR,gamma:0.9}]",
        ],
        lambda t: 0.9**t * (0.1 if t < 5 else 1),
    ),
    "a sequence of a chain and a rise over the rest of the run": (
        [
            "_target_=torch.optim.lr_scheduler.SequentialLR",
            "milestones=[6]",
            "schedulers=[{_target_:torch.optim.lr_scheduler.ChainedScheduler,"
            "schedulers:[{_target_:torch.optim.lr_scheduler.ExponentialLR,gamma:0.9}]},"
            "{_target_:torch.optim.lr_scheduler.LinearLR,start_factor:0.5,total_iters:'${data.schedule_length}'}]",
        ],
        None,
    ),
}


def nested(name: str) -> list[str]:
    keys = NESTED[name][0]
    return [f"{'+' if not key.startswith('_') else ''}scheduler.{key}" for key in keys]


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", [name for name, (_, closed_form) in NESTED.items() if closed_form])
def test_a_schedule_made_of_others_equals_its_closed_form(name, interval, run):
    closed_form = NESTED[name][1]
    trainer = run("none", *nested(name), f"scheduler.interval={interval}")
    per_epoch = STEPS if interval == "epoch" else 1
    assert rates(trainer) == pytest.approx([LR * closed_form(step // per_epoch) for step in range(EPOCHS * STEPS)])


@pytest.mark.parametrize("name", NESTED)
def test_a_schedule_made_of_others_is_what_torch_makes_of_them(name, run):
    from torch.optim import lr_scheduler as torch_schedulers

    def plain(node, optimizer):
        keys = {key: value for key, value in node.items() if key not in ("_target_", "interval")}
        keys["schedulers"] = [plain(each, optimizer) for each in keys.pop("schedulers", [])] or None
        kind = node["_target_"].rpartition(".")[2]
        if kind == "LambdaLR":
            return torch_schedulers.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
        keys = {key: value for key, value in keys.items() if value is not None}
        return getattr(torch_schedulers, kind)(optimizer=optimizer, **keys)

    cfg = OmegaConf.create({"data": {"schedule_length": EPOCHS}, "scheduler": {}})
    for word in nested(name):
        OmegaConf.update(cfg, *parsed(word), force_add=True)
    with warnings.catch_warnings(action="ignore"):  # of a chain within a sequence
        scheduler = plain(OmegaConf.to_container(cfg.scheduler, resolve=True), sgd())
    expected = trace(scheduler, EPOCHS)
    assert rates(run("none", *nested(name)))[::STEPS] == expected


def parsed(word: str) -> tuple[str, object]:
    override = OverridesParser.create().parse_override(word)
    return override.key_or_group, override.value()


@pytest.mark.parametrize("name", NESTED)
def test_a_schedule_made_of_others_goes_on_from_its_saved_state(name, run):
    goes_on_from_its_saved_state(lambda: run("none", *nested(name)))


def test_the_rates_of_a_schedule_made_of_others_are_scaled_as_a_whole(run):
    whole, scaled = (run("none", *nested("one behind the other")) for _ in range(2))
    expected = rates(whole)
    before = rates(scaled, epochs=range(2))
    scaled.scale_learning_rate(0.5)
    behind = [0.5 * rate for rate in expected[2 * STEPS :]]
    assert before + rates(scaled, epochs=range(2, EPOCHS)) == pytest.approx(expected[: 2 * STEPS] + behind)


# random


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=LR)


def random_rates(count: int, **arguments) -> list[float]:
    optimizer = sgd()
    return trace(RandomLR(optimizer, **arguments), count)


def trace(scheduler: torch.optim.lr_scheduler.LRScheduler, count: int) -> list[float]:
    values = []
    for _ in range(count):
        values.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_random_changes_at_each_boundary_of_its_interval_and_there_alone(interval, run):
    values = rates(run("random", f"scheduler.interval={interval}"))
    length = 10 * (STEPS if interval == "epoch" else 1)
    pieces = [values[start : start + length] for start in range(0, len(values), length)]
    assert all(len(set(piece)) == 1 for piece in pieces)
    multipliers = [after[0] / before[0] for before, after in pairwise(pieces)]
    assert all(0.5 <= multiplier < 1 for multiplier in multipliers)
    assert len(set(multipliers)) == len(multipliers) == (2 if interval == "epoch" else 8)


@pytest.mark.parametrize("direction", ["decay", "accelerate", "both"])
def test_random_is_log_uniform_between_its_bounds(direction):
    low, high = {"decay": (0.25, 1), "accelerate": (1, 4), "both": (0.25, 4)}[direction]
    scheduler = RandomLR(sgd(), 0.25, direction=direction)
    logs = sorted(math.log(scheduler.multiplier(index)) for index in range(1, 4001))
    assert math.log(low) <= logs[0]
    assert logs[-1] <= math.log(high)
    uniform = [math.log(low) + (rank + 0.5) / 4000 * math.log(high / low) for rank in range(4000)]
    # Kolmogorov and Smirnov: 1.95 / sqrt(4000) of the range is passed by chance once in a thousand seeds.
    distance = max(abs(drawn - expected) for drawn, expected in zip(logs, uniform, strict=True))
    assert distance < 1.95 / math.sqrt(4000) * math.log(high / low)


def test_random_multiplies_its_multipliers_up():
    scheduler = RandomLR(sgd(), 0.5, boundary=2, seed=3)
    multipliers = [scheduler.multiplier(index) for index in (1, 2)]
    expected = [1, 1, multipliers[0], multipliers[0], math.prod(multipliers)]
    assert trace(scheduler, 5) == pytest.approx([LR * value for value in expected], rel=1e-12)


def test_random_follows_its_seed_whatever_else_draws():
    first = random_rates(30, boundary=2, seed=5)
    random.seed(99)
    torch.manual_seed(99)
    assert random_rates(30, boundary=2, seed=5) == first
    assert random_rates(30, boundary=2, seed=6) != first


def test_random_leaves_the_global_random_states_as_they_are():
    optimizer = sgd()
    before = random.getstate(), torch.get_rng_state()
    trace(RandomLR(optimizer, boundary=1), 3)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_random_takes_its_seed_from_the_run(run):
    assert [run("random", f"seed={seed}").schedule.scheduler.seed for seed in (1, 8)] == [1, 8]


def test_random_with_a_factor_of_1_changes_nothing():
    assert random_rates(5, factor=1, boundary=1, direction="both") == [LR] * 5


# The state of any schedule.


@pytest.mark.parametrize("name", sorted(set(options("scheduler")) - {"none"}))
def test_every_schedule_goes_on_from_its_saved_state(name, run):
    keys = {"random": ["scheduler.boundary=2"], "plateau": ["scheduler.patience=1"]}.get(name, [])
    goes_on_from_its_saved_state(lambda: run(name, *keys))


def goes_on_from_its_saved_state(make: Callable[[], Trainer]) -> None:
    whole = rates(make())
    first, second = make(), make()
    before = rates(first, epochs=range(13))
    saved = io.BytesIO()
    torch.save({"schedule": first.schedule.state_dict(), "optimizer": first.optimizer.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    second.optimizer.load_state_dict(state["optimizer"])
    second.schedule.load_state_dict(state["schedule"])
    assert second.schedule.state_dict() == first.schedule.state_dict()
    assert before + rates(second, epochs=range(13, EPOCHS)) == whole


# Expressions


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("1", lambda epoch: 1),
        ("(epoch + 1) ** -0.5", lambda epoch: (epoch + 1) ** -0.5),
        ("0.5 ** (epoch // 3)", lambda epoch: 0.5 ** (epoch // 3)),
        ("1 / (1 + 0.1 * epoch)", lambda epoch: 1 / (1 + 0.1 * epoch)),
        ("1 - epoch / 40", lambda epoch: 1 - epoch / 40),
        ("1 if epoch < 5 else 0.1", lambda epoch: 1 if epoch < 5 else 0.1),
        ("0.1 if 3 <= epoch <= 6 or epoch == 9 else 1", lambda epoch: 0.1 if 3 <= epoch <= 6 or epoch == 9 else 1),
        ("0.5 if epoch > 2 and not epoch >= 7 else 2", lambda epoch: 0.5 if epoch > 2 and not epoch >= 7 else 2),
        ("epoch % 4 != 0", lambda epoch: float(epoch % 4 != 0)),
        ("(1 + cos(pi * epoch / 20)) / 2", lambda epoch: (1 + math.cos(math.pi * epoch / 20)) / 2),
        ("exp(-epoch / 7) + abs(sin(epoch))", lambda epoch: math.exp(-epoch / 7) + abs(math.sin(epoch))),
        ("min((epoch + 1) / 5, sqrt(5 / (epoch + 1)))", lambda epoch: min((epoch + 1) / 5, (5 / (epoch + 1)) ** 0.5)),
        ("max(log(epoch + 2), +floor(2.5), ceil(0.2))", lambda epoch: max(math.log(epoch + 2), 2, 1)),
        ("  0.9 ** epoch  # decay", lambda epoch: 0.9**epoch),
        ("2 ** 3 ** -epoch", lambda epoch: 2**3**-epoch),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_expression_is_what_python_makes_of_it(text, function):
    expression = Expression(text, "epoch")
    assert [expression(epoch) for epoch in range(20)] == pytest.approx([function(epoch) for epoch in range(20)])


def test_an_expression_scales_the_initial_rate():
    scheduler = LambdaLR(sgd(), "1 / (step + 1)", "step", tried_over=4)
    assert trace(scheduler, 4) == [LR, LR / 2, LR * (1 / 3), LR / 4]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("epoch.real", "is not arithmetic"),
        ("(1).__class__", "is not arithmetic"),
        ("max.__self__", "is not arithmetic"),
        ("__import__('os').system('true')", "is not arithmetic"),
        ("__import__", "'__import__' is no name here"),
        ("eval(epoch)", "'eval' is no name here"),
        ("open(1)", "'open' is no name here"),
        ("math", "'math' is no name here"),
        ("step + 1", "'step' is no name here, the variable is epoch"),
        ("epohc + 1", "did you mean 'epoch'?"),
        ("sum([x for x in (1, 2)])", "no name here"),
        ("max([1 for _ in (1, 2)])", "is not arithmetic"),
        ("max({1: 2})", "is not arithmetic"),
        ("max((1, 2))", "is not arithmetic"),
        ("max(*[1, 2])", "is not arithmetic"),
        ("max(1, key=2)", "keyword"),
        ("'a' * 3", "is not arithmetic"),
        ("b'a'", "is not arithmetic"),
        ("f'{epoch}'", "is not arithmetic"),
        ("None", "is not arithmetic"),
        ("1j", "is not arithmetic"),
        ("lambda: 1", "without lambda"),
        ("(x := 1)", "is not arithmetic"),
        ("epoch ^ 2", "a power is **, not ^"),
        ("1 << 9999999999", "LShift"),
        ("epoch[0]", "is not arithmetic"),
        ("x = 1", "invalid syntax"),
        ("1; 2", "invalid syntax"),
        ("import os", "invalid syntax"),
        ("", "invalid syntax"),
        ("(" * 300 + ")" * 300, "too many nested parentheses"),
        ("-" * 100_000 + "1", ""),
        ("\0", "null bytes"),
        ("9" * 5000, "4300 digits"),
    ],
    ids=lambda value: value[:30].replace("\0", "null"),
)
def test_an_expression_refuses_all_but_numbers_and_arithmetic(text, cause):
    with pytest.raises(ConfigError) as caught:
        Expression(text, "epoch")
    assert str(caught.value).startswith(f"scheduler.lr_lambda='{text}': ")
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("9**9**9", "9**9**9**9", "(-9)**9**9**9", "10.0 ** 400", "1e999", "exp(1000)", "floor(1e308) * floor(1e308)"),
        *("1 / 0", "1 % 0", "log(0)", "sqrt(-1)", "(-1) ** 0.5", "-1", "1e999 - 1e999"),
        *("max", "max + 1", "max(1)", "abs(1, 2)", "pi(1)", "epoch(1)", "1(2)", "(max)(max)", "1" + " + 1" * 5000),
    ],
    ids=lambda text: text[:30],
)
def test_an_expression_without_a_finite_number_of_at_least_0_is_an_error(text):
    with pytest.raises(ConfigError, match=r"^scheduler\.lr_lambda="):
        Expression(text, "epoch")(0)


def test_a_division_by_zero_is_named_with_its_epoch_before_training(run):
    with pytest.raises(ConfigError, match=r"'epoch \*\* -0\.5': at epoch 0: it divides by zero; .*\(epoch \+ 1\)"):
        run("lambda", "scheduler.lr_lambda='epoch ** -0.5'")


def test_a_later_division_by_zero_is_found_before_training_too(run):
    with pytest.raises(ConfigError, match=r"at step 77: .*by zero$"):
        run("lambda", "scheduler.interval=step", "scheduler.lr_lambda='abs(1 / (step - 77))'")


@pytest.mark.parametrize("length", [1, 99, 100, 1999, 12_345])
def test_an_expression_is_tried_at_the_beginning_and_at_the_end_of_any_run(length):
    seen = []

    class Watched(Expression):
        def __call__(self, value: int) -> float:
            seen.append(value)
            return 1.0

    Watched("1", "step").check(length)
    assert {*range(min(length, 100)), length} <= set(seen)
    assert len(seen) <= 2100
    assert max(after - before for before, after in pairwise(seen)) <= max(length // 1000, 1)


def test_a_plateau_steps_by_its_metric_and_never_after_a_step():
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd(), patience=0)
    schedule = Schedule(scheduler, "epoch", "val/loss")
    schedule.after_step()
    assert scheduler.last_epoch == 0
    schedule.after_epoch({"val/loss": 2.0, "train/loss": 1.0})
    assert (scheduler.last_epoch, scheduler.best) == (1, 2.0)
