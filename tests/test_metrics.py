"""Metrics against scikit-learn, over batches of different sizes, and the best epoch by them."""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from dltrain.data.base import Facts
from dltrain.report.metrics import all_names, by_chart, declare, labelled, leading, lower_is_better, summary
from dltrain.training.metrics import ClassificationMetrics, MeanLoss, Metrics, RegressionMetrics, metrics_for
from dltrain.training.monitor import Best, EarlyStopping

CPU = torch.device("cpu")
SIZES = (1, 50, 7, 2, 40)


def over_batches(metrics: Metrics, outputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> dict[str, float]:
    sizes = SIZES if len(targets) == sum(SIZES) else (len(targets),)
    for part, part_targets in zip(outputs.split(sizes), targets.split(sizes), strict=True):
        metrics.update(part, part_targets, loss(part, part_targets))
    return metrics.compute()


def classified(
    classes: int, seed: int = 0, occurring: int | None = None
) -> tuple[dict[str, float], ClassificationMetrics, Tensor, Tensor]:
    """The metrics of a classifier that is right about half the time, with what they were computed from."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(occurring or classes, (sum(SIZES),), generator=generator)
    outputs = torch.randn(len(targets), classes, generator=generator)
    outputs += 1.5 * torch.eye(classes)[targets]
    metrics = ClassificationMetrics(facts("classification", classes), CPU)
    values = over_batches(metrics, outputs, targets, torch.nn.functional.cross_entropy)
    return values, metrics, outputs, targets


@pytest.mark.parametrize("classes", [2, 3, 10, 30])
def test_accuracy_and_macro_precision_recall_and_f1_equal_scikit_learns(classes):
    values, _, outputs, targets = classified(classes)
    predicted = outputs.argmax(1)
    assert values["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(targets, predicted), abs=1e-12)
    expected = sklearn_metrics.precision_recall_fscore_support(targets, predicted, average="macro", zero_division=0)
    assert [values[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3], abs=1e-12)


def test_macro_averages_leave_out_classes_that_never_occur_as_scikit_learn_does():
    values, _, outputs, targets = classified(90, occurring=4)
    predicted = outputs.argmax(1)
    expected = sklearn_metrics.precision_recall_fscore_support(targets, predicted, average="macro", zero_division=0)
    assert 4 < len(set(targets.tolist()) | set(predicted.tolist())) < 90
    assert [values[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3], abs=1e-12)


def test_the_confusion_matrix_equals_scikit_learns_with_true_classes_as_rows():
    _, metrics, outputs, targets = classified(5)
    expected = sklearn_metrics.confusion_matrix(targets, outputs.argmax(1), labels=range(5))
    assert metrics.confusion.tolist() == expected.tolist()
    assert not torch.equal(metrics.confusion, metrics.confusion.T)


def test_top_5_accuracy_equals_scikit_learns():
    values, _, outputs, targets = classified(30)
    expected = sklearn_metrics.top_k_accuracy_score(targets, outputs, k=5, labels=range(30))
    assert values["accuracy"] < values["top5_accuracy"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("classes", "present"), [(10, False), (11, True)])
def test_top_5_accuracy_is_there_for_more_than_10_classes(classes, present):
    values, metrics, _, _ = classified(classes)
    assert ("top5_accuracy" in values) == present
    assert tuple(values) == metrics.names


def test_the_loss_is_the_mean_over_samples():
    values, _, outputs, targets = classified(3)
    expected = torch.nn.functional.cross_entropy(outputs.double(), targets).item()
    assert values["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_single_class_that_is_always_right_scores_1():
    metrics = ClassificationMetrics(facts("classification", 3), CPU)
    values = over_batches(metrics, torch.eye(3)[[1, 1]], torch.tensor([1, 1]), torch.nn.functional.cross_entropy)
    assert [values[name] for name in ("accuracy", "precision", "recall", "f1")] == [1.0] * 4


def test_a_single_class_that_is_always_wrong_scores_0():
    metrics = ClassificationMetrics(facts("classification", 3), CPU)
    values = over_batches(metrics, torch.eye(3)[[2, 2]], torch.tensor([1, 1]), torch.nn.functional.cross_entropy)
    assert [values[name] for name in ("accuracy", "precision", "recall", "f1")] == [0.0] * 4


def test_outputs_that_are_not_numbers_make_the_loss_nan_and_count_as_predictions():
    metrics = ClassificationMetrics(facts("classification", 3), CPU)
    outputs = torch.full((4, 3), math.nan)
    values = over_batches(metrics, outputs, torch.tensor([0, 1, 2, 2]), torch.nn.functional.cross_entropy)
    assert math.isnan(values["loss"])
    assert int(metrics.confusion.sum()) == 4


def regressed(outputs: Tensor, targets: Tensor, target_std: float = 1.0) -> dict[str, float]:
    metrics = RegressionMetrics(facts("regression", targets.shape[1], target_std), CPU)
    return over_batches(metrics, outputs, targets, torch.nn.functional.mse_loss)


def forecast(num_outputs: int, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Outputs and targets of a model that explains most of the variance."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(sum(SIZES), num_outputs, generator=generator) + offset
    return targets + 0.4 * torch.randn(targets.shape, generator=generator), targets


@pytest.mark.parametrize("num_outputs", [1, 4])
def test_mae_rmse_and_r2_equal_scikit_learns(num_outputs):
    outputs, targets = forecast(num_outputs)
    values = regressed(outputs, targets)
    outputs, targets = outputs.double(), targets.double()
    assert values["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(targets, outputs), rel=1e-12)
    mse = sklearn_metrics.mean_squared_error(targets, outputs)
    assert values["rmse"] == pytest.approx(math.sqrt(mse), rel=1e-12)
    assert values["r2"] == pytest.approx(sklearn_metrics.r2_score(targets, outputs), rel=1e-12)
    assert values["loss"] == pytest.approx(mse, rel=1e-6)


def test_errors_are_in_original_units_and_in_standard_deviations():
    outputs, targets = forecast(2)
    scaled, original = regressed(outputs, targets), regressed(outputs, targets, target_std=77.0)
    assert (original["mae"], original["rmse"]) == (77 * scaled["mae"], 77 * scaled["rmse"])
    assert (original["mae_scaled"], original["rmse_scaled"]) == (scaled["mae"], scaled["rmse"])
    assert original["r2"] == scaled["r2"]


def test_r2_survives_a_large_common_offset():
    outputs, targets = forecast(1, offset=1e5)
    expected = sklearn_metrics.r2_score(targets.double(), outputs.double())
    assert regressed(outputs, targets)["r2"] == pytest.approx(expected, rel=1e-9)


def test_an_output_whose_target_never_changes_is_left_out_of_r2():
    outputs, targets = forecast(2)
    targets[:, 1] = 3.1
    expected = sklearn_metrics.r2_score(targets[:, 0].double(), outputs[:, 0].double())
    assert regressed(outputs, targets)["r2"] == pytest.approx(expected, rel=1e-12)


def test_r2_is_nan_when_no_target_changes():
    values = regressed(torch.zeros(5, 1), torch.full((5, 1), 0.1))
    assert math.isnan(values["r2"])
    assert values["mae"] == pytest.approx(0.1)


def test_one_output_that_is_not_a_number_makes_every_error_nan():
    outputs, targets = forecast(2)
    outputs[3, 0] = math.nan
    assert all(math.isnan(value) for value in regressed(outputs, targets).values())


def test_sums_are_kept_in_float64():
    mean = MeanLoss(CPU)
    for loss in (2.0**24, 1.0):  # float32 cannot hold their sum
        mean.update(torch.tensor(loss), 1)
    assert mean.compute() * 2 == 2**24 + 1


def test_the_errors_of_a_regression_are_summed_in_float64():
    values = regressed(torch.tensor([[2.0**24], [1.0], [0.0]]), torch.zeros(3, 1))
    assert values["mae"] * 3 == 2**24 + 1


def test_a_float16_loss_times_a_large_batch_stays_finite():
    mean = MeanLoss(CPU)
    mean.update(torch.tensor(60000.0, dtype=torch.float16), 4096)
    assert mean.compute() == 60000


def test_the_mean_of_nothing_is_nan():
    assert math.isnan(MeanLoss(CPU).compute())


def facts(task: str, num_outputs: int, target_std: float = 2.0) -> Facts:
    return Facts("test", task, "table", (4,), num_outputs, target_std=target_std)


@pytest.mark.parametrize(
    ("metric", "lower"),
    [(name, True) for name in ("loss", "mae", "rmse", "mae_scaled", "rmse_scaled")]
    + [(name, False) for name in ("accuracy", "top5_accuracy", "precision", "recall", "f1", "r2")],
)
def test_a_metrics_name_says_whether_low_is_good(metric, lower):
    names = {*metrics_for(facts("classification", 11), CPU).names, *metrics_for(facts("regression", 1), CPU).names}
    assert metric in names
    assert lower_is_better(f"val/{metric}") == lower_is_better(metric) == lower


def test_the_task_chooses_the_metrics_and_the_data_their_units():
    assert isinstance(metrics_for(facts("classification", 3), CPU), ClassificationMetrics)
    regression = metrics_for(facts("regression", 3), CPU)
    assert isinstance(regression, RegressionMetrics)
    assert regression.facts.target_std == 2.0


def improvements(best: Best, values: list[float]) -> list[bool]:
    return [best.update(epoch, {best.monitor: value}) for epoch, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("monitor", "values", "expected", "best_epoch"),
    [
        ("val/loss", [3.0, 2.0, 2.0, 2.5, 1.0], [True, True, False, False, True], 5),
        ("val/accuracy", [0.1, 0.3, 0.3, 0.2, 0.4], [True, True, False, False, True], 5),
        ("val/loss", [math.nan, 2.0, math.nan, 1.0], [False, True, False, True], 4),
        ("val/loss", [math.inf, 2.0], [True, True], 2),
        ("val/r2", [-5.0, -7.0, math.nan], [True, False, False], 1),
        ("val/loss", [math.nan, math.nan], [False, False], 0),
    ],
    ids=["falls", "rises", "nan", "infinite", "below zero", "only nan"],
)
def test_best_is_the_first_epoch_of_the_best_value(monitor, values, expected, best_epoch):
    best = Best(monitor)
    assert improvements(best, values) == expected
    assert best.epoch == best_epoch
    assert best_epoch == 0 or best.value == values[best_epoch - 1]


@pytest.mark.parametrize(
    ("monitor", "values"), [("val/loss", [1.0, 0.75, 0.5, 0.25]), ("val/accuracy", [0.0, 0.25, 0.5, 0.75])]
)
def test_an_improvement_must_be_larger_than_min_delta(monitor, values):
    assert improvements(Best(monitor, min_delta=0.25), values) == [True, False, True, False]


def stop_epoch(stopping: EarlyStopping, values: list[float]) -> int | None:
    for epoch, value in enumerate(values, 1):
        stopping.update(epoch, {stopping.best.monitor: value})
        if stopping.should_stop:
            return epoch
    return None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0, 4.0, 4.5, 4.5, 4.5], 5),
        ([5.0, 6.0, 6.0, 4.0, 5.0, 5.0], None),
        ([5.0, 5.0, 5.0, 5.0], 4),
        ([math.nan, math.nan, math.nan], 3),
        ([5.0, math.nan, math.nan, math.nan], 4),
    ],
    ids=["worse", "in time", "equal", "only nan", "nan"],
)
def test_early_stopping_says_stop_after_patience_epochs_that_are_not_better(values, expected):
    assert stop_epoch(EarlyStopping(Best("val/loss"), patience=3), values) == expected


def test_early_stopping_goes_on_from_the_epochs_before():
    first, values = EarlyStopping(Best("val/loss"), patience=3), [5.0, 4.0, 4.5]
    assert stop_epoch(first, values) is None
    second = EarlyStopping(Best("val/loss"), patience=3).after(
        [{"epoch": epoch, "val/loss": value} for epoch, value in enumerate(values, 1)]
    )
    assert second == first
    second.update(4, {"val/loss": 4.5})
    assert not second.should_stop
    second.update(5, {"val/loss": 4.5})
    assert second.should_stop


def test_a_metric_of_ones_own_says_how_it_is_read():
    declare({"pinball": {"better": "lower", "unit": "target", "chart": "Error"}, "skill": {"better": "higher"}})
    columns = ["epoch", "lr", "train/loss", "val/loss", "val/mae", "val/mae_scaled", "val/pinball", "val/skill"]
    assert by_chart(columns, "price") == {
        "Loss": ["train/loss", "val/loss"],
        "Error in units of price": ["val/mae", "val/pinball"],
        "skill": ["val/skill"],
        "Learning rate": ["lr"],
    }
    assert leading(columns) == ["train/loss", "val/loss", "val/mae", "val/skill"]
    assert summary(["loss", "mae", "mae_scaled", "skill"]) == ["mae", "skill", "loss"]
    assert (labelled("val/pinball"), labelled("val/skill")) == ("val/pinball ↓", "val/skill ↑")


@pytest.mark.parametrize("nodes", [None, "text", [1], {"a": 3}, {"a": {"better": []}}, {"a": {"better": "up"}}])
def test_what_declares_no_metric_is_passed_over(nodes):
    before = all_names()
    declare(nodes)
    assert all_names() == before
