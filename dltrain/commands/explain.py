"""``dltrain explain``: attribute the output of a run's network to its inputs."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dltrain.commands.arguments import inputs_of, require_choice, run_of, take_keys
from dltrain.commands.predict import Broken
from dltrain.errors import DataError, DltrainError, UserError
from dltrain.report.figures import short
from dltrain.runs.find import path_of
from dltrain.runs.folder import require_writable
from dltrain.system.answer import on_terminal, print_json, say
from dltrain.system.extras import require_extras
from dltrain.system.files import written_whole
from dltrain.system.log import log_to
from dltrain.system.machine import Lock

_METHODS = ("integrated_gradients", "input_x_gradient")
_PICTURES = 50
_BATCH = 32
_USAGE = "dltrain explain RUN INPUT... [out=FOLDER]"


def explain(arguments: Sequence[str]) -> None:
    """Write the attributions of inputs, and a picture of each of the first.

    Raises:
        UserError: the run or an input cannot be used at all, or Captum is not installed.
        DltrainError: some inputs were broken; the others were explained.
    """
    words, given = take_keys(arguments, ["out", "method"])
    run, words = run_of(words, _USAGE)
    inputs, overrides = inputs_of(words)
    if not inputs:
        raise UserError(f"there is nothing to explain: {_USAGE}")
    method = given.get("method", _METHODS[0])
    require_choice("method", method, _METHODS)
    require_extras(["captum"], "explain", "dltrain explain")
    _explain(run, inputs, overrides, path_of(given["out"]) if "out" in given else None, method)


def _explain(run: str, inputs: Sequence[str], overrides: Sequence[str], out: Path | None, method: Any) -> None:
    from dltrain.data.inputs import read_inputs
    from dltrain.trained.explaining import explain as explain_batches
    from dltrain.trained.loaded import load_run

    log_to(None)
    loaded = load_run(run, overrides)
    if not out:
        require_writable(loaded.folder)
        out = loaded.folder / "explain"
    broken = Broken()
    pieces, _ = read_inputs(inputs, loaded.fitted, _BATCH, broken.report)
    count, largest = 0, 0.0
    try:
        with _attributions(out) as file:
            for count, explained in enumerate(explain_batches(loaded, chain.from_iterable(pieces), method), 1):
                file.write(json.dumps(_row(loaded.facts, explained), ensure_ascii=False) + "\n")
                largest = max(largest, abs(explained.error))
                if count <= _PICTURES:
                    _draw(loaded, explained, out / f"{count:03}-{_short(explained.name)}.png")
            if not count:
                raise DataError(broken.summary("explained"))
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error}") from error
    broken.log_from_now_on()
    if on_terminal():
        say(f"{out}: {count:,} inputs, {min(count, _PICTURES)} pictures and attributions.jsonl")
        say(f"attributions add up to what they explain within {short(largest, 2)}")
    else:
        answer = {"status": "done", "run": str(loaded.folder), "checkpoint": str(loaded.checkpoint), "out": str(out)}
        counts = {"method": method, "inputs": count, "pictures": min(count, _PICTURES), "largest_error": largest}
        print_json({**answer, **counts, "broken": [name for name, _ in broken.inputs]})
    if broken.inputs:
        raise DltrainError(f"{len(broken.inputs)} broken inputs were left out; {count:,} inputs are explained")


@contextmanager
def _attributions(out: Path) -> Iterator[Any]:
    """Open ``attributions.jsonl`` in the folder ``out``; it is there once it is whole.

    Raises:
        UserError: another process writes to the folder; its pictures and these would be of different inputs.
    """
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out)
    try:
        lock.take()
        with written_whole(out / "attributions.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as file:
            yield file
    except BlockingIOError as error:
        raise UserError(f"another process writes to '{out}'; wait for it, or name another folder with out=") from error
    finally:
        lock.release()
        if made and not any(out.iterdir()):
            out.rmdir()


def _row(facts: Any, explained: Any) -> dict[str, Any]:
    """Return a line of the file; attributions by feature names where there are any, else as nested lists."""
    named = {"input": explained.name[0]}
    values: Any = explained.attributions.tolist()
    if facts.kind == "table":
        named["row"] = explained.name[1]
        values = dict(zip(facts.feature_names, values, strict=True))
    elif facts.kind == "series":
        values = dict(zip(facts.feature_names, explained.attributions.T.tolist(), strict=True))
    said = {"class": explained.prediction, "confidence": explained.confidence} if facts.class_names else {}
    figures = {"output": explained.output, "baseline": explained.baseline, "error": explained.error}
    return {**named, **said, **figures, "attributions": values}


def _draw(loaded: Any, explained: Any, path: Path) -> None:
    from dltrain.report.pictures import draw_bars, draw_image, draw_series

    facts = loaded.facts
    if facts.class_names:
        title = f"{_short(explained.name)}: {explained.prediction}, {explained.confidence:.1%}"
        unit = f"to the logit of {explained.prediction}"
    else:
        what = "mean of the forecast" if facts.kind == "series" else "value"
        output, baseline = short(explained.output), short(explained.baseline)
        title = f"{_short(explained.name)}: {what} {output}, {baseline} for the average input"
        unit = f"to {facts.target_name}"
    if facts.kind == "image":
        levels = loaded.fitted.preprocessing.get("levels", 255)
        image = np.rint(explained.raw * (255 / levels)).clip(0, 255).astype(np.uint8)
        draw_image(image, explained.attributions, unit, title, path)
    elif facts.kind == "table":
        draw_bars(facts.feature_names, explained.attributions, unit, title, path)
    else:
        draw_series(facts.feature_names, explained.inputs, explained.attributions, unit, title, path)


def _short(name: tuple[Any, ...]) -> str:
    """Return the name of a file, and of the row in it, without characters that file systems refuse."""
    row = f"-{name[1]}" if len(name) > 1 and isinstance(name[1], int) else ""
    return re.sub(r"[^\w.-]", "_", Path(name[0]).stem)[:80] + row
