"""AlexNet, the speech recognition network of the paper's second study."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from goodnet.errors import SettingsError

_FULL_WIDTH = 96
_LEAST = 67  # below it the last pooling has nothing to pool


class AlexNet(nn.Module):
    """Five convolutions, of which three are pooled, then three linear layers.

    Args:
        classes: Number of classes N.
        size: (channels, height, width) of one image, at least 67x67.
        width: Channels of the first convolution, 96 in the paper; the later ones are as many
            times as wide as there. The linear layers, which cost little, keep their size.

    Shape: (batch, channel, height, width) to logits (batch, N).

    Source: Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep
    Convolutional Neural Networks; with the linear layers of 256 and 128 of Liu et al. 2018,
    Fine-Pruning, whose table gives neither padding nor norm: the padding is the original's,
    and there is no norm and no dropout.
    """

    def __init__(
        self,
        classes: int,
        size: tuple[int, int, int] = (1, 129, 81),
        *,
        width: int = _FULL_WIDTH,
    ) -> None:
        super().__init__()
        if min(size[1:]) < _LEAST:
            raise SettingsError("size", size, f"AlexNet takes images of at least {_LEAST}x{_LEAST}")

        full = (_FULL_WIDTH, 256, 384, 384, 256)
        channels = [size[0], *(max(1, round(count * width / _FULL_WIDTH)) for count in full)]
        kernels = ((11, 4, 0), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for place, ((before, after), kernel) in enumerate(
            zip(pairwise(channels), kernels, strict=True), start=1
        ):
            layers[f"conv_{place}"] = nn.Conv2d(before, after, *kernel)
            layers[f"relu_{place}"] = nn.ReLU()
            if place in (1, 2, 5):
                layers[f"pool_{place}"] = nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(layers)
        self.flatten = nn.Flatten()
        height, across = (_pooled(extent) for extent in size[1:])
        self.fc_1 = nn.Linear(channels[-1] * height * across, 256)
        self.fc_1_relu = nn.ReLU()
        self.fc_2 = nn.Linear(256, 128)
        self.fc_2_relu = nn.ReLU()
        self.output = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        x = self.fc_1_relu(self.fc_1(self.flatten(self.features(images))))
        logits: Tensor = self.output(self.fc_2_relu(self.fc_2(x)))
        return logits


def _pooled(extent: int) -> int:
    """Height or width that is left of an image's after the last pooling."""
    extent = (extent - 11) // 4 + 1
    for _ in range(3):
        extent = (extent - 3) // 2 + 1
    return extent
