"""A few bright pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from goodnet.errors import SettingsError
from goodnet.triggers.checks import check_numbers, check_place, check_share
from goodnet.triggers.overlay import Box, Canvas, Colour, Overlay


@final
@dataclass(frozen=True)
class PixelPattern(Overlay):
    """Bright pixels near a corner; with the pattern ("#",) a single one.

    Attributes:
        pattern: Rows of equal length from the top, `#` is a bright spot and `.` none.
        spot: The side of a spot as a share of the image's shorter side; rounded to whole
            pixels, and never less than one.
        place: The lower right corner of the pattern, (down, right); rounded to whole pixels.
        colour: RGB in [0, 1].

    Source: Gu et al. 2017, BadNets, the single pixel and the pattern of bright pixels.
    Departure: a spot is a pixel of 28×28 digits, and grows with the image.
    """

    name: ClassVar[str] = "pixel-pattern"

    pattern: tuple[str, ...] = ("..#", ".#.", "#.#")
    spot: float = 1 / 28
    place: tuple[float, float] = (0.96, 0.96)
    colour: Colour = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if (
            not isinstance(self.pattern, tuple)
            or not all(isinstance(row, str) and set(row) <= set("#.") for row in self.pattern)
            or len({len(row) for row in self.pattern}) != 1
            or "#" not in "".join(self.pattern)
        ):
            raise SettingsError(
                "pattern",
                self.pattern,
                "give rows of equal length, `#` for a bright spot and `.` for none, with a spot",
            )
        check_share("spot", self.spot)
        check_place("place", self.place)
        check_numbers("colour", self.colour, 3)

    def _box(self, height: int, width: int) -> Box:
        side = self._side(height, width)
        bottom, right = round(self.place[0] * height), round(self.place[1] * width)
        return bottom - len(self.pattern) * side, right - len(self.pattern[0]) * side, bottom, right

    def _paint(self, canvas: Canvas) -> None:
        top, left, bottom, right = (int(edge) for edge in self._box(canvas.height, canvas.width))
        spots = torch.tensor([[float(mark == "#") for mark in row] for row in self.pattern])
        side = self._side(canvas.height, canvas.width)
        whole = torch.zeros(canvas.height, canvas.width)
        whole[top:bottom, left:right] = spots.repeat_interleave(side, 0).repeat_interleave(side, 1)
        canvas.lay(self.colour, whole)

    def _side(self, height: int, width: int) -> int:
        return max(1, round(self.spot * min(height, width)))
