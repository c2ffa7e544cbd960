"""How far off its clean images lie those that a label is given wrongly, all in one direction.

Many a change makes a network mistake images for a label's, each for a reason of its own. Where a
change resembles a trigger the reason is always one: the features of all these images lie off those
of the label's clean ones in the same direction, while other reasons even out in the mean.

Source: this project; the distance between means is Mahalanobis's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from goodnet.data.roles import CleanData
from goodnet.errors import NotTraceableError, SurgeryError
from goodnet.familiarity import FeatureDistance
from goodnet.probes.search import Suspect

_FEWEST = 10
"""Images that get a label wrongly, of which a mean can be taken."""


class Shifts:
    """Adds up, label by label, what wrongly named images have in common.

    Args:
        features: Gives what the last layer of the network is given.
        clean: What it gives for clean images, two at least, float32 (n, feature).
        labels: Of these images, int64 (n,).
        classes: N.
    """

    def __init__(self, features: Suspect, clean: Tensor, labels: Tensor, classes: int) -> None:
        own = labels.bincount(minlength=classes).unsqueeze(1)
        sums = torch.zeros(classes, clean.shape[1]).index_add(0, labels, clean)
        # NaN for a label without a clean image, and so is its shift.
        self._means = sums / own
        self._distance = FeatureDistance(clean - self._means[labels])
        self._features = features
        self._counts = torch.zeros(classes)
        self._sums = torch.zeros_like(sums)
        self._squares = torch.zeros(classes)

    @classmethod
    def of(cls, suspect: Suspect, clean: CleanData, *, classes: int) -> Shifts | None:
        """None where no linear layer is found to give the logits, or it is given no numbers."""
        try:
            features = suspect.features()
        except (NotTraceableError, SurgeryError):
            return None
        given = features.of_every(clean)
        return cls(features, given, clean.labels, classes) if given.isfinite().all() else None

    @torch.no_grad()
    def add(self, images: Tensor, said: Tensor, wrong: Tensor) -> None:
        """Images, float32 (batch, channel, height, width), their labels, and which are wrong."""
        if not wrong.any():
            return
        said = said[wrong]
        away = self._features(images[wrong]).cpu() - self._means[said]
        self._counts += said.bincount(minlength=len(self._counts))
        self._sums.index_add_(0, said, away)
        self._squares.index_add_(0, said, self._distance(away).square())

    def lengths(self) -> Tensor:
        """How long each label's shift is, in deviations within labels, float32 (classes,).

        All are a little too long alike: the label's own mean is off by chance too. NaN where fewer
        than ten images got the label wrongly, or it has no clean image.
        """
        counts = self._counts
        squared = self._distance(self._sums / counts.unsqueeze(1)).square()
        # Without what the mean of so many has by chance.
        squared -= (self._squares / counts - squared) / (counts - 1)
        lengths: Tensor = squared.clamp(min=0.0).sqrt()
        return lengths.where(counts >= _FEWEST, torch.nan)
