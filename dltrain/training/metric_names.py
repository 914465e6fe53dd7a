"""The names of the metrics, known without torch: which there are for a task, and which improve as they fall."""

NAMES: dict[str, tuple[str, ...]] = {
    "classification": ("loss", "accuracy", "top5_accuracy", "precision", "recall", "f1"),  # top 5 beyond 10 classes
    "regression": ("loss", "mae", "rmse", "r2", "mae_scaled", "rmse_scaled"),
}
_LOWER_IS_BETTER = ("loss", "mae", "rmse", "mse")


def about_test(metric: str) -> str:
    """What is to be said where this metric chooses; empty unless it is of the test part."""
    part, _, name = metric.partition("/")
    if part != "test":
        return ""
    return f"{metric} chooses here, and so no longer says how well what is chosen does on new data: use val/{name}"


def lower_is_better(name: str) -> bool:
    """Whether a metric, for example ``val/loss`` or ``val/mae_scaled``, improves as it falls."""
    return name.rpartition("/")[2].removesuffix("_scaled") in _LOWER_IS_BETTER
