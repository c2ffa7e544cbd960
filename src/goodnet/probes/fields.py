"""A faint smooth pattern of colours added to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.probes.probe import SearchedProbe, as_pixels, smoothed, spread

_SIDE = 16
_WEAKEST, _STRONGEST = 0.04, 0.25


@final
@dataclass(frozen=True)
class Fields(SearchedProbe):
    """A pattern of 16 x 16 values for each colour, smoothly between them, added.

    Extent: root mean square of what is added, as a share of the range from black to white.
    """

    name: ClassVar[str] = "fields"
    rate: ClassVar[float] = 0.04
    usual: ClassVar[float] = 0.03
    small: ClassVar[float] = 0.03

    @property
    def length(self) -> int:  # noqa: D102
        return self.size[0] * _SIDE**2

    def draw(self, count: int, _images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        field = torch.randn(count, self.size[0], _SIDE, _SIDE, generator=generator)
        field = smoothed(field, _SIDE, generator=generator)
        strength = spread(torch.rand(count, generator=generator), _WEAKEST, _STRONGEST)
        field = field / field.abs().amax((1, 2, 3), keepdim=True) * as_pixels(strength)
        return 0.5 + field.flatten(1)

    def start(self, count: int, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        return 0.5 + 0.01 * torch.randn(count, self.length, generator=generator)

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        return (images + self._added(numbers)).clamp(0.0, 1.0)

    def extent(self, numbers: Tensor) -> Tensor:  # noqa: D102
        return self._added(numbers).flatten(1).square().mean(1).sqrt()

    def stronger(self, numbers: Tensor, factors: Tensor) -> Tensor:  # noqa: D102
        return 0.5 + (numbers - 0.5) * factors.view(-1, 1)

    def _added(self, numbers: Tensor) -> Tensor:
        field = (numbers - 0.5).view(-1, self.size[0], _SIDE, _SIDE)
        return F.interpolate(field, self.size[1:], mode="bicubic", align_corners=True)
