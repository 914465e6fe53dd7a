"""Which samples are held out: seeded, stratified by class where there are classes, in time order for series."""

import logging

import torch
from torch import Tensor

from dltrain.errors import ConfigError

log = logging.getLogger(__name__)


def holdout(count: int, fraction: float, seed: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Split ``range(count)`` into ``(kept, held)`` indices, each in ascending order.

    ``round(count * fraction)`` samples are held out, at least one where ``fraction`` is above zero. With
    ``labels`` (count,) each class gives its share to within one sample; a class of which nothing is left is warned
    of. The same seed gives the same split.
    """
    size = held_size(count, fraction)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if labels is not None:
        # Shuffled within each class, classes one behind the other: evenly spaced picks are proportional.
        order = order[labels[order].argsort(stable=True)]
    held = torch.zeros(count, dtype=torch.bool)
    # In float64, because float32 cannot tell millions of places apart.
    picks = (torch.arange(size, dtype=torch.float64) + 0.5) * (count / max(size, 1))
    held[order[picks.long()]] = True
    if labels is not None and (gone := sorted(set(labels[held].tolist()) - set(labels[~held].tolist()))):
        named = ", ".join(map(str, gone[:10])) + (", ..." if len(gone) > 10 else "")
        log.warning("every sample of these classes is held out, none is left to train on (from 0): %s", named)
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def held_size(count: int, fraction: float) -> int:
    """How many of ``count`` samples a ``fraction`` holds out: none for 0, else at least one."""
    if not 0 <= fraction < 1:
        raise ConfigError([f"a held-out fraction must be at least 0 and below 1, not {fraction}"])
    return min(max(round(count * fraction), 1), count - 1) if fraction and count > 1 else 0


def limited(indices: Tensor, limit: int | None, seed: int) -> Tensor:
    """At most ``limit`` of ``indices``, drawn with ``seed``, in their order, so not of the first class alone."""
    if limit is None or len(indices) <= limit:
        return indices
    picks = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:limit]
    return indices[picks.sort().values]
