"""The state of a trainer between two steps: all that decides how a run goes on, in plain types and tensors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dltrain.system.device import random_state, set_random_state
from dltrain.training.metrics import MeanLoss

if TYPE_CHECKING:
    from dltrain.training.trainer import Trainer

# Optimizers of which all that is kept of a parameter, but for counts of steps, has its shape.
_WITH_SHAPES = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam)
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
    """Bring ``trainer`` to the ``state`` of one that was built alike; parts in ``without`` stay as they are.

    Raises:
        ValueError: no trainer comes to such a state.
    """
    if len(state["history"]) != state["epoch"] or min(state[name] for name in ("step", "batch", "seconds")) < 0:
        raise ValueError("its history is not that of its epochs and steps")
    for name in _PLAIN:
        if name not in without:
            setattr(trainer, name, state[name])
    trainer.history = [dict(row) for row in state["history"]]
    trainer.events = list(state["events"])
    trainer.total = MeanLoss(trainer.precision.device)
    if trainer.world.is_main:  # the others begin at 0, so that the sum of all is what it was
        trainer.total.load_state_dict(state["total"])
    options = [dict(group) for group in trainer.optimizer.param_groups]
    # Where nothing was averaged before, the average begins with the weights of now.
    state = state if "ema" in state else {**state, "ema": state["model"], "ema_updates": 0}
    for name, part in _parts(trainer):
        if name not in without:
            part.load_state_dict(state[name])
    if trainer.ema:
        trainer.ema.updates = state.get("ema_updates", state["step"])  # earlier versions did not count them
    _require_usable(trainer.optimizer, options)
    _lay_out(trainer.optimizer)
    if trainer.early_stopping:  # from the history, so that it may be another one than before
        trainer.early_stopping = trainer.early_stopping.after(trainer.history)
    if trainer.pruning:
        trainer.pruning.catch_up(trainer.history, asks=not trainer.finished)
    trainer.watch.reset()
    set_random_state(state["random"])  # last: what is above may draw


def _require_usable(optimizer: Optimizer, options: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`ValueError` where ``optimizer`` has loaded what it cannot go on with, which torch lets pass.

    ``options`` are those of its groups before.
    """
    for group, before in zip(optimizer.param_groups, options, strict=True):
        for name in before.keys() - {"params"}:
            kinds = {_kind(value) for value in (group.get(name), before[name])} - {type(None)}
            if len(kinds) > 1:
                raise ValueError(f"the optimizer's {name} is {group.get(name)!r:.60}")
    kinds_of: dict[Any, set[type]] = {}
    has_shapes = isinstance(optimizer, _WITH_SHAPES)
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            kinds_of.setdefault(name, set()).add(_kind(value))
            if has_shapes and isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"the optimizer's {name} has the shape {tuple(value.shape)}")
    if odd := [name for name, kinds in kinds_of.items() if len(kinds) > 1]:
        raise ValueError(f"the optimizer's {odd[0]} is of several kinds")


def _kind(value: Any) -> type:
    """What stands for what: numbers for each other, also as tensors, and tuples for lists."""
    if isinstance(value, Tensor):
        return Tensor if value.dim() else float
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float
    return list if isinstance(value, tuple) else type(value)


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
