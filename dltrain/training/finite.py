"""Losses and gradients that are not finite: noticed without waiting for a GPU, and traced to a layer."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

ALL_FINITE = "computed again, the batch gives finite values (dropout draws anew)"
_STEPS_BETWEEN_LOOKS = 20  # on a GPU, whose answer comes without waiting for it


class FiniteWatch:
    """Finds the first step with a loss or gradient that is not finite.

    On the CPU it knows at once. On a GPU the number of that step is kept there; every few steps a copy is started, and
    read once it has arrived, so that no step waits, and ``look(wait=True)`` reads it at the end.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._immediate = device.type == "cpu"
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self._copy: tuple[Tensor, Any] | None = None  # of _first on the CPU, and the event of its arrival

    def note(self, step: int, loss: Tensor, gradients: list[Tensor]) -> int | None:
        """Check a step's ``loss``, a scalar, and gradients; returns the first bad step as soon as it is known."""
        values = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
        if self._immediate:
            # A cheap pass: an infinite element makes the norm infinite, but so may the square of a large element.
            norms = torch._foreach_norm(values) if values else ()
            if _all_finite(loss, norms) or _all_finite(loss, (part.abs().max() for part in values if part.numel())):
                return None
            return step
        # A GPU computes the largest elements as fast.
        largest = torch._foreach_norm(values, math.inf) if values else ()
        bad = ~torch.stack([loss.detach().float(), *largest]).isfinite().all()
        self._first = torch.where((self._first < 0) & bad, step, self._first)
        return self.look() if step % _STEPS_BETWEEN_LOOKS == 0 else None

    def look(self, wait: bool = False) -> int | None:
        """The first bad step, as far as it is known; with ``wait`` for certain."""
        if self._immediate:
            return None
        first = -1
        if wait:
            first = int(self._first)
        elif self._copy is not None and self._copy[1].query():
            first, self._copy = int(self._copy[0]), None
        if first >= 0:
            return first
        if self._copy is None and not wait:
            copied = self._first.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event() if self.device.type == "cuda" else _Arrived()  # type: ignore[no-untyped-call]
            arrived.record()
            self._copy = copied, arrived
        return None

    def reset(self) -> None:
        """Forget what was noted."""
        self._first.fill_(-1)
        self._copy = None


def _all_finite(loss: Tensor, figures: Iterable[Tensor]) -> bool:
    return all(map(math.isfinite, torch.stack([loss.detach().float(), *figures]).tolist()))


class _Arrived:
    """In place of an event where copies do not overlap with computing (mps)."""

    def record(self) -> None:
        """Nothing to record."""

    def query(self) -> bool:
        return True


def diagnose(model: nn.Module, backward: Callable[[], Tensor], inputs: Tensor) -> str:
    """Which layer is the first whose weights, output or gradient is not finite when the batch is computed again.

    ``backward`` computes the loss of ``inputs`` (batch, ...) through ``model`` and its gradients. Weights that are
    not finite already, as on a GPU some steps later, are named first, since all that follows comes from them.
    """
    if not bool(torch.isfinite(inputs).all()):
        return "the inputs of the batch themselves are not finite; look at the data"
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the weights {name} are not finite"
    with _watched_layers(model) as (outputs, gradients):
        loss = backward()
    if outputs:
        return f"the first layer whose output is not finite is {outputs[0]}"
    if not math.isfinite(float(loss)):
        return "every layer's output is finite, the loss of them is not"
    if gradients:
        return f"the first layer, from the end, whose gradient is not finite is {gradients[0]}"
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name} is not finite"
    return ALL_FINITE


@contextmanager
def _watched_layers(model: nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    """Within, collect the names of layers with an output, and with a gradient, that is not finite."""
    outputs: list[str] = []
    gradients: list[str] = []

    def watch(name: str, layer: nn.Module) -> Any:
        described = f"{name} ({type(layer).__name__})" if name else type(layer).__name__

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
            if any(not bool(torch.isfinite(tensor).all()) for tensor in tensors):
                outputs.append(described)
            for tensor in tensors:
                if tensor.requires_grad:
                    tensor.register_hook(note_gradient)  # type: ignore[no-untyped-call]

        def note_gradient(gradient: Tensor) -> None:
            if not bool(torch.isfinite(gradient).all()):
                gradients.append(described)

        return layer.register_forward_hook(hook)

    with ExitStack() as hooks:
        for name, layer in model.named_modules():
            if not any(layer.children()):
                hooks.callback(watch(name, layer).remove)
        yield outputs, gradients


def tensors_in(content: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings and lists."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping | list | tuple):
        for value in content.values() if isinstance(content, Mapping) else content:
            yield from tensors_in(value)
