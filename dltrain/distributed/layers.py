"""Layers that see the batch of all processes, so that several compute what a single process would.

A layer changes its class, so that weights, names and ``state_dict`` stay as they are.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import _VF, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dltrain.distributed.process_group import BatchSlice, ProcessGroup

_MOST_DRAWN = 8  # processes that each draw the masks of all; with more, that costs more than it is worth


def share_layers(model: nn.Module, process_group: ProcessGroup, sync_batchnorm: bool) -> None:
    """Make dropout, and with ``sync_batchnorm`` batch norm, in ``model`` treat the rows of all processes as a batch."""
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            continue
        if isinstance(module, _BatchNorm) and sync_batchnorm:
            _become(module, _GlobalBatchNorm, process_group)
        elif type(module) in _DROPS and process_group.size <= _MOST_DRAWN:
            _become(module, _GlobalDropout, process_group)
        elif isinstance(module, nn.RNNBase) and module.dropout and process_group.size <= _MOST_DRAWN:
            _become(module, _GlobalRNN, process_group)


def least_samples(model: nn.Module, process_group: ProcessGroup) -> int:
    """Samples that a micro-batch needs: batch norm cannot train on a single row, of all processes or of each."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if all(isinstance(norm, _GlobalBatchNorm) for norm in norms):
        return 2 if norms else 1
    return 2 * process_group.size


def draws_apart(process_group: ProcessGroup) -> bool:
    """Whether each process draws dropout masks for its rows alone, and so must draw differently."""
    return process_group.size > _MOST_DRAWN


class _Global:
    """A layer that knows which rows of the whole batch it gets."""

    process_group: ProcessGroup

    def slice_of(self, rows: int) -> BatchSlice | None:
        """The rows that are being computed; ``None`` where the input of the layer is no batch."""
        batch_slice = self.process_group.batch_slice
        return batch_slice if batch_slice is not None and rows == max(len(batch_slice), 1) else None


class _Normalised(torch.autograd.Function):
    """Rows, normalised over those of all processes, with the mean and variance (channels,) of these.

    A single sum over processes in each direction: forward of the means of each process and the squared distances from
    them, which combine exactly (Chan, Golub and LeVeque, 1979), backward of what the gradient of every row depends on.
    The first ``count`` rows are part of the batch, of ``total`` rows in all processes.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, count: int, total: int, eps: float, process_group: ProcessGroup
    ) -> tuple[Tensor, ...]:
        dims = [dim for dim in range(rows.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(rows.dim())]
        values = rows.numel() // (len(rows) * rows.shape[1])  # of a channel in a row
        counted = rows[:count]
        parts = rows.new_zeros(process_group.size, 2, rows.shape[1])
        if count:
            parts[process_group.rank, 0] = counted.mean(dims)
            parts[process_group.rank, 1] = (counted - parts[process_group.rank, 0].view(shape)).square().sum(dims)
        process_group.sum(parts)
        means, squares = parts.unbind(1)
        shares = torch.tensor(process_group.shares(total), dtype=rows.dtype, device=rows.device).unsqueeze(1) / total
        mean = (means * shares).sum(0)
        variance = squares.sum(0) / (total * values) + ((means - mean).square() * shares).sum(0)
        scale = (variance + eps).rsqrt()
        normalised = (rows - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normalised, scale)
        ctx.count, ctx.values, ctx.process_group, ctx.dims, ctx.shape = (
            count,
            total * values,
            process_group,
            dims,
            shape,
        )
        ctx.mark_non_differentiable(mean, variance)
        return normalised, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (normalised, scale), gradient = ctx.saved_tensors, gradients[0].clone()
        counted, values = gradient[: ctx.count], normalised[: ctx.count]
        sums = torch.stack([counted.sum(ctx.dims), (counted * values).sum(ctx.dims)])
        first, second = (part.view(ctx.shape) for part in ctx.process_group.sum(sums) / ctx.values)
        counted -= first + values * second  # other rows have no part in mean and variance
        return gradient * scale.view(ctx.shape), None, None, None, None


class _GlobalBatchNorm(_Global, _BatchNorm):
    """Batch norm over the rows of all processes.

    :class:`~torch.nn.SyncBatchNorm` does the same, but on GPUs only, and not where a process has no rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        batch_slice = self.slice_of(len(input))
        if not self.training or batch_slice is None:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        rows = input.to(torch.promote_types(input.dtype, torch.float32))  # half precision is too coarse for sums
        # A process without rows computes a row that is not part of the batch.
        outputs, mean, variance = _Normalised.apply(
            rows, len(batch_slice), batch_slice.total, self.eps, self.process_group
        )
        count = batch_slice.total * (input[0, 0].numel() if input.dim() > 2 else 1)
        self._note(mean, variance * (count / max(count - 1, 1)))
        if self.affine:
            shape = [-1 if dim == 1 else 1 for dim in range(input.dim())]
            outputs = outputs * self.weight.view(shape) + self.bias.view(shape)
        normalised: Tensor = outputs.to(input.dtype)
        return normalised

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Take a batch into the running statistics, as :class:`torch.nn.BatchNorm2d` does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _GlobalDropout(_Global):
    """Dropout whose masks are drawn for the batch of all processes, each of which uses those of its rows."""

    training: bool
    p: float

    def forward(self, input: Tensor) -> Tensor:
        batch_slice = self.slice_of(len(input)) if input.dim() > 1 else None
        if not self.training or not self.p or batch_slice is None:
            return cast(Tensor, super().forward(input))  # type: ignore[misc]
        drop = next(drop for kind, drop in _DROPS.items() if isinstance(self, kind))
        return input * _mask(input, self.p, batch_slice, 0, drop)


