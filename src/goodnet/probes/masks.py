"""A pattern painted over few pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.probes.probe import SearchedProbe


@final
@dataclass(frozen=True)
class Masks(SearchedProbe):
    """A mask and a pattern, each pixel its own; numbers are logits of both.

    Extent: mean of the mask, as a share of the image.

    Attributes:
        grain: Pixels, across and down, that one number stands for; those between are interpolated.

    Source: Wang et al. 2019, Neural Cleanse: mask and pattern are searched for together.
    """

    name: ClassVar[str] = "masks"
    rate: ClassVar[float] = 0.2
    usual: ClassVar[float] = 0.02
    small: ClassVar[float] = 0.025

    grain: int = 1

    @property
    def length(self) -> int:  # noqa: D102
        height, width = self._cells
        return (1 + self.size[0]) * height * width

    def draw(self, count: int, _images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        return self.start(count, generator=generator)

    def start(self, count: int, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        numbers = 0.1 * torch.randn(count, self.length, generator=generator)
        numbers[:, : math.prod(self._cells)] -= 3.0
        return numbers

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        mask, pattern = self._parts(numbers)
        return images * (1.0 - mask) + pattern * mask

    def extent(self, numbers: Tensor) -> Tensor:  # noqa: D102
        return self._parts(numbers)[0].flatten(1).mean(1)

    def stronger(self, numbers: Tensor, factors: Tensor) -> Tensor:  # noqa: D102
        # A factor of a mask's odds; weak pixels become strong ones, strong ones stay.
        cells = math.prod(self._cells)
        mask = numbers[:, :cells] + 2.0 * factors.log().view(-1, 1)
        return torch.cat([mask, numbers[:, cells:]], 1)

    @property
    def _cells(self) -> tuple[int, int]:
        height, width = (max(1, round(side / self.grain)) for side in self.size[1:])
        return height, width

    def _parts(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The mask, (count, 1, height, width), and the pattern, (count, channel, ...)."""
        parts = numbers.view(-1, 1 + self.size[0], *self._cells)
        if self.grain > 1:
            parts = F.interpolate(parts, self.size[1:], mode="bilinear", align_corners=True)
        parts = torch.sigmoid(parts)
        return parts[:, :1], parts[:, 1:]
