"""``dltrain check [overrides]``: everything a run would meet, before it starts, and what it would cost."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dltrain.build import Parts, build
from dltrain.errors import UserError
from dltrain.report.figures import duration
from dltrain.report.terminal import plot
from dltrain.system.answer import on_terminal, print_json, stdout, stdout_reserved
from dltrain.system.device import process_state
from dltrain.system.extras import DISTRIBUTION, overwritten_files
from dltrain.system.startup import defer_compiler
from dltrain.training.preflight import at_epochs, checkpoint_bytes, learning_rates, measure

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def check(cfg: Any, folder: Path) -> None:
    """Build the run that would write to ``folder``, try it, and print what came out; nothing is written.

    Raises:
        UserError: it cannot run.
    """
    defer_compiler()
    logging.getLogger("dltrain").setLevel(logging.WARNING)  # the report says what a run would log
    tf32, threads = cfg.trainer.precision == "auto", cfg.trainer.threads
    with process_state(cfg.seed, cfg.deterministic, tf32, threads), stdout_reserved():
        parts = build(cfg, folder)
        facts = measure(parts.trainer)
        disk = {"free": _free(folder), "checkpoints": checkpoint_bytes(parts.trainer)}
        rates = learning_rates(parts.trainer)
    if disk["checkpoints"] > disk["free"]:
        room = f"{size(disk['free'])} are free, the checkpoints need {size(disk['checkpoints'])}"
        raise UserError(f"the disk of '{folder}' is too full: {room}; hydra.run.dir=... names another place")
    found = {
        "status": "ok",
        **_facts(parts),
        "devices": cfg.trainer.devices,
        **facts,
        "lr": at_epochs(rates, parts.trainer),
        "disk": disk,
        "overwritten_files": overwritten_files(),
    }
    if on_terminal():
        _report(found, rates)
    else:
        print_json(found)


def size(nbytes: float) -> str:
    """Bytes in the unit that suits them: ``1.5 MiB``."""
    unit = 0
    while nbytes >= 1024 and unit < len(_UNITS) - 1:
        nbytes /= 1024
        unit += 1
    return f"{nbytes:.0f} {_UNITS[unit]}" if unit == 0 or nbytes >= 100 else f"{nbytes:.1f} {_UNITS[unit]}"


def _free(folder: Path) -> int:
    """Free bytes where ``folder`` is or would be made."""
    path = folder.resolve()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _facts(parts: Parts) -> dict[str, Any]:
    trainer = parts.trainer
    names = trainer.metrics().names if trainer.val is not None else ()
    return {
        "data": str(parts.data),
        "device": str(trainer.precision.device),
        "precision": parts.environment["precision"],
        "threads": parts.environment["threads"],
        "epochs": trainer.epochs,
        "monitor": trainer.best.monitor,
        "metrics": ["train/loss", *(f"val/{name}" for name in names)],
        "scheduler": type(trainer.schedule.scheduler).__name__ if trainer.schedule else None,
        "interval": trainer.schedule.interval if trainer.schedule else None,
        "scheduler_monitor": trainer.schedule.monitor if trainer.schedule else None,
    }


def _report(found: dict[str, Any], rates: list[float]) -> None:
    from dltrain.system.console import Console, in_one_line

    console = Console(file=stdout())
    console.print(found["data"])
    shapes = " → ".join(_shape(found[name]) for name in ("input_shape", "output_shape"))
    console.print(f"one batch {shapes} on {_device(found)} in {found['precision']}\n")
    console.print(_layers(found))
    for name in found["without_gradient"]:
        console.print(f"no gradient reaches {in_one_line(name)}: the loss does not depend on it", style="yellow")
    console.print(f"\n{_memory(found['memory'])}")
    console.print(_time(found))
    console.print(_monitors(found), soft_wrap=True)
    console.print(_disk(found["disk"]))
    if found["devices"] != 1:
        console.print(f"devices   {found['devices']}: time and memory are those of one process that does it all")
    if overwritten := found["overwritten_files"]:
        console.print(_overwritten(overwritten), style="yellow", soft_wrap=True)
    console.print(f"\n{_rates_title(found, rates)}")
    if len(set(rates)) > 1:
        console.print("\n".join(plot(rates)))
        console.print(f"{'epoch':>9} 1{found['epochs']:>59}")


def _device(found: dict[str, Any]) -> str:
    threads = f" ({found['threads']} thread{'s' if found['threads'] > 1 else ''})"
    return f"{found['device']}{threads if found['device'] == 'cpu' else ''}"


def _layers(found: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(header_style="bold", show_footer=True)
    table.add_column("layer", "all")
    table.add_column("kind")
    table.add_column("output")
    table.add_column("parameters", f"{found['parameters']:,}", justify="right")
    table.add_column("weights", size(sum(layer["weights"] for layer in found["layers"])), justify="right")
    table.add_column("activations", size(found["memory"]["activations"]), justify="right")
    for layer in found["layers"]:
        shape = _shape(layer["output_shape"]) if layer["output_shape"] else "not called"
        figures = f"{layer['parameters']:,}", size(layer["weights"]), size(layer["activations"])
        table.add_row(layer["name"], layer["kind"], shape, *figures)
    return table


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _memory(memory: dict[str, int | None]) -> str:
    parts = [
        f"{name} {size(nbytes)}" for name, nbytes in memory.items() if nbytes and name not in ("estimated", "peak")
    ]
    peak = f"; at most {size(memory['peak'])} allocated" if memory["peak"] else ""
    return f"memory    {size(memory['estimated'] or 0)}: {', '.join(parts)}{peak}"


def _time(found: dict[str, Any]) -> str:
    seconds, epochs = found["seconds_per_epoch"], found["epochs"]
    steps = f"{found['steps_per_epoch']:,} steps and evaluation"
    return f"time      {duration(seconds)} an epoch ({steps}), {duration(seconds * epochs)} for {epochs:,} epochs"


def _monitors(found: dict[str, Any]) -> str:
    return f"monitor   {found['monitor']}; there are {', '.join(found['metrics'])}"


def _disk(disk: dict[str, int]) -> str:
    return f"disk      {size(disk['checkpoints'])} for checkpoints, {size(disk['free'])} free"


def _overwritten(files: Sequence[str]) -> str:
    remedy = f"run pip uninstall dltrain, then install {DISTRIBUTION} again"
    return f"another project's distribution, dltrain, has installed files over {len(files)} of these: {remedy}"


def _rates_title(found: dict[str, Any], rates: list[float]) -> str:
    if found["scheduler_monitor"]:
        return f"learning rate {rates[0]:g}, falling when {found['scheduler_monitor']} no longer improves"
    if len(set(rates)) == 1:
        return f"learning rate {rates[0]:g} throughout"
    return f"learning rate from {rates[0]:.3g} to {rates[-1]:.3g} ({found['scheduler']}, each {found['interval']})"
