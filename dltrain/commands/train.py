"""``dltrain [overrides]``: train a network and say how good it is."""

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dltrain import checkpoint
from dltrain.build import Parts, build, start_loggers
from dltrain.device import process_state
from dltrain.errors import DltrainError, Interrupted
from dltrain.inference import evaluate
from dltrain.metrics import ClassificationMetrics
from dltrain.run import RunFolder, finite
from dltrain.startup import defer_compiler

log = logging.getLogger(__name__)

_PRINTED = ("status", "run", "best", "test", "seconds")


def train(cfg: Any, path: Path, command: str) -> float:
    """Run the configuration ``cfg`` in the folder ``path``; returns the best value of the monitored metric.

    Whatever is wrong before the first epoch leaves no folder behind.
    """
    defer_compiler()
    folder = RunFolder(path, command)
    with process_state(cfg.seed, cfg.deterministic, tf32=cfg.trainer.precision == "auto"), _sigterm_interrupts():
        try:
            parts = build(cfg, path)
            folder.begin(parts.config_text, parts.environment)
            parts.trainer.loggers = start_loggers(cfg, path)
        except BaseException:
            folder.discard()
            raise
        result = _run(parts, folder)
        if cfg.report:
            _draw(parts, path)
    show(result)
    return parts.trainer.best.value


def _run(parts: Parts, folder: RunFolder) -> dict[str, Any]:
    """Train and test; ``result.json`` tells how it ended, whatever happens."""
    trainer = parts.trainer
    test: dict[str, float] = {}
    began = time.perf_counter()
    try:
        with trainer.view:
            trainer.fit()
        trained = time.perf_counter()
        test, extra = _test(parts)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
        cause = {} if interrupted else {"error": str(error) or type(error).__name__}
        result = folder.write_result("interrupted" if interrupted else "failed", **_best(parts), **cause)
        log.warning("%s after %d epochs; the run so far is in %s", result["status"], trainer.epoch, folder.path)
        if interrupted or isinstance(error, DltrainError):
            show(result)
        raise
    finally:
        for logger in trainer.loggers:
            logger.close({f"test/{name}": value for name, value in test.items()})
    timings = {"train": round(trained - began, 3), "test": round(time.perf_counter() - trained, 3)}
    return folder.write_result("done", **_best(parts), test=test, epochs=trainer.epoch, timings=timings, **extra)


def _test(parts: Parts) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of the test part with the best weights, and the confusion matrix of a classification."""
    trainer = parts.trainer
    best = checkpoint.load(trainer.checkpoints.best, trainer.precision.device)
    trainer.evaluated.load_state_dict(best["model"])
    if parts.test is None:
        return {}, {}
    metrics = evaluate(trainer.evaluated, parts.test, trainer.loss, trainer.metrics(), trainer.precision)
    extra = {"confusion_matrix": metrics.confusion.tolist()} if isinstance(metrics, ClassificationMetrics) else {}
    return metrics.compute(), extra


def _best(parts: Parts) -> dict[str, Any]:
    trainer = parts.trainer
    if not trainer.best.epoch:
        return {}
    row = trainer.history[trainer.best.epoch - 1]
    val = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    return {"best": {"epoch": trainer.best.epoch, "monitor": trainer.best.monitor, "val": val}}


def _draw(parts: Parts, path: Path) -> None:
    from dltrain.report.curves import draw_curves

    trainer = parts.trainer
    title = f"{parts.data.facts.name} · {type(trainer.model).__name__}"
    try:
        draw_curves(trainer.history, trainer.best.epoch, title, path / "curves.png")
    except OSError as error:  # the result is safe: a picture that cannot be written costs a warning
        log.warning("curves.png was not written: %s", error)


def show(result: Mapping[str, Any]) -> None:
    """Print the result to stdout: a table on a terminal, one JSON line elsewhere."""
    if not sys.stdout.isatty():
        print(json.dumps(finite({name: result[name] for name in _PRINTED if name in result})), flush=True)
        return
    from rich.console import Console

    from dltrain.progress import result_table

    console = Console(highlight=False)
    best = result.get("best", {})
    if best:
        console.print(result_table(result.get("test", {}), best["val"]))
    epoch = f", best epoch {best['epoch']} by {best['monitor']}" if best else ""
    console.print(f"{result['status']} in {result['seconds']:.1f} s{epoch}")
    console.print(result["run"], soft_wrap=True)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Within, SIGTERM unwinds like Ctrl-C, so that files are closed and the result is written."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
