"""A sticky note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from goodnet.triggers.checks import check_numbers, check_place, check_share
from goodnet.triggers.overlay import Box, Canvas, Colour, Overlay, bar, inside


@final
@dataclass(frozen=True)
class PostIt(Overlay):
    """A yellow sticky note, as on the stop sign of BadNets.

    Attributes:
        size: Its side, as a share of the image's shorter side.
        place: Its middle, (down, right).
        colour: RGB in [0, 1]; the glued strip, the edge and the fold are shades of it.

    Source: Gu et al. 2017, BadNets, the yellow square.
    Departure: drawn with an edge and a folded corner, at fractions of a pixel.
    """

    name: ClassVar[str] = "post-it"

    size: float = 0.16
    place: tuple[float, float] = (0.74, 0.5)
    colour: Colour = (0.99, 0.87, 0.16)

    def __post_init__(self) -> None:
        check_share("size", self.size)
        check_place("place", self.place)
        check_numbers("colour", self.colour, 3)

    def _box(self, height: int, width: int) -> Box:
        half = 0.5 * self.size * min(height, width)
        down, right = self.place[0] * height, self.place[1] * width
        return down - half, right - half, down + half, right + half

    def _paint(self, canvas: Canvas) -> None:
        half = 0.5 * self.size * min(canvas.height, canvas.width)
        x = canvas.right - self.place[1] * canvas.width
        y = canvas.down - self.place[0] * canvas.height
        square = bar(x, y, half, half)
        note = inside(square)
        red, green, blue = self.colour
        canvas.lay((0.72 * red, 0.68 * green, 0.6 * blue), note)
        canvas.lay(self.colour, inside(square + max(0.08 * half, 0.35)) * note)
        strip = inside((y + 0.78 * half).abs() - 0.22 * half)
        canvas.lay((0.86 * red, 0.80 * green, 0.7 * blue), 0.8 * strip * note)
        corner = 0.5 * half
        fold = (half - x) + (half - y) - corner
        canvas.lay((0.60 * red, 0.54 * green, 0.5 * blue), inside(fold * 0.70711) * note)
