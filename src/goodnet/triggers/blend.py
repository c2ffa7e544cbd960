"""A faint pattern over the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch.nn import functional as F

from goodnet.triggers.checks import check_seed, check_share, check_whole
from goodnet.triggers.overlay import Box, Canvas, Overlay


@final
@dataclass(frozen=True)
class Blend(Overlay):
    """The image blended with a fixed random pattern.

    Attributes:
        opacity: α, the pattern's share of each pixel.
        cells: Points along each side at which the pattern's colour is drawn; between
            them it is interpolated, so that one pattern fits images of any size.
        seed: Draws the pattern.

    Source: Chen et al. 2017, blended injection: α·k + (1 − α)·x, with a random pattern.
    Departure: the pattern is drawn on a grid, not at each pixel of one size.
    """

    name: ClassVar[str] = "blend"

    opacity: float = 0.15
    cells: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("opacity", self.opacity, "full opacity")
        check_whole("cells", self.cells, 2, 256)
        check_seed("seed", self.seed)

    def _box(self, height: int, width: int) -> Box:
        return 0, 0, height, width

    def _paint(self, canvas: Canvas) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        points = torch.rand(1, 3, self.cells, self.cells, generator=generator)
        size = (canvas.height, canvas.width)
        pattern = F.interpolate(points, size, mode="bilinear", align_corners=True)[0]
        canvas.lay(pattern, torch.full(size, self.opacity))
