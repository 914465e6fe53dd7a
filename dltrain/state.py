"""The state of a trainer between two steps: all that decides how a run goes on, in plain types and tensors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dltrain.device import random_state, set_random_state
from dltrain.metrics import MeanLoss

if TYPE_CHECKING:
    from dltrain.trainer import Trainer

_PLAIN = ("epoch", "step", "batch", "lr", "accumulate", "seconds")  # numbers of the state


def state_dict(trainer: "Trainer") -> dict[str, Any]:
    """The state of ``trainer``, which its tensors share."""
    return {
        **{name: getattr(trainer, name) for name in _PLAIN},
        "history": [dict(row) for row in trainer.history],
        "events": list(trainer.events),
        "total": trainer.total.merge(trainer.world).state_dict(),
        **{name: part.state_dict() for name, part in _parts(trainer)},
        **({"ema_updates": trainer.ema.updates} if trainer.ema else {}),
        "random": random_state(),
    }


def load_state_dict(trainer: "Trainer", state: Mapping[str, Any], without: Sequence[str] = ()) -> None:
    """Bring ``trainer`` to the ``state`` of one that was built alike; parts in ``without`` stay as they are."""
    for name in _PLAIN:
        if name not in without:
            setattr(trainer, name, state[name])
    trainer.history = [dict(row) for row in state["history"]]
    trainer.events = list(state["events"])
    trainer.total = MeanLoss(trainer.precision.device)
    if trainer.world.is_main:  # the others begin at 0, so that the sum of all is what it was
        trainer.total.load_state_dict(state["total"])
    # Where nothing was averaged before, the average begins with the weights of now.
    state = state if "ema" in state else {**state, "ema": state["model"], "ema_updates": 0}
    for name, part in _parts(trainer):
        if name not in without:
            part.load_state_dict(state[name])
    if trainer.ema:
        trainer.ema.updates = state.get("ema_updates", state["step"])  # earlier versions did not count them
    _lay_out(trainer.optimizer)
    if trainer.early_stopping:  # from the history, so that it may be another one than before
        trainer.early_stopping = trainer.early_stopping.after(trainer.history)
    if trainer.pruning:
        trainer.pruning.catch_up(trainer.history, asks=not trainer.finished)
    trainer.watch.reset()
    set_random_state(state["random"])  # last: what is above may draw


def _lay_out(optimizer: Optimizer) -> None:
    """Give what ``optimizer`` keeps of each parameter the parameter's layout in memory.

    It may have been saved with another, on another device or in shards, and torch's fused kernels go through both as
    they lie, whatever their strides.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _parts(trainer: "Trainer") -> list[tuple[str, Any]]:
    """Everything with a state of its own that this run has, by name."""
    parts = {
        "model": trainer.model,
        "optimizer": trainer.optimizer,
        "scaler": trainer.scaler,
        "schedule": trainer.schedule,
        "ema": trainer.ema.model if trainer.ema else None,
        "best": trainer.best,
    }
    return [(name, part) for name, part in parts.items() if part is not None]
