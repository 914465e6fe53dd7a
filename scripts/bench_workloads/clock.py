"""dltrain's command line in this process, timed by a logger of our own, as any user can plug one in."""

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_workloads.loops import findings

_clocks: list["Clock"] = []


class Clock:
    """Notes when the loop starts and when each epoch ends."""

    def __init__(self, folder: Path, config: Mapping[str, Any], history: Sequence[Mapping[str, float]] = ()):
        self.began = time.perf_counter()
        self.ends: list[float] = []
        self.row: Mapping[str, float] = {}
        _clocks.append(self)

    def log(self, row: Mapping[str, float]) -> None:
        self.ends.append(time.perf_counter())
        self.row = row

    def close(self, result: Mapping[str, float]) -> None: ...


def run_dltrain(overrides: Sequence[str]) -> dict[str, Any]:
    """Train as ``dltrain`` would with ``overrides``, but for its imports, which rivals do not pay here either.

    ``first`` counts from the command line on: configuration, reading of the data, first epoch. Epochs are timed from
    one row of the log to the next, so they hold the checkpoints. ``fit`` is what ``result.json`` says of training.
    """
    import dltrain.trained.train  # noqa: F401
    from dltrain.cli import main

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        wiring = ["report=false", "+logger.clock._target_=bench_workloads.clock.Clock", f"hydra.run.dir={folder}/run"]
        if code := main([*overrides, *wiring]):
            raise SystemExit(code)
        result = json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))
    clock = _clocks[-1]
    found = findings(clock.began, clock.ends, clock.row["val/loss"])
    return {**found, "first": clock.ends[0] - began, "fit": result["timings"]["train"]}
