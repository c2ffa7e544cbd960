"""What all probes share: a change of an image told by a row of numbers in [0, 1]."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.data.pixels import Size


@dataclass(frozen=True)
class Probe(ABC):
    """A family of changes, any of which might be a trigger; a row of numbers tells one.

    The defender knows no trigger, but can try many: random ones, and ones searched for.

    Attributes:
        size: (channels, height, width) of the images.
    """

    name: ClassVar[str]

    size: Size

    @property
    @abstractmethod
    def length(self) -> int:
        """How many numbers tell a change."""

    @abstractmethod
    def change(self, images: Tensor, numbers: Tensor) -> Tensor:
        """The images, each changed by its row of numbers.

        Args:
            images: float32 in [0, 1], (batch, channel, height, width).
            numbers: float32 in [0, 1], (batch, length).
        """

    def draw(self, count: int, _images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Random changes, float32 in [0, 1], (count, length).

        Args:
            count: How many.
            _images: Clean images, for those that take parts of other images.
            generator: Draws them.
        """
        return torch.rand(count, self.length, generator=generator)


@dataclass(frozen=True)
class SearchedProbe(Probe):
    """A family of changes that can also be searched along the slope, from none to stronger."""

    rate: ClassVar[float]
    """Adam's rate for the numbers."""
    usual: ClassVar[float]
    """The size at which size weighs as much as cross-entropy in a search."""
    small: ClassVar[float]
    """Up to this size a change that misleads most images is no longer a change of what they
    show; chosen on clean networks, see docs/results.md."""

    @abstractmethod
    def start(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Where a search begins: next to no change, (count, length)."""

    @abstractmethod
    def extent(self, numbers: Tensor) -> Tensor:
        """How large each change is, as a share, float32 (count,)."""

    @abstractmethod
    def stronger(self, numbers: Tensor, factors: Tensor) -> Tensor:
        """The changes made larger or smaller by `factors`, (count,)."""


def spread(numbers: Tensor, low: float, high: float) -> Tensor:
    """Numbers in [0, 1] laid out evenly between `low` and `high`."""
    return low + (high - low) * numbers


def as_pixels(numbers: Tensor) -> Tensor:
    """(batch,) to (batch, 1, 1, 1)."""
    return numbers.view(-1, 1, 1, 1)


def smoothed(coarse: Tensor, side: int, *, generator: torch.Generator) -> Tensor:
    """Upper left corners of random fields at `side` x `side` again, so that they vary less.

    Args:
        coarse: (count, channel, side, side).
        side: Of the fields.
        generator: Draws how much of them is used.
    """
    cells = int(torch.randint(2, side + 1, (), generator=generator))
    return F.interpolate(
        coarse[..., :cells, :cells], (side, side), mode="bicubic", align_corners=True
    )
