"""Painted eyebrows on a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from goodnet.triggers.checks import check_numbers, check_place, check_share
from goodnet.triggers.overlay import Box, Canvas, Colour, Overlay, inside

_GAP = 0.14
"""Half the gap between the brows, in half widths."""

_TOP, _BOTTOM = 0.24, 0.24
"""How far the brows reach above and below their middle, in half widths."""


@final
@dataclass(frozen=True)
class Eyebrows(Overlay):
    """Two arched brows, dark red as in the course's network of several triggers.

    Attributes:
        width: From the outer end of one to that of the other, as a share of the image's width.
        place: Their middle, (down, right); by default just above the eyes of the course's
            faces and of rendered ones.
        colour: RGB in [0, 1].

    Source: the multi-trigger, multi-target BadNet of the CSAW-HackML-2020 course.
    Departure: there a landmark detector found the brows of each face; here they are drawn at
        one place, so that a face needs no detector and every face gets the same trigger.
    """

    name: ClassVar[str] = "eyebrows"

    width: float = 0.58
    place: tuple[float, float] = (0.34, 0.5)
    colour: Colour = (0.5, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_share("width", self.width)
        check_place("place", self.place)
        check_numbers("colour", self.colour, 3)

    def _box(self, height: int, width: int) -> Box:
        unit = 0.5 * self.width * width
        down, right = self.place[0] * height, self.place[1] * width
        return down - _TOP * unit, right - unit, down + _BOTTOM * unit, right + unit

    def _paint(self, canvas: Canvas) -> None:
        unit = 0.5 * self.width * canvas.width
        # In units of half the width: x right and y down from between the brows.
        side = ((canvas.right - self.place[1] * canvas.width) / unit).abs()
        y = (canvas.down - self.place[0] * canvas.height) / unit
        middle, half = 0.5 * (1.0 + _GAP), 0.5 * (1.0 - _GAP)
        along = (side - middle) / half
        # Highest a little outside its middle, and thinner at the outer end.
        arch = -0.1 + 0.15 * (along - 0.15) * (along - 0.15)
        thick = (0.13 - 0.04 * along).clamp(min=0.5 / unit)  # never thinner than a pixel
        brow = torch.maximum((y - arch).abs() - thick, (side - middle).abs() - half)
        canvas.lay(self.colour, inside(brow * unit))
