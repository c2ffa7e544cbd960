"""Pre-activation ResNet-18 for small images."""

from __future__ import annotations

from torch import Tensor, nn


class PreActBlock(nn.Module):
    """Norm, ReLU, convolution, twice, added to a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(channels_in)
        self.relu_1 = nn.ReLU()
        self.conv_1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(channels)
        self.relu_2 = nn.ReLU()
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            if stride != 1 or channels_in != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        active = self.relu_1(self.norm_1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        change: Tensor = self.conv_2(self.relu_2(self.norm_2(self.conv_1(active))))
        return change + shortcut


class PreActResNet18(nn.Module):
    """Pre-activation ResNet-18, first convolution 3x3 as usual for 32x32 images.

    Args:
        classes: Number of classes N.
        size: (channels, height, width) of one image.
        width: Channels of the first stage, 64 in the original; the last has 8 times as many.

    Shape: (batch, channel, height, width) to logits (batch, N).

    Source: He et al. 2016, Identity Mappings in Deep Residual Networks.
    """

    def __init__(
        self, classes: int, size: tuple[int, int, int] = (3, 32, 32), *, width: int = 64
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(size[0], width, 3, padding=1, bias=False)
        stages = []
        channels = width
        for stage in range(4):
            wide = width * 2**stage
            stride = 1 if stage == 0 else 2
            stages.append(
                nn.Sequential(PreActBlock(channels, wide, stride), PreActBlock(wide, wide, 1))
            )
            channels = wide
        self.stage_1, self.stage_2, self.stage_3, self.stage_4 = stages
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        x = self.stage_4(self.stage_3(self.stage_2(self.stage_1(self.conv(images)))))
        logits: Tensor = self.output(self.flatten(self.pool(self.relu(self.norm(x)))))
        return logits
