"""``compare.html``: several runs on one page, their curves over one another."""

from collections.abc import Mapping, Sequence
from typing import Any

from dltrain.report.charts import Chart, line, number, thinned
from dltrain.report.html import escaped, figure, page, section, table
from dltrain.report.metrics import leading, lower_is_better
from dltrain.report.page import places
from dltrain.report.story import Rows


def render_comparison(
    names: Sequence[str],
    config: Mapping[str, Sequence[Any]],
    metrics: Mapping[str, Sequence[float | None]],
    best: Mapping[str, Sequence[int]],
    histories: Sequence[Rows],
) -> str:
    """The page as HTML; every value is one of a run in the order of ``names``."""
    heads = [escaped(name) for name in names]
    figures = [
        [escaped(name), *(_marked(figure(value), index in best[name]) for index, value in enumerate(values))]
        for name, values in metrics.items()
    ]
    keys = [[escaped(key), *(escaped(_text(value)) for value in values)] for key, values in config.items()]
    charts = curves(names, histories)
    body = "\n".join(
        (
            f"<header><h1>{len(names)} runs compared</h1></header>",
            section("Metrics", table(["metric", *heads], figures, "figures") if figures else ""),
            section("Configuration: what differs", table(["key", *heads], keys) if keys else _SAME),
            section("Curves", places(charts, 0)),
        )
    )
    return page(f"{len(names)} runs compared", body, charts)


_SAME = '<p class="soft">The configurations are the same.</p>'


def curves(names: Sequence[str], histories: Sequence[Rows]) -> list[Chart]:
    """A chart for the first metric of each kind and for the learning rate, with a curve for each run."""
    histories = [thinned(rows, None) if rows else [] for rows in histories]
    epochs = sorted({int(row["epoch"]) for rows in histories for row in rows})
    names_of_all = list(dict.fromkeys(name for rows in histories if rows for name in rows[0]))
    charts = []
    for metric in [*leading(names_of_all), *(["lr"] if "lr" in names_of_all else [])]:
        series = []
        for name, rows in zip(names, histories, strict=True):
            values = {int(row["epoch"]): number(row.get(metric)) for row in rows}
            series.append({"name": name, "values": [values.get(epoch) for epoch in epochs]})
        title = "learning rate" if metric == "lr" else metric
        # Joined, because long runs have lost some epochs.
        charts.append({**line(title, "epoch", epochs, series), "joined": True, "lower": lower_is_better(metric)})
    return charts


def _marked(text: str, best: bool) -> str:
    return f'<span class="best">{text}</span>' if best else text


def _text(value: Any) -> str:
    return "–" if value is None else str(value)
