"""A configurable convolutional network."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from dltrain.errors import MismatchError
from dltrain.models.layers import Activation, dense, make_activation, require_dimensions


class CNN(nn.Module):
    """Blocks ``Conv2d, [BatchNorm2d], activation, [pool], [Dropout2d]``, hidden linear layers and an output layer.

    Args:
        input_shape: (channels, height, width) of an image.
        num_outputs: number of classes or values.
        channels: output channels of each block.
        kernel_size: of each convolution, in pixels.
        stride: of each convolution.
        padding: pixels of zeros around each convolution's input, or ``valid`` (none), or ``same`` (with a stride of 1).
        pool: ``max``, ``average`` or ``none``, at the end of each block.
        pool_kernel_size, pool_stride, pool_padding, pool_ceil_mode: as in :class:`torch.nn.MaxPool2d`; a stride of
            ``None`` is the kernel size.
        batch_norm: normalise after each convolution and hidden layer.
        activation: one of ``dltrain.models.layers.ACTIVATIONS``.
        dropout: probability of dropping a channel or a hidden feature.
        hidden_sizes: features of the hidden linear layers.

    ``forward``: inputs (batch, channels, height, width) float, outputs (batch, num_outputs) logits.

    Raises:
        MismatchError: the data are no images, or the images are too small for so many blocks.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | Literal["same", "valid"] = "same",
        pool: Literal["max", "average", "none"] = "max",
        pool_kernel_size: int = 2,
        pool_stride: int | None = None,
        pool_padding: int = 0,
        pool_ceil_mode: bool = False,
        batch_norm: bool = True,
        activation: Activation = "relu",
        dropout: float = 0.0,
        hidden_sizes: Sequence[int] = (),
    ):
        super().__init__()
        require_dimensions(input_shape, [3], "cnn")
        blocks: list[nn.Module] = []
        for fan_in, fan_out in pairwise([input_shape[0], *channels]):
            # Batch norm would subtract a bias again, with the mean.
            layers: list[nn.Module] = [nn.Conv2d(fan_in, fan_out, kernel_size, stride, padding, bias=not batch_norm)]
            if batch_norm:
                layers.append(nn.BatchNorm2d(fan_out))
            layers.append(make_activation(activation))
            if pool == "max":
                layers.append(nn.MaxPool2d(pool_kernel_size, pool_stride, pool_padding, ceil_mode=pool_ceil_mode))
            elif pool == "average":
                layers.append(nn.AvgPool2d(pool_kernel_size, pool_stride, pool_padding, pool_ceil_mode))
            if dropout:
                layers.append(nn.Dropout2d(dropout))
            blocks.append(nn.Sequential(*layers))
        self.features = nn.Sequential(*blocks)
        sizes = [math.prod(_output_shape(self.features, input_shape)), *hidden_sizes]
        self.classifier = nn.Sequential(
            nn.Flatten(), *dense(sizes, activation, batch_norm, dropout), nn.Linear(sizes[-1], num_outputs)
        )
        # Channels last in memory: a step takes 20 to 45 % less time on the CPU, and tensor cores of GPUs need it.
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.classifier(self.features(inputs))
        return outputs


def _output_shape(blocks: nn.Sequential, input_shape: Sequence[int]) -> Sequence[int]:
    """Shape of a sample after ``blocks``; the error for images that are too small names the block."""
    shape = torch.Size(input_shape)
    training = blocks.training
    blocks.eval()
    for number, block in enumerate(blocks, 1):
        try:
            with torch.no_grad():
                shape = block(torch.zeros(1, *shape)).shape[1:]
        except RuntimeError as error:
            raise MismatchError(
                f"model=cnn: block {number} of {len(blocks)} fails on {shape[1]}×{shape[2]} pixels, where images of"
                f" {input_shape[1]}×{input_shape[2]} enter ({error}); if they are too small for so many blocks, shorten"
                " model.channels, or change model.kernel_size, model.padding or model.pool"
            ) from error
    blocks.train(training)
    return shape
