"""What a detector is trained on: sampled boxes, and the losses of both its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from goodnet.detection.boxes import encode, iou
from goodnet.errors import SettingsError

Target = dict[str, Tensor]
"""`boxes` float32 (n, 4) and `labels` int64 (n,), as torchvision's detectors take them."""

BACKGROUND: Final = 0
"""Label of what is no object."""

BOX_WEIGHTS: Final = (10.0, 10.0, 5.0, 5.0)
"""Of the second stage's offsets: their usual deviations are 0.1, 0.1, 0.2 and 0.2."""

NO_OBJECT: Final = -1
UNDECIDED: Final = -2


@dataclass(frozen=True)
class Sampling:
    """Which boxes of an image are trained on.

    Attributes:
        count: Boxes an image, at most.
        positive_share: Share of them that are objects, at most.
        foreground: A box with at least this overlap with an object is one.
        background: A box with less overlap with every object is none; those between are
            not trained on.
    """

    count: int
    positive_share: float
    foreground: float
    background: float

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SettingsError("count", self.count, "give at least 1 box an image")
        if not 0 < self.positive_share <= 1:
            raise SettingsError("positive_share", self.positive_share, "give a share in (0, 1]")
        if not 0 < self.foreground <= 1:
            raise SettingsError("foreground", self.foreground, "give an overlap in (0, 1]")
        if not 0 < self.background <= self.foreground:
            raise SettingsError(
                "background",
                self.background,
                f"give an overlap above 0 and at most that of the foreground, {self.foreground:g}",
            )


def match(boxes: Tensor, objects: Tensor, sampling: Sampling, *, keep_best: bool) -> Tensor:
    """The object that each box stands for, or `NO_OBJECT` or `UNDECIDED`, int64 (n,).

    Args:
        boxes: (n, 4).
        objects: (m, 4).
        sampling: The overlaps that decide.
        keep_best: Give each object the boxes that overlap it most, however little that is.

    Source: Ren et al. 2015, Faster R-CNN, section 3.1.2; `keep_best` is its rule (i).
    """
    if len(objects) == 0:
        return torch.full((len(boxes),), NO_OBJECT, device=boxes.device)
    overlap = iou(boxes, objects)
    best, matched = overlap.max(1)
    if keep_best:
        most = overlap.max(0).values
        rows, columns = ((overlap == most) & (most > 0)).nonzero(as_tuple=True)
    matched[best < sampling.foreground] = UNDECIDED
    matched[best < sampling.background] = NO_OBJECT
    if keep_best:
        matched[rows] = columns
    return matched


def sample(
    matches: Tensor, sampling: Sampling, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of boxes that are objects and of boxes that are none, both int64.

    Where there are too few objects, more boxes that are none take their place.

    Source: Girshick 2015, Fast R-CNN, section 2.3; Ren et al. 2015, section 3.1.3.
    """
    positives = (matches >= 0).nonzero().flatten()
    negatives = (matches == NO_OBJECT).nonzero().flatten()
    wanted = min(len(positives), int(sampling.count * sampling.positive_share))
    return (
        _drawn(positives, wanted, generator),
        _drawn(negatives, sampling.count - wanted, generator),
    )


def _drawn(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(indices), generator=generator)[:count]
    return indices[chosen.to(indices.device)]


def rpn_losses(
    objectness: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    targets: Sequence[Target],
    sampling: Sampling,
    *,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The first stage's losses: of objectness and of boxes, two scalars.

    Args:
        objectness: Logits of (background, object), (batch, anchor, 2).
        offsets: (batch, anchor, 4).
        anchors: (anchor, 4).
        targets: The objects of each image.
        sampling: Which anchors count.
        generator: Draws them.

    Source: Ren et al. 2015, Faster R-CNN, eq. 1; smooth L1 turns at 1/9, as in
    its published code.
    Departure: both are divided by the number of anchors drawn, and the paper's weight
    lambda = 10 with its division by all anchors, which comes to the same, is left out.
    """
    logits, classes, regressed, wanted = [], [], [], []
    for image, target in enumerate(targets):
        matches = match(anchors, target["boxes"], sampling, keep_best=True)
        positives, negatives = sample(matches, sampling, generator=generator)
        logits.append(objectness[image, torch.cat([positives, negatives])])
        classes += [torch.ones_like(positives), torch.zeros_like(negatives)]
        regressed.append(offsets[image, positives])
        wanted.append(encode(target["boxes"][matches[positives]], anchors[positives]))
    drawn = torch.cat(classes)
    box_loss = F.smooth_l1_loss(
        torch.cat(regressed), torch.cat(wanted), beta=1 / 9, reduction="sum"
    )
    return F.cross_entropy(torch.cat(logits), drawn), box_loss / len(drawn)


@dataclass(frozen=True, eq=False)
class SampledBoxes:
    """The boxes of an image that the second stage is trained on.

    Attributes:
        boxes: (n, 4), the objects first.
        labels: int64 (n,), `BACKGROUND` where it is no object.
        offsets: Of the object from each box that is one, (objects, 4).
    """

    boxes: Tensor
    labels: Tensor
    offsets: Tensor


def sample_proposals(
    proposals: Tensor, target: Target, sampling: Sampling, *, generator: torch.Generator
) -> SampledBoxes:
    """Some of an image's proposals, and of its objects' own boxes, with what they should give.

    Args:
        proposals: (n, 4).
        target: The objects of the image.
        sampling: Which proposals count.
        generator: Draws them.

    Source: Girshick 2015, Fast R-CNN, section 2.3.
    Departure: boxes that overlap no object by 0.1 count as background too; a detector
    without a trained start proposes many of them.
    """
    objects = target["boxes"]
    boxes = torch.cat([proposals, objects])
    matches = match(boxes, objects, sampling, keep_best=False)
    positives, negatives = sample(matches, sampling, generator=generator)
    matched = matches[positives]
    return SampledBoxes(
        boxes[torch.cat([positives, negatives])],
        torch.cat([target["labels"][matched], torch.full_like(negatives, BACKGROUND)]),
        encode(objects[matched], boxes[positives], BOX_WEIGHTS),
    )


def roi_losses(
    logits: Tensor, offsets: Tensor, sampled: Sequence[SampledBoxes]
) -> tuple[Tensor, Tensor]:
    """The second stage's losses: of classes and of boxes, two scalars.

    Args:
        logits: (boxes of all images, classes + 1).
        offsets: For each class its own, (boxes of all images, classes + 1, 4).
        sampled: The boxes of each image.

    Source: Girshick 2015, Fast R-CNN, eq. 1 to 3, with lambda = 1.
    """
    labels = torch.cat([each.labels for each in sampled])
    objects = (labels != BACKGROUND).nonzero().flatten()
    box_loss = F.smooth_l1_loss(
        offsets[objects, labels[objects]],
        torch.cat([each.offsets for each in sampled]),
        reduction="sum",
    )
    return F.cross_entropy(logits, labels), box_loss / len(labels)
