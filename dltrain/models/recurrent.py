"""Recurrent networks over the steps of a series, or over the rows of an image."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from dltrain.models.layers import Activation, dense, require_dimensions


class LayerOptions(TypedDict, total=False):
    """Further arguments of torch's layers; ``nonlinearity`` is for RNN, ``proj_size`` for LSTM."""

    bias: bool
    nonlinearity: Literal["tanh", "relu"]
    proj_size: int


class Recurrent(nn.Module):
    """torch's recurrent layers, a readout of their outputs, hidden linear layers and a linear output layer.

    Args:
        input_shape: (steps, features) of a series, or (channels, height, width) of an image, which is read row by
            row from the top, ``channels * width`` features a step.
        num_outputs: number of classes or values.
        hidden_size: features of the hidden state, for each direction.
        num_layers: number of stacked recurrent layers.
        bidirectional: read the steps backwards as well.
        dropout: probability of dropping a feature between recurrent layers, of the readout, and of the hidden linear
            layers.
        readout: ``last`` (the final hidden state of the last layer, of both directions), or the ``mean`` or ``max``
            over the outputs of all steps.
        hidden_sizes: features of linear layers between the readout and the output layer.
        activation: of those linear layers.

    ``forward``: inputs (batch, *input_shape) float, outputs (batch, num_outputs): logits or values.
    """

    layer: ClassVar[Callable[..., nn.RNNBase]]

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        readout: Literal["last", "mean", "max"] = "last",
        hidden_sizes: Sequence[int] = (),
        activation: Activation = "relu",
        **layer_options: Unpack[LayerOptions],
    ):
        super().__init__()
        require_dimensions(input_shape, [2, 3], type(self).__name__.lower())
        features = input_shape[-1] if len(input_shape) == 2 else input_shape[0] * input_shape[-1]
        self.readout = readout
        self.recurrent = self.layer(
            features,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,  # torch drops between layers, and warns without a second
            **layer_options,
        )
        sizes = [(self.recurrent.proj_size or hidden_size) * (2 if bidirectional else 1), *hidden_sizes]
        self.head = nn.Sequential(
            *([nn.Dropout(dropout)] if dropout else []),
            *dense(sizes, activation, batch_norm=False, dropout=dropout),
            nn.Linear(sizes[-1], num_outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dim() == 4:
            inputs = inputs.transpose(1, 2).flatten(2)  # (batch, height, channels * width)
        steps, state = self.recurrent(inputs)
        outputs: Tensor = self.head(self._read(steps, state))
        return outputs

    def _read(self, steps: Tensor, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        if self.readout == "mean":
            return steps.mean(1)
        if self.readout == "max":
            return steps.amax(1)
        hidden = state[0] if isinstance(state, tuple) else state  # (layers * directions, batch, hidden_size)
        # The backward direction ends at the first step: at the last step it has read a single step.
        return torch.cat((hidden[-2], hidden[-1]), 1) if self.recurrent.bidirectional else hidden[-1]


class RNN(Recurrent):
    """Elman network; ``nonlinearity`` is ``tanh`` or ``relu``. Arguments as in :class:`Recurrent`."""

    layer = nn.RNN


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997). Arguments as in :class:`Recurrent`."""

    layer = nn.LSTM


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al., 2014). Arguments as in :class:`Recurrent`."""

    layer = nn.GRU
