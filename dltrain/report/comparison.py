"""``compare.html``: several runs on one page, with their curves in the same charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from dltrain.report.charts import Chart, overlaid
from dltrain.report.content import Rows
from dltrain.report.html import escaped, figure, page, places, section, table
from dltrain.report.metrics import leading


def render_comparison(
    names: Sequence[str],
    config: Mapping[str, Sequence[Any]],
    metrics: Mapping[str, Sequence[float | None]],
    best: Mapping[str, Sequence[int]],
    histories: Sequence[Rows],
) -> str:
    """The page as HTML; each sequence has a value for each of the ``names``."""
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
            section("Curves", places(charts)),
        )
    )
    return page(f"{len(names)} runs compared", body, charts)


_SAME = '<p class="soft">The configurations are the same.</p>'


def curves(names: Sequence[str], histories: Sequence[Rows]) -> list[Chart]:
    """A chart for the first metric of each kind and for the learning rate, with a curve for each run."""
    columns = list(dict.fromkeys(name for rows in histories if rows for name in rows[0]))
    charts = [overlaid(names, histories, metric, metric) for metric in leading(columns)]
    return charts + ([overlaid(names, histories, "lr", "learning rate")] if "lr" in columns else [])


def _marked(text: str, best: bool) -> str:
    return f'<span class="best">{text}</span>' if best else text


def _text(value: Any) -> str:
    return "–" if value is None else str(value)
