"""What a run does when a step goes wrong: values that are not finite, or memory that is short."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dltrain.errors import TrainingError
from dltrain.system.device import is_out_of_memory
from dltrain.training.finite import FiniteWatch

log = logging.getLogger(__name__)

_MOST_ROLLBACKS = 5
_MOST_PARTS = 64  # of a batch: what does not fit then is rarely its samples, and so many parts take their time


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
                f"out of memory{least} at step {step}: {_first_line(error)}; try a smaller"
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
                f"out of memory in an evaluation, in batches of {size}: {_first_line(error)}; try a smaller"
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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
