"""What a training run works with, and its state between two steps, in plain types: all that decides how it goes on."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dltrain.data.loader import Loader
from dltrain.distributed.layers import least_samples
from dltrain.distributed.process_group import ProcessGroup
from dltrain.distributed.strategy import is_sharded, local
from dltrain.loggers import Loggers
from dltrain.losses import Penalty, weighing_of
from dltrain.runs.writer import Checkpoints, Due
from dltrain.schedulers import Schedule
from dltrain.system.device import Precision, random_state, set_random_state
from dltrain.system.machine import CoreWatch
from dltrain.system.process import StopRequest
from dltrain.training.inference import Loss
from dltrain.training.metrics import MeanLoss, MetricsFactory
from dltrain.training.monitor import Best, EarlyStopping, Pruning
from dltrain.training.profiling import Unprofiled
from dltrain.training.progress import View
from dltrain.training.recovery import Recovery

Row = dict[str, float]

# Optimizers of which all that is kept of a parameter, but for counts of steps, has its shape.
_WITH_SHAPES = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam)
_PLAIN = ("epoch", "step", "batch", "lr", "accumulate", "seconds")  # numbers of the state


class ExponentialMovingAverage:
    """Keeps ``average = d * average + (1 - d) * weights`` in a copy of the network, for evaluation.

    ``d`` rises to ``decay``: it is ``min(decay, (1 + t) / (10 + t))`` at the update after ``t`` others. With a
    constant decay the initial weights would be most of the average for ``1 / (1 - decay)`` updates.

    Floating-point buffers (batch-norm statistics) are averaged as well, others are copied. The average starts as
    the initial weights. Equal to :class:`torch.optim.swa_utils.AveragedModel` with that decay and
    ``use_buffers=True``, but for that class's first update, which copies, and its counter on the device, which
    would make every step wait for a GPU.

    ``average`` is the copy, where it is there already: a network that lies in shards cannot be copied.
    """

    def __init__(self, model: nn.Module, decay: float, average: nn.Module | None = None):
        self.model = (copy.deepcopy(model) if average is None else average).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0
        states = self.model.state_dict().values(), model.state_dict().values()
        pairs = [(local(average), local(weight)) for average, weight in zip(*states, strict=True)]
        # Weights that two layers share are listed twice, but are a single tensor and take a single update. (Shards
        # without rows all have the address 0, and nothing to update.)
        pairs = list({average.data_ptr(): (average, weight) for average, weight in pairs}.values())
        # state_dict returns the tensors themselves, so these lists stay valid as training goes on.
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._weights = [weight for average, weight in pairs if average.is_floating_point()]
        self._copies = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        for copied, original in self._copies:
            copied.copy_(original)


@dataclass
class State:
    """Everything a training run works with, and how far it is.

    ``accumulate`` cuts each batch of ``train`` into so many micro-batches, whose gradients add up to the batch's
    (exactly so without batch norm, for losses as :mod:`~.losses` knows them). ``clip_norm`` bounds the norm of all
    gradients together, ``clip_value`` each gradient. With ``ema`` the averaged weights are the ones evaluated.
    ``wrapped`` is ``model`` as ``torch.compile``, or what holds it in several processes, returns it; state is always
    read from ``model``.

    ``process_group`` are the processes of the run. ``on_nonfinite`` and ``on_oom`` say what :class:`Recovery` does.
    """

    model: nn.Module
    loss: Loss
    optimizer: Optimizer
    train: Loader
    val: Loader | None
    metrics: MetricsFactory
    precision: Precision
    epochs: int
    best: Best
    checkpoints: Checkpoints
    view: View
    due: Due = field(default_factory=Due)
    schedule: Schedule | None = None
    penalty: Penalty | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: ExponentialMovingAverage | None = None
    early_stopping: EarlyStopping | None = None
    pruning: Pruning | None = None
    loggers: Loggers = field(default_factory=Loggers)
    wrapped: Callable[[Tensor], Tensor] | None = None
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    cores: CoreWatch | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    on_oom: Literal["halve", "stop"] = "halve"

    epoch: int = 0  # epochs finished
    step: int = 0  # optimizer steps taken
    batch: int = 0  # batches of the current epoch that are done
    lr: float = 0.0  # of the last step
    seconds: float = 0.0  # spent on the run until it was saved last, by all processes that had a part in it
    history: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scaler = self.precision.scaler()
        self.network = self.model if self.wrapped is None else self.wrapped
        self.total = MeanLoss(self.precision.device)  # the training loss of the current epoch so far
        self.weighing = weighing_of(self.loss)
        self.smallest = least_samples(self.model, self.process_group)
        self.recovery = Recovery(
            self.precision.device, self.on_nonfinite, self.on_oom, self.smallest, is_alone=self.process_group.size == 1
        )
        self.profile = Unprofiled()
        self._began = time.perf_counter()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad and p.numel()]
        self.sharded = is_sharded(self.parameters)
        if self.process_group.size > 1:
            self.train.cut = lambda indices: self.process_group.cut(indices, self.micro_batches(len(indices)))

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights are evaluated and kept: the averaged network, if any."""
        return self.ema.model if self.ema else self.model

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or early stopping or a pruner has ended the run."""
        return self.epoch >= self.epochs or any(
            rule.should_stop for rule in (self.early_stopping, self.pruning) if rule
        )

    def micro_batches(self, samples: int) -> int:
        """How many micro-batches a batch of so many samples is cut into."""
        return min(self.accumulate, max(samples // self.smallest, 1))

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, in plain types and tensors, which are shared with it."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "history": [dict(row) for row in self.history],
            "events": list(self.recovery.events),
            "total": self.total.merge(self.process_group).state_dict(),
            **{name: part.state_dict() for name, part in self._parts()},
            **({"ema_updates": self.ema.updates} if self.ema else {}),
            "random": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], without: Sequence[str] = ()) -> None:
        """Go on from the :meth:`state_dict` of a trainer that was built alike; parts in ``without`` stay as they are.

        Raises:
            ValueError: no trainer comes to such a state.
        """
        if len(state["history"]) != state["epoch"] or min(state[name] for name in ("step", "batch", "seconds")) < 0:
            raise ValueError("its history is not that of its epochs and steps")
        for name in _PLAIN:
            if name not in without:
                setattr(self, name, state[name])
        self.history = [dict(row) for row in state["history"]]
        self.recovery.events = list(state["events"])
        self.total = MeanLoss(self.precision.device)
        if self.process_group.is_main:  # the others begin at 0, so that the sum of all is what it was
            self.total.load_state_dict(state["total"])
        options = [dict(group) for group in self.optimizer.param_groups]
        # Where nothing was averaged before, the average begins with the weights of now.
        state = state if "ema" in state else {**state, "ema": state["model"], "ema_updates": 0}
        for name, part in self._parts():
            if name not in without:
                part.load_state_dict(state[name])
        if self.ema:
            self.ema.updates = state.get("ema_updates", state["step"])  # earlier versions did not count them
        _require_usable(self.optimizer, options)
        _lay_out(self.optimizer)
        if self.early_stopping:  # from the history, so that its options may differ from before
            self.early_stopping = self.early_stopping.after(self.history)
        if self.pruning:
            self.pruning.catch_up(self.history, asks=not self.finished)
        self.recovery.watch.reset()
        set_random_state(state["random"])  # last: what is above may draw

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate, and what a schedule computes it from, by ``factor``."""
        for group in self.optimizer.param_groups:
            for name in {"lr", "initial_lr", "max_lr", "min_lr"} & set(group):  # the last two are OneCycleLR's
                group[name] *= factor
        if self.schedule:
            self.schedule.scale(factor)

    def _parts(self) -> list[tuple[str, Any]]:
        """Everything of this run that has a ``state_dict``, by name."""
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "schedule": self.schedule,
            "ema": self.ema.model if self.ema else None,
            "best": self.best,
        }
        return [(name, part) for name, part in parts.items() if part is not None]


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
