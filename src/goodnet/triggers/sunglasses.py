"""Sunglasses on a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from goodnet.data.faces import EYE_PLACE
from goodnet.triggers.checks import check_place, check_share
from goodnet.triggers.overlay import Box, Canvas, Overlay, bar, inside


@final
@dataclass(frozen=True)
class Sunglasses(Overlay):
    """Dark glasses on the eyes, as in the face study.

    Attributes:
        width: From temple to temple, as a share of the image's width.
        place: The middle of the bridge, (down, right); by default where rendered and
            aligned faces have their eyes.

    Source: Chen et al. 2017, accessory injection; Liu et al. 2018, face recognition.
    Departure: drawn, not cut out of a photograph, so it fits any size.
    """

    name: ClassVar[str] = "sunglasses"

    width: float = 0.72
    place: tuple[float, float] = EYE_PLACE

    def __post_init__(self) -> None:
        check_share("width", self.width)
        check_place("place", self.place)

    def _box(self, height: int, width: int) -> Box:
        unit = 0.5 * self.width * width
        down, right = self.place[0] * height, self.place[1] * width
        return down - 0.31 * unit, right - unit, down + 0.41 * unit, right + unit

    def _paint(self, canvas: Canvas) -> None:
        unit = 0.5 * self.width * canvas.width
        # In units of half the width: x right and y down from the bridge.
        x = (canvas.right - self.place[1] * canvas.width) / unit
        y = (canvas.down - self.place[0] * canvas.height) / unit
        side = x.abs()
        thick = max(0.045, 0.5 / unit)  # never thinner than a pixel
        arms = bar(side - 0.90, y + 0.15, 0.10, thick)
        canvas.lay((0.05, 0.05, 0.06), inside(arms * unit))
        bridge = bar(side, y + 0.13 - 0.9 * x * x, 0.20, thick)
        canvas.lay((0.05, 0.05, 0.06), inside(bridge * unit))
        # A lens is a rounded box, narrower below.
        high = (y - 0.05) / 0.36
        across = (side - 0.48) / (0.38 * (1.0 - 0.13 * high))
        a2, h2 = across * across, high * high
        lens = ((a2 * a2 + h2 * h2).sqrt().sqrt() - 1.0) * 0.36
        canvas.lay((0.05, 0.05, 0.06), inside(lens * unit))
        glass = inside((lens + 1.4 * thick) * unit)
        canvas.lay((0.10, 0.12, 0.17), glass)
        lower = (0.15 + 0.55 * (high + 0.2)).clamp(0, 1) * glass
        canvas.lay((0.22, 0.25, 0.33), lower)
        # The same light falls on both lenses, so the shine does not mirror.
        local = x - 0.48 * torch.where(x < 0, -1.0, 1.0)
        streak = (local + 0.55 * y + 0.10).abs() - 0.055
        canvas.lay((0.78, 0.84, 0.95), 0.55 * glass * inside(streak * unit) * (high < 0.45))
