"""What all pictures that are PNG files have in common."""

from pathlib import Path
from typing import Any

from dltrain.system.files import written_whole


def new_figure(title: str, size: tuple[float, float]) -> Any:
    """A figure of matplotlib's, ``size`` inches wide and high."""
    # matplotlib takes a second to import; its object interface draws into a file without any window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write the picture, which is whole or not there."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
