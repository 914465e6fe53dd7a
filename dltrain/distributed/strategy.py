"""How several processes hold a network: a copy each (DDP), or a shard each (FSDP2)."""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket

from dltrain.distributed.process_group import ProcessGroup

Network = Callable[[Tensor], Tensor]


def replicate(model: nn.Module, backward: Callable[[], None], sync_batchnorm: bool) -> nn.Module:
    """``model`` in a :class:`~torch.nn.parallel.DistributedDataParallel`, which averages gradients over processes.

    ``backward`` computes the gradients of a few samples, which shows whether every parameter has a part in the loss.
    """
    from torch.nn.parallel import DistributedDataParallel

    device = next(model.parameters()).device
    # Weights of convolutions that read one channel have two layouts at once, which costs nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # torch 2.14 has renamed the option, and warns of the old name.
    options = inspect.signature(DistributedDataParallel).parameters
    sends_buffers = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
    network = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=_has_unused(model, backward),
        gradient_as_bucket_view=True,
        # Statistics over all rows are the same everywhere, and need not be sent before each step.
        **{sends_buffers: not sync_batchnorm},  # type: ignore[arg-type]
    )
    if dist.get_world_size() == 1:
        network.register_comm_hook(None, _unreduced)
    return network


def _unreduced(state: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The gradients of a bucket, which need no sum over a single process, nor a thread for it."""
    result: torch.futures.Future[Tensor] = torch.futures.Future()
    result.set_result(bucket.buffer())
    return result


def shard(model: nn.Module, device: torch.device, size: int) -> nn.Module:
    """Spread the parameters of each layer of ``model`` over all processes, in place, and return it.

    Layers may still be in the CPU's memory: they are moved to the device in turn, and a shard of each stays.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (size,))
    model.to(memory_format=torch.contiguous_format)  # others cannot be cut into shards
    for layer in list(model.modules())[1:]:
        if any(True for _ in layer.parameters(recurse=False)):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether any of these lies in shards."""
    module = sys.modules.get("torch.distributed.tensor")  # long to import, and imported where there are shards
    return module is not None and any(isinstance(parameter, module.DTensor) for parameter in parameters)


def local(tensor: Tensor) -> Tensor:
    """What of ``tensor`` lies in this process, in the same memory."""
    return cast(Any, tensor).to_local() if is_sharded([tensor]) else tensor


def without_sum(network: Any) -> AbstractContextManager[object]:
    """Within, gradients are not summed over processes: more micro-batches of the same step follow."""
    if hasattr(network, "no_sync"):
        return cast(AbstractContextManager[object], network.no_sync())
    return _unsynchronised(network) if hasattr(network, "set_requires_gradient_sync") else nullcontext()


@contextmanager
def _unsynchronised(network: Any) -> Iterator[None]:
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def norm_of_shards(gradients: Sequence[Tensor], process_group: ProcessGroup) -> Tensor:
    """A scalar () that is finite if all gradients are, the same in all processes, which hold a shard of each."""
    return process_group.sum(torch.stack([local(gradient).abs().sum() for gradient in gradients]).sum())


def _has_unused(model: nn.Module, backward: Callable[[], None]) -> bool:
    """Whether a parameter has no part in the loss: DDP would wait for its gradient for ever."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = next(model.parameters()).device
    training = model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.train()
        backward()
        model.train(training)
    unused = any(parameter.grad is None for parameter in model.parameters() if parameter.requires_grad)
    model.zero_grad(set_to_none=True)
    for buffer, before in buffers:
        buffer.copy_(before)
    return unused
