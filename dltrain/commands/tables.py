"""Tables of the verbs on a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from dltrain.errors import in_one_line, to_type
from dltrain.report.figures import confusions, figure
from dltrain.report.metrics import labelled
from dltrain.system.answer import stdout
from dltrain.system.console import Console, styled

_WIDEST_MATRIX = 20  # classes; of more, the most frequent confusions are listed
_CONFUSIONS = 15
_WIDEST_ROW = 8  # columns


def _table(headings: Sequence[str], rows: Iterable[Iterable[Any]], title: str = "", words: Sequence[str] = ()) -> Table:
    """A table whose first column, and those headed by ``words``, are text; the others are numbers."""
    table = Table(header_style="bold", title=title or None, title_style="dim")
    for place, heading in enumerate(headings):
        justify = "left" if place == 0 or heading in words else "right"
        table.add_column(in_one_line(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else in_one_line(figure(cell)) for cell in row))
    return table


def show_evaluation(answer: Mapping[str, Any]) -> None:
    """Metrics, classes or steps, and the confusion matrix."""
    console = Console(file=stdout())
    metrics = ((labelled(name), value) for name, value in answer["metrics"].items())
    console.print(_table(["metric", answer["split"]], metrics))
    if classes := answer.get("classes"):
        columns = list(classes[0])
        console.print(_table(["class", *columns[1:]], (row.values() for row in classes)))
        console.print(_confusion(answer["confusion_matrix"], [row["name"] for row in classes]))
    if "steps" in answer:
        rows = ((step, row["mae"], row["rmse"]) for step, row in enumerate(answer["steps"], 1))
        console.print(
            _table(["step ahead", "mae", "rmse"], rows, f"errors in units of {in_one_line(answer['target'])}")
        )
    console.print(
        f"{answer['samples']:,} samples, {in_one_line(answer['checkpoint'])} (epoch {answer['epoch']})", soft_wrap=True
    )


def _confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Table:
    """The matrix, or the most frequent confusions where it would not fit a screen."""
    if len(names) > _WIDEST_MATRIX:
        rows = ((true, predicted, count) for count, true, predicted in confusions(matrix, names)[:_CONFUSIONS])
        headings = ["true class", "predicted class", "samples"]
        return _table(headings, rows, "most frequent confusions", words=headings)
    cells = [
        [styled(names[true], "bold"), *(_count(count, true == predicted) for predicted, count in enumerate(counts))]
        for true, counts in enumerate(matrix)
    ]
    return _table(["", *names], cells, "rows: true class, columns: predicted class")


def _count(count: int, right: bool) -> Text:
    return styled(str(count), "green" if right else "red") if count else styled("·", "dim")


def show_predictions(columns: Sequence[str], rows: Sequence[Sequence[Any]], count: int, out: Path | None) -> None:
    """The first rows, without probabilities where there are too many columns."""
    console = Console(file=stdout())
    places = [place for place, name in enumerate(columns) if len(columns) <= _WIDEST_ROW or not name.startswith("p_")]
    headings = [columns[place] for place in places]
    cells = ([row[place] if isinstance(row[place], float) else str(row[place]) for place in places] for row in rows)
    console.print(_table(headings, cells, words=("input", "class")))
    where = f" in {in_one_line(str(out))}" if out else ""
    shown = f", {len(rows)} of them shown here" if count > len(rows) else ""
    hint = "" if out else "; keep all of them with out=FILE.csv, .jsonl or .parquet"
    console.print(f"{count:,} rows{where}{shown}{hint}", soft_wrap=True)


def show_comparison(
    names: Sequence[str],
    config: Mapping[str, Sequence[Any]],
    metrics: Mapping[str, Sequence[float | None]],
    best: Mapping[str, Sequence[int]],
) -> None:
    """Keys and metrics, a column for each run; the best value of each metric is marked."""
    console = Console(file=stdout())
    keys = ((key, *(None if value is None else str(value) for value in values)) for key, values in config.items())
    figures = (
        (
            labelled(name),
            *(
                styled(f"{figure(value)} *", "bold green") if index in best[name] else value
                for index, value in enumerate(values)
            ),
        )
        for name, values in metrics.items()
    )
    if config:
        console.print(_table(["key", *names], keys, "what differs in the configuration"))
    else:
        console.print("the configurations are the same")
    if metrics:
        console.print(_table(["metric", *names], figures, "metrics of the best epoch (val) and of the test part"))
    else:
        console.print("no run has a result yet")


def show_shards(answer: Mapping[str, Any]) -> None:
    """How many images and files each part has, and how to train on them."""
    console = Console(file=stdout())
    rows = ((part, count, answer["shards"][part]) for part, count in answer["samples"].items())
    console.print(_table(["part", "images", "shards"], rows))
    root = to_type("dataset.root", answer["out"])
    console.print(f"to train on them: dltrain dataset=shards {root}", soft_wrap=True)
