"""From a configuration to the objects of a run, in one ordered function."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dltrain.build.make import (
    added_metrics,
    evaluation_loader,
    make,
    module,
    optimizer,
    read_data,
    scheduler,
    training_loader,
)
from dltrain.build.network import (
    is_sharded,
    placed_network,
    unfetched,
    warn_of_weights,
    without_fused_kernel,
    wrapped,
)
from dltrain.config.interpolation import escaped
from dltrain.config.nodes import WITHHELD
from dltrain.config.relations import check_monitors
from dltrain.config.rules import shown
from dltrain.data.base import Data
from dltrain.data.loader import Loader
from dltrain.distributed.process_group import ProcessGroup
from dltrain.errors import ConfigError
from dltrain.loggers import Loggers
from dltrain.losses import Penalty, require_fitting
from dltrain.report.metrics import declare, lower_is_better
from dltrain.runs.writer import Checkpoints, Due, ShardedCheckpoints
from dltrain.schedulers import Schedule
from dltrain.system.device import Precision, pick_device, pick_precision, pick_threads, threads_of_run
from dltrain.system.machine import CoreWatch
from dltrain.training.metrics import Metric, metrics_for
from dltrain.training.monitor import Best, EarlyStopping
from dltrain.training.progress import View, make_view
from dltrain.training.shapes import require_metrics, require_shapes
from dltrain.training.state import ExponentialMovingAverage
from dltrain.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """A run, ready to go."""

    trainer: Trainer
    data: Data
    test: Loader | None
    config_text: str
    environment: dict[str, Any]
    profile: bool

    def images(self, count: int) -> torch.Tensor | None:
        """The first images of the training part (n, channels, height, width) float32 in [0, 1], if it has images."""
        train, levels = self.trainer.train, self.data.preprocessing.get("levels", 255)
        if self.data.facts.kind != "image":
            return None
        device = train.device if train.resident else "cpu"
        raw = train.samples.take(torch.arange(min(count, len(train.samples)), device=device))[0].cpu()
        # The user's own data may hold anything.
        return (raw.float() / levels).clamp(max=1) if raw.dtype == torch.uint8 else None


def build(
    cfg: DictConfig,
    folder: Path,
    process_group: ProcessGroup | None = None,
    fresh: bool = True,
    threads: int | str | None = None,
) -> Parts:
    """Build everything that ``cfg`` names; ``cfg`` gains the facts of its data set.

    With ``fresh=False`` weights are not fetched, because those of a checkpoint replace them at once. ``threads`` are
    those that the run has recorded, if it is to go on. Every process of the group, by default only this one, builds the
    same, and its part of what they share.

    Nothing is written: whatever is wrong is known before the run has left a trace.

    Raises:
        UserError: a file, a key or a combination that cannot work.
    """
    process_group = process_group or ProcessGroup()
    cfg.data = dict.fromkeys(cfg.data)
    composed = OmegaConf.to_yaml(cfg)  # without the facts, which a resumed run fills in again
    device = pick_device(cfg.device)
    precision = pick_precision(cfg.trainer.precision, device)

    # Data first: their facts size the model and the schedule.
    data = read_data(cfg)
    log.info("%s", data)
    train = training_loader(data, cfg, device, process_group)
    parts = (data.val, data.test)
    val, test = (evaluation_loader(part, data, cfg, device, process_group) if part else None for part in parts)
    _fill_facts(cfg, data, steps_per_epoch=len(train))

    # The seed was set just before: nothing above draws from torch's generator, so weights depend on it alone.
    with contextlib.nullcontext() if fresh else unfetched(cfg.model):
        model = module(cfg, "model")
    if fresh:
        warn_of_weights(cfg.model, data.facts.input_shape, cfg.dataset)
    _require_a_weight_each(cfg, data)
    loss = module(cfg, "loss", device).to(device)
    require_fitting(loss, data.facts.task)
    _require_trainable(cfg, model, precision, process_group)
    model, average = placed_network(cfg, model, device, process_group, data.facts.kind == "image")
    work = require_shapes(model, loss, train, data.facts, precision)
    cfg.trainer.threads = _threads(cfg, threads, work, device, process_group)
    torch.set_num_threads(cfg.trainer.threads)

    # The optimizer keeps references to the parameters, so the model is on its device by now.
    optim = optimizer(cfg, list(model.parameters()))
    if is_sharded(cfg, process_group):
        without_fused_kernel(optim)
    declare(cfg.get("metric"))
    added = added_metrics(cfg, process_group.size)
    require_metrics(added, data.facts, device)
    metric_names = _metric_names(data, device, added)
    _require_metrics(cfg, metric_names)
    schedule = _schedule(cfg, optim, metric_names)

    monitor = _monitor(cfg.trainer.checkpoint.monitor, metric_names)
    when, l1, l2 = cfg.trainer.checkpoint, cfg.penalty.l1, cfg.penalty.l2
    config_text = OmegaConf.to_yaml(cfg, resolve=True)
    header = {
        "config": config_text,
        "composed": composed,
        "facts": asdict(data.facts),
        "preprocessing": data.preprocessing,
    }
    trainer = Trainer(
        model=model,
        loss=loss,
        optimizer=optim,
        train=train,
        val=val,
        metrics=lambda: metrics_for(data.facts, device, loss, added),
        precision=precision,
        epochs=cfg.trainer.epochs,
        best=Best(monitor),
        checkpoints=_checkpoints(cfg, folder / "checkpoints", header, process_group),
        due=Due(when.every_n_epochs, when.every_n_steps, when.every_n_minutes),
        view=_view(cfg, train, process_group),
        schedule=schedule,
        penalty=Penalty(model.parameters(), l1, l2) if l1 or l2 else None,
        accumulate=cfg.trainer.accumulate,
        clip_norm=cfg.trainer.clip_norm,
        clip_value=cfg.trainer.clip_value,
        ema=ExponentialMovingAverage(model, cfg.trainer.ema_decay, average) if average is not None else None,
        early_stopping=_early_stopping(cfg, metric_names),
        wrapped=wrapped(cfg, model, loss, train, process_group),
        process_group=process_group,
        cores=CoreWatch(cfg.trainer.threads) if cfg.trainer.threads > 1 and device.type == "cpu" else None,
        on_nonfinite=cfg.trainer.on_nonfinite,
        on_oom=cfg.trainer.on_oom,
    )
    environment = _environment(cfg, device, precision, process_group)
    return Parts(trainer, data, test, config_text, environment, cfg.trainer.profile)


def start_loggers(cfg: DictConfig, folder: Path, history: list[dict[str, float]]) -> Loggers:
    """Make the chosen loggers, which may create files or talk to servers."""
    config = OmegaConf.to_container(cfg, resolve=True)
    # By position: hydra would build what a keyword argument names as a _target_, and the configuration is full of them.
    return Loggers({name: partial(make, cfg, f"logger.{name}", folder, config) for name in cfg.logger or ()}, history)


def _threads(
    cfg: DictConfig, recorded: int | str | None, work: int, device: torch.device, process_group: ProcessGroup
) -> int:
    """Threads for a network of ``work`` multiply-adds a sample, where a process takes its part of each batch."""
    if recorded is not None and cfg.trainer.threads == "auto":
        return threads_of_run(recorded)
    samples = cfg.dataset.batch_size // (process_group.size * cfg.trainer.accumulate)
    return pick_threads(cfg.trainer.threads, work * samples, device)


def _checkpoints(cfg: DictConfig, folder: Path, header: dict[str, Any], process_group: ProcessGroup) -> Checkpoints:
    keep = cfg.trainer.checkpoint.keep
    if not is_sharded(cfg, process_group):
        return Checkpoints(folder, header, keep, writes=process_group.is_main)
    return ShardedCheckpoints(folder, header, keep, process_group)


def _fill_facts(cfg: DictConfig, data: Data, steps_per_epoch: int) -> None:
    facts = data.facts
    parts = {"train": data.train, "val": data.val, "test": data.test}
    per_interval = steps_per_epoch if cfg.scheduler.interval == "step" else 1
    values = {
        "name": facts.name,
        "task": facts.task,
        "kind": facts.kind,
        "input_shape": list(facts.input_shape),
        "num_outputs": facts.num_outputs,
        "class_names": list(facts.class_names) or None,
        "samples": {name: len(part) if part else 0 for name, part in parts.items()},
        "files": data.files or None,
        "steps_per_epoch": steps_per_epoch,
        "schedule_length": cfg.trainer.epochs * per_interval,
    }
    with open_dict(cfg):
        cfg.data.update(escaped(values))  # they are data, whatever they look like


def _metric_names(data: Data, device: torch.device, added: Mapping[str, Metric]) -> list[str]:
    names = metrics_for(data.facts, device, added=added).names if data.val else ()
    return ["train/loss", *(f"val/{name}" for name in names)]


def _require_metrics(cfg: DictConfig, names: list[str]) -> None:
    """Refuse to follow a metric that is none of ``names``, those of the run, or the wrong way."""
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    if problems := [problem.sentence() for problem in check_monitors(resolved, names)]:
        raise ConfigError(problems)


def _monitor(name: str | None, names: list[str]) -> str:
    """The metric that is named, or the usual one."""
    return name or ("val/loss" if "val/loss" in names else "train/loss")


def _schedule(cfg: DictConfig, optim: torch.optim.Optimizer, metric_names: list[str]) -> Schedule | None:
    node, monitor = cfg.scheduler, None
    if node._target_ is None:
        return None
    if "monitor" in node:
        monitor = _monitor(node.monitor, metric_names)
        if node.mode == "auto":
            node.mode = "min" if lower_is_better(monitor) else "max"
    return Schedule(scheduler(cfg, "scheduler", optim, without=WITHHELD["scheduler"]), node.interval, monitor)


def _early_stopping(cfg: DictConfig, metric_names: list[str]) -> EarlyStopping | None:
    options = cfg.trainer.early_stopping
    monitor = _monitor(options.monitor, metric_names)
    return EarlyStopping(Best(monitor, options.min_delta), options.patience) if options.patience else None


def _require_trainable(cfg: DictConfig, model: nn.Module, precision: Precision, process_group: ProcessGroup) -> None:
    """Refuse what layers of the network cannot do, before a step fails."""
    modules = list(model.modules())
    size, batch_norm = cfg.dataset.batch_size, any(isinstance(module, _BatchNorm) for module in modules)
    if size == 1 and batch_norm:
        raise ConfigError(["dataset.batch_size=1: batch norm cannot train on single samples; use larger batches"])
    if size < 2 * process_group.size and batch_norm and not cfg.trainer.sync_batchnorm:
        problem = "batch norm cannot train on single samples; use larger batches, or trainer.sync_batchnorm=true"
        raise ConfigError([f"dataset.batch_size={size} in {process_group.size} processes: {problem}"])
    on_cpu_in_half = precision.dtype is torch.float16 and precision.device.type == "cpu"
    if on_cpu_in_half and any(isinstance(module, nn.RNNBase) for module in modules):
        raise ConfigError(["trainer.precision=fp16: the CPU has no recurrent layers in float16; use bf16 or fp32"])


def _require_a_weight_each(cfg: DictConfig, data: Data) -> None:
    """Refuse class weights of torch's losses and ours that are not one for each class, or all 0."""
    if str(cfg.loss._target_).partition(".")[0] not in ("torch", "dltrain"):
        return
    count, names = data.facts.num_outputs, data.facts.class_names
    for key in ("weight", "pos_weight"):
        weights = OmegaConf.select(cfg.loss, key)
        if not isinstance(weights, ListConfig):
            continue
        if len(weights) != count and data.facts.task == "classification":
            order = f", in this order: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}" if names else ""
            text = f"the data set has {count} classes: give one number for each{order}"
            raise ConfigError([f"loss.{key}={shown(list(weights))}: {text}"])
        if key == "weight" and not any(weights):
            raise ConfigError([f"loss.weight={shown(list(weights))}: no class would count: give one a number above 0"])


def _view(cfg: DictConfig, train: Loader, process_group: ProcessGroup) -> View:
    if not process_group.is_main:
        return View(cfg.trainer.epochs, len(train.samples))
    names = [str(cfg[key]._target_).rpartition(".")[2] for key in ("model", "loss", "optim")]
    headline = f"{', '.join(names)} on {f'{process_group.size} × ' if process_group.size > 1 else ''}{train.device}"
    return make_view(cfg.trainer.epochs, len(train.samples), len(train), headline)


def _environment(
    cfg: DictConfig, device: torch.device, precision: Precision, process_group: ProcessGroup
) -> dict[str, Any]:
    return {
        "processes": process_group.size,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "precision": str(precision.dtype or torch.float32).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": cfg.seed,
        "deterministic": cfg.deterministic,
    }
