"""Pictures of what moved a network's output: red for what raised it, blue for what lowered it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dltrain.report.drawing import new_figure, save

_COLOURS = "coolwarm"
_BARS = 20


def draw_image(image: np.ndarray, attributions: np.ndarray, unit: str, title: str, path: Path) -> None:
    """An image (channels, height, width), white at 255, beside itself in grey under the attributions of its pixels."""
    from matplotlib.colors import Normalize

    figure, (plain, overlay) = _figure(title, (7.5, 3.8), 2)
    heat = attributions.sum(0)
    grey = image.astype(np.float64).mean(0)
    plain.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    overlay.imshow(grey, cmap="gray", vmin=0, vmax=255)
    limit = float(np.abs(heat).max()) or 1.0
    # What hardly matters lets the picture through.
    alpha = 0.85 * np.sqrt(np.abs(heat) / limit)
    drawn = overlay.imshow(heat, cmap=_COLOURS, norm=Normalize(-limit, limit), alpha=alpha)
    for axes in (plain, overlay):
        axes.set_axis_off()
    figure.colorbar(drawn, ax=overlay, label=f"attribution {unit}", alpha=1)
    save(figure, path)


def draw_bars(names: Sequence[str], attributions: np.ndarray, unit: str, title: str, path: Path) -> None:
    """The largest of the attributions (features,), the largest on top."""
    order = np.argsort(-np.abs(attributions), kind="stable")[:_BARS][::-1]
    figure, (axes,) = _figure(title, (7, 1.4 + 0.3 * len(order)), 1)
    values = attributions[order]
    axes.barh([names[place] for place in order], values, color=np.where(values < 0, "#3b4cc0", "#b40426"))
    axes.axvline(0, color="0.4", linewidth=1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"attribution {unit}")
    save(figure, path)


def draw_series(
    names: Sequence[str], values: np.ndarray, attributions: np.ndarray, unit: str, title: str, path: Path
) -> None:
    """A window: ``values`` (steps, features) as the model reads them, over a heat map of the attributions."""
    figure, (above, below) = _figure(title, (8, 3.4 + 0.25 * len(names)), 2, rows=True)
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
    save(figure, path)


def _figure(title: str, size: tuple[float, float], panels: int, rows: bool = False) -> tuple[Any, list[Any]]:
    figure = new_figure(title, size)
    shape = (panels, 1) if rows else (1, panels)
    return figure, list(figure.subplots(*shape, squeeze=False, sharex=rows).flat)
