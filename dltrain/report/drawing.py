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
    """Write the picture, which is whole or not there; what stands between two dollar signs is no formula in it."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with written_whole(path) as temporary, rc_context({"text.parse_math": False}):  # labels of ticks are made here
        figure.savefig(temporary, dpi=110, format="png")
