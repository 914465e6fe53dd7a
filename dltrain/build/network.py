"""Where a network lies, and what holds it: a device, several processes, the compiler."""

import copy
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from dltrain.data.loader import Loader
from dltrain.distributed.layers import share_layers
from dltrain.distributed.strategy import replicate, shard
from dltrain.distributed.world import Group, World


def placed_network(
    cfg: DictConfig, model: nn.Module, device: torch.device, world: World, images: bool
) -> tuple[nn.Module, nn.Module | None]:
    """``model`` on its device, in one piece or in shards, and a copy of it for the average of the weights."""
    sharded = is_sharded(cfg, world)
    if not sharded:
        model = model.to(device)
        if device.type == "cuda" and images:
            model = model.to(memory_format=torch.channels_last)  # what tensor cores compute convolutions in
    average = copy.deepcopy(model) if cfg.trainer.ema_decay is not None else None
    if world.size > 1:
        share_layers(model, world, cfg.trainer.sync_batchnorm)
    if sharded:
        shard(model, device, world.size)
        if average is not None:
            shard(average, device, world.size)
    return model, average


def is_sharded(cfg: DictConfig, world: World) -> bool:
    return bool(cfg.trainer.strategy == "fsdp") and isinstance(world, Group)  # a check builds the run in one process


def wrapped(cfg: DictConfig, model: nn.Module, loss: nn.Module, train: Loader, world: World) -> Any:
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


def without_fused_kernel(optimizer: torch.optim.Optimizer) -> None:
    """Shards have no fused kernels; the others compute the same but for rounding."""
    for group in optimizer.param_groups:
        group.update({"fused": None} if group.get("fused") else {})
