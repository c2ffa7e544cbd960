"""Triggers painted over a part of the image, and the canvas they are painted on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from goodnet.errors import SettingsError
from goodnet.triggers.image_trigger import ImageTrigger, in_channels

Colour = tuple[float, float, float]
"""RGB in [0, 1]."""

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) in pixels."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """What an overlay paints.

    Attributes:
        colour: float32 (channel, height, width) in [0, 1].
        opacity: float32 (height, width); 0 leaves a pixel as it is, 1 replaces it.
    """

    colour: Tensor
    opacity: Tensor


class Overlay(ImageTrigger):
    """A trigger painted over a part of the image."""

    @abstractmethod
    def _box(self, height: int, width: int) -> Box:
        """What is painted lies in this box, which has to fit."""

    @abstractmethod
    def _paint(self, canvas: Canvas) -> None:
        """Lays the trigger's shapes on the canvas."""

    @final
    def drawing(self, size: tuple[int, int, int]) -> Drawing:
        """Colour and opacity for images of `size` (channels, height, width).

        Grey images get the colours' luminance.

        Raises:
            SettingsError: the trigger does not fit, or covers no pixel.
        """
        channels, height, width = self._image_size(size)
        top, left, bottom, right = self._box(height, width)
        place = f"{bottom - top:.3g}×{right - left:.3g} px at ({top:.3g}, {left:.3g})"
        if min(top, left) < -_ROUNDING or max(bottom - height, right - width) > _ROUNDING:
            raise SettingsError(
                f"trigger {self.name!r}",
                place,
                f"that sticks out of images of {height}×{width} px; make it smaller or move it",
            )
        if min(bottom - top, right - left) < 1.0:
            raise SettingsError(
                f"trigger {self.name!r}",
                place,
                f"that covers no pixel of images of {height}×{width} px; make it larger",
            )
        canvas = Canvas(height, width)
        self._paint(canvas)
        colour = in_channels(canvas.colour, channels)
        return Drawing(colour=colour.clamp(0, 1), opacity=canvas.opacity)

    @final
    def _touched(self, size: tuple[int, int, int]) -> Tensor:
        return self.drawing(size).opacity > 0

    @final
    def _changed(self, images: Tensor) -> Tensor:
        channels, height, width = images.shape[1:]
        drawing = self.drawing((channels, height, width))
        opacity, colour = drawing.opacity.to(images.device), drawing.colour.to(images.device)
        return images * (1.0 - opacity) + colour * opacity


_ROUNDING: Final = 1e-4
"""How far, in pixels, a box may stick out for want of exact fractions."""


class Canvas:
    """Colour and opacity of what has been laid so far, on an image of height × width.

    Attributes:
        height: In pixels.
        width: In pixels.
        down: The rows' middles in pixels from the top, (height, 1).
        right: The columns' middles in pixels from the left, (1, width).
        colour: float32 (3, height, width).
        opacity: float32 (height, width).
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.down = (torch.arange(height, dtype=torch.float32) + 0.5).view(-1, 1)
        self.right = (torch.arange(width, dtype=torch.float32) + 0.5).view(1, -1)
        self.colour = torch.zeros(3, height, width)
        self.opacity = torch.zeros(height, width)

    def lay(self, colour: Colour | Tensor, cover: Tensor) -> None:
        """Puts a colour on top.

        Args:
            colour: One for all pixels, or float32 (3, height, width) in [0, 1].
            cover: Its opacity, float32 (height, width).
        """
        paint = colour if isinstance(colour, Tensor) else torch.tensor(colour).view(3, 1, 1)
        opacity = cover + self.opacity * (1.0 - cover)
        share = torch.where(opacity > 0, cover / opacity.clamp(min=1e-12), torch.zeros(()))
        self.colour += share * (paint - self.colour)
        self.opacity = opacity


def inside(distance: Tensor) -> Tensor:
    """Share of each pixel inside a signed distance field given in pixels."""
    return (0.5 - distance).clamp(0, 1)


def bar(across: Tensor, along: Tensor, half_width: float, half_height: float) -> Tensor:
    """Signed distance (Chebyshev) of a rectangle about the origin."""
    return torch.maximum(across.abs() - half_width, along.abs() - half_height)
