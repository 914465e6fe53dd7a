"""A multi-layer perceptron, for tables, and for anything else flattened."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from dltrain.models.layers import Activation, dense


class MLP(nn.Module):
    """Hidden layers of ``hidden_sizes`` features, each ``Linear, [BatchNorm], activation, [Dropout]``, and a linear
    output layer.

    ``forward``: inputs (batch, *input_shape) float, outputs (batch, num_outputs): logits or values.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden_sizes: Sequence[int] = (128, 64),
        activation: Activation = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        sizes = [math.prod(input_shape), *hidden_sizes]
        self.layers = nn.Sequential(
            nn.Flatten(), *dense(sizes, activation, batch_norm, dropout), nn.Linear(sizes[-1], num_outputs)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs
