"""Where a network lies, and what holds it: a device, several processes, the compiler."""

import contextlib
import copy
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from dltrain.data.loader import Loader
from dltrain.distributed.layers import share_layers
from dltrain.distributed.process_group import DistributedGroup, ProcessGroup
from dltrain.distributed.strategy import replicate, shard

log = logging.getLogger(__name__)


@contextlib.contextmanager
def unfetched(node: Mapping[str, Any]) -> Iterator[None]:
    """Within, pre-trained ``weights`` of the model ``node`` decide its layers, but are neither fetched nor read.

    This is for networks whose weights come out of a checkpoint. Some of torchvision's fetch weights unasked.
    """
    if not re.search(r"'weights': '|torchvision\.", str(node)):  # at any depth
        yield
        return
    from torchvision.models import WeightsEnum  # takes seconds, which others should not pay

    fetch, load = WeightsEnum.get_state_dict, nn.Module.load_state_dict
    WeightsEnum.get_state_dict = lambda *_, **__: {}
    nn.Module.load_state_dict = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        WeightsEnum.get_state_dict, nn.Module.load_state_dict = fetch, load  # type: ignore[method-assign]


def warn_of_weights(node: Mapping[str, Any], shape: Sequence[int], dataset: Mapping[str, Any]) -> None:
    """Warn where the images, of ``shape`` (channels, height, width), are smaller than those of pre-trained weights."""
    name = node.get("weights")
    if not isinstance(name, str) or len(shape) != 3:
        return
    from torchvision.models import get_model_weights

    try:
        made_with = get_model_weights(str(node["_target_"]).rpartition(".")[2])[name.rpartition(".")[2]]
        side = int(made_with.transforms.keywords["crop_size"])
    except (ValueError, KeyError, AttributeError):  # not a network of torchvision's
        return
    if min(shape[1:]) < side:
        key = f"dataset.image_size={side}"
        type_this = key if "image_size" in dataset else f"dataset=image_folder or shards with {key}"
        log.warning(
            "model.weights=%s: they were trained on images of %d × %d, scaled by ImageNet's mean and deviation;"
            " these are %d × %d, scaled by those of your training images. To make more of the weights: %s",
            *(name, side, side, *shape[1:], type_this),
        )


def placed_network(
    cfg: DictConfig, model: nn.Module, device: torch.device, process_group: ProcessGroup, images: bool
) -> tuple[nn.Module, nn.Module | None]:
    """``model`` on its device, whole or in shards, and a copy of it for the average of the weights."""
    sharded = is_sharded(cfg, process_group)
    if not sharded:
        model = model.to(device)
        if device.type == "cuda" and images:
            model = model.to(memory_format=torch.channels_last)  # what tensor cores compute convolutions in
    average = copy.deepcopy(model) if cfg.trainer.ema_decay is not None else None
    if process_group.size > 1:
        share_layers(model, process_group, cfg.trainer.sync_batchnorm)
    if sharded:
        shard(model, device, process_group.size)
        if average is not None:
            shard(average, device, process_group.size)
    return model, average


def is_sharded(cfg: DictConfig, process_group: ProcessGroup) -> bool:
    # A check builds the run in a single process.
    return cfg.trainer.strategy == "fsdp" and isinstance(process_group, DistributedGroup)


def wrapped(cfg: DictConfig, model: nn.Module, loss: nn.Module, train: Loader, process_group: ProcessGroup) -> Any:
    """What the training steps call: ``model`` itself, or wrapped for several processes, for the compiler, or both."""
    network = model
    if cfg.trainer.strategy == "ddp" and isinstance(process_group, DistributedGroup):
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
