"""What keys must be to each other, and to the files that they name."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dltrain.config.rules import LATER, Problem
from dltrain.config.source import READ
from dltrain.data.stated import Stated
from dltrain.errors import ConfigError, did_you_mean
from dltrain.report.metrics import NAMES, about_test, lower_is_better
from dltrain.system import process
from dltrain.system.expression import Expression
from dltrain.system.files import kind_of


def check_relations(cfg: Mapping[str, Any], stated: Stated) -> Iterator[Problem]:
    """Check keys against each other; ``stated`` is what the data set says of itself."""
    groups = ("optim", "model", "scheduler", "trainer", "dataset")
    optim, model, scheduler, trainer, dataset = (_mapping(cfg.get(group)) for group in groups)
    if optim.get("nesterov") is True and not (optim.get("momentum") and not optim.get("dampening")):
        yield Problem("optim.nesterov", "needs optim.momentum above 0 and optim.dampening=0", True)
    if optim.get("fused") is True and optim.get("foreach") is True:
        yield Problem("optim.fused", "excludes optim.foreach=true: leave one of them out", True)
    if _is_read(model):
        yield from _check_convolutions(model)
    intervals = trainer.get("epochs") if scheduler.get("interval") == "epoch" else 1  # how many steps: the data know
    for key, node in _schedulers("scheduler", scheduler):
        name = str(node.get("_target_"))
        if _is_read(node):
            yield from _check_expression(key, node, intervals)
        if name.endswith((".OneCycleLR", ".CyclicLR")) and node.get("cycle_momentum", True) is True:
            yield from _check_cycle(key, optim)
        if name.endswith(".SequentialLR"):
            yield from _check_milestones(key, node)
            yield from _check_within_sequence(key, node)
    if str(scheduler.get("_target_")).endswith(".OneCycleLR"):
        yield from _check_rise(scheduler, trainer.get("epochs"))
    parts, size = trainer.get("accumulate"), dataset.get("batch_size")
    if isinstance(parts, int) and isinstance(size, int) and parts > size > 0:
        yield Problem("trainer.accumulate", f"cannot cut dataset.batch_size={size} into so many parts", parts)
    yield from _check_processes(trainer, dataset.get("batch_size"))
    yield from _check_stopping(_mapping(trainer.get("early_stopping")))
    yield from _check_pruner(_mapping(cfg.get("pruner")))
    yield from check_monitors(cfg, _metric_names(dataset, stated, _mapping(cfg.get("metric"))))


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, dict) else {}


def _check_processes(trainer: Mapping[str, Any], batch_size: Any) -> Iterator[Problem]:
    """What several processes that share a run need."""
    devices = trainer.get("devices")
    count = process.size() if process.is_worker() else devices
    if isinstance(count, int) and isinstance(batch_size, int) and count > batch_size > 0:
        yield Problem("dataset.batch_size", f"is the batch of all {count} processes, and must have a sample for each")
    if trainer.get("strategy") != "fsdp":
        return
    if count == 1 and not process.is_worker():
        yield Problem("trainer.strategy", "is for several processes: add trainer.devices=N, or take ddp", "fsdp")
    if trainer.get("on_nonfinite") == "rollback":
        yield Problem("trainer.on_nonfinite", "excludes trainer.strategy=fsdp: use stop or skip", "rollback")


def _check_stopping(options: Mapping[str, Any]) -> Iterator[Problem]:
    for name in ("monitor", "min_delta"):
        if options.get(name) and "patience" in options and options["patience"] is None:
            text = "has no effect without trainer.early_stopping.patience: add trainer.early_stopping.patience=5"
            yield Problem(f"trainer.early_stopping.{name}", text, options[name])


def _check_pruner(pruner: Mapping[str, Any]) -> Iterator[Problem]:
    least, most, count = (pruner.get(name) for name in ("min_resource", "max_resource", "bootstrap_count"))
    if count and "auto" in (least, most):
        name = "min_resource" if least == "auto" else "max_resource"
        yield Problem("pruner.bootstrap_count", f"needs a number of epochs as pruner.{name}, which is auto", count)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield Problem("pruner.min_resource", f"must be at most pruner.max_resource={most}", least)


def check_files(dataset: Mapping[str, Any], stated: Stated) -> Iterator[Problem]:
    """Whether the files and folders that a data set reads are there."""
    for name, path in _paths(dataset, stated.folders):
        if not os.path.isdir(os.path.expanduser(path)):
            yield Problem(f"dataset.{name}", f"there is no such folder; it must hold {stated.folders[name]}", path)
    for name, path in _paths(dataset, stated.files):
        if not os.path.isfile(os.path.expanduser(path)):
            kind = kind_of(os.path.expanduser(path))
            what = f"that is {kind}" if kind else "there is no such file"
            yield Problem(f"dataset.{name}", f"{what}; it must be {stated.files[name]}", path)


def _paths(dataset: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, str]]:
    values = ((name, dataset.get(name)) for name in names)
    return [(name, value) for name, value in values if isinstance(value, str) and value not in ("", LATER)]


def _schedulers(key: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The nodes of a scheduler and of those that it is made of."""
    if isinstance(value, dict) and "_target_" in value:
        yield key, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from _schedulers(f"{key}.{name}", inner)


