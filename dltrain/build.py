"""From a configuration to the objects of a run, in one ordered function."""

import copy
import inspect
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dltrain.averaging import ExponentialMovingAverage
from dltrain.checkpoint import Checkpoints, Due
from dltrain.config.nodes import require_harmless
from dltrain.data.adapted import adapted
from dltrain.data.base import Data, Facts, Fitted, Samples
from dltrain.data.loader import Loader
from dltrain.device import Precision, fits, pick_device, pick_precision
from dltrain.distributed.layers import share_layers
from dltrain.distributed.strategy import replicate, shard
from dltrain.distributed.world import Group, World
from dltrain.errors import ConfigError, DltrainError, did_you_mean
from dltrain.loggers import Loggers
from dltrain.losses import Penalty, require_fitting
from dltrain.metric_names import lower_is_better
from dltrain.machine import core_count
from dltrain.metrics import metrics_for
from dltrain.monitor import Best, EarlyStopping
from dltrain.progress import View, make_view
from dltrain.schedulers import Schedule
from dltrain.shapes import require_shapes
from dltrain.trainer import Trainer

log = logging.getLogger(__name__)

# Keys of a dataset node that say how its samples are served; the others are arguments of its function.
_LOADER_KEYS = ("batch_size",)
_PART_KEYS = ("val_fraction", "test_fraction", "limit", "split_seed")
_SCHEDULE_KEYS = ("interval", "monitor")
# An evaluation batch has at most so many samples, and so many values, unless the training batch has more.
_EVALUATION_BATCH = 256
_EVALUATION_VALUES = 1_000_000


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


def build(cfg: DictConfig, folder: Path, world: World | None = None) -> Parts:
    """Build everything that ``cfg`` names; ``cfg`` gains the facts of its data set.

    Every process of ``world`` (by default this one alone) builds the same, and then its part of what they share.

    Nothing is written but what loggers write when they start, and these come last: whatever is wrong is known
    before the run has left a trace.

    Raises:
        UserError: a file, a key or a combination that cannot work.
    """
    world = world or World()
    composed = OmegaConf.to_yaml(cfg)  # without the facts, which a resumed run fills in anew
    device = pick_device(cfg.device)
    precision = pick_precision(cfg.trainer.precision, device)

    # Data first: their facts size the model and the schedule.
    data = read_data(cfg)
    log.info("%s", data)
    train = _training_loader(data, cfg, device, world)
    parts = (data.val, data.test)
    val, test = (evaluation_loader(part, data, cfg, device, world) if part else None for part in parts)
    _fill_facts(cfg, data, steps_per_epoch=len(train))

    # The seed was set just before: nothing above draws from torch's generator, so weights depend on it alone.
    model = module(cfg, "model")
    loss = module(cfg, "loss").to(device)
    require_fitting(loss, data.facts.task)
    _require_trainable(cfg, model, precision, world)
    model, average = _placed_network(cfg, model, device, world, data.facts.kind == "image")
    require_shapes(model, loss, train, data.facts, precision)

    # The optimizer keeps references to the parameters, so the model is on its device by now.
    optimizer = make(cfg, "optim", model.parameters())
    if cfg.trainer.strategy == "fsdp":
        _without_fused_kernel(optimizer)
    metric_names = _metric_names(data, device)
    schedule = _schedule(cfg, optimizer, metric_names)

    monitor = _monitor(cfg, "trainer.checkpoint.monitor", metric_names)
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
        optimizer=optimizer,
        train=train,
        val=val,
        metrics=lambda: metrics_for(data.facts, device),
        precision=precision,
        epochs=cfg.trainer.epochs,
        best=Best(monitor),
        checkpoints=_checkpoints(cfg, folder / "checkpoints", header, world),
        due=_due(cfg),
        view=_view(cfg, train, world),
        schedule=schedule,
        penalty=_penalty(cfg, model),
        accumulate=cfg.trainer.accumulate,
        clip_norm=cfg.trainer.clip_norm,
        clip_value=cfg.trainer.clip_value,
        ema=ExponentialMovingAverage(model, cfg.trainer.ema_decay, average) if average is not None else None,
        early_stopping=_early_stopping(cfg, metric_names),
        wrapped=_wrapped(cfg, model, loss, train, world),
        world=world,
        on_nonfinite=cfg.trainer.on_nonfinite,
        on_oom=cfg.trainer.on_oom,
    )
    environment = _environment(cfg, device, precision, world)
    return Parts(trainer, data, test, config_text, environment, cfg.trainer.profile)


