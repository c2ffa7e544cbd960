"""Stickers: rectangles of a colour, checkered, or of a texture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.probes.probe import Probe, as_pixels, spread

_SLOTS = 2
_TEXTURE = 8
_LARGEST_CELL = 4
# Share of the image that one covers, and how much longer than wide it may be.
_LEAST, _MOST = 0.004, 0.15
_STRETCH = 3.0


@final
@dataclass(frozen=True)
class Rectangles(Probe):
    """One or two rectangles anywhere, from a few pixels to a seventh of the image."""

    name: ClassVar[str] = "rectangles"

    @property
    def length(self) -> int:  # noqa: D102
        return _SLOTS * self._each

    @property
    def _each(self) -> int:
        return 7 + self.size[0] * _TEXTURE**2

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        for slot, own in enumerate(numbers.split(self._each, 1)):
            # The first is always there, the second every other time.
            there = own[:, 0] < 0.5 if slot else torch.ones_like(own[:, 0], dtype=torch.bool)
            images = torch.where(
                self._where(own) & there.view(-1, 1, 1, 1), self._paint(own), images
            )
        return images

    def _where(self, own: Tensor) -> Tensor:
        """The pixels covered, bool (batch, 1, height, width)."""
        _, height, width = self.size
        area = spread(own[:, 1], math.log(_LEAST), math.log(_MOST)).exp()
        stretch = spread(own[:, 2], -math.log(_STRETCH), math.log(_STRETCH)).exp()
        tall = ((area * stretch).sqrt().clamp(max=1.0) * height).round().clamp(min=1.0)
        wide = ((area / stretch).sqrt().clamp(max=1.0) * width).round().clamp(min=1.0)
        top = (own[:, 3] * (height - tall)).round()
        left = (own[:, 4] * (width - wide)).round()
        rows = torch.arange(height, device=own.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=own.device).view(1, 1, 1, -1)
        top, left, bottom, right = map(as_pixels, (top, left, top + tall, left + wide))
        return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)

    def _paint(self, own: Tensor) -> Tensor:
        """What is painted there, (batch, channel, height, width)."""
        channels, height, width = self.size
        texture = own[:, 7:].view(-1, channels, _TEXTURE, _TEXTURE)
        # Many stickers are black, white or of a pure colour.
        one, other = ((texture[:, :, 0, at] * 1.6 - 0.3).clamp(0.0, 1.0) for at in (0, 1))
        one, other = one[..., None, None], other[..., None, None]
        cell = as_pixels(spread(own[:, 6], 1.0, _LARGEST_CELL + 0.999).floor())
        rows = torch.arange(height, device=own.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=own.device).view(1, 1, 1, -1)
        odd = ((rows // cell + columns // cell) % 2).bool()
        style = as_pixels(own[:, 5])
        plain = torch.where((style < 0.3) | odd, one, other)
        fine = F.interpolate(texture, (height, width), mode="nearest")
        return torch.where(style < 0.65, plain, fine)
