"""Parts of a page. All text that comes from data, files or configurations goes through :func:`escaped`."""

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import numpy as np

from dltrain.report import figures

_FILES = files("dltrain.report") / "files"

# Nothing may be fetched, whatever a name or a value holds, and no code runs but the scripts of these hashes.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src {}; img-src data:; base-uri 'none'"


def page(title: str, body: str, charts: Sequence[dict[str, Any]]) -> str:
    """A whole document that needs no other file; ``body`` is HTML."""
    build = "echarts.min.js" if any(chart["kind"] == "parallel" for chart in charts) else "echarts.common.min.js"
    scripts = [_FILES.joinpath(name).read_text(encoding="utf-8") for name in (build, "page.js")] if charts else []
    policy = _POLICY.format(" ".join(map(_hash, scripts)) or "'none'")
    style = _FILES.joinpath("page.css").read_text(encoding="utf-8")
    data = json.dumps(charts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    drawing = f'<script type="application/json" id="charts">{data}</script>' if charts else ""
    code = "".join(f"<script>{script}</script>" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{drawing}{code}\n</body>\n</html>\n"
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"


def escaped(value: Any) -> str:
    """Any text as HTML that shows it and does nothing else; what cannot be encoded is shown as a question mark."""
    return escape(str(value).encode("utf-8", "replace").decode())


def figure(value: Any) -> str:
    """A number, or whatever a file holds in its place, as HTML."""
    return escaped(figures.figure(value))


def link(text: str, path: str) -> str:
    """``text``, which is HTML, as a link to a file at a ``path`` relative to the page."""
    # quote() escapes colons, so that no folder's name is read as a scheme such as javascript:
    return f'<a href="{quote(os.fsencode(path))}">{text}</a>'


def section(title: str, *parts: str) -> str:
    """A heading and the parts below it; nothing where all parts are empty."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escaped(title)}</h2>\n{content}\n</section>" if content else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML; the first cell of each row is its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = (
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    parts = f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{parts}</table></div>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values."""
    shown = [(name, value) for name, value in pairs if value not in (None, "", [], {})]
    items = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in shown)
    return f"<dl>{items}</dl>" if items else ""


def places(charts: Sequence[Mapping[str, Any]], first: int = 0) -> str:
    """Where ``charts`` are drawn, of which the first is number ``first`` of the page."""
    figures = []
    for number, chart in enumerate(charts, first):
        kind, title = "chart wide" if chart.get("wide") else "chart", escaped(chart["title"])
        drawing = f'<div data-chart="{number}" role="img" aria-label="{title}"></div>'
        figures.append(f'<figure class="{kind}"><figcaption>{title}</figcaption>{drawing}</figure>')
    return f'<div class="charts">{"".join(figures)}</div>' if charts else ""


def picture(image: np.ndarray) -> str:
    """``image`` (channels, height, width) uint8 as an ``<img>`` that contains its data."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'
