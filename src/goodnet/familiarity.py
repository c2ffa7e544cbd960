"""How unlike those of clean inputs the features of an input are.

What the last layer of a network is given varies from one clean input to the next in directions that
further clean inputs show. Where a network follows a trigger, something must tell the last layer
so, and often it is what no clean input does, whatever label the trigger leads to.

Source: Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks (Mahalanobis distance of features). Departures: one mean for all classes, since
of some there may be no clean input; a shrunk covariance, since features may outnumber inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodnet.answers import device_of
from goodnet.data.roles import CleanData
from goodnet.errors import NotTraceableError, SurgeryError
from goodnet.last_layer import features_of, last_linear

_SHRUNK = 0.01
"""Added to the variance in every direction, in shares of the features' mean variance."""
_FOLDS = 8


class FeatureDistance(nn.Module):
    """The Mahalanobis distance of features from those of clean inputs, in deviations.

    Args:
        features: Of at least two clean inputs, float32 (n, feature).

    Shape: (batch, feature) to float32 (batch,), the root of the mean square over all directions:
    about 1 on the inputs it was fitted to, more on others.
    """

    mean: Tensor
    axes: Tensor
    weights: Tensor
    rest: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        count, width = features.shape
        mean = features.mean(0)
        _, spread, axes = torch.linalg.svd(features - mean, full_matrices=False)
        variances = spread.square() / (count - 1)
        least = (_SHRUNK * variances.sum() / width).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes.T.contiguous())
        self.register_buffer("weights", 1 / (variances + least))
        self.register_buffer("rest", 1 / least)

    def forward(self, features: Tensor) -> Tensor:  # noqa: D102
        away = features.float() - self.mean
        along = away @ self.axes
        # Outside of the axes nothing varied; what is left there is no less than nothing.
        outside = (away.square().sum(1) - along.square().sum(1)).clamp(min=0.0)
        squares = (along.square() * self.weights).sum(1) + outside * self.rest
        return (squares / away.shape[1]).sqrt()


def feature_distance(network: nn.Module, clean: CleanData) -> FeatureDistance | None:
    """The distance of features of `network` from those of `clean`.

    None where no linear layer is found to end it, some of the features are no numbers, or there are
    fewer than two clean inputs.
    """
    if len(clean) < 2:
        return None
    try:
        features = features_of(network, last_linear(network), clean)
    except (NotTraceableError, SurgeryError):
        return None
    if not features.isfinite().all():
        return None
    return FeatureDistance(features).to(device_of(network))


def distances_by_folds(features: Tensor, clean: CleanData) -> Tensor | None:
    """The distance of each clean input from others, float32 (n,): those it was fitted to are near.

    Inputs are dealt into up to eight folds, groups as a whole, and each is measured by a fit to
    the other folds.

    Args:
        features: Of `clean`, float32 (n, feature).
        clean: Whose groups stay together.

    Returns:
        None where there are fewer than two groups, or fewer than two inputs in a fit.
    """
    groups = clean.images.groups
    unit = torch.arange(len(clean)) if groups is None else groups
    fold = torch.unique(unit, return_inverse=True)[1] % _FOLDS
    distances = torch.zeros(len(fold))
    for each in fold.unique():
        out = fold == each
        if int((~out).sum()) < 2:
            return None
        distances[out] = FeatureDistance(features[~out])(features[out])
    return distances
