"""Pictures as PNG files: the curves of a run, and what in an input moved a network's output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dltrain.report.metrics import metric_of
from dltrain.system.files import written_whole

_COLOURS = "coolwarm"  # red for what raised the output, blue for what lowered it
_BARS = 20


def draw_curves(history: Sequence[dict[str, float]], best_epoch: int, title: str, path: Path) -> None:
    """Losses, the main metric and the learning rate of ``history``, a row for each epoch; the best epoch is marked."""
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    panels = [[name for name in history[0] if name.endswith("/loss")], _headlines(list(history[0])), ["lr"]]
    panels = [names for names in panels if names]
    figure = _new_figure(title, (4.4 * len(panels), 3.6))
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
    _save(figure, path)


def _headlines(names: Sequence[str]) -> list[str]:
    """The metric to look at besides the loss: accuracy for classification, the error in its units for regression."""
    return [name for name in names if metric_of(name).level == "headline" and not name.endswith("/loss")]


def draw_image(image: np.ndarray, attributions: np.ndarray, unit: str, title: str, path: Path) -> None:
    """An image (channels, height, width), white at 255, and the attributions of its pixels over it in grey."""
    from matplotlib.colors import Normalize

    figure = _new_figure(title, (7.5, 3.8))
    plain, overlay = figure.subplots(1, 2)
    heat = attributions.sum(0)
    grey = image.astype(np.float64).mean(0)
    plain.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    overlay.imshow(grey, cmap="gray", vmin=0, vmax=255)
    limit = float(np.abs(heat).max()) or 1.0
    # Pixels that hardly matter let the picture through.
    alpha = 0.85 * np.sqrt(np.abs(heat) / limit)
    drawn = overlay.imshow(heat, cmap=_COLOURS, norm=Normalize(-limit, limit), alpha=alpha)
    for axes in (plain, overlay):
        axes.set_axis_off()
    figure.colorbar(drawn, ax=overlay, label=f"attribution {unit}", alpha=1)
    _save(figure, path)


def draw_bars(names: Sequence[str], attributions: np.ndarray, unit: str, title: str, path: Path) -> None:
    """The largest of the attributions (features,), the largest on top."""
    order = np.argsort(-np.abs(attributions), kind="stable")[:_BARS][::-1]
    figure = _new_figure(title, (7, 1.4 + 0.3 * len(order)))
    axes = figure.subplots()
    values = attributions[order]
    axes.barh([names[place] for place in order], values, color=np.where(values < 0, "#3b4cc0", "#b40426"))
    axes.axvline(0, color="0.4", linewidth=1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"attribution {unit}")
    _save(figure, path)


def draw_series(
    names: Sequence[str], values: np.ndarray, attributions: np.ndarray, unit: str, title: str, path: Path
) -> None:
    """A window: ``values`` (steps, features) as the model reads them, over a heat map of the attributions."""
    figure = _new_figure(title, (8, 3.4 + 0.25 * len(names)))
    above, below = figure.subplots(2, 1, sharex=True)
    steps = np.arange(-len(values), 0)
    for place, name in enumerate(names):
        above.plot(steps, values[:, place], label=name)
    above.set_ylabel("standardised")
    above.grid(alpha=0.3)
    above.margins(x=0)
    if len(names) <= _BARS:
        above.legend()
    limit = float(np.abs(attributions).max()) or 1.0
    extent = (steps[0] - 0.5, -0.5, len(names) - 0.5, -0.5)
    drawn = below.imshow(
        attributions.T, cmap=_COLOURS, vmin=-limit, vmax=limit, aspect="auto", extent=extent, interpolation="nearest"
    )
    below.set_yticks(range(len(names)), names)
    below.set_xlabel("steps before the forecast")
    figure.colorbar(drawn, ax=(above, below), label=f"attribution {unit}")
    _save(figure, path)


def _new_figure(title: str, size: tuple[float, float]) -> Any:
    """A matplotlib figure, ``size`` inches wide and high."""
    # matplotlib takes a second to import; its object interface draws into a file without any window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure


def _save(figure: Any, path: Path) -> None:
    """Write the picture whole or not at all; text between two dollar signs is no formula."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with written_whole(path) as temporary, rc_context({"text.parse_math": False}):  # labels of ticks are made here
        figure.savefig(temporary, dpi=110, format="png")
