"""Parts of several networks: activations by name, dense layers, and the check that a network fits the data."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from dltrain.errors import MismatchError

Activation = Literal[
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "tanh",
    "sigmoid",
    "softplus",
    "hardswish",
    "identity",
]
# The same names once more, so that the configuration is checked against the annotation before torch is imported.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "hardswish": nn.Hardswish,
    "identity": nn.Identity,
}

_KINDS = {1: "a table", 2: "a series", 3: "images"}  # by the number of dimensions of a sample
_FITTING = {1: "mlp", 2: "rnn, lstm, gru, mlp", 3: "cnn, lenet, resnet18, mlp, rnn, lstm, gru"}


def make_activation(name: str) -> nn.Module:
    """A new activation module."""
    return ACTIVATIONS[name]()


def require_dimensions(input_shape: Sequence[int], allowed: Sequence[int], model: str) -> None:
    """Raise :class:`MismatchError`, naming the models that fit, unless a sample has an allowed number of dimensions."""
    dimensions = len(input_shape)
    if dimensions not in allowed:
        shape = "×".join(map(str, input_shape))
        takes = " or ".join(_KINDS[number] for number in allowed)
        raise MismatchError(
            f"model={model} takes {takes}, but the data set is {_KINDS.get(dimensions, 'something else')}"
            f" (one sample is {shape}); models that fit: {_FITTING.get(dimensions, 'your own')}"
        )


def dense(sizes: Sequence[int], activation: str, batch_norm: bool, dropout: float) -> list[nn.Module]:
    """Hidden layers ``Linear, [BatchNorm], activation, [Dropout]`` from ``sizes[0]`` features to ``sizes[-1]``."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers.append(nn.Linear(fan_in, fan_out))
        if batch_norm:
            layers.append(nn.BatchNorm1d(fan_out))
        layers.append(make_activation(activation))
        if dropout:
            layers.append(nn.Dropout(dropout))
    return layers
