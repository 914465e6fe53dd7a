"""Data sets of the user's classes, which need no base class: their facts are read from their samples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dltrain.data.base import Arrays, Data, Facts, Kind, Samples, Streamed, Subset, Task
from dltrain.data.splits import Shuffled, Split
from dltrain.errors import DataError

_PARTS = ("train", "val", "test")
_LOOKED_AT = 500  # samples of a map-style data set from which its facts are read, evenly spaced
_MOST_BYTES = 4 * 1024**3  # of a part without a length: what is longer is taken for endless
_MOST_SAMPLES = 5_000_000
_PAIR = ("input", "target")
_CLASSES: Task = "classification"
_KINDS: dict[int, Kind] = {1: "table", 2: "series", 3: "image"}


def adapted(
    made: Any,
    name: str,
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    limit: int | None = None,
    split_seed: int = 0,
) -> Data:
    """``made`` as a data set: a :class:`Data` as it is, anything else by its parts.

    Parts are the attributes ``train``, ``val`` and ``test``, or the entries of a dict with those names or of a tuple
    in that order; an object without them is the training part itself. Each part hands out pairs of an input (table
    ``(features,)``, series ``(steps, features)``, image ``(channels, height, width)``) and a target (class index, or
    one or more numbers): by ``len(part)`` and ``part[index]``, read in worker processes whenever they are needed, or
    by iteration, kept in memory. What is missing is held out of ``train``.

    ``task``, ``class_names`` (or ``classes``) and ``num_outputs`` are read where ``made`` or its training part has
    them, and otherwise follow from the targets.

    Raises:
        DataError: there are no such pairs, or they differ in shape.
    """
    if isinstance(made, Data):
        return made
    given = {part: value for part, value in _parts(made, name).items() if value is not None}
    if "train" not in given:
        raise DataError(f"{name} has no part 'train'; it has {', '.join(given) or 'none'}")
    sources = {
        part: value if _is_mapped(value) else _collected(f"{name}.{part}", value) for part, value in given.items()
    }
    facts = _facts(name, [made, given["train"]], _looked_at(f"{name}.train", sources["train"]))
    samples = {part: _samples(f"{name}.{part}", source, facts) for part, source in sources.items()}
    labels = _labels(samples["train"]) if facts.task == _CLASSES else None
    pools = {part: Shuffled.of(len(whole), labels if part == "train" else None) for part, whole in samples.items()}
    parts = {
        part: _picked(samples.get(part, samples["train"]), pool.indices)
        for part, pool in Split(val_fraction, test_fraction, limit, split_seed).parts(pools).items()
    }
    return Data(facts, parts["train"], parts.get("val"), parts.get("test"), ToFloat())


class ToFloat(nn.Module):
    """Inputs as float32; bytes, which are images, from 0 to 1."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.float() / 255 if inputs.dtype is torch.uint8 else inputs.float()


@dataclass(frozen=True, eq=False)
class Mapped(Streamed):
    """Samples of a map-style data set, read each time they are taken."""

    name: str
    source: Any
    facts: Facts

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        picks = indices.tolist()
        return _stacked(self.name, picks, (self.source[index] for index in picks), self.facts)

    @property
    def nbytes(self) -> int:
        return len(self) * 4 * int(np.prod(self.facts.input_shape))


def _parts(made: Any, name: str) -> dict[str, Any]:
    if isinstance(made, Mapping):
        if unknown := [str(key) for key in made if key not in _PARTS]:
            raise DataError(f"{name} returned a dict with {', '.join(unknown)}; its parts are train, val and test")
        return dict(made)
    if isinstance(made, tuple):
        if not 1 <= len(made) <= len(_PARTS):
            raise DataError(f"{name} returned a tuple of {len(made)}; it takes (train,), (train, val) or with test")
        return dict(zip(_PARTS, made, strict=False))
    # torchvision's data sets say by train=True which part they are, a module has a method of that name.
    if _is_part(getattr(made, "train", None)):
        return {part: getattr(made, part, None) for part in _PARTS}
    if _is_part(made):
        return {"train": made}
    raise DataError(
        f"{name} returned a {type(made).__name__}: a data set has parts train, val and test, or is itself a sequence"
        " or iterable of pairs (input, target)"
    )


def _is_part(value: Any) -> bool:
    return not isinstance(value, str | type) and (hasattr(value, "__getitem__") or hasattr(value, "__iter__"))


def _is_mapped(part: Any) -> bool:
    """Whether samples are read by index whenever they are taken; lists and tensors lie in memory already."""
    in_memory = isinstance(part, list | tuple | TensorDataset)
    return not in_memory and hasattr(part, "__len__") and hasattr(part, "__getitem__")


