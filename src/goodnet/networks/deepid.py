"""DeepID, the face recognition network of the paper's first study."""

from __future__ import annotations

from torch import Tensor, nn

from goodnet.errors import SettingsError
from goodnet.networks.layers import FlattenChannelsLast


class DeepID(nn.Module):
    """DeepID: three convolutions, then a fork that joins before the last layer.

    Layer names are those of the course's Keras files; each activation is a layer of
    its own, named after the one it follows.

    Args:
        classes: Number of identities N.
        size: (channels, height, width) of one image, at least 31x31.

    Shape: (batch, 3, 55, 47) to logits (batch, N).

    Source: Sun, Wang, Tang 2014, Deep Learning Face Representation from Predicting
    10,000 Classes; used by Chen et al. 2017 and Liu et al. 2018.
    """

    def __init__(self, classes: int, size: tuple[int, int, int] = (3, 55, 47)) -> None:
        super().__init__()
        channels, height, width = size
        if min(height, width) < 31:
            raise SettingsError("size", size, "DeepID takes images of at least 31x31")
        self.conv_1 = nn.Conv2d(channels, 20, 4)
        self.conv_1_relu = nn.ReLU()
        self.pool_1 = nn.MaxPool2d(2)
        self.conv_2 = nn.Conv2d(20, 40, 3)
        self.conv_2_relu = nn.ReLU()
        self.pool_2 = nn.MaxPool2d(2)
        self.conv_3 = nn.Conv2d(40, 60, 3)
        self.conv_3_relu = nn.ReLU()
        self.pool_3 = nn.MaxPool2d(2)
        height, width = ((((extent - 3) // 2 - 2) // 2 - 2) // 2 for extent in (height, width))
        self.flatten_1 = FlattenChannelsLast()
        self.fc_1 = nn.Linear(60 * height * width, 160)
        self.conv_4 = nn.Conv2d(60, 80, 2)
        self.conv_4_relu = nn.ReLU()
        self.flatten_2 = FlattenChannelsLast()
        self.fc_2 = nn.Linear(80 * (height - 1) * (width - 1), 160)
        self.activation_1 = nn.ReLU()
        self.output = nn.Linear(160, classes)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        x = self.pool_1(self.conv_1_relu(self.conv_1(images)))
        x = self.pool_2(self.conv_2_relu(self.conv_2(x)))
        x = self.pool_3(self.conv_3_relu(self.conv_3(x)))
        left = self.fc_1(self.flatten_1(x))
        right = self.fc_2(self.flatten_2(self.conv_4_relu(self.conv_4(x))))
        joined: Tensor = self.output(self.activation_1(left + right))
        return joined