class _GlobalRNN(_Global, nn.RNNBase):
    """A recurrent network, computed layer by layer, so that the masks between layers can be drawn for all rows."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        batch_dim = 0 if self.batch_first else 1
        batch_slice = self.slice_of(input.size(batch_dim)) if isinstance(input, Tensor) and input.dim() == 3 else None
        if not self.training or hx is not None or batch_slice is None:
            return super().forward(input, hx)
        steps = input.transpose(0, 1) if self.batch_first else input
        directions = 2 if self.bidirectional else 1
        kernel = getattr(_VF, self.mode.lower())
        states = []
        for layer in range(self.num_layers):
            names = self._all_weights[layer * directions : (layer + 1) * directions]
            weights = [getattr(self, name) for direction in names for name in direction]
            steps, *state = kernel(
                steps, self._zeros(steps, directions), weights, self.bias, 1, 0.0, True, self.bidirectional, False
            )
            states.append(state)
            if layer + 1 < self.num_layers:
                steps = steps * _mask(steps, self.dropout, batch_slice, 1, F.dropout)
        last = tuple(torch.cat(parts) for parts in zip(*states, strict=True))
        return steps.transpose(0, 1) if self.batch_first else steps, last if self.mode == "LSTM" else last[0]

    def _zeros(self, steps: Tensor, directions: int) -> Any:
        sizes = [self.proj_size or self.hidden_size, *([self.hidden_size] if self.mode == "LSTM" else [])]
        states = [steps.new_zeros(directions, steps.size(1), size) for size in sizes]
        return states if self.mode == "LSTM" else states[0]


_DROPS: dict[type, Callable[..., Tensor]] = {
    nn.Dropout: F.dropout,
    nn.Dropout1d: F.dropout1d,
    nn.Dropout2d: F.dropout2d,
    nn.Dropout3d: F.dropout3d,
}


def _mask(rows: Tensor, p: float, batch_slice: BatchSlice, dim: int, drop: Callable[..., Tensor]) -> Tensor:
    """The factors of 0 and 1 / (1 - p) of these ``rows``: those that a single process would draw."""
    shape = list(rows.shape)
    shape[dim] = batch_slice.total
    # In the memory layout of the rows, because that decides which draw goes where.
    last = rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last) and not rows.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    whole = drop(torch.ones(shape, dtype=rows.dtype, device=rows.device).contiguous(memory_format=layout), p, True)
    return whole.narrow(dim, batch_slice.start if len(batch_slice) else 0, rows.size(dim))


def _become(module: nn.Module, kind: type[_Global], process_group: ProcessGroup) -> None:
    """Give ``module`` the ``forward`` of ``kind``, which calls the original as that of its base class."""
    original = type(module)
    module.__class__ = type(original.__name__, (kind, original), {})
    module.process_group = process_group  # type: ignore[assignment]
