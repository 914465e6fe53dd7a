"""``report.html``, one run on one page, the outcome first; and ``compare.html``, several with their curves together."""

from collections.abc import Mapping, Sequence
from typing import Any

from dltrain.report.content import Chart, Content, Mistake, Rows, charts_of_test, charts_of_training, overlaid
from dltrain.report.figures import confusions, duration
from dltrain.report.html import escaped, facts, figure, page, picture, places, section, table
from dltrain.report.metrics import leading, summary

_WIDEST_MATRIX = 25  # classes; of more, the most frequent confusions are listed
_CONFUSIONS = 20
_TILES = 4


def render(content: Content) -> str:
    """The page as HTML."""
    best = content.result.get("best", {}).get("epoch")
    curves = charts_of_training(content.history, best, content.target)
    tested = charts_of_test(content, content.test) if content.test else []
    body = "\n".join(
        (
            _header(content),
            section("Outcome", _outcome(content), _metrics(content), _notes(content)),
            section("Training", places(curves)),
            section("Test", places(tested, len(curves)), _seen(content), _by_class(content)),
            section("Most confident mistakes", _mistakes(content)),
            section("Configuration", _changed(content), _everything(content)),
            section("To repeat it", _command(content)),
            section("Environment and timings", facts([*_environment(content), *_timings(content)])),
        )
    )
    return page(f"{content.name} · {content.model}", body, curves + tested)


def _header(content: Content) -> str:
    status = content.result.get("status", "running")
    started = str(content.environment.get("started", "")).replace("T", " ")
    words = (started, content.environment.get("device_name") or content.environment.get("device"))
    line = " · ".join(escaped(word) for word in words if word)
    return (
        f'<header><h1>{escaped(content.name)} <span class="soft">{escaped(content.model)}</span>'
        f' <span class="status {escaped(status)}">{escaped(status)}</span></h1>'
        f'<p class="soft">{line}<br><span class="path">{escaped(content.result.get("run", ""))}</span></p></header>'
    )


def _outcome(content: Content) -> str:
    """A few large numbers: the test metrics, or while there are none those of the best epoch so far."""
    result, best = content.result, content.result.get("best", {})
    part, metrics = ("test", result["test"]) if result.get("test") else ("validation", best.get("val", {}))
    tiles = [(f"{part} {name}", figure(metrics[name])) for name in summary(metrics)[:_TILES]]
    if not tiles and content.history:
        tiles = [("training loss", figure(content.history[-1].get("train/loss")))]
    if best:
        tiles.append((f"best epoch, by {best['monitor']}", figure(best["epoch"])))
    elif content.history:
        tiles.append(("epochs so far", figure(len(content.history))))
    tiles.append(("duration", duration(result.get("seconds"))))
    boxes = "".join(f'<div class="tile"><b>{value}</b><span>{escaped(name)}</span></div>' for name, value in tiles)
    error = f'<p class="bad">{escaped(result["error"])}</p>' if result.get("error") else ""
    return f'{error}<div class="tiles">{boxes}</div>'


def _metrics(content: Content) -> str:
    val, test = content.result.get("best", {}).get("val", {}), content.result.get("test") or {}
    columns = [(name, part) for name, part in (("validation, best epoch", val), ("test", test)) if part]
    names = dict.fromkeys(name for _, part in columns for name in part)
    rows = [[escaped(name), *(figure(part.get(name)) for _, part in columns)] for name in names]
    return table(["metric", *(escaped(name) for name, _ in columns)], rows, "figures") if rows else ""


def _notes(content: Content) -> str:
    return "".join(f'<p class="soft">{escaped(note)}</p>' for note in content.notes)


def _seen(content: Content) -> str:
    test = content.test
    if test is None or test.seen == test.samples:
        return ""
    which = f"the first {test.seen:,} of" if content.kind == "series" else f"{test.seen:,} samples drawn from the"
    return (
        f'<p class="soft">Pictures and charts are of {which} {test.samples:,} test samples;'
        " <code>dltrain report</code> takes all of them.</p>"
    )


def _confusion(content: Content) -> str:
    matrix, names = content.result.get("confusion_matrix"), [escaped(name) for name in content.class_names]
    if not matrix:
        return ""
    if len(names) > _WIDEST_MATRIX:
        return _confusions(matrix, names)
    rows = []
    for true, counts in enumerate(matrix):
        total = sum(counts) or 1
        cells = [_cell(count, count / total, true == predicted) for predicted, count in enumerate(counts)]
        rows.append([names[true], *cells])
    caption = "<h3>Confusion matrix</h3><p class='soft'>Rows: true class. Columns: predicted class.</p>"
    return caption + table(["", *names], rows, "confusion")


