"""How every data set is divided into its parts, however its samples are drawn."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from dltrain.errors import ConfigError

log = logging.getLogger(__name__)


class Pool(Protocol):
    """Samples that can be divided, in a way that fits them: by class, in time order, or in runs of neighbours."""

    def __len__(self) -> int: ...

    def hold_out(self, count: int, seed: int) -> tuple[Self, Self]:
        """The samples that are left, and the ``count`` that are held out."""
        ...

    def limited(self, count: int, seed: int) -> Self:
        """At most ``count`` of the samples."""
        ...


P = TypeVar("P", bound=Pool)


@dataclass(frozen=True)
class Split:
    """The keys of a data set that size its parts; see :meth:`parts`."""

    val_fraction: float
    test_fraction: float = 0.0
    limit: int | None = None
    seed: int = 0

    def parts(self, given: Mapping[str, P]) -> dict[str, P]:
        """``given``, which has ``train`` and may have ``val`` and ``test``, with what is held out of ``train``.

        ``test_fraction`` of ``train`` becomes the test part where none is given, then ``val_fraction`` of the rest
        the validation part; a part that would be empty is absent. ``limit`` bounds each part in the end.

        Raises:
            ConfigError: a fraction is not from 0 to below 1.
        """
        parts = dict(given)
        for part, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
            count = held_size(len(parts["train"]), fraction)
            if part not in given and count:
                parts["train"], parts[part] = parts["train"].hold_out(count, self.seed)
        if self.limit is None:
            return parts
        return {part: pool.limited(self.limit, self.seed) for part, pool in parts.items()}


@dataclass(frozen=True)
class Shuffled:
    """Samples at ``indices`` (n,) int64, ascending, held out at random; by class where there are ``labels`` (n,)."""

    indices: Tensor
    labels: Tensor | None = None

    @classmethod
    def of(cls, count: int, labels: Tensor | None = None) -> Self:
        """All of ``count`` samples."""
        return cls(torch.arange(count), labels)

    def __len__(self) -> int:
        return len(self.indices)

    def hold_out(self, count: int, seed: int) -> tuple[Self, Self]:
        """Hold out ``count`` samples, of each class its share to within one sample; an emptied class is warned of."""
        order = _permutation(len(self), seed)
        if self.labels is not None:
            # Shuffled within each class, classes one after the other: evenly spaced picks are proportional.
            order = order[self.labels[order].argsort(stable=True)]
        # In float64, because float32 cannot tell millions of places apart.
        picks = (torch.arange(count, dtype=torch.float64) + 0.5) * (len(self) / count)
        is_held = torch.zeros(len(self), dtype=torch.bool)
        is_held[order[picks.long()]] = True
        if self.labels is not None:
            _warn_of_emptied(self.labels[~is_held], self.labels[is_held])
        return self._at(~is_held), self._at(is_held)

    def limited(self, count: int, seed: int) -> Self:
        """At most ``count`` samples at random, in their order, so not of the first class alone."""
        if len(self) <= count:
            return self
        return self._at(_permutation(len(self), seed)[:count].sort().values)

    def _at(self, places: Tensor) -> Self:
        return type(self)(self.indices[places], None if self.labels is None else self.labels[places])


def _warn_of_emptied(kept: Tensor, held: Tensor) -> None:
    if emptied := sorted({*held.tolist()} - {*kept.tolist()}):
        listed = ", ".join(map(str, emptied[:10])) + (", ..." if len(emptied) > 10 else "")
        log.warning("every sample of these classes is held out, none is left to train on (from 0): %s", listed)


def held_size(count: int, fraction: float) -> int:
    """How many of ``count`` samples a ``fraction`` holds out: none for 0, else at least one."""
    if not 0 <= fraction < 1:
        raise ConfigError([f"a held-out fraction must be at least 0 and below 1, not {fraction}"])
    return min(max(round(count * fraction), 1), count - 1) if fraction and count > 1 else 0


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
