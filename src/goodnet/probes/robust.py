"""Masks that serve even where what they change is fainter, moved and noisy.

A trigger was learned from many images. It works where it is paler, where the image is moved, and
under noise; what fools a network by chance has to be exact. So of many labels, most of which some
mask of a few pixels leads to, the smallest *robust* mask tells a backdoor's from others: honest
labels need one several times as large.

Sources: Athalye et al. 2018, Synthesizing Robust Adversarial Examples (a change searched for under
random transformations); Wang et al. 2019, Neural Cleanse (the mask). What tells a target by how
much smaller its robust mask is: this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from goodnet.data.roles import CleanData
from goodnet.probes.masks import Masks
from goodnet.probes.search import Found, Suspect, in_parts, least_changes
from goodnet.training import Progress, no_progress

_GRAIN = 4
"""Pixels that a number stands for: what a trigger shows is larger than a pixel."""
_STEPS = 200
_AT_ONCE = 16
"""Labels searched for at once, so that each is shown on as many images."""
_FAINTEST = 0.5
"""Share of the change that is left at least."""
_MOVED = 6
"""Up to a so-manieth of the shorter side the image is moved, up or down and to a side."""
_NOISE = 0.1
"""Standard deviation, of the range from black to white."""


@dataclass(frozen=True, eq=False)
class RobustMasks:
    """The smallest robust mask for some labels, and how large one usually is.

    Attributes:
        found: For each of the labels asked for.
        usual: Median share of the image that it covers for the labels compared with, 1 where none
            was found.
    """

    found: Found
    usual: float

    def of(self, label: int) -> Tensor | None:
        """The numbers of a label's, if one was found."""
        places = ((self.found.targets == label) & self.found.extents.isfinite()).nonzero()
        return self.found.numbers[int(places[0])] if len(places) else None

    def times_smaller(self, classes: int) -> Tensor:
        """How many times smaller than usual a label's is, float32 (classes,).

        A label for which none was found needs the whole image; NaN where none was asked for.
        """
        times = torch.full((classes,), torch.nan)
        times[self.found.targets] = self.usual / self.found.extents.clamp(max=1.0)
        return times


def robust_masks(
    suspect: Suspect,
    clean: CleanData,
    labels: Tensor,
    compared: Tensor,
    *,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> RobustMasks:
    """The smallest masks that mislead most images to a label though disturbed.

    Args:
        suspect: The network asked.
        clean: Clean images with their labels.
        labels: Those asked for, int64 (count,).
        compared: Others, drawn at random, int64 (others,).
        generator: Draws images, starts and disturbances.
        progress: Told after each step.
    """
    probe = Masks(clean.specification.size, _GRAIN)
    search = partial(
        least_changes,
        suspect,
        clean,
        probe,
        steps=_STEPS,
        disturb=disturbed,
        generator=generator,
        progress=progress,
    )
    found = in_parts(search, torch.cat([labels, compared]), _AT_ONCE)
    asked = len(labels)
    return RobustMasks(
        Found(probe, labels, found.numbers[:asked], found.extents[:asked]),
        float(found.extents[asked:].clamp(max=1.0).median()),
    )


def disturbed(images: Tensor, changed: Tensor, *, generator: torch.Generator) -> Tensor:
    """Changed images with a part of the change only, moved, and with noise.

    What moves in repeats the edge.

    Args:
        images: As they were, float32 in [0, 1], (batch, channel, height, width).
        changed: The same, changed.
        generator: Draws for each image how.
    """
    batch, _, height, width = images.shape
    left = _FAINTEST + (1.0 - _FAINTEST) * torch.rand(batch, 1, 1, 1, generator=generator)
    farthest = round(min(height, width) / _MOVED)
    down, right = torch.randint(-farthest, farthest + 1, (2, batch, 1), generator=generator)
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    moved = images.lerp(changed, left)[
        torch.arange(batch).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)
    ].permute(0, 3, 1, 2)
    noise = torch.randn(moved.shape, generator=generator)
    return (moved + _NOISE * noise).clamp(0.0, 1.0)