def start_loggers(cfg: DictConfig, folder: Path, history: list[dict[str, float]]) -> Loggers:
    """Make the chosen loggers, which may create files or talk to servers."""
    config = OmegaConf.to_container(cfg, resolve=True)
    # By position: hydra would build what a keyword argument names as a _target_, and the configuration is full of them.
    return Loggers({name: partial(make, cfg, f"logger.{name}", folder, config) for name in cfg.logger or ()}, history)


def make(cfg: DictConfig, key: str, *args: Any, without: Sequence[str] = (), partial: bool = False) -> Any:
    """Call the ``_target_`` of the node ``key`` with its keys, but for those in ``without``, and with the arguments.

    With ``partial`` it is not called: what comes back takes further arguments, which no configuration could hold.

    Raises:
        DltrainError: as the target itself raised it.
        ConfigError: there is no such target, or one of torch's or dltrain's own refuses the keys.
    """
    node = OmegaConf.select(cfg, key)
    node = OmegaConf.masked_copy(node, [name for name in node if name not in without])
    node._set_parent(cfg)  # so that interpolations still find the rest
    resolved: Any = OmegaConf.to_container(node, resolve=True)
    require_harmless(key, resolved)
    try:
        return instantiate(node, *args, _convert_="all", _partial_=partial)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:
            raise ConfigError([f"{key}: {str(error).splitlines()[0]}"]) from error
        if isinstance(cause, DltrainError):
            raise cause from cause.__cause__
        ours = str(node._target_).partition(".")[0] in ("torch", "torchvision", "dltrain")
        if ours and isinstance(cause, ValueError | TypeError | ArithmeticError):
            raise ConfigError([f"{key}: {cause}"]) from error
        raise cause from cause.__cause__  # a bug in the user's class keeps its own traceback


def module(cfg: DictConfig, key: str) -> nn.Module:
    """Make the node ``key``, a model or a loss; see :func:`make`."""
    made = make(cfg, key)
    if not isinstance(made, nn.Module):  # what a class makes was checked before, not what a function returns
        target = f"{key}._target_={cfg[key]._target_}"
        raise ConfigError([f"{target}: it returned {made!r:.60}, but must return a torch.nn.Module"])
    return made


def read_data(cfg: DictConfig, fitted: Fitted | None = None) -> Data:
    """The data set; keys about its parts that a target of the user's own does not take are dltrain's to follow.

    With ``fitted``, what an earlier run measured, it is prepared as that run's own was, where its target can do that.
    """
    node = cfg.dataset
    if "batch_size" not in node:
        raise ConfigError(["dataset.batch_size is missing: add batch_size: 32 to the YAML file of the data set"])
    parts = {key: node[key] for key in _PART_KEYS if key in node}
    withheld = [key for key in parts if not _takes(node._target_, key)]
    without = (*_LOADER_KEYS, *withheld)
    if fitted and _takes(node._target_, "fitted"):  # which a configuration could not hold
        made = make(cfg, "dataset", without=without, partial=True)(fitted=fitted)
    else:
        made = make(cfg, "dataset", without=without)
    return adapted(made, str(node._target_).rpartition(".")[2], **parts)


