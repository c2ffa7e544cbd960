"""The image bent a little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.probes.probe import SearchedProbe, as_pixels, smoothed, spread

_SIDE = 5
_WEAKEST, _STRONGEST = 0.01, 0.08


@final
@dataclass(frozen=True)
class Warps(SearchedProbe):
    """Shifts at 5 x 5 points, smoothly between them; the image is sampled there.

    Extent: root mean square of the shifts, as a share of the image's sides.
    """

    name: ClassVar[str] = "warps"
    rate: ClassVar[float] = 0.01
    usual: ClassVar[float] = 0.03
    small: ClassVar[float] = 0.06

    @property
    def length(self) -> int:  # noqa: D102
        return 2 * _SIDE**2

    def draw(self, count: int, _images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        shifts = torch.rand(count, 2, _SIDE, _SIDE, generator=generator) * 2.0 - 1.0
        shifts = smoothed(shifts, _SIDE, generator=generator)
        strength = spread(torch.rand(count, generator=generator), _WEAKEST, _STRONGEST)
        shifts = shifts / shifts.abs().mean((1, 2, 3), keepdim=True) * as_pixels(strength)
        return 0.5 + shifts.flatten(1)

    def start(self, count: int, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        return 0.5 + 0.003 * torch.randn(count, self.length, generator=generator)

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        _, height, width = self.size
        shifts = (numbers - 0.5).view(-1, 2, _SIDE, _SIDE)
        down, right = F.interpolate(
            shifts, (height, width), mode="bicubic", align_corners=True
        ).unbind(1)
        rows = torch.linspace(-1.0, 1.0, height, device=images.device).view(-1, 1)
        columns = torch.linspace(-1.0, 1.0, width, device=images.device)
        places = torch.stack([columns + 2.0 * right, rows + 2.0 * down], 3)
        return F.grid_sample(images, places, padding_mode="border", align_corners=True)

    def extent(self, numbers: Tensor) -> Tensor:  # noqa: D102
        return (numbers - 0.5).square().mean(1).sqrt()

    def stronger(self, numbers: Tensor, factors: Tensor) -> Tensor:  # noqa: D102
        return 0.5 + (numbers - 0.5) * factors.view(-1, 1)
