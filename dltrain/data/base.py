"""What a data set is: facts stated once, and up to three parts that hand out samples by index."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

Task = Literal["classification", "regression"]
Kind = Literal["image", "table", "series"]
NamedBatch = tuple[list[tuple[Any, ...]], Tensor]  # to predict from: what names each sample, and the raw samples
Report = Callable[[str, str], None]  # takes the name of something broken, and its cause


@dataclass(frozen=True)
class Facts:
    """What only the data know; models, losses and metrics are chosen and sized by it.

    ``input_shape`` is one sample as the model gets it: image ``(channels, height, width)``, table ``(features,)``,
    series ``(steps, features)``. Targets are class indices ``(batch,)`` int64 for classification and
    ``(batch, num_outputs)`` float32, standardised, for regression: ``original = target * target_std + target_mean``.
    """

    name: str
    task: Task
    kind: Kind
    input_shape: tuple[int, ...]
    num_outputs: int
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    target_name: str = ""
    target_mean: float = 0.0
    target_std: float = 1.0


class Samples(Protocol):
    """A part of a data set that hands out any batch of it."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at ``indices`` (batch,) int64, as ``(inputs, targets)`` where the samples lie."""
        ...

    def to(self, device: torch.device) -> "Samples": ...

    @property
    def nbytes(self) -> int:
        """Bytes that they take on a device, all of them together."""
        ...

    @property
    def streamed(self) -> bool:
        """Whether each batch has to be read from files, so that reading ahead in other processes pays."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """Samples that give the order in which they are best read, because not every order costs the same."""

    def order(self, draw: Callable[..., torch.Generator] | None, first: int) -> Iterator[Tensor]:
        """The indices of an epoch from place ``first`` on, a stretch (m,) int64 at a time; each comes once.

        ``draw(*numbers)`` is the generator of the epoch for these numbers; without it samples come as they lie.
        """
        ...


def names_of(samples: Samples, indices: Tensor) -> list[str]:
    """The names of the samples at ``indices`` (m,) int64, mostly of their files; empty where they have no ``names``."""
    names: Callable[[Tensor], list[str]] | None = getattr(samples, "names", None)
    return names(indices) if names else [""] * len(indices)


class Streamed:
    """Samples that are read from files whenever they are taken, on the CPU."""

    streamed = True

    def to(self, device: torch.device) -> Self:
        return self


@dataclass(frozen=True)
class Arrays:
    """Samples in memory: ``inputs`` (n, ...) and ``targets`` (n, ...), from ``files`` if any."""

    inputs: Tensor
    targets: Tensor
    files: Sequence[str] = ()
    streamed = False

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs.index_select(0, indices), self.targets.index_select(0, indices)

    def names(self, indices: Tensor) -> list[str]:
        return [self.files[index] if self.files else "" for index in indices.tolist()]

    def to(self, device: torch.device) -> "Arrays":
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    @property
    def nbytes(self) -> int:
        return self.inputs.nbytes + self.targets.nbytes


@dataclass(frozen=True)
class Subset:
    """The samples at ``indices`` of ``samples``, which other parts may share."""

    samples: Samples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.samples.take(self.indices.index_select(0, indices))

    def names(self, indices: Tensor) -> list[str]:
        return names_of(self.samples, self.indices[indices])

    def to(self, device: torch.device) -> Samples:
        """A copy of these samples alone, or the part itself where they lie there already."""
        if device.type == "cpu":
            return self
        inputs, targets = self.samples.take(self.indices)
        return Arrays(inputs.to(device), targets.to(device), names_of(self.samples, self.indices))

    @property
    def nbytes(self) -> int:
        return self.samples.nbytes * len(self.indices) // max(len(self.samples), 1)

    @property
    def streamed(self) -> bool:
        return self.samples.streamed


@dataclass(frozen=True)
class Windows:
    """Overlapping windows of a series, cut when they are taken.

    ``values`` (steps, features) and ``target`` (steps,) are float32; sample ``i`` reads ``window`` steps from
    ``starts[i]`` on and predicts the ``horizon`` steps of the target that follow.
    """

    values: Tensor
    target: Tensor
    starts: Tensor
    window: int
    horizon: int
    streamed = False

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        starts = self.starts.index_select(0, indices)
        steps, features = self.values.shape
        # Views whose row s is the window that starts at s: only the rows that are taken are copied.
        inputs = self.values.as_strided((steps - self.window + 1, self.window, features), (features, features, 1))
        targets = self.target.unfold(0, self.horizon, 1)
        return inputs.index_select(0, starts), targets.index_select(0, starts + self.window)

    def to(self, device: torch.device) -> "Windows":
        return replace(
            self, values=self.values.to(device), target=self.target.to(device), starts=self.starts.to(device)
        )

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.target.nbytes + self.starts.nbytes


@dataclass(frozen=True)
class Fitted:
    """What an earlier run measured on its training part; a data set that is given it measures nothing anew."""

    facts: Facts
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class Data:
    """A loaded data set. ``val`` and ``test`` are ``None`` where there is nothing to hold out.

    ``transform`` turns a raw batch into what the model reads, on the device; ``augment`` changes raw batches of the
    training part before it. ``preprocessing`` holds, in plain types, how raw files became samples (categories,
    means), so that new files can be read the same way later. ``files`` identifies the raw
    files of the user, wherever they lie: see :mod:`dltrain.data.folders`.
    """

    facts: Facts
    train: Samples
    val: Samples | None
    test: Samples | None
    transform: nn.Module = field(default_factory=nn.Identity)
    augment: Callable[[Tensor, Tensor], Tensor] | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    files: str = ""

    def __str__(self) -> str:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
        shape = "×".join(map(str, self.facts.input_shape))
        outputs = "classes" if self.facts.task == "classification" else "outputs"
        return f"{self.facts.name}: {sizes}; {self.facts.kind} {shape}, {self.facts.num_outputs} {outputs}"
