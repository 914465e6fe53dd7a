"""What a run would need, measured on a few batches of it: memory and parameters by layer, time, learning rates."""

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.data.loader import Loader
from dltrain.training.inference import evaluate
from dltrain.training.recovery import tensors_in
from dltrain.training.trainer import Trainer

_WARM_UP = 2  # steps, in which memory is laid out and kernels are chosen or compiled
_STEPS = 5
_SECONDS = 0.5  # to measure for at least, so that short steps are measured many times
_INTERVALS = 200_000  # of a schedule to step through at most

Batch = tuple[Tensor, Tensor]


@dataclass
class Layer:
    """One module without children: ``parameters`` is their number, ``weights`` and ``activations`` are in bytes.

    ``activations`` is what backward needs of this layer for a batch, each tensor counted once.
    """

    name: str
    kind: str
    parameters: int
    weights: int
    output_shape: tuple[int, ...] | None = None
    activations: int = 0


@dataclass
class _Watch:
    """Hooks that note shapes, and the tensors that are kept for backward while each layer runs."""

    model: nn.Module
    batch: Batch
    layers: dict[nn.Module, Layer] = field(default_factory=dict)
    rest: int = 0  # bytes kept outside of layers: by the loss, and by what a forward does itself

    def __post_init__(self) -> None:
        counted_elsewhere = itertools.chain(self.model.parameters(), self.model.buffers(), self.batch)
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in counted_elsewhere}
        self._running: list[Layer] = []
        for name, module in self.model.named_modules():
            is_leaf = not any(module.children())
            parameters = list(module.parameters(recurse=is_leaf))
            if parameters or is_leaf:
                size = sum(parameter.numel() for parameter in parameters)
                nbytes = sum(parameter.nbytes for parameter in parameters)
                self.layers[module] = Layer(name or "model", type(module).__name__, size, nbytes)

    def run(self, forward: Callable[[], Tensor]) -> Tensor:
        """``forward()``, watched."""
        with ExitStack() as hooks:
            for module in self.layers:
                hooks.callback(module.register_forward_pre_hook(self._enter).remove)
                hooks.callback(module.register_forward_hook(self._leave).remove)
            hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor))
            return forward()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._running.append(self.layers[module])

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        layer = self._running.pop()
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor) and layer.output_shape is None:
            layer.output_shape = tuple(first.shape)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            if self._running:
                self._running[-1].activations += storage.nbytes()
            else:
                self.rest += storage.nbytes()
        return tensor


def measure(trainer: Trainer) -> dict[str, Any]:
    """Take some steps of training and evaluation; ``trainer`` is of no use for a run afterwards.

    Memory is in bytes. ``estimated`` is what the listed parts amount to at the end of a forward pass, ``peak`` what a
    GPU really took at the most, with its work space.
    """
    trainer.model.train()
    inputs, targets = next(_repeated(trainer.train))
    layers, output_shape, rest = _one_batch(trainer, (inputs, targets))
    if trainer.precision.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.precision.device)
    step_seconds = _seconds_per_batch(trainer, trainer.train, lambda batches: _train(trainer, batches))
    memory = _memory(trainer, layers, rest, inputs.nbytes + targets.nbytes)
    seconds = step_seconds * len(trainer.train)
    if trainer.val is not None:
        seconds += len(trainer.val) * _seconds_per_batch(
            trainer, trainer.val, lambda batches: _evaluate(trainer, batches)
        )
    return {
        "input_shape": list(inputs.shape),
        "output_shape": list(output_shape),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "trainable": sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad),
        "layers": [vars(layer) for layer in layers],
        "without_gradient": [
            name for name, p in trainer.model.named_parameters() if p.requires_grad and p.grad is None
        ],
        "memory": memory,
        "steps_per_epoch": len(trainer.train),
        "seconds_per_epoch": seconds,
    }


