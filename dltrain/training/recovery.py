"""What a run does when a step goes wrong: values that are not finite, traced to a layer, or memory that is short."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dltrain.errors import TrainingError, cause_of
from dltrain.system.device import is_out_of_memory

log = logging.getLogger(__name__)

_MOST_ROLLBACKS = 5
_MOST_PARTS = 64  # of a batch: what does not fit then is rarely its samples, and so many parts take their time
ALL_FINITE = "computed again, the batch gives finite values (dropout draws anew)"
_STEPS_BETWEEN_LOOKS = 20  # on a GPU, whose answer comes without waiting for it


class NotFinite(Exception):
    """A loss or gradient of ``step`` is not finite; the trainer's state is no longer to be used."""

    def __init__(self, step: int, cause: str):
        super().__init__(cause)
        self.step = step
        self.cause = cause


class Recovery:
    """Decides what follows a step that goes wrong, and records it in ``events``, plain types.

    ``on_nonfinite`` says what follows a loss or gradient that is not finite: ``stop`` the run, ``skip`` the step, or
    ``rollback`` to the last checkpoint and go on with half the learning rate. With ``on_oom`` ``halve`` a step that
    runs out of memory is taken again in twice as many micro-batches, of at least ``smallest`` samples each; not so
    unless the run ``is_alone`` in its process: others could not know.
    """

    def __init__(
        self,
        device: torch.device,
        on_nonfinite: Literal["stop", "skip", "rollback"] = "stop",
        on_oom: Literal["halve", "stop"] = "halve",
        smallest: int = 1,
        is_alone: bool = True,
    ):
        self.skips = on_nonfinite == "skip"
        self.rolls_back = on_nonfinite == "rollback"
        self.halves = on_oom == "halve" and is_alone
        self.smallest = smallest
        self.is_alone = is_alone
        self.watch = FiniteWatch(device)
        self.events: list[dict[str, Any]] = []
        self._saved: dict[str, Any] = {}  # what a rollback goes back to

    @property
    def rollbacks(self) -> int:
        """How often the run has gone back to a saved state."""
        return _rollbacks(self.events)

    def note(self, step: int, loss: Tensor, gradients: list[Tensor]) -> int | None:
        """Take in a step that is about to be taken; returns the first bad step as soon as it is known."""
        bad = self.watch.note(step, loss, gradients)
        # To leave out a step, it must be known before it is taken.
        return self.watch.look(wait=True) if bad is None and self.skips else bad

    def skip(self, step: int, cause: str) -> None:
        """Record that ``step`` is skipped.

        Raises:
            NotFinite: it is not to be.
        """
        self.watch.reset()
        if not self.skips:
            raise NotFinite(step, cause)
        self.events.append({"event": "step skipped", "step": step, "cause": cause})
        log.warning("step %d is skipped: its loss or a gradient is not finite; %s", step, cause)

    def copies(self, buffers: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Each buffer, such as running statistics, with a copy, should the step be skipped."""
        return [(buffer, buffer.clone()) for buffer in buffers] if self.skips else []

    def keep(self, saved: Mapping[str, Any], best: Any) -> None:
        """Take the state that was ``saved``, with the checkpoint of the ``best`` epoch, to go back to."""
        self._saved = {"trainer": saved, "best": best}

    def roll_back(self, error: NotFinite, place: str) -> tuple[dict[str, Any], Any, float]:
        """The state to go back to, its best epoch, and the factor on its learning rate.

        Raises:
            TrainingError: the run is not to go back, or has often enough; ``place`` says where it was.
        """
        if not self.rolls_back or self.rollbacks >= _MOST_ROLLBACKS:
            raise TrainingError(
                f"training diverged: the loss or a gradient of step {error.step} ({place}) is not finite;"
                f" {error.cause}. Try a smaller optim.lr, trainer.clip_norm=1, or trainer.on_nonfinite=skip or rollback"
            ) from error
        # A copy, because the optimizer takes the tensors themselves and changes them in place.
        state = copy.deepcopy(self._saved["trainer"])
        factor = 0.5 ** (self.rollbacks + 1 - _rollbacks(state["events"]))
        event = {"event": "rollback", "step": error.step, "to": state["step"], "cause": error.cause}
        state["events"] = [*self.events, event]
        log.warning(
            "step %d is not finite; %s. Back to step %d, at half the learning rate",
            *(error.step, error.cause, state["step"]),
        )
        return state, self._saved["best"], factor

    def halve(self, parts: int, samples: int, step: int, error: Exception) -> int:
        """After ``error``, how many micro-batches to cut batches of ``samples`` into, which were cut into ``parts``.

        The gradient stays as it is.

        Raises:
            Exception: the error, where it is not about memory.
            TrainingError: micro-batches cannot be smaller, or are not to be.
        """
        if not is_out_of_memory(error):
            raise error
        are_smallest = parts >= samples // self.smallest
        is_least = are_smallest or parts >= _MOST_PARTS
        if is_least or not self.halves:
            smallest = "single samples" if self.smallest == 1 else "pairs of samples"
            least = f" even for {smallest if are_smallest else f'a batch in {parts} parts'}" if is_least else ""
            hint = ", trainer.on_oom=halve" if self.is_alone and not is_least else ""
            raise TrainingError(
                f"out of memory{least} at step {step}: {cause_of(error)}; try a smaller"
                f" dataset.batch_size or model{hint}, or trainer.precision=bf16"
            ) from error
        torch.cuda.empty_cache()
        parts *= 2
        self.events.append({"event": "out of memory", "step": step, "accumulate": parts})
        log.warning("out of memory at step %d: batches are computed in %d parts from here on", step, parts)
        return parts

    def halve_evaluation(self, size: int, whole: int, step: int, error: Exception) -> int:
        """After ``error``, the size of batches to evaluate in, which was ``size``; raises as :meth:`halve` does.

        ``whole`` is the size of a batch in training.
        """
        if not is_out_of_memory(error):
            raise error
        if not self.halves or size <= max(whole // _MOST_PARTS, 1):
            raise TrainingError(
                f"out of memory in an evaluation, in batches of {size}: {cause_of(error)}; try a smaller"
                " dataset.batch_size or model, or trainer.precision=bf16"
            ) from error
        torch.cuda.empty_cache()
        size = max(size // 2, 1)
        self.events.append({"event": "out of memory", "step": step, "evaluation_batch": size})
        log.warning("out of memory in an evaluation: its batches have %d samples from here on", size)
        return size


def put_back(copies: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Undo what was done to buffers since :meth:`Recovery.copies`."""
    for buffer, copied in copies:
        buffer.copy_(copied)


def _rollbacks(events: Sequence[Mapping[str, Any]]) -> int:
    return sum(event["event"] == "rollback" for event in events)


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
