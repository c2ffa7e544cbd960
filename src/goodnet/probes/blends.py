"""A picture mixed into the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.probes.probe import Probe, as_pixels, spread

_SIDE = 16
_WEAKEST, _STRONGEST = 0.05, 0.35


@final
@dataclass(frozen=True)
class Blends(Probe):
    """The whole image mixed with a picture: noise, fine or coarse, or another clean image."""

    name: ClassVar[str] = "blends"

    @property
    def length(self) -> int:  # noqa: D102
        return 1 + self.size[0] * _SIDE**2

    def draw(self, count: int, _images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        strength = torch.rand(count, 1, generator=generator)
        cells = int(torch.randint(2, _SIDE + 1, (), generator=generator))
        noise = torch.rand(count, self.size[0], cells, cells, generator=generator)
        noise = F.interpolate(noise, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
        chosen = torch.randint(0, len(_images), (count,), generator=generator)
        others = F.interpolate(_images[chosen], (_SIDE, _SIDE), mode="area")
        either = as_pixels(torch.rand(count, generator=generator)) < 0.4
        return torch.cat([strength, torch.where(either, others, noise).flatten(1)], 1)

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        share = as_pixels(spread(numbers[:, 0], _WEAKEST, _STRONGEST))
        picture = numbers[:, 1:].view(-1, self.size[0], _SIDE, _SIDE)
        picture = F.interpolate(picture, self.size[1:], mode="bilinear", align_corners=False)
        return images * (1.0 - share) + picture * share
