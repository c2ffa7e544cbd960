"""Ripples over the whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from goodnet.probes.probe import Probe, as_pixels, spread

_SLOTS = 2
_LOWEST, _HIGHEST = 0.5, 12.0
_WEAKEST, _STRONGEST = 0.04, 0.3


@final
@dataclass(frozen=True)
class Waves(Probe):
    """One or two plane waves added, grey or coloured; half of them along an axis."""

    name: ClassVar[str] = "waves"

    @property
    def length(self) -> int:  # noqa: D102
        return 2 + self.size[0] + 5 * _SLOTS

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        channels, height, width = self.size
        down = (torch.arange(height, device=images.device) / height).view(1, -1, 1)
        right = (torch.arange(width, device=images.device) / width).view(1, 1, -1)
        wave = torch.zeros(len(images), height, width, device=images.device)
        for slot, own in enumerate(numbers[:, 2 + channels :].split(5, 1)):
            there = own[:, 0] < 0.4 if slot else torch.ones_like(own[:, 0], dtype=torch.bool)
            waves_across = spread(own[:, 1], math.log(_LOWEST), math.log(_HIGHEST)).exp()
            angle = torch.where(
                own[:, 2] < 0.5, (own[:, 3] * 2).floor() * math.pi / 2, own[:, 3] * math.pi
            )
            place = (
                (waves_across * angle.sin()).view(-1, 1, 1) * down
                + (waves_across * angle.cos()).view(-1, 1, 1) * right
                + own[:, 4].view(-1, 1, 1)
            )
            wave = wave + torch.sin(2 * math.pi * place) * there.view(-1, 1, 1)
        colour = spread(numbers[:, 2 : 2 + channels], -1.0, 1.0)
        colour = torch.where(numbers[:, 1:2] < 0.6, torch.ones_like(colour), colour)
        strength = as_pixels(spread(numbers[:, 0], _WEAKEST, _STRONGEST))
        return (images + strength * colour[..., None, None] * wave[:, None]).clamp(0.0, 1.0)