def _cell(count: int, share: float, right: bool) -> str:
    kind = "hit" if right else "miss"
    return f'<span class="{kind}" style="--share:{share:.3f}">{figure(count) if count else "·"}</span>'


def _confusions(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    rows = [[true, predicted, figure(count)] for count, true, predicted in confusions(matrix, names)[:_CONFUSIONS]]
    return "<h3>Most frequent confusions</h3>" + table(["true class", "predicted class", "samples"], rows)


def _classes(content: Content) -> str:
    if not content.classes:
        return ""
    _, *columns = content.classes[0]
    rows = [[escaped(row["name"]), *(figure(row[column]) for column in columns)] for row in content.classes]
    return "<h3>By class</h3>" + table(["class", *columns], rows, "figures")


def _by_class(content: Content) -> str:
    parts = [part for part in (_confusion(content), _classes(content)) if part]
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>' if parts else ""


def _mistakes(content: Content) -> str:
    if content.test is None or not content.test.mistakes:
        return ""
    shown = "".join(_mistake(mistake) for mistake in content.test.mistakes)
    line = f"{len(content.test.mistakes)} of {content.test.wrong:,} mistakes among {content.test.seen:,} test images."
    return f'<p class="soft">{line}</p><div class="pictures">{shown}</div>'


def _mistake(mistake: Mistake) -> str:
    file = f'<br><span class="file">{escaped(mistake.name)}</span>' if mistake.name else ""
    return (
        f"<figure>{picture(mistake.image)}<figcaption><b>{escaped(mistake.predicted)}</b> {mistake.confidence:.1%}"
        f'<br><span class="soft">is {escaped(mistake.true)}</span>{file}</figcaption></figure>'
    )


def _changed(content: Content) -> str:
    """Keys and options with another value than by default."""
    if content.changed is None:
        return ""
    if not content.changed:
        return '<p class="soft">Everything is as it is by default.</p>'
    config = content.config | content.choices
    rows = [
        [escaped(key), f"<mark>{_value(config.get(key))}</mark>", "–" if default == "???" else _value(default)]
        for key, default in content.changed.items()
    ]
    return "<h3>Differs from the defaults</h3>" + table(["key", "value", "default"], rows)


def _everything(content: Content) -> str:
    rows = [
        [escaped(key), f"<mark>{_value(value)}</mark>" if key in (content.changed or {}) else _value(value)]
        for key, value in content.config.items()
    ]
    if not rows:
        return ""
    return f"<details><summary>All {len(rows)} keys</summary>{table(['key', 'value'], rows)}</details>"


def _value(value: Any) -> str:
    return escaped("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value))


def _command(content: Content) -> str:
    command = content.result.get("command")
    folder = content.environment.get("working_directory")
    where = f'<p class="soft">in {escaped(folder)}</p>' if command and folder else ""
    return f"<pre>{escaped(command)}</pre>{where}" if command else ""


def _environment(content: Content) -> list[tuple[str, Any]]:
    keys = ("device", "device_name", "precision", "threads", "seed", "deterministic", "python", "platform", "host")
    known = content.environment
    versions = ", ".join(f"{name} {number}" for name, number in known.get("versions", {}).items() if number)
    pairs = [(key, known.get(key)) for key in keys]
    return [*pairs, ("git commit", known.get("git_commit")), ("versions", versions)]


def _timings(content: Content) -> list[tuple[str, Any]]:
    recorded = content.result.get("timings", {})  # with that of a profile, which is not a number but in profile/
    timings = {name: seconds for name, seconds in recorded.items() if not isinstance(seconds, dict)}
    timings["whole run"] = content.result.get("seconds")
    if len(content.history) and timings.get("train") is not None:
        timings["an epoch"] = timings["train"] / len(content.history)
    return [(f"time: {name}", duration(seconds)) for name, seconds in timings.items() if seconds is not None]


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
    charts = charts_of_runs(names, histories)
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


def charts_of_runs(names: Sequence[str], histories: Sequence[Rows]) -> list[Chart]:
    """A chart for the first metric of each kind and for the learning rate, with a curve for each run."""
    columns = list(dict.fromkeys(name for rows in histories if rows for name in rows[0]))
    charts = [overlaid(names, histories, metric, metric) for metric in leading(columns)]
    return charts + ([overlaid(names, histories, "lr", "learning rate")] if "lr" in columns else [])


def _marked(text: str, best: bool) -> str:
    return f'<span class="best">{text}</span>' if best else text


def _text(value: Any) -> str:
    return "–" if value is None else str(value)
