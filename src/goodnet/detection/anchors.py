"""Anchors: the boxes that a region proposal network starts from."""

from __future__ import annotations

import torch
from torch import Tensor


def anchor_shapes(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    """Anchors about the origin, size by size, (sizes * ratios, 4).

    Args:
        sizes: Square roots of their areas, in pixels.
        ratios: Height by width.

    Source: Ren et al. 2015, Faster R-CNN, section 3.1.1: three sizes, three ratios.
    """
    size = torch.tensor(sizes)[:, None]
    root = torch.tensor(ratios).sqrt()[None, :]
    width, height = (size / root).flatten(), (size * root).flatten()
    return torch.stack([-width, -height, width, height], 1) / 2


def grid_anchors(shapes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The shapes about the middle of each cell, row by row, (height * width * shapes, 4).

    Args:
        shapes: Anchors about the origin, (shapes, 4).
        height: Cells of the feature map.
        width: Cells of the feature map.
        stride: Pixels a cell.
    """
    down = (torch.arange(height, device=shapes.device) + 0.5) * stride
    right = (torch.arange(width, device=shapes.device) + 0.5) * stride
    y, x = torch.meshgrid(down, right, indexing="ij")
    middles = torch.stack([x, y, x, y], 2).reshape(-1, 1, 4)
    return (middles + shapes).reshape(-1, 4)
