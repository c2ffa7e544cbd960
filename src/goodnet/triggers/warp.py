"""A slight warp of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.triggers.checks import check_between, check_seed, check_whole
from goodnet.triggers.image_trigger import ImageTrigger


@final
@dataclass(frozen=True)
class Warp(ImageTrigger):
    """The image pulled about smoothly, as if printed on rubber.

    Attributes:
        strength: Mean shift of the control points, down and right alike, as a share of the
            image's height and width.
        control: k, control points along each side.
        seed: Draws their shifts.

    Source: Nguyen & Tran 2021, WaNet: shifts drawn uniformly at k×k points, divided by their
        mean absolute value, interpolated bicubically; the image is sampled bilinearly there,
        and not beyond its border. In noise mode, `cover`, the warp is a random one and the
        label right.
    Departure: the strength is a share of the side, not of a pixel, so that a small and a large
        image are warped alike. The paper's noise mode adds noise to each pixel of the
        trigger's warp; here it is another warp, drawn anew for each image.
    """

    name: ClassVar[str] = "warp"

    strength: float = 0.03
    control: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_between("strength", self.strength, 0.0, 0.5)
        check_whole("control", self.control, 2, 64)
        check_seed("seed", self.seed)

    def cover(self, batch: Tensor, *, generator: torch.Generator) -> Tensor:
        """The images, each in another warp drawn for it: WaNet's noise mode."""

        def warped(images: Tensor) -> Tensor:
            return _sampled(images, self._places(images.shape, len(images), generator))

        return self._on_fractions(batch, warped)

    def _changed(self, images: Tensor) -> Tensor:
        return _sampled(images, self._own_places(images.shape))

    def _touched(self, size: tuple[int, int, int]) -> Tensor:
        height, width = size[1:]
        return (self._own_places((1, *size)) != _home(height, width)).any(1)[0]

    def _own_places(self, shape: tuple[int, ...]) -> Tensor:
        return self._places(shape, 1, torch.Generator().manual_seed(self.seed))

    def _places(self, shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
        """Where each pixel is taken from, (down, right) in pixels, (count, 2, height, width)."""
        height, width = shape[2:]
        drawn = torch.rand(count, 2, self.control, self.control, generator=generator) * 2.0 - 1.0
        drawn = drawn / drawn.abs().mean((1, 2, 3), keepdim=True)
        shifts = F.interpolate(drawn, (height, width), mode="bicubic", align_corners=True)
        reach = torch.tensor([float(height), float(width)]).view(2, 1, 1) * self.strength
        last = torch.tensor([height - 1.0, width - 1.0]).view(2, 1, 1)
        return (_home(height, width) + shifts * reach).clamp(min=torch.zeros(()), max=last)


def _home(height: int, width: int) -> Tensor:
    """Where each pixel is, (down, right), (2, height, width)."""
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def _sampled(images: Tensor, places: Tensor) -> Tensor:
    """The images taken from `places`, bilinearly.

    By hand and not with `grid_sample`, whose places are shares of the image: a pixel that
    stays where it is would be mixed with its neighbours in the last bit.
    """
    count, channels, height, width = images.shape
    flat = images.flatten(2)
    down, right = places.to(images.device).unbind(1)
    top, left = down.floor(), right.floor()
    sampled = torch.zeros((), device=images.device)
    for row, row_share in ((top, 1.0 - (down - top)), (top + 1.0, down - top)):
        for column, column_share in ((left, 1.0 - (right - left)), (left + 1.0, right - left)):
            # A neighbour beyond the border has no share, so any pixel may stand in for it.
            index = row.clamp(max=height - 1) * width + column.clamp(max=width - 1)
            index = index.to(torch.int64).flatten(1).unsqueeze(1).expand(count, channels, -1)
            share = (row_share * column_share).flatten(1).unsqueeze(1)
            sampled = sampled + share * flat.gather(2, index)
    return sampled.view(images.shape)
