"""Measurements as Markdown: comparisons with their marks, and every measurement on its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# The rounds of each measurement, by its device and name, for example "cpu images.usual".
Found = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Comparison:
    """Two measurements of one figure: ``mark`` is what dltrain's part of the rival's may be at most, where it is set.

    ``seconds`` is a mark on dltrain's figure alone.
    """

    letter: str
    title: str
    figure: str
    ours: str
    rival: str
    mark: float | None = None
    seconds: float | None = None
    device: str = "cpu"

    @property
    def keys(self) -> tuple[str, str]:
        return f"{self.device} {self.ours}", f"{self.device} {self.rival}"

    def row(self, found: Found) -> list[str]:
        ours, theirs = ([measured[self.figure] for measured in found[key]] for key in self.keys)
        # A mark on memory allows for what is kept decoded on top of it.
        kept = median(measured["cached_mb"] for measured in found[self.keys[0]]) if self.figure == "peak_mb" else 0.0
        ratio = (median(ours) - kept) / median(theirs)
        mark, met = "", ""
        if self.seconds is not None:
            mark, met = f"{self.seconds:g} s", _yes(median(ours) <= self.seconds)
        elif self.mark is not None:
            mark, met = f"{self.mark:.2f}", _yes(ratio <= self.mark)
        title = f"{self.title}, less {kept:.1f} MB decoded" if kept else self.title
        rival = self.rival.partition(".")[2].replace("_", " ")
        return [
            f"({self.letter})",
            title,
            _range(self.figure, ours),
            rival,
            _range(self.figure, theirs),
            f"{ratio:.2f}",
            mark,
            met,
        ]


def comparisons(chosen: Sequence[Comparison], found: Found) -> str:
    """The marks table: medians, and the smallest and largest of the rounds where there are several."""
    header = ["", "what", "dltrain", "rival", "of the rival", "ratio", "at most", "met"]
    return _markdown(header, [comparison.row(found) for comparison in chosen])


def measurements(found: Found) -> str:
    """Every measurement: medians over the rounds."""
    figures = ("first", "epoch", "fit", "seconds", "peak_mb", "val_loss")
    header = ["measurement", "first epoch, s", "epoch, s", "fit, s", "process, s", "peak memory, MB", "val/loss"]
    rows = []
    for key, rounds in found.items():
        cells = [f"{median(one[name] for one in rounds):.4g}" if name in rounds[0] else "" for name in figures]
        rows.append([key, *cells])
    return _markdown(header, rows)


def _range(figure: str, values: Sequence[float]) -> str:
    digits, unit = (0, "MB") if figure == "peak_mb" else (3, "s")
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):.{digits}f} {unit}{spread}"


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