def _takes(target: str, key: str) -> bool:
    """Whether a target has a parameter of that name; of one that cannot be found, :func:`make` says why."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (HydraException, ImportError, ValueError, TypeError):
        return True
    return key in parameters or any(found.kind is found.VAR_KEYWORD for found in parameters.values())


def _training_loader(data: Data, cfg: DictConfig, device: torch.device, world: World) -> Loader:
    samples, resident = _placed(data.train, device)
    batch_size, smallest = cfg.dataset.batch_size, 2 if cfg.trainer.sync_batchnorm else 2 * world.size
    transform, augment, workers = data.transform, data.augment, _workers(world)
    return Loader(samples, batch_size, transform, device, cfg.seed, augment, resident, workers, smallest)


def evaluation_loader(
    part: Samples, data: Data, cfg: DictConfig, device: torch.device, world: World | None = None
) -> Loader:
    """Batches of ``part`` as it lies; their size, which decides how sums are rounded, follows from ``cfg``.

    Where several processes share them, each gets its part of larger ones.
    """
    world = world or World()
    samples, resident = _placed(part, device)
    batch_size = evaluation_batch_size(cfg, data.facts) * world.size
    loader = Loader(samples, batch_size, data.transform, device, resident=resident, workers=_workers(world))
    loader.cut = world.cut if world.size > 1 else None
    return loader


def _workers(world: World) -> int:
    """Processes that read files: all of a machine's cores, shared among the run's processes there."""
    return max(core_count() // world.local_size, 1)


def evaluation_batch_size(cfg: DictConfig, facts: Facts) -> int:
    """Without gradients there is room for more: enough that small networks do not wait for Python."""
    room = _EVALUATION_VALUES // math.prod(facts.input_shape)
    return int(max(cfg.dataset.batch_size, min(_EVALUATION_BATCH, room)))


def _placed(samples: Samples, device: torch.device) -> tuple[Samples, bool]:
    """The samples on the device where they fit there, else as they are, and whether they fit."""
    resident = not samples.streamed and fits(samples.nbytes, device)
    return (samples.to(device) if resident else samples), resident


def _placed_network(
    cfg: DictConfig, model: nn.Module, device: torch.device, world: World, images: bool
) -> tuple[nn.Module, nn.Module | None]:
    """``model`` on its device, in one piece or in shards, and a copy of it for the average of the weights."""
    if cfg.trainer.strategy != "fsdp":
        model = model.to(device)
        if device.type == "cuda" and images:
            model = model.to(memory_format=torch.channels_last)  # what tensor cores compute convolutions in
    average = copy.deepcopy(model) if cfg.trainer.ema_decay is not None else None
    if world.size > 1:
        share_layers(model, world, cfg.trainer.sync_batchnorm)
    if cfg.trainer.strategy == "fsdp":
        shard(model, device, world.size)
        if average is not None:
            shard(average, device, world.size)
    return model, average


def _wrapped(cfg: DictConfig, model: nn.Module, loss: nn.Module, train: Loader, world: World) -> Any:
    """What the training steps call: ``model`` itself, or wrapped for several processes, for the compiler, or both."""
    network = model
    if cfg.trainer.strategy == "ddp" and isinstance(world, Group):
        network = replicate(model, lambda: _gradients_of_two(model, loss, train), cfg.trainer.sync_batchnorm)
    if cfg.trainer.compile:
        # CUDA graphs, which pay most where a network is so small that the GPU waits for Python.
        return torch.compile(network, mode="reduce-overhead" if train.device.type == "cuda" else "default")
    return None if network is model else network


def _gradients_of_two(model: nn.Module, loss: nn.Module, train: Loader) -> None:
    inputs, targets = train.first(2)
    loss(model(inputs), targets).backward()


def _checkpoints(cfg: DictConfig, folder: Path, header: dict[str, Any], world: World) -> Checkpoints:
    keep = cfg.trainer.checkpoint.keep
    if cfg.trainer.strategy != "fsdp":
        return Checkpoints(folder, header, keep, writes=world.is_main)
    from dltrain.distributed.sharded import ShardedCheckpoints  # its torch modules take long to import

    return ShardedCheckpoints(folder, header, keep, world)


def _without_fused_kernel(optimizer: torch.optim.Optimizer) -> None:
    """Shards have no fused kernels; the others compute the same but for rounding."""
    for group in optimizer.param_groups:
        group.update({"fused": None} if group.get("fused") else {})


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
        cfg.data.update(values)


def _metric_names(data: Data, device: torch.device) -> list[str]:
    names = metrics_for(data.facts, device).names if data.val else ()
    return ["train/loss", *(f"val/{name}" for name in names)]


def _monitor(cfg: DictConfig, key: str, names: list[str]) -> str:
    """The metric that ``key`` names, or the usual one; :class:`ConfigError` when there will be no such metric."""
    name = OmegaConf.select(cfg, key)
    if name is None:
        return "val/loss" if "val/loss" in names else "train/loss"
    if name not in names:
        no_val = "" if len(names) > 1 else " (dataset.val_fraction=0 leaves no validation part)"
        hint = did_you_mean(name, names)
        raise ConfigError([f"{key}='{name}' is no metric of this run{no_val}{hint} There are {', '.join(names)}"])
    return str(name)


def _schedule(cfg: DictConfig, optimizer: torch.optim.Optimizer, metric_names: list[str]) -> Schedule | None:
    node = cfg.scheduler
    if node._target_ is None:
        return None
    if "monitor" not in node:
        return Schedule(make(cfg, "scheduler", optimizer, without=_SCHEDULE_KEYS), node.interval)
    monitor = _monitor(cfg, "scheduler.monitor", metric_names)
    if node.interval != "epoch":
        raise ConfigError(["scheduler.interval=step: a metric is there once an epoch; use scheduler.interval=epoch"])
    better = "min" if lower_is_better(monitor) else "max"
    if node.mode == "auto":
        node.mode = better
    elif node.mode != better:
        raise ConfigError([f"scheduler.mode={node.mode}: {monitor} is better when {better}imal; use mode=auto"])
    return Schedule(make(cfg, "scheduler", optimizer, without=_SCHEDULE_KEYS), node.interval, monitor)


def _early_stopping(cfg: DictConfig, metric_names: list[str]) -> EarlyStopping | None:
    options = cfg.trainer.early_stopping
    monitor = _monitor(cfg, "trainer.early_stopping.monitor", metric_names)
    return EarlyStopping(Best(monitor, options.min_delta), options.patience) if options.patience else None


def _require_trainable(cfg: DictConfig, model: nn.Module, precision: Precision, world: World) -> None:
    """Refuse what layers of the network cannot do, before it fails in the middle of a step."""
    modules = list(model.modules())
    size, batch_norm = cfg.dataset.batch_size, any(isinstance(module, _BatchNorm) for module in modules)
    if size < world.size:
        raise ConfigError([f"dataset.batch_size={size}: the batch of all {world.size} processes must be larger"])
    if size == 1 and batch_norm:
        raise ConfigError(["dataset.batch_size=1: batch norm cannot train on single samples; use larger batches"])
    if size < 2 * world.size and batch_norm and not cfg.trainer.sync_batchnorm:
        problem = "batch norm cannot train on single samples; use larger batches, or trainer.sync_batchnorm=true"
        raise ConfigError([f"dataset.batch_size={size} in {world.size} processes: {problem}"])
    if cfg.trainer.strategy == "fsdp" and not isinstance(world, Group):
        raise ConfigError(["trainer.strategy=fsdp: there is one process; add trainer.devices=N, or use torchrun"])
    if cfg.trainer.strategy == "fsdp" and cfg.trainer.on_nonfinite == "rollback":
        raise ConfigError(["trainer.on_nonfinite=rollback: not with trainer.strategy=fsdp; use stop or skip"])
    on_cpu_in_half = precision.dtype is torch.float16 and precision.device.type == "cpu"
    if on_cpu_in_half and any(isinstance(module, nn.RNNBase) for module in modules):
        raise ConfigError(["trainer.precision=fp16: the CPU has no recurrent layers in float16; use bf16 or fp32"])


def _due(cfg: DictConfig) -> Due:
    when = cfg.trainer.checkpoint
    return Due(when.every_n_epochs, when.every_n_steps, when.every_n_minutes)


def _penalty(cfg: DictConfig, model: nn.Module) -> Penalty | None:
    if not (cfg.penalty.l1 or cfg.penalty.l2):
        return None
    return Penalty(model.parameters(), cfg.penalty.l1, cfg.penalty.l2)


def _view(cfg: DictConfig, train: Loader, world: World) -> View:
    if not world.is_main:
        return View(cfg.trainer.epochs, len(train.samples))
    names = [str(cfg[key]._target_).rpartition(".")[2] for key in ("model", "loss", "optim")]
    headline = f"{', '.join(names)} on {f'{world.size} × ' if world.size > 1 else ''}{train.device}"
    return make_view(cfg.trainer.epochs, len(train.samples), len(train), headline)


def _environment(cfg: DictConfig, device: torch.device, precision: Precision, world: World) -> dict[str, Any]:
    return {
        "processes": world.size,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "precision": str(precision.dtype or torch.float32).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": cfg.seed,
        "deterministic": cfg.deterministic,
    }
