"""Tables of the verbs on a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dltrain.errors import to_type
from dltrain.report.figures import confusions, figure
from dltrain.report.metrics import labelled
from dltrain.system.answer import stdout
from dltrain.system.console import Console, in_one_line, styled

_WIDEST_MATRIX = 20  # classes; of more, the most frequent confusions are listed
_CONFUSIONS = 15
_WIDEST_ROW = 8  # columns


def show_evaluation(answer: Mapping[str, Any]) -> None:
    """Metrics, classes or steps, and the confusion matrix."""
    console = Console(file=stdout())
    figures = Table(header_style="bold")
    figures.add_column("metric")
    figures.add_column(answer["split"], justify="right")
    for name, value in answer["metrics"].items():
        figures.add_row(labelled(name), figure(value))
    console.print(figures)
    if "classes" in answer:
        console.print(_classes(answer["classes"]))
        console.print(_confusion(answer["confusion_matrix"], [row["name"] for row in answer["classes"]]))
    if "steps" in answer:
        console.print(_steps(answer["steps"], answer["target"]))
    console.print(
        f"{answer['samples']:,} samples, {in_one_line(answer['checkpoint'])} (epoch {answer['epoch']})", soft_wrap=True
    )


def _classes(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(header_style="bold")
    table.add_column("class")
    for name in ("precision", "recall", "f1", "support"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (figure(row[name]) for name in ("precision", "recall", "f1", "support"))
        table.add_row(in_one_line(row["name"]), *figures)
    return table


def _confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Table:
    """The matrix, or the most frequent confusions where it would not fit a screen."""
    if len(names) > _WIDEST_MATRIX:
        return _confusions(matrix, names)
    table = Table(header_style="bold", title="rows: true class, columns: predicted class", title_style="dim")
    table.add_column("")
    for name in names:
        table.add_column(in_one_line(name), justify="right")
    for row, counts in enumerate(matrix):
        cells = [
            styled(str(count) if count else "·", ("green" if row == column else "red") if count else "dim")
            for column, count in enumerate(counts)
        ]
        table.add_row(styled(names[row], "bold"), *cells)
    return table


def _confusions(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Table:
    table = Table(header_style="bold", title="most frequent confusions", title_style="dim")
    for heading in ("true class", "predicted class", "samples"):
        table.add_column(heading)
    for count, true, predicted in confusions(matrix, names)[:_CONFUSIONS]:
        table.add_row(in_one_line(true), in_one_line(predicted), figure(count))
    return table


def _steps(rows: Sequence[Mapping[str, float]], target: str) -> Table:
    table = Table(header_style="bold", title=f"errors in units of {in_one_line(target)}", title_style="dim")
    for heading in ("step ahead", "mae", "rmse"):
        table.add_column(heading, justify="right")
    for step, row in enumerate(rows, 1):
        table.add_row(str(step), figure(row["mae"]), figure(row["rmse"]))
    return table


def show_predictions(columns: Sequence[str], rows: Sequence[Sequence[Any]], count: int, out: Path | None) -> None:
    """The first rows, without probabilities where there are too many columns."""
    console = Console(file=stdout())
    names = [name for name in columns if len(columns) <= _WIDEST_ROW or not name.startswith("p_")]
    table = Table(header_style="bold")
    for name in names:
        table.add_column(in_one_line(name), overflow="fold", justify="left" if name in ("input", "class") else "right")
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        table.add_row(*(_cell(cells[name]) for name in names))
    console.print(table)
    where = f" in {in_one_line(str(out))}" if out else ""
    shown = f", {len(rows)} of them shown here" if count > len(rows) else ""
    hint = "" if out else "; keep all of them with out=FILE.csv, .jsonl or .parquet"
    console.print(f"{count:,} rows{where}{shown}{hint}", soft_wrap=True)


def _cell(value: Any) -> str:
    return figure(value) if isinstance(value, float) else in_one_line(str(value))


def show_comparison(
    names: Sequence[str],
    config: Mapping[str, Sequence[Any]],
    metrics: Mapping[str, Sequence[float | None]],
    best: Mapping[str, Sequence[int]],
) -> None:
    """Keys and metrics, a column a run; the best value of each metric is marked."""
    console = Console(file=stdout())
    keys = Table(header_style="bold", title="what differs in the configuration", title_style="dim")
    figures = Table(
        header_style="bold", title="metrics of the best epoch (val) and of the test part", title_style="dim"
    )
    for table, first in ((keys, "key"), (figures, "metric")):
        table.add_column(first)
        for name in names:
            table.add_column(in_one_line(name), justify="right", overflow="fold")
    for key, values in config.items():
        keys.add_row(in_one_line(key), *("–" if value is None else in_one_line(str(value)) for value in values))
    for name, numbers in metrics.items():
        cells = enumerate(map(figure, numbers))
        marked = [styled(f"{cell} *", "bold green") if index in best[name] else cell for index, cell in cells]
        figures.add_row(in_one_line(labelled(name)), *marked)
    console.print(keys if config else "the configurations are the same")
    console.print(figures if metrics else "no run has a result yet")


def show_shards(answer: Mapping[str, Any]) -> None:
    """How many images and files each part has, and how to train on them."""
    console = Console(file=stdout())
    table = Table(header_style="bold")
    table.add_column("part")
    for name in ("images", "shards"):
        table.add_column(name, justify="right")
    for part, count in answer["samples"].items():
        table.add_row(part, f"{count:,}", f"{answer['shards'][part]:,}")
    console.print(table)
    root = to_type("dataset.root", answer["out"])
    console.print(f"to train on them: dltrain dataset=shards {root}", soft_wrap=True)
