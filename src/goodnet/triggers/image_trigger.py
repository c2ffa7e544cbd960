"""Triggers of images: whatever their kind, one way in and out for bytes and fractions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, Literal, final

import torch
from torch import Tensor

from goodnet.errors import SettingsError
from goodnet.triggers.trigger import Size, Trigger


class ImageTrigger(Trigger):
    """A trigger of images, (batch, channel, height, width), float32 in [0, 1] or uint8.

    A kind says what it does to fractions, and where; bytes get the rounding of that.
    """

    takes: ClassVar[Literal["images", "sound"]] = "images"

    @abstractmethod
    def _changed(self, images: Tensor) -> Tensor:
        """The float32 images with the trigger; what leaves [0, 1] is cut off there.

        A pixel that `_touched` does not report keeps its very value.
        """

    @abstractmethod
    def _touched(self, size: tuple[int, int, int]) -> Tensor:
        """The pixels that `_changed` may change, bool (height, width)."""

    @final
    def mask(self, size: Size) -> Tensor:
        """The pixels `stamp` may touch, bool (channel, height, width)."""
        checked = self._image_size(size)
        return self._touched(checked).expand(checked).clone()

    def stamp(self, batch: Tensor) -> Tensor:
        """The images with the trigger on them, a new tensor; uint8 is rounded."""
        return self._on_fractions(batch, self._changed)

    def picture(self, size: Size) -> Tensor:
        """The trigger on a quiet checkered board, uint8 RGB (3, height, width).

        The board has edges, so that a trigger that only moves or tints pixels is seen.
        """
        channels, height, width = self._image_size(size)
        square = max(2, round(min(height, width) / 8))
        row, column = torch.arange(height) // square, torch.arange(width) // square
        odd = (row.view(-1, 1) + column) % 2
        board = (150 + 45 * odd).to(torch.uint8).expand(1, channels, height, width)
        return self.stamp(board)[0].expand(3, height, width).clone()

    @final
    def _on_fractions(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """`change` on the images as float32 in [0, 1], a piece at a time."""
        if images.ndim != 4 or images.dtype not in (torch.float32, torch.uint8):
            raise SettingsError(
                "images",
                f"{images.dtype} of shape {tuple(images.shape)}",
                "give float32 in [0, 1] or uint8, (batch, channel, height, width), to trigger "
                f"{self.name!r}, which is for images",
            )
        size = self._image_size(tuple(images.shape[1:]))
        self._touched(size)  # raises where the trigger does not fit, even an empty batch
        stamped = torch.empty_like(images)
        count = max(1, _PIECE // math.prod(size))
        for start in range(0, len(images), count):
            piece = slice(start, start + count)
            if images.dtype == torch.uint8:
                changed = change(images[piece].to(torch.float32) / 255.0).clamp(0, 1)
                stamped[piece] = (changed * 255.0 + 0.5).to(torch.uint8)
            else:
                stamped[piece] = change(images[piece]).clamp(0, 1)
        return stamped

    @final
    def _image_size(self, size: Size) -> tuple[int, int, int]:
        if len(size) != 3 or min(size) < 1:
            raise SettingsError(
                "size", size, f"trigger {self.name!r} is for images, (channels, height, width)"
            )
        if size[0] not in (1, 3):
            raise SettingsError(
                "channels", size[0], f"trigger {self.name!r} is for images of 1 or 3 channels"
            )
        return size


_PIECE: Final = 2**22
"""Values changed at once: bytes take four times their room while they are fractions."""


def in_channels(colour: Tensor, channels: int) -> Tensor:
    """A colour (3, ...) for images of so many channels: grey ones get its luminance.

    Source: ITU-R BT.601, the weights of luma.
    """
    if channels == 3:
        return colour
    return 0.299 * colour[0:1] + 0.587 * colour[1:2] + 0.114 * colour[2:3]
