"""Boxes: (n, 4) float tensors of x1, y1, x2, y2 in pixels, x2 and y2 exclusive."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

LARGEST_GROWTH: Final = math.log(1000.0 / 16.0)
"""Logarithm of how much wider a decoded box may be than its anchor."""


def areas(boxes: Tensor) -> Tensor:
    """Areas in square pixels, (n,); 0 where a box is empty or inside out."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each box with each other box, (n, m) in [0, 1].

    Boxes without an area overlap nothing, themselves not either.

    Source: Everingham et al. 2010, The PASCAL Visual Object Classes Challenge, section 4.2.
    """
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = (high - low).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    union = areas(boxes)[:, None] + areas(others)[None, :] - shared
    return torch.where(shared > 0, shared / union, torch.zeros_like(shared))


def encode(boxes: Tensor, anchors: Tensor, weights: tuple[float, ...] = (1.0,) * 4) -> Tensor:
    """Offsets (n, 4) that turn each anchor into the box beside it.

    They are (x - x_a) / w_a, (y - y_a) / h_a, log(w / w_a) and log(h / h_a), of middles and
    sides, each times its weight.

    Args:
        boxes: (n, 4), sides above 0.
        anchors: (n, 4), sides above 0.
        weights: Make the offsets about as large as 1, so that the loss heeds them.

    Source: Girshick et al. 2014, R-CNN, appendix C; Ren et al. 2015, Faster R-CNN, eq. 2.
    """
    sides, anchor_sides = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    anchor_middles = (anchors[:, :2] + anchors[:, 2:]) / 2
    moved = (middles - anchor_middles) / anchor_sides
    return torch.cat([moved, (sides / anchor_sides).log()], 1) * moved.new_tensor(weights)


def decode(offsets: Tensor, anchors: Tensor, weights: tuple[float, ...] = (1.0,) * 4) -> Tensor:
    """The boxes (n, 4) that `encode` described; at most 62.5 times as wide as their anchors."""
    offsets = offsets / offsets.new_tensor(weights)
    anchor_sides = anchors[:, 2:] - anchors[:, :2]
    middles = (anchors[:, :2] + anchors[:, 2:]) / 2 + offsets[:, :2] * anchor_sides
    half = offsets[:, 2:].clamp(max=LARGEST_GROWTH).exp() * anchor_sides / 2
    return torch.cat([middles - half, middles + half], 1)


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """The boxes' parts inside an image of height x width pixels."""
    most = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), most)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that stay, the highest score first, int64.

    Greedy non-maximum suppression: from the highest score down, a box stays unless it
    overlaps one that stayed by more than `threshold`. Of equal scores the earlier comes first.
    Takes memory of n x n.

    Args:
        boxes: (n, 4).
        scores: (n,).
        threshold: Intersection over union.

    Source: Girshick et al. 2014, R-CNN, section 2.2.
    """
    order = scores.argsort(descending=True, stable=True)
    over = (iou(boxes[order], boxes[order]) > threshold).triu(diagonal=1)
    stays = torch.ones_like(order, dtype=torch.bool)
    # "Not overlapped by one that stays" has a single solution: the first box is right from
    # the start, and each round makes at least one more right.
    while True:
        again = ~(over & stays[:, None]).any(0)
        if torch.equal(again, stays):
            return order[stays]
        stays = again
