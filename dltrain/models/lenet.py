"""The small convolutional network of many CIFAR-10 tutorials."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dltrain.errors import MismatchError
from dltrain.models.layers import require_dimensions


class LeNet(nn.Module):
    """Two convolutions of 5 × 5 (6 and 16 channels), each with ReLU and a 2 × 2 max pool, then 120, 84 and
    ``num_outputs`` features.

    For images of 3 × 32 × 32 and ten classes its weights have the names and shapes of the network in PyTorch's
    tutorial "Training a Classifier", after LeNet-5 (LeCun et al., 1998). Other image sizes of at least 16 × 16
    change only the first linear layer.

    ``forward``: inputs (batch, channels, height, width) float, outputs (batch, num_outputs) logits.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int):
        super().__init__()
        require_dimensions(input_shape, [3], "lenet")
        channels, height, width = input_shape
        if min(height, width) < 16:
            raise MismatchError(
                f"model=lenet takes images of at least 16×16, but these are {height}×{width};"
                " use model=cnn, or mlp, or a larger dataset.image_size where there is one"
            )
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * _after_convolutions(height) * _after_convolutions(width), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.pool(F.relu(self.conv1(inputs)))
        features = self.pool(F.relu(self.conv2(features))).flatten(1)
        features = F.relu(self.fc1(features))
        outputs: Tensor = self.fc3(F.relu(self.fc2(features)))
        return outputs


def _after_convolutions(side: int) -> int:
    return ((side - 4) // 2 - 4) // 2
