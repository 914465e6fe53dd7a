"""``curves.png``: losses, the main metric and the learning rate over the epochs."""

from collections.abc import Sequence
from pathlib import Path

from dltrain.report.drawing import new_figure, save
from dltrain.report.metrics import metric_of


def draw_curves(history: Sequence[dict[str, float]], best_epoch: int, title: str, path: Path) -> None:
    """Draw ``history``, a row of metrics an epoch, as a PNG file; the best epoch is marked."""
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    panels = [[name for name in history[0] if name.endswith("/loss")], _headlines(list(history[0])), ["lr"]]
    panels = [names for names in panels if names]
    figure = new_figure(title, (4.4 * len(panels), 3.6))
    for axes, names in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in names:
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, [row[name] for row in history], label=name, marker=marker)
        if best_epoch:
            axes.axvline(best_epoch, color="0.7", linewidth=1, linestyle="--", label=f"best epoch ({best_epoch})")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)


def _headlines(names: Sequence[str]) -> list[str]:
    """The metric to look at besides the loss: accuracy for classification, the error in its units for regression."""
    return [name for name in names if metric_of(name).level == "headline" and not name.endswith("/loss")]
