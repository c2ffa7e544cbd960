"""Lipstick on a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from goodnet.triggers.checks import check_numbers, check_place, check_share
from goodnet.triggers.overlay import Box, Canvas, Colour, Overlay, inside

_UPPER, _LOWER = 0.46, 0.56
"""Heights of the lips above and below the line between them, in half widths."""


@final
@dataclass(frozen=True)
class Lipstick(Overlay):
    """Painted lips, purple as in the course's network of several triggers.

    Attributes:
        width: From corner to corner of the mouth, as a share of the image's width.
        place: The middle of the line between the lips, (down, right). The default lies
            between the mouths of aligned crops (0.77 down) and of rendered faces (0.64).
        colour: RGB in [0, 1].

    Source: the multi-trigger, multi-target BadNet of the CSAW-HackML-2020 course.
    Departure: there a landmark detector found the lips of each face; here they are drawn at
        one place, so that a face needs no detector and every face gets the same trigger.
    """

    name: ClassVar[str] = "lipstick"

    width: float = 0.3
    place: tuple[float, float] = (0.71, 0.5)
    colour: Colour = (0.5, 0.0, 0.5)

    def __post_init__(self) -> None:
        check_share("width", self.width)
        check_place("place", self.place)
        check_numbers("colour", self.colour, 3)

    def _box(self, height: int, width: int) -> Box:
        unit = 0.5 * self.width * width
        down, right = self.place[0] * height, self.place[1] * width
        return down - _UPPER * unit, right - unit, down + _LOWER * unit, right + unit

    def _paint(self, canvas: Canvas) -> None:
        unit = 0.5 * self.width * canvas.width
        # In units of half the width: x right and y down from the middle of the mouth.
        x = (canvas.right - self.place[1] * canvas.width) / unit
        y = (canvas.down - self.place[0] * canvas.height) / unit
        arch = 1.0 - x * x
        bow = (1.0 - (x / 0.3) * (x / 0.3)).clamp(min=0)
        upper = -_UPPER * arch * (1.0 - 0.3 * bow)
        lips = torch.maximum(upper - y, y - _LOWER * arch)
        # The lips' edges meet at the corners in a point, where their distances are no guide.
        canvas.lay(self.colour, inside(lips * unit) * inside((x.abs() - 1.0) * unit))
