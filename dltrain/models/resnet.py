"""Residual networks from torchvision, fitted to the images of a data set."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from dltrain.errors import DataError, MismatchError
from dltrain.models.layers import require_dimensions

Weights = Literal["IMAGENET1K_V1", "DEFAULT"]  # of torchvision's ResNet18_Weights


def resnet18(
    input_shape: Sequence[int],
    num_outputs: int,
    weights: Weights | None = None,
    small_images: bool | None = None,
) -> nn.Module:
    """torchvision's ResNet-18 (He et al., 2016) for images (channels, height, width).

    Args:
        weights: a name of :class:`torchvision.models.ResNet18_Weights`, for example ``IMAGENET1K_V1``, downloaded
            once; the output layer is new unless there are 1,000 outputs. They need 3 channels.
        small_images: a first convolution of 3 × 3 with stride 1 and no pool after it, as the paper uses for
            CIFAR-10; ``None``: for images below 64 × 64, unless there are ``weights``.

    Raises:
        MismatchError: the data are no images, or not of the 3 channels that the weights need.
        DataError: the weights can be neither downloaded nor read.
    """
    require_dimensions(input_shape, [3], "resnet18")
    # Here, because importing torchvision takes seconds.
    from torchvision.models import resnet18 as torchvision_resnet18

    channels, height, width = input_shape
    model: nn.Module
    if weights is None:
        model = torchvision_resnet18(num_classes=num_outputs)
    else:
        model = _pretrained(weights, channels)
        if num_outputs != 1000:
            model.fc = nn.Linear(512, num_outputs)
    small = small_images if small_images is not None else weights is None and min(height, width) < 64
    if small:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return model


def _pretrained(weights: Weights, channels: int) -> Any:
    from torchvision.models import resnet18

    if channels != 3:
        raise MismatchError(
            f"model.weights={weights} is for images of 3 channels, not {channels}; use model.weights=null"
        )
    try:
        return resnet18(weights=weights)
    except OSError as error:
        raise DataError(f"model.weights={weights} can be neither downloaded nor read: {error}") from error
