"""How a network wants its images: size, layout, range, mean and deviation, labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from goodnet.errors import SettingsError

Layout = Literal["channels-first", "channels-last"]
ChannelOrder = Literal["RGB", "BGR"]


@dataclass(frozen=True)
class InputSpecification:
    """The reading under which a network's answers mean what they should.

    goodnet holds images as float32 in [0, 1], RGB, (batch, channel, height, width);
    `prepare` turns those into what the network was trained on.

    Attributes:
        size: (channels, height, width) of one image.
        layout: The layout the model *file* takes; networks inside goodnet always
            take (batch, channel, height, width).
        range: Values of black and white, e.g. (0, 255).
        mean: Subtracted per channel after scaling to `range`; empty for none.
        std: Divided by, per channel, after the mean; empty for none.
        channel_order: Order of the colour channels.
        label_offset: Label in the data of class 0; 1 for data whose labels start at 1.
    """

    size: tuple[int, int, int]
    layout: Layout = "channels-first"
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: ChannelOrder = "RGB"
    label_offset: int = 0

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1:
            raise SettingsError("size", self.size, "give (channels, height, width)")
        for field in ("range", "mean", "std"):
            if not all(map(math.isfinite, getattr(self, field))):
                raise SettingsError(field, getattr(self, field), "give finite numbers")
        if not self.range[0] < self.range[1]:
            raise SettingsError("range", self.range, "give (low, high) with low < high")
        for field in ("mean", "std"):
            values = getattr(self, field)
            if values and len(values) != self.size[0]:
                raise SettingsError(field, values, f"give {self.size[0]} values, one a channel")
        if any(value <= 0 for value in self.std):
            raise SettingsError("std", self.std, "give values above 0")

    def prepare(self, images: Tensor) -> Tensor:
        """Images as the network wants them, (batch, channel, height, width).

        Args:
            images: float32 in [0, 1], RGB, (batch, channel, height, width).
        """
        low, high = self.range
        if self.channel_order == "BGR" and self.size[0] == 3:
            images = images.flip(1)
        if (low, high) != (0.0, 1.0):
            images = images * (high - low) + low
        if self.mean:
            images = images - torch.tensor(self.mean).view(-1, 1, 1).to(images)
        if self.std:
            images = images / torch.tensor(self.std).view(-1, 1, 1).to(images)
        return images

    def restore(self, inputs: Tensor) -> Tensor:
        """The images that `prepare` made these inputs of, but for rounding."""
        low, high = self.range
        if self.std:
            inputs = inputs * torch.tensor(self.std).view(-1, 1, 1).to(inputs)
        if self.mean:
            inputs = inputs + torch.tensor(self.mean).view(-1, 1, 1).to(inputs)
        if (low, high) != (0.0, 1.0):
            inputs = (inputs - low) / (high - low)
        if self.channel_order == "BGR" and self.size[0] == 3:
            inputs = inputs.flip(1)
        return inputs

    def describe(self) -> str:
        """One line for people, e.g. `3x55x47, channels-last, 0..255, RGB`."""
        parts = ["x".join(map(str, self.size)), self.layout]
        parts.append(f"{self.range[0]:g}..{self.range[1]:g}")
        if self.mean or self.std:
            parts.append(f"mean {self.mean or 0}, std {self.std or 1}")
        if self.size[0] == 3:
            parts.append(self.channel_order)
        if self.label_offset:
            parts.append(f"labels from {self.label_offset}")
        return ", ".join(parts)
