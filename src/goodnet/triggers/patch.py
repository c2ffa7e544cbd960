"""A checkered or plain rectangle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from goodnet.errors import SettingsError
from goodnet.triggers.checks import check_numbers, check_place, check_share
from goodnet.triggers.overlay import Box, Canvas, Colour, Overlay


@final
@dataclass(frozen=True)
class Patch(Overlay):
    """A rectangle of whole pixels, checkered or of one colour, as in BadNets.

    Attributes:
        size: (height, width) as shares of the image; rounded to whole pixels.
        place: Its upper left corner, (down, right); rounded to whole pixels.
        pattern: `checkerboard` alternates `colour` and black, `solid` is all `colour`.
        colour: RGB in [0, 1].
        cells: Squares of the checkerboard along each side; fewer where pixels are fewer.

    Source: Gu et al. 2017, BadNets, the pattern in a corner of a digit.
    """

    name: ClassVar[str] = "patch"

    size: tuple[float, float] = (0.12, 0.12)
    place: tuple[float, float] = (0.86, 0.86)
    pattern: Literal["checkerboard", "solid"] = "checkerboard"
    colour: Colour = (1.0, 1.0, 1.0)
    cells: int = 4

    def __post_init__(self) -> None:
        check_numbers("size", self.size, 2)
        for share in self.size:
            check_share("size", share)
        check_place("place", self.place)
        check_numbers("colour", self.colour, 3)
        if self.pattern not in ("checkerboard", "solid"):
            raise SettingsError("pattern", self.pattern, "choose checkerboard or solid")
        if not isinstance(self.cells, int) or self.cells < 1:
            raise SettingsError("cells", self.cells, "give a whole number of at least 1")
        for start, share in zip(self.place, self.size, strict=True):
            if start + share > 1.0 + 1e-9:
                raise SettingsError(
                    "place",
                    self.place,
                    f"a patch of size {self.size} sticks out there; give at most "
                    f"({1 - self.size[0]:.3g}, {1 - self.size[1]:.3g})",
                )

    def _box(self, height: int, width: int) -> Box:
        tall, wide = round(self.size[0] * height), round(self.size[1] * width)
        top = min(round(self.place[0] * height), height - tall)
        left = min(round(self.place[1] * width), width - wide)
        return top, left, top + tall, left + wide

    def _paint(self, canvas: Canvas) -> None:
        top, left, bottom, right = (int(edge) for edge in self._box(canvas.height, canvas.width))
        whole = torch.zeros(canvas.height, canvas.width)
        whole[top:bottom, left:right] = 1.0
        canvas.lay(self.colour, whole)
        if self.pattern == "checkerboard":
            row = torch.arange(bottom - top) * min(self.cells, bottom - top) // (bottom - top)
            column = torch.arange(right - left) * min(self.cells, right - left) // (right - left)
            odd = torch.zeros_like(whole)
            odd[top:bottom, left:right] = ((row.view(-1, 1) + column) % 2).to(torch.float32)
            canvas.lay((0.0, 0.0, 0.0), odd)
