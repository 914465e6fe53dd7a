"""``report.html``: one run on one page, the outcome first."""

from collections.abc import Sequence
from typing import Any

from dltrain.report import charts as charting
from dltrain.report.figures import confusions, duration
from dltrain.report.html import chart_places, escaped, facts, figure, page, picture, section, table
from dltrain.report.metrics import summary
from dltrain.report.story import Mistake, Story

_WIDEST_MATRIX = 25  # classes; of more, the most frequent confusions are listed
_CONFUSIONS = 20
_TILES = 4


def render(story: Story) -> str:
    """The page as HTML."""
    best = story.result.get("best", {}).get("epoch")
    curves = charting.curves(story.history, best, story.target)
    tested = charting.of_test(story, story.test) if story.test else []
    body = "\n".join(
        (
            _header(story),
            section("Outcome", _outcome(story), _metrics(story), _notes(story)),
            section("Training", places(curves, 0)),
            section("Test", places(tested, len(curves)), _seen(story), _by_class(story)),
            section("Most confident mistakes", _mistakes(story)),
            section("Configuration", _changed(story), _everything(story)),
            section("To repeat it", _command(story)),
            section("Environment and timings", facts([*_environment(story), *_timings(story)])),
        )
    )
    return page(f"{story.name} · {story.model}", body, curves + tested)


def places(charts: Sequence[dict[str, Any]], first: int) -> str:
    """Where ``charts`` are drawn, the first of them being the page's number ``first``."""
    titles = [chart["title"] for chart in charts]
    return chart_places(len(charts), first, titles, [chart.get("wide", False) for chart in charts])


def _header(story: Story) -> str:
    status = story.result.get("status", "running")
    started = str(story.environment.get("started", "")).replace("T", " ")
    words = (started, story.environment.get("device_name") or story.environment.get("device"))
    line = " · ".join(escaped(word) for word in words if word)
    return (
        f'<header><h1>{escaped(story.name)} <span class="soft">{escaped(story.model)}</span>'
        f' <span class="status {escaped(status)}">{escaped(status)}</span></h1>'
        f'<p class="soft">{line}<br><span class="path">{escaped(story.result.get("run", ""))}</span></p></header>'
    )


def _outcome(story: Story) -> str:
    """A few large figures: the test metrics, or while there are none those of the best epoch so far."""
    result, best = story.result, story.result.get("best", {})
    part, metrics = ("test", result["test"]) if result.get("test") else ("validation", best.get("val", {}))
    tiles = [(f"{part} {name}", figure(metrics[name])) for name in summary(metrics)[:_TILES]]
    if not tiles and story.history:
        tiles = [("training loss", figure(story.history[-1].get("train/loss")))]
    if best:
        tiles.append((f"best epoch, by {best['monitor']}", figure(best["epoch"])))
    elif story.history:
        tiles.append(("epochs so far", figure(len(story.history))))
    tiles.append(("duration", duration(result.get("seconds"))))
    boxes = "".join(f'<div class="tile"><b>{value}</b><span>{escaped(name)}</span></div>' for name, value in tiles)
    error = f'<p class="bad">{escaped(result["error"])}</p>' if result.get("error") else ""
    return f'{error}<div class="tiles">{boxes}</div>'


def _metrics(story: Story) -> str:
    val, test = story.result.get("best", {}).get("val", {}), story.result.get("test") or {}
    columns = [(name, part) for name, part in (("validation, best epoch", val), ("test", test)) if part]
    names = dict.fromkeys(name for _, part in columns for name in part)
    rows = [[escaped(name), *(figure(part.get(name)) for _, part in columns)] for name in names]
    return table(["metric", *(escaped(name) for name, _ in columns)], rows, "figures") if rows else ""


def _notes(story: Story) -> str:
    return "".join(f'<p class="soft">{escaped(note)}</p>' for note in story.notes)