def _check_milestones(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    schedulers, milestones = node.get("schedulers"), node.get("milestones")
    if isinstance(schedulers, list) and isinstance(milestones, list) and len(milestones) != len(schedulers) - 1:
        text = f"must name where each of the {len(schedulers)} schedulers but the first begins"
        yield Problem(f"{key}.milestones", text, milestones)


def _check_within_sequence(key: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Refuse what torch's SequentialLR steps wrongly or not at all: another within it, and a chain at a milestone."""
    for place, inner in _schedulers(f"{key}.schedulers", node.get("schedulers")):
        name = str(inner.get("_target_"))
        if name.endswith(".SequentialLR"):
            text = "changes too early within another: write its schedulers and milestones into the outer one"
            yield Problem(f"{place}._target_", text, name)
        first = place.removeprefix(f"{key}.schedulers.").partition(".")[0] == "0"
        if name.endswith(".ChainedScheduler") and not first:
            text = "cannot begin at a milestone of SequentialLR: let it come first, or take one scheduler"
            yield Problem(f"{place}._target_", text, name)


def _check_cycle(key: str, optim: Mapping[str, Any]) -> Iterator[Problem]:
    if "momentum" not in optim and "betas" not in optim and _is_torch(optim):
        needs = f"needs an optimizer with momentum, which {optim['_target_']} has not"
        yield Problem(f"{key}.cycle_momentum", f"{needs}: use {key}.cycle_momentum=false", True)


def _check_rise(scheduler: Mapping[str, Any], epochs: Any) -> Iterator[Problem]:
    share = scheduler.get("pct_start")
    if scheduler.get("interval") != "epoch" or not isinstance(epochs, int):
        return
    if epochs == 1:
        text = "with trainer.epochs=1 this is one interval, at the lowest rate: use scheduler.interval=step"
        yield Problem("scheduler.interval", text, "epoch")
    elif isinstance(share, float) and share * epochs == 1:  # torch divides by the length of the rise, less one
        text = f"of trainer.epochs={epochs} is one epoch, too short to rise in: use scheduler.interval=step"
        yield Problem("scheduler.pct_start", text, share)


def _is_read(node: Mapping[str, Any]) -> bool:
    return str(node.get("_target_")).partition(".")[0] in READ


def _is_torch(node: Mapping[str, Any]) -> bool:
    return str(node.get("_target_")).startswith("torch.")


def _check_convolutions(model: Mapping[str, Any]) -> Iterator[Problem]:
    stride, kernel, padding = (model.get(name) for name in ("stride", "pool_kernel_size", "pool_padding"))
    if model.get("padding") == "same" and isinstance(stride, int) and stride > 1:
        text = "needs model.stride=1: use half of model.kernel_size as padding, model.padding="
        yield Problem("model.padding", text + str(_half(model.get("kernel_size"))), "same")
    if isinstance(kernel, int) and isinstance(padding, int) and kernel > 0 and padding > kernel // 2:
        yield Problem("model.pool_padding", f"must be at most half of model.pool_kernel_size={kernel}", padding)


def _half(size: Any) -> int:
    return size // 2 if isinstance(size, int) else 1


def _check_expression(key: str, scheduler: Mapping[str, Any], intervals: Any) -> Iterator[Problem]:
    text, variable = scheduler.get("lr_lambda"), scheduler.get("variable", "epoch")
    if not isinstance(text, str | float | int) or text == LATER or not isinstance(variable, str):
        return
    try:
        expression = Expression(str(text), variable)
        expression.check(intervals if isinstance(intervals, int) else 1)
    except ConfigError as error:
        cause = str(error).removeprefix(f"scheduler.lr_lambda='{text}': ")
        yield Problem(f"{key}.lr_lambda", cause, text)


def check_monitors(cfg: Mapping[str, Any], known: Sequence[str]) -> Iterator[Problem]:
    """Check what follows a metric; ``known`` are those that the run may have."""
    trainer, scheduler = cfg.get("trainer") or {}, cfg.get("scheduler") or {}
    for part in ("early_stopping", "checkpoint"):
        node = trainer.get(part) if isinstance(trainer, dict) else None
        if isinstance(node, dict):
            yield from _check_monitor(f"trainer.{part}.monitor", node.get("monitor"), known)
    is_plateau = str(scheduler.get("_target_")).endswith(".ReduceLROnPlateau")
    if is_plateau and "monitor" not in scheduler:
        yield Problem("scheduler.monitor", "ReduceLROnPlateau needs it: add scheduler.monitor=val/loss")
    if "monitor" not in scheduler:
        return
    if not is_plateau and _is_torch(scheduler):
        yield Problem("scheduler.monitor", "is for scheduler=plateau alone: leave it out", scheduler["monitor"])
        return
    yield from _check_monitor("scheduler.monitor", scheduler["monitor"], known)
    if scheduler.get("interval") == "step":
        yield Problem("scheduler.interval", "a metric is there once an epoch: use scheduler.interval=epoch", "step")
    yield from _check_mode(scheduler)


def _check_mode(scheduler: Mapping[str, Any]) -> Iterator[Problem]:
    mode, monitor = scheduler.get("mode"), scheduler.get("monitor")
    if mode not in ("auto", "min", "max"):
        yield Problem("scheduler.mode", "must be one of auto, min, max", mode)
    elif isinstance(monitor, str) and mode != "auto" and (mode == "min") != lower_is_better(monitor):
        better = "lower" if lower_is_better(monitor) else "higher"
        yield Problem("scheduler.mode", f"{monitor} is better when it is {better}: use scheduler.mode=auto", mode)


def _check_monitor(key: str, name: Any, known: Sequence[str]) -> Iterator[Problem]:
    if not isinstance(name, str) or name == LATER or name in known:
        return
    if len(known) == 1:
        reason = "dataset.val_fraction=0 leaves no validation part"
        yield Problem(key, f"is no metric of this run, because {reason}: use {key}={known[0]}", name)
        return
    if text := about_test(name):
        yield Problem(key, text, name)
        return
    task = next((task for task, names in NAMES.items() if name.removeprefix("val/") in names), "")
    near = did_you_mean(name, known) or did_you_mean(f"val/{name}", known)
    hint = f", but of {task}" if task and f"val/{name}" not in known else near
    there = " There" if "?" in hint else "; there"
    yield Problem(key, f"is no metric of this run{hint}{there} are {', '.join(known)}", name)


def _metric_names(dataset: Mapping[str, Any], stated: Stated, added: Iterable[str]) -> tuple[str, ...]:
    """Metrics that a run on the data set may have: those of both tasks where only the data know the task."""
    if stated.held_out and dataset.get("val_fraction") == 0:
        return ("train/loss",)
    task = dataset.get("task") or stated.task
    names = NAMES.get(str(task)) or tuple(dict.fromkeys(name for names in NAMES.values() for name in names))
    absent = ("top5_accuracy",) if (stated.classes or 11) <= 10 else ()
    return ("train/loss", *(f"val/{name}" for name in (*names, *added) if name not in absent))
