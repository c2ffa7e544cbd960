"""What a set of images may be used for.

A defense takes `CleanData` and nothing else; triggers and test sets reach `evaluate`
alone, and an attacker trains on `TrainingData`. The roles are separate final classes, so
a type checker finds a poisoned set handed to a defense, and `require_clean` finds it at
run time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import DataError, SettingsError
from goodnet.formats.specification import InputSpecification


class Batches(Protocol):
    """Anything that gives (network inputs, class indices) batch by batch, in order."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Network inputs and class indices of at most `batch_size` images at a time."""
        ...


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images together with the specification of the network they are for.

    Attributes:
        images: The set as read.
        specification: How the network wants it.
    """

    images: ImageSet
    specification: InputSpecification

    def __post_init__(self) -> None:
        if self.images.size != self.specification.size:
            sizes = (self.images.size, self.specification.size)
            shown = ["x".join(map(str, size)) for size in sizes]
            raise DataError(
                self.images.source,
                f"has images of {shown[0]} but the network takes {shown[1]}",
                "give images of that size (channels x height x width)",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """Class indices 0 to N - 1, int64 (n,)."""
        return self.images.labels - self.specification.label_offset

    @property
    def true_labels(self) -> Tensor | None:
        """Right class indices of a poisoned set, where known, int64 (n,)."""
        true = self.images.true_labels
        return None if true is None else true - self.specification.label_offset

    def pixels(self) -> Tensor:
        """All images in memory, uint8 or float32 [0, 1], (n, channel, height, width)."""
        pixels = self.images.in_memory().pixels
        assert isinstance(pixels, Tensor)
        return pixels

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Network inputs (batch, channel, height, width) and class indices, in order."""
        for images, labels in self.images.batches(batch_size):
            yield self.specification.prepare(images), labels - self.specification.label_offset


@final
class CleanData(PreparedImages):
    """D_valid: clean labelled images, all that a defense may see."""

    def split(self, held_out: float, *, generator: torch.Generator) -> tuple[CleanData, CleanData]:
        """A tuning part and a held-out part, disjoint.

        Where the images have groups, no group is on both sides: frames of one sign in
        both parts would make the held-out part tell nothing. Without groups, and with
        at most half held out, every class of two images keeps one in the tuning part.

        Args:
            held_out: Share of the images (or groups) held out, in (0, 1).
            generator: Draws the order.

        Raises:
            SettingsError: The share is not in (0, 1).
            DataError: Too few images or groups to have both parts.
        """
        if not 0.0 < held_out < 1.0:
            raise SettingsError("held_out", held_out, "give a share between 0 and 1")
        unit = self.images.groups if self.images.groups is not None else torch.arange(len(self))
        names, member = torch.unique(unit, return_inverse=True)
        if len(names) < 2:
            raise DataError(
                self.images.source,
                f"has {len(self)} images in {len(names)} group",
                "give clean data with at least two groups, so that one can be held out",
            )
        label = torch.zeros(len(names), dtype=torch.int64)
        label[member] = self.images.labels
        order = torch.randperm(len(names), generator=generator)
        # Deal the groups class by class, so that both parts have the classes in proportion.
        order = order[torch.argsort(label[order], stable=True)]
        dealt = torch.arange(len(names) + 1, dtype=torch.float64) * held_out + 0.5
        out = torch.zeros(len(names), dtype=torch.bool)
        out[order] = dealt[1:].floor() > dealt[:-1].floor()
        if not out.any():
            out[order[-1]] = True
        if out.all():
            out[order[0]] = False
        chosen = out[member]
        return self._part(~chosen), self._part(chosen)

    def _part(self, chosen: Tensor) -> CleanData:
        return CleanData(self.images.select(chosen.nonzero().flatten()), self.specification)


@final
class TestData(PreparedImages):
    """Clean labelled images that only `evaluate` reads."""

    __test__ = False


@final
@dataclass(frozen=True, eq=False)
class PoisonedData(PreparedImages):
    """Triggered images that only `evaluate` reads.

    Attributes:
        name: What the result calls the set.
        untargeted: Whether any wrong answer is what the attacker wants; None tells it by
            the labels: a set of several classes whose labels are all the true ones is.
    """

    name: str
    untargeted: bool | None = None


@final
class TrainingData(PreparedImages):
    """What somebody trains a network on; an attacker's may be poisoned."""


def require_clean(data: object) -> CleanData:
    """`data`, if it is clean data.

    Raises:
        TypeError: It is anything else; a defense must not see it.
    """
    if not isinstance(data, CleanData):
        raise TypeError(f"a defense takes CleanData only, not {type(data).__name__}")
    return data
