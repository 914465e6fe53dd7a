"""``dltrain check [overrides]``: build a run and try a step of it, and report what it would cost."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dltrain.build import Parts, build
from dltrain.errors import UserError, in_one_line
from dltrain.report.figures import duration, plot
from dltrain.system.answer import on_terminal, print_json, stdout
from dltrain.system.console import Console
from dltrain.system.device import defer_compiler, process_state
from dltrain.system.extras import DISTRIBUTION, overwritten_files
from dltrain.training.preflight import at_epochs, checkpoint_bytes, learning_rates, measure


def check(cfg: Any, folder: Path) -> None:
    """Build the run that would write to ``folder``, try a step, and print a report; nothing is written.

    Raises:
        UserError: it cannot run.
    """
    defer_compiler()
    logging.getLogger("dltrain").setLevel(logging.WARNING)  # the report says what a run would log
    tf32, threads = cfg.trainer.precision == "auto", cfg.trainer.threads
    with process_state(cfg.seed, cfg.deterministic, tf32, threads):
        parts = build(cfg, folder)
        facts = measure(parts.trainer)
        place = next(path for path in (folder.resolve() / "_").parents if path.exists())
        disk = {"free": shutil.disk_usage(place).free, "checkpoints": checkpoint_bytes(parts.trainer)}
        rates = learning_rates(parts.trainer)
    if disk["checkpoints"] > disk["free"]:
        room = f"{size(disk['free'])} are free, the checkpoints need {size(disk['checkpoints'])}"
        raise UserError(f"the disk of '{folder}' is too full: {room}; hydra.run.dir=... names another place")
    answer = {
        "status": "ok",
        **_facts(parts),
        "devices": cfg.trainer.devices,
        **facts,
        "lr": at_epochs(rates, parts.trainer),
        "disk": disk,
        "overwritten_files": overwritten_files(),
    }
    if on_terminal():
        _report(answer, rates)
    else:
        print_json(answer)


def size(nbytes: float) -> str:
    """Return a number of bytes in a suitable unit: ``1.5 MiB``."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.1f} {unit}"


def _facts(parts: Parts) -> dict[str, Any]:
    trainer, schedule = parts.trainer, parts.trainer.schedule
    names = trainer.metrics().names if trainer.val is not None else ()
    return {
        "data": str(parts.data),
        "device": str(trainer.precision.device),
        "precision": parts.environment["precision"],
        "threads": parts.environment["threads"],
        "epochs": trainer.epochs,
        "monitor": trainer.best.monitor,
        "metrics": ["train/loss", *(f"val/{name}" for name in names)],
        "scheduler": type(schedule.scheduler).__name__ if schedule else None,
        "interval": schedule.interval if schedule else None,
        "scheduler_monitor": schedule.monitor if schedule else None,
    }


def _report(answer: dict[str, Any], rates: list[float]) -> None:
    console = Console(file=stdout())
    console.print(answer["data"])
    shapes = " → ".join(_shape(answer[name]) for name in ("input_shape", "output_shape"))
    console.print(f"one batch {shapes} on {_device(answer)} in {answer['precision']}\n")
    console.print(_layers(answer))
    for name in answer["without_gradient"]:
        console.print(f"no gradient reaches {in_one_line(name)}: the loss does not depend on it", style="yellow")
    console.print(f"\n{_memory(answer['memory'])}")
    console.print(_time(answer))
    console.print(f"monitor   {answer['monitor']}; there are {', '.join(answer['metrics'])}", soft_wrap=True)
    disk = answer["disk"]
    console.print(f"disk      {size(disk['checkpoints'])} for checkpoints, {size(disk['free'])} free")
    if answer["devices"] != 1:
        console.print(f"devices   {answer['devices']}: time and memory are those of one process that does it all")
    if files := answer["overwritten_files"]:
        remedy = f"run pip uninstall dltrain, then install {DISTRIBUTION} again"
        cause = f"another project's distribution, dltrain, has installed files over {len(files)} of these"
        console.print(f"{cause}: {remedy}", style="yellow", soft_wrap=True)
    console.print(f"\n{_rates_title(answer, rates)}")
    if len(set(rates)) > 1:
        console.print("\n".join(plot(rates)))
        console.print(f"{'epoch':>9} 1{answer['epochs']:>59}")


def _device(answer: dict[str, Any]) -> str:
    threads = f" ({answer['threads']} thread{'s' if answer['threads'] > 1 else ''})"
    return f"{answer['device']}{threads if answer['device'] == 'cpu' else ''}"


def _layers(answer: dict[str, Any]) -> Table:
    table = Table(header_style="bold", show_footer=True)
    table.add_column("layer", "all")
    table.add_column("kind")
    table.add_column("output")
    table.add_column("parameters", f"{answer['parameters']:,}", justify="right")
    table.add_column("weights", size(sum(layer["weights"] for layer in answer["layers"])), justify="right")
    table.add_column("activations", size(answer["memory"]["activations"]), justify="right")
    for layer in answer["layers"]:
        shape = _shape(layer["output_shape"]) if layer["output_shape"] else "not called"
        figures = f"{layer['parameters']:,}", size(layer["weights"]), size(layer["activations"])
        table.add_row(layer["name"], layer["kind"], shape, *figures)
    return table


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _memory(memory: dict[str, int | None]) -> str:
    parts = [f"{name} {size(count)}" for name, count in memory.items() if count and name not in ("estimated", "peak")]
    peak = f"; at most {size(memory['peak'])} allocated" if memory["peak"] else ""
    return f"memory    {size(memory['estimated'] or 0)}: {', '.join(parts)}{peak}"


def _time(answer: dict[str, Any]) -> str:
    seconds, epochs = answer["seconds_per_epoch"], answer["epochs"]
    steps = f"{answer['steps_per_epoch']:,} steps and evaluation"
    return f"time      {duration(seconds)} an epoch ({steps}), {duration(seconds * epochs)} for {epochs:,} epochs"


def _rates_title(answer: dict[str, Any], rates: list[float]) -> str:
    if answer["scheduler_monitor"]:
        return f"learning rate {rates[0]:g}, falling when {answer['scheduler_monitor']} no longer improves"
    if len(set(rates)) == 1:
        return f"learning rate {rates[0]:g} throughout"
    return f"learning rate from {rates[0]:.3g} to {rates[-1]:.3g} ({answer['scheduler']}, each {answer['interval']})"
