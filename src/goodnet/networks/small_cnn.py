"""A small VGG-like network for 32x32 images, trainable on two cores in a minute or two."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from goodnet.errors import SettingsError


class SmallCNN(nn.Module):
    """Three blocks of convolution, normalisation and ReLU, then one linear layer.

    Args:
        classes: Number of classes N.
        size: (channels, height, width) of one image, at least 8x8.
        width: Channels of the first block; the later ones have 2 and 4 times as many.

    Shape: (batch, channel, height, width) to logits (batch, N).
    """

    def __init__(
        self, classes: int, size: tuple[int, int, int] = (3, 32, 32), *, width: int = 32
    ) -> None:
        super().__init__()
        if min(size[1:]) < 8:
            raise SettingsError("size", size, "SmallCNN takes images of at least 8x8")
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        channels = size[0]
        for block, factor in enumerate((1, 2, 4), start=1):
            blocks[f"conv_{block}"] = nn.Conv2d(channels, factor * width, 3, padding=1, bias=False)
            blocks[f"norm_{block}"] = nn.BatchNorm2d(factor * width)
            blocks[f"relu_{block}"] = nn.ReLU()
            blocks[f"pool_{block}"] = nn.MaxPool2d(2)
            channels = factor * width
        self.features = nn.Sequential(blocks)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(channels * (size[1] // 8) * (size[2] // 8), classes)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.output(self.flatten(self.features(images)))
        return logits
