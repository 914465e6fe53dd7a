"""What a run of training leaves behind: ``result.json``, pictures and a page, and what it says on stdout."""

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dltrain.build import Parts
from dltrain.errors import DltrainError, Interrupted, exit_code_of
from dltrain.runs.folder import RunFolder
from dltrain.system import worker
from dltrain.system.answer import ending, give, is_left_to_launcher, on_terminal, print_json, stdout
from dltrain.trained.resume import candidates

log = logging.getLogger(__name__)

_PRINTED = ("status", "run", "error", "best", "test", "seconds")


def leave_result(parts: Parts, folder: RunFolder, error: BaseException) -> None:
    """Say in ``result.json`` that ``error`` ended the run.

    On stdout as well, unless the launcher says it, or starts the run again; on a terminal the traceback of a bug says
    enough.
    """
    trainer = parts.trainer
    if not trainer.process_group.is_main:
        return
    interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
    cause = {} if interrupted else {"error": str(error) or type(error).__name__}
    events = {"events": trainer.recovery.events} if trainer.recovery.events else {}
    try:
        result = folder.write_result("interrupted" if interrupted else "failed", **best_of(parts), **cause, **events)
    except OSError as unwritable:  # the error itself says more than that the folder cannot be written to
        log.warning("result.json was not written: %s", unwritable)
        return
    trainer.checkpoints.settle()  # so that what is on its way to the disk counts
    saved = any(path.exists() for path in candidates(folder.path))
    how = f"; to go on: dltrain resume {shlex.quote(str(folder.path))}" if saved else ""
    log.warning("%s after %d epochs%s", result["status"], trainer.epoch, how)
    if is_left_to_launcher(error) or (worker.may_start_again() and not interrupted):
        return
    if not on_terminal() or isinstance(error, KeyboardInterrupt | Interrupted | DltrainError):
        show(result, error)


def best_of(parts: Parts) -> dict[str, Any]:
    trainer = parts.trainer
    if not trainer.best.epoch:
        return {}
    row = trainer.history[trainer.best.epoch - 1]
    val = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    return {"best": {"epoch": trainer.best.epoch, "monitor": trainer.best.monitor, "val": val}}


def draw(parts: Parts, path: Path) -> None:
    from dltrain.report.pictures import draw_curves

    trainer = parts.trainer
    title = f"{parts.data.facts.name} · {type(trainer.model).__name__}"
    try:
        draw_curves(trainer.history, trainer.best.epoch, title, path / "curves.png")
    except OSError as error:  # the result is safe: a picture that cannot be written costs a warning
        log.warning("curves.png was not written: %s", error)


def write_report(parts: Parts | None, path: Path) -> None:
    """Write the page of the run in ``path``; with ``parts`` it shows what the best network makes of the test part."""
    from dltrain.trained.reporting import Network, report_after_training

    if parts is None:
        report_after_training(None, path)
        return
    trainer, data = parts.trainer, parts.data
    levels = data.preprocessing.get("levels", 255)
    # This process alone looks at all of the test part, which it cannot where the network lies in shards.
    test = parts.test if parts.test and not trainer.sharded else None
    network = Network(trainer.evaluated, trainer.loss, data.facts, levels, test, trainer.precision)
    report_after_training(network, path)


def show(result: Mapping[str, Any], error: BaseException | None = None) -> None:
    """Print the result, of a run that ``error`` may have ended: a table on a terminal, one line of JSON elsewhere."""
    if not on_terminal():
        line = {name: result[name] for name in _PRINTED if name in result}
        if error and exit_code_of(error) == 2:  # the user's mistake, though it showed late
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