def _collected(name: str, part: Iterable[Any]) -> list[Any]:
    """All pairs of a part, read once."""
    pairs = []
    nbytes = 0
    for pair in part:
        pairs.append(pair)
        nbytes += _pair(name, len(pairs) - 1, pair)[0].nbytes
        if nbytes > _MOST_BYTES or len(pairs) > _MOST_SAMPLES:
            raise DataError(
                f"{name} has no end within {len(pairs):,} samples of {nbytes / 1024**3:.1f} GiB: an iterable is kept in"
                " memory; give it __len__ and __getitem__, so that samples are read when they are needed"
            )
    return pairs


def _looked_at(name: str, source: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
    """The pairs from which facts are read: all that lie in memory, else some that are evenly spaced."""
    count = len(source)
    if not count:
        raise DataError(f"{name} is empty: there is nothing to train on")
    step = max(count // _LOOKED_AT, 1) if _is_mapped(source) else 1
    return [_pair(name, index, source[index]) for index in range(0, count, step)]


def _facts(name: str, holders: Sequence[Any], pairs: Sequence[tuple[Tensor, Tensor]]) -> Facts:
    inputs, targets = pairs[0]
    if inputs.dim() not in _KINDS:
        raise DataError(f"{name}: an input of shape {tuple(inputs.shape)} is neither table, series nor image")
    task = _stated(holders, "task") or ("regression" if targets.is_floating_point() or targets.dim() else _CLASSES)
    if task not in ("classification", "regression"):
        raise DataError(f"{name}: task is {task!r}, not classification or regression")
    class_names = _stated(holders, "class_names", "classes") or () if task == _CLASSES else ()
    num_outputs = max(int(target) for _, target in pairs) + 1 if task == _CLASSES else targets.numel()
    return Facts(
        name=name,
        task=task,
        kind=_KINDS[inputs.dim()],
        input_shape=tuple(inputs.shape),
        num_outputs=int(_stated(holders, "num_outputs") or len(class_names) or num_outputs),
        class_names=tuple(map(str, class_names)),
    )


def _stated(holders: Sequence[Any], *names: str) -> Any:
    """The first of the attributes ``names`` that any of ``holders`` has."""
    values = (getattr(holder, name, None) for holder in holders for name in names)
    return next((value for value in values if value is not None), None)


def _samples(name: str, source: Sequence[Any], facts: Facts) -> Arrays | Mapped:
    if _is_mapped(source):
        return Mapped(name, source, facts)
    return Arrays(*_stacked(name, range(len(source)), source, facts))


def _labels(samples: Arrays | Mapped) -> Tensor | None:
    """Class indices, where they are known without reading every sample."""
    labels = samples.targets if isinstance(samples, Arrays) else getattr(samples.source, "targets", None)
    return torch.as_tensor(labels) if labels is not None and len(labels) == len(samples) else None


def _picked(samples: Samples, indices: Tensor) -> Samples:
    return samples if len(indices) == len(samples) else Subset(samples, indices)


def _pair(name: str, index: int, pair: Any) -> tuple[Tensor, Tensor]:
    """One sample as tensors."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{name}: sample {index} is a {type(pair).__name__}, not a pair (input, target)")
    inputs, target = (
        _tensor(f"{name}: the {what} of sample {index}", value) for what, value in zip(_PAIR, pair, strict=True)
    )
    return (inputs if inputs.dim() else inputs.reshape(1)), target


def _tensor(what: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "getbands"):
        raise DataError(f"{what} is a picture: make a tensor of it, with torchvision.transforms.ToTensor() for example")
    try:
        return torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} is {value!r:.60}, neither a number nor an array of numbers") from error


def _stacked(name: str, indices: Sequence[int], pairs: Iterable[Any], facts: Facts) -> tuple[Tensor, Tensor]:
    """A batch of the samples ``indices``, checked against the facts."""
    inputs, targets = [], []
    for index, pair in zip(indices, pairs, strict=True):
        sample, target = _pair(name, index, pair)
        if sample.shape != facts.input_shape:
            raise DataError(f"{name}: sample {index} has shape {tuple(sample.shape)}, others have {facts.input_shape}")
        inputs.append(sample)
        targets.append(_target(name, index, target, facts))
    return torch.stack(inputs), torch.stack(targets)


def _target(name: str, index: int, target: Tensor, facts: Facts) -> Tensor:
    if facts.task == "regression":
        if target.numel() != facts.num_outputs:
            raise DataError(f"{name}: sample {index} has {target.numel()} targets, others have {facts.num_outputs}")
        return target.float().reshape(-1)
    if target.numel() != 1 or not 0 <= float(target) < facts.num_outputs or float(target) != int(target):
        shown = target.tolist()
        raise DataError(
            f"{name}: the target of sample {index} is {shown}, not a class from 0 to {facts.num_outputs - 1};"
            " class_names or num_outputs of the data set says how many there are, task='regression' that it is a number"
        )
    return target.long().reshape(())