def _seen(story: Story) -> str:
    test = story.test
    if test is None or test.seen == test.samples:
        return ""
    which = f"the first {test.seen:,} of" if story.kind == "series" else f"{test.seen:,} samples drawn from the"
    return (
        f'<p class="soft">Pictures and charts are of {which} {test.samples:,} test samples;'
        " <code>dltrain report</code> takes all of them.</p>"
    )


def _confusion(story: Story) -> str:
    matrix, names = story.result.get("confusion_matrix"), [escaped(name) for name in story.class_names]
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


def _classes(story: Story) -> str:
    names = ("precision", "recall", "f1", "support")
    rows = [[escaped(row["name"]), *(figure(row[name]) for name in names)] for row in story.classes]
    return "<h3>By class</h3>" + table(["class", *names], rows, "figures") if rows else ""


def _by_class(story: Story) -> str:
    parts = [part for part in (_confusion(story), _classes(story)) if part]
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>' if parts else ""


def _mistakes(story: Story) -> str:
    if story.test is None or not story.test.mistakes:
        return ""
    shown = "".join(_mistake(mistake) for mistake in story.test.mistakes)
    line = f"{len(story.test.mistakes)} of {story.test.wrong:,} mistakes among {story.test.seen:,} test images."
    return f'<p class="soft">{line}</p><div class="pictures">{shown}</div>'


def _mistake(mistake: Mistake) -> str:
    file = f'<br><span class="file">{escaped(mistake.name)}</span>' if mistake.name else ""
    return (
        f"<figure>{picture(mistake.image)}<figcaption><b>{escaped(mistake.predicted)}</b> {mistake.confidence:.1%}"
        f'<br><span class="soft">is {escaped(mistake.true)}</span>{file}</figcaption></figure>'
    )


def _changed(story: Story) -> str:
    """Keys and options with another value than by default."""
    if story.changed is None:
        return ""
    if not story.changed:
        return '<p class="soft">Everything is as it is by default.</p>'
    config = story.config | story.choices
    rows = [
        [escaped(key), f"<mark>{_value(config.get(key))}</mark>", "–" if default == "???" else _value(default)]
        for key, default in story.changed.items()
    ]
    return "<h3>Differs from the defaults</h3>" + table(["key", "value", "default"], rows)


def _everything(story: Story) -> str:
    rows = [
        [escaped(key), f"<mark>{_value(value)}</mark>" if key in (story.changed or {}) else _value(value)]
        for key, value in story.config.items()
    ]
    if not rows:
        return ""
    return f"<details><summary>All {len(rows)} keys</summary>{table(['key', 'value'], rows)}</details>"


def _value(value: Any) -> str:
    return escaped("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value))


def _command(story: Story) -> str:
    command = story.result.get("command")
    folder = story.environment.get("working_directory")
    where = f'<p class="soft">in {escaped(folder)}</p>' if command and folder else ""
    return f"<pre>{escaped(command)}</pre>{where}" if command else ""


def _environment(story: Story) -> list[tuple[str, Any]]:
    keys = ("device", "device_name", "precision", "threads", "seed", "deterministic", "python", "platform", "host")
    known = story.environment
    versions = ", ".join(f"{name} {number}" for name, number in known.get("versions", {}).items() if number)
    pairs = [(key, known.get(key)) for key in keys]
    return [*pairs, ("git commit", known.get("git_commit")), ("versions", versions)]


def _timings(story: Story) -> list[tuple[str, Any]]:
    told = story.result.get("timings", {})  # a profile, which is none, is in profile/
    timings = {name: seconds for name, seconds in told.items() if not isinstance(seconds, dict)}
    timings["whole run"] = story.result.get("seconds")
    if len(story.history) and timings.get("train") is not None:
        timings["an epoch"] = timings["train"] / len(story.history)
    return [(f"time: {name}", duration(seconds)) for name, seconds in timings.items() if seconds is not None]
