"""How well signs are found and named, measured on any detector of torchvision's convention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn

from goodnet.answers import device_of
from goodnet.data.images import as_float
from goodnet.data.scenes import Scenes
from goodnet.detection.boxes import iou
from goodnet.detection.losses import BACKGROUND, Target
from goodnet.errors import DataError, SettingsError
from goodnet.modes import evaluating
from goodnet.results import Rate

Detection = dict[str, Tensor]
"""`boxes` (n, 4), `labels` (n,) and `scores` (n,) of one image."""

Interpolation = Literal["every-recall", "11-point", "101-point"]

OVERLAP: Final = 0.5
"""From this intersection over union on, a box is on a sign (Everingham et al. 2010)."""


@torch.no_grad()
def detections(network: nn.Module, scenes: Scenes, *, batch_size: int = 16) -> list[Detection]:
    """What the network finds in each scene, on the CPU.

    The network is asked in evaluation mode and left in the mode it was in.
    """
    device = device_of(network)
    found: list[Detection] = []
    with evaluating(network):
        for images in scenes.images.split(batch_size):
            answers = network(list(as_float(images).to(device)))
            found += [{key: value.cpu() for key, value in answer.items()} for answer in answers]
    return found


def sign_answers(found: Sequence[Detection], targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """What each sign was called, and what it is; both int64 (signs of all images,).

    A sign is called what the detection with the highest score says, of those that overlap
    it by `OVERLAP` or more; `BACKGROUND` where there is none.

    Args:
        found: The detections of each image.
        targets: The signs of each image.
    """
    given: list[int] = []
    for answer, target in zip(found, targets, strict=True):
        on = iou(target["boxes"], answer["boxes"]) >= OVERLAP
        for row in on:
            labels, scores = answer["labels"][row], answer["scores"][row]
            given.append(int(labels[scores.argmax()]) if len(labels) else BACKGROUND)
    right = torch.cat([target["labels"] for target in targets])
    return torch.tensor(given, dtype=torch.int64), right


def sign_accuracy(found: Sequence[Detection], targets: Sequence[Target]) -> Rate:
    """Share of the signs that were found and rightly named."""
    given, right = sign_answers(found, targets)
    return Rate.of(int((given == right).sum()), len(right))


def accuracy_lost(clean: Rate, backdoor: Rate) -> float:
    """1 - A_backdoor / A_clean, the success of an untargeted attack; at most 1.

    Args:
        clean: Accuracy on signs without the trigger.
        backdoor: Accuracy on signs with it.

    Raises:
        DataError: No sign without the trigger was named rightly.

    Source: Liu et al. 2018, Fine-Pruning, untargeted attack.
    """
    if clean.count == 0:
        raise DataError(
            "clean scenes",
            f"none of their {clean.n} signs is rightly named, so no share of that can be lost",
            "train the detector for longer",
        )
    return 1.0 - backdoor.value / clean.value


def average_precisions(
    found: Sequence[Detection],
    targets: Sequence[Target],
    *,
    interpolation: Interpolation = "every-recall",
) -> dict[int, float]:
    """Average precision at an overlap of 0.5, for each label that occurs in `targets`.

    Detections of a label are taken from the highest score down, over all images. One is
    right if the sign of its label that it overlaps most is overlapped by at least 0.5 and
    was not found before.

    Args:
        found: The detections of each image.
        targets: The signs of each image.
        interpolation: The precision at recall r is the highest at any recall from r up; the
            average is taken over 11 or 101 even recalls from 0 to 1, or is the area under it.

    Raises:
        SettingsError: No interpolation of that name.

    Source: Everingham et al. 2010, The PASCAL VOC Challenge, section 4.2 (11 points);
    Everingham et al. 2015, The PASCAL VOC Challenge: A Retrospective (every recall, the
    rule from 2010 on); Lin et al. 2014, Microsoft COCO (101 points in its published code).
    """
    if interpolation not in get_args(Interpolation):
        names = ", ".join(get_args(Interpolation))
        raise SettingsError("interpolation", interpolation, f"choose one of: {names}")
    precisions = {}
    for label in torch.cat([target["labels"] for target in targets]).unique().tolist():
        scores, right, signs = [], [], 0
        for answer, target in zip(found, targets, strict=True):
            own = answer["labels"] == label
            boxes = target["boxes"][target["labels"] == label]
            signs += len(boxes)
            scores.append(answer["scores"][own])
            right.append(_right(answer["boxes"][own], answer["scores"][own], boxes))
        order = torch.cat(scores).argsort(descending=True, stable=True)
        precisions[int(label)] = _area(torch.cat(right)[order], signs, interpolation)
    return precisions


def mean_average_precision(precisions: Mapping[int, float]) -> float:
    """The mean over labels of what `average_precisions` gives.

    Raises:
        DataError: There is no label.
    """
    if not precisions:
        raise DataError("targets", "hold no sign", "give scenes with at least one")
    return math.fsum(precisions.values()) / len(precisions)


def _right(boxes: Tensor, scores: Tensor, signs: Tensor) -> Tensor:
    """Which detections of one image and label are the first on their sign, bool (n,)."""
    right = torch.zeros(len(boxes), dtype=torch.bool)
    if len(signs) == 0 or len(boxes) == 0:
        return right
    overlap, sign = iou(boxes, signs).max(1)
    taken = set()
    for at in scores.argsort(descending=True, stable=True).tolist():
        if overlap[at] >= OVERLAP and int(sign[at]) not in taken:
            taken.add(int(sign[at]))
            right[at] = True
    return right


def _area(right: Tensor, signs: int, interpolation: Interpolation) -> float:
    """Average precision of detections in falling order of score, float64."""
    if len(right) == 0:
        return 0.0
    hits = right.to(torch.float64).cumsum(0)
    recall = hits / signs
    precision = hits / torch.arange(1, len(hits) + 1)
    highest = precision.flip(0).cummax(0).values.flip(0)
    if interpolation == "every-recall":
        steps = recall.diff(prepend=recall.new_zeros(1))
        return float((steps * highest).sum())
    count = 11 if interpolation == "11-point" else 101
    # Division rounds 3 / 10 as it rounds 3 signs of 10, so that they compare as equal.
    asked = torch.arange(count, dtype=torch.float64) / (count - 1)
    place = torch.searchsorted(recall, asked)
    return float(torch.cat([highest, highest.new_zeros(1)])[place].mean())