def _one_batch(trainer: Trainer, batch: Batch) -> tuple[list[Layer], torch.Size, int]:
    """One forward and backward pass of a micro-batch: the layers, the shape that came out, bytes kept elsewhere."""
    inputs, targets = (part.chunk(trainer.accumulate)[0] for part in batch)
    watch = _Watch(trainer.model, batch)
    shapes: list[torch.Size] = []

    def forward() -> Tensor:
        with trainer.precision.autocast():
            outputs = trainer.model(inputs)
            shapes.append(outputs.shape)
            return trainer.loss(outputs, targets)

    watch.run(forward).backward()  # type: ignore[no-untyped-call]
    trainer.optimizer.zero_grad(set_to_none=True)
    return list(watch.layers.values()), shapes[0], watch.rest


def _train(trainer: Trainer, batches: Iterator[Batch]) -> None:
    for inputs, targets in batches:
        trainer.train_step(inputs, targets)


def _evaluate(trainer: Trainer, batches: Iterator[Batch]) -> None:
    evaluate(trainer.evaluated, batches, trainer.loss, trainer.metrics(), trainer.precision)


def _seconds_per_batch(trainer: Trainer, loader: Loader, work: Callable[[Iterator[Batch]], None]) -> float:
    batches = _repeated(loader)
    work(itertools.islice(batches, _WARM_UP))
    _synchronize(trainer)
    began, steps, seconds = time.perf_counter(), 0, 0.0
    while not steps or (seconds < _SECONDS and steps < 100 * _STEPS):
        work(itertools.islice(batches, _STEPS))
        _synchronize(trainer)
        seconds = time.perf_counter() - began
        steps += _STEPS
    return seconds / steps


def _repeated(loader: Loader) -> Iterator[Batch]:
    """Batches without end, epoch after epoch."""
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


def _synchronize(trainer: Trainer) -> None:
    device = trainer.precision.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _memory(trainer: Trainer, layers: list[Layer], rest: int, batch: int) -> dict[str, int | None]:
    parameters = list(trainer.model.parameters())
    parts = {
        "weights": sum(p.nbytes for p in itertools.chain(parameters, trainer.model.buffers())),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "optimizer": _tensor_bytes(trainer.optimizer.state_dict()),
        "average": _tensor_bytes(trainer.ema.model.state_dict()) if trainer.ema else 0,
        "activations": sum(layer.activations for layer in layers) + rest,
        "batch": batch,
    }
    device = trainer.precision.device
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {**parts, "estimated": sum(parts.values()), "peak": peak}


def _tensor_bytes(*content: Any) -> int:
    """Bytes of all tensors in nested mappings and lists; those that share memory count once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors_in(content)}.values())


def checkpoint_bytes(trainer: Trainer) -> int:
    """Estimate the space for all checkpoints, and for the new file that is written before it replaces an old one."""
    weights = trainer.evaluated.state_dict()
    return _tensor_bytes(weights) + (2 + trainer.checkpoints.keep) * _tensor_bytes(weights, trainer.state_dict())


def learning_rates(trainer: Trainer) -> list[float]:
    """The learning rate of each interval of the whole run, by stepping the schedule; of a very long run the beginning.

    A schedule that watches a metric depends on the run, so it gives the first rate alone.
    """
    schedule = trainer.schedule
    groups = trainer.optimizer.param_groups
    if schedule is None or schedule.monitor is not None:
        return [float(groups[0]["lr"])]
    steps = len(trainer.train) if schedule.interval == "step" else 1
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects optimizer steps in between
        for _ in range(min(trainer.epochs * steps, _INTERVALS)):
            rates.append(float(groups[0]["lr"]))
            schedule.scheduler.step()
    return rates


def at_epochs(rates: list[float], trainer: Trainer) -> list[float]:
    """The rate of each epoch's last step, as the column ``lr`` of metrics.csv will have it."""
    if len(rates) == 1:
        return rates * trainer.epochs
    by_step = trainer.schedule is not None and trainer.schedule.interval == "step"
    return rates[len(trainer.train) - 1 :: len(trainer.train)] if by_step else rates
