"""The results of a training run: ``result.json``, pictures and a page, and the answer on stdout."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dltrain.build import Parts
from dltrain.errors import DltrainError, Interrupted, exit_code_of
from dltrain.runs.folder import RunFolder
from dltrain.system import process
from dltrain.system.answer import ending, give, is_left_to_launcher, on_terminal, print_json, stdout
from dltrain.trained.resume import how_to_go_on
from dltrain.training.trainer import Trainer

log = logging.getLogger(__name__)

_PRINTED = ("status", "run", "error", "best", "test", "seconds")


def leave_result(trainer: Trainer, folder: RunFolder, error: BaseException) -> None:
    """Write to ``result.json`` that ``error`` ended the run.

    Print it as well, unless the launcher does or starts the run again; on a terminal the traceback of a bug is enough.
    """
    if not trainer.process_group.is_main:
        return
    interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
    cause = {} if interrupted else {"error": str(error) or type(error).__name__}
    events = {"events": trainer.recovery.events} if trainer.recovery.events else {}
    try:
        result = folder.write_result("interrupted" if interrupted else "failed", **best_of(trainer), **cause, **events)
    except OSError as unwritable:  # ``error`` matters more
        log.warning("result.json was not written: %s", unwritable)
        return
    trainer.checkpoints.settle()  # so that a checkpoint that is being written counts
    log.warning("%s after %d epochs%s", result["status"], trainer.epoch, how_to_go_on(folder.path))
    if is_left_to_launcher(error) or (process.may_start_again() and not interrupted):
        return
    if not on_terminal() or isinstance(error, KeyboardInterrupt | Interrupted | DltrainError):
        show(result, error)


def best_of(trainer: Trainer) -> dict[str, Any]:
    """The best epoch and its metrics, as the result has them; nothing where there is none."""
    if not trainer.best.epoch:
        return {}
    row = trainer.history[trainer.best.epoch - 1]
    val = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    return {"best": {"epoch": trainer.best.epoch, "monitor": trainer.best.monitor, "val": val}}


def draw(parts: Parts, path: Path) -> None:
    """Draw the curves of the run in ``path``."""
    from dltrain.report.pictures import draw_curves

    trainer = parts.trainer
    title = f"{parts.data.facts.name} · {type(trainer.model).__name__}"
    try:
        draw_curves(trainer.history, trainer.best.epoch, title, path / "curves.png")
    except OSError as error:  # the run is done, and its result written
        log.warning("curves.png was not written: %s", error)


def write_report(parts: Parts | None, path: Path) -> None:
    """Write the page of the run in ``path``; with ``parts`` it shows how the best network does on the test part."""
    from dltrain.trained.reporting import Network, report_after_training

    if parts is None:
        report_after_training(None, path)
        return
    trainer, data = parts.trainer, parts.data
    levels = data.preprocessing.get("levels", 255)
    # This process alone predicts the whole test part, which it cannot do with a network in shards.
    test = parts.test if parts.test and not trainer.sharded else None
    network = Network(trainer.evaluated, trainer.loss, data.facts, levels, test, trainer.precision)
    report_after_training(network, path)


def show(result: Mapping[str, Any], error: BaseException | None = None) -> None:
    """Print the result of a run, which ``error`` may have ended: a table on a terminal, a line of JSON elsewhere."""
    if not on_terminal():
        line = {name: result[name] for name in _PRINTED if name in result}
        if error and exit_code_of(error) == 2:  # the user's mistake, although training had begun
            line.pop("error", None)
            line |= ending(2, error)
        print_json(line)
        return
    from dltrain.system.console import Console
    from dltrain.training.progress import result_table

    console = Console(file=stdout())
    best = result.get("best", {})
    if best:
        console.print(result_table(result.get("test", {}), best["val"]))
    epoch = f", best epoch {best['epoch']} by {best['monitor']}" if best else ""
    console.print(f"{result['status']} in {result.get('seconds') or 0:.1f} s{epoch}")
    console.print(result["run"], soft_wrap=True)
    give()
