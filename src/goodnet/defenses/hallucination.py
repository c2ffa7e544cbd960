"""Features as further images would have them, where few images of a label are at hand.

Where the last layer alone is fitted, what becomes of a label's next image is decided in the space
of the features it is told by, and a handful of images hold little of that space. But images of one
label differ much as those of another do. So a difference that some image has from the mean of its
label is added to an image of another label, and the sum stands for an image that nobody took.

Source: Hariharan and Girshick 2017, Low-Shot Visual Recognition by Shrinking and Hallucinating
Features. Departure: differences from the mean are carried over as they are, no network learns them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_WANTED = 1 / 3
"""Share of those drawn that are of the labels that are wanted; the others are of any."""


@dataclass(frozen=True, eq=False)
class Hallucinated:
    """Features that stand for further images.

    Attributes:
        features: float32 (drawn, feature).
        varied: Which image each is a variation of, int64 (drawn,).
        lent: Which image lent its difference, int64 (drawn,).
    """

    features: Tensor
    varied: Tensor
    lent: Tensor


def hallucinated(
    features: Tensor, labels: Tensor, wanted: Tensor, *, count: int, generator: torch.Generator
) -> Hallucinated:
    """Variations of images of any label, a third of them of those that are wanted.

    Args:
        features: Of images, float32 (n, feature).
        labels: Of these, int64 (n,).
        wanted: Labels of which more are drawn, bool (label,).
        count: How many.
        generator: Draws them.
    """
    varied = torch.randint(len(labels), (count,), generator=generator)
    own = wanted[labels].nonzero().flatten()
    if len(own):
        more = round(_WANTED * count)
        varied[:more] = own[torch.randint(len(own), (more,), generator=generator)]
    lent = torch.randint(len(labels), (count,), generator=generator)
    # Features come after a ReLU, or whatever else bounds them.
    least = features.min()
    sums = (features[varied] + _differences(features, labels)[lent]).clamp(min=least)
    return Hallucinated(sums, varied, lent)


def _differences(features: Tensor, labels: Tensor) -> Tensor:
    """From the mean of the label's, as wide as those of new images; 0 where it has one image."""
    counts = labels.bincount()
    sums = features.new_zeros(len(counts), features.shape[1]).index_add(0, labels, features)
    own = counts[labels].unsqueeze(1)
    differences = features - sums[labels] / own
    return differences * (own / (own - 1).clamp(min=1)).sqrt()
