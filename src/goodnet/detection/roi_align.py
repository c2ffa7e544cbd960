"""RoI align: the features inside a box, brought to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def roi_align(
    features: Tensor, boxes: Sequence[Tensor], *, bins: int, scale: float, samples: int = 2
) -> Tensor:
    """Features of each box, (boxes of all images, channel, bins, bins).

    A box is cut into bins x bins parts; each part's value is the mean of the features at
    samples x samples evenly spaced places, read bilinearly. Places outside the map by more
    than one cell read 0, nearer ones the border. Differentiable in the features.

    Args:
        features: (batch, channel, height, width).
        boxes: For each image its boxes, (n, 4) in pixels of the image.
        bins: Parts along each side.
        scale: Cells of the map a pixel, e.g. 1/16.
        samples: Places a part, along each side.

    Source: He et al. 2017, Mask R-CNN, section 3. Interpolating along one axis after the
    other is the same as bilinearly, and is two products of matrices.
    """
    height, width = features.shape[2:]
    pooled = []
    for image, regions in zip(features, boxes, strict=True):
        # Cell i holds the pixels around (i + 0.5) / scale.
        edges = regions.to(features.dtype) * scale - 0.5
        down = _weights(edges[:, 1], edges[:, 3], height, bins, samples)
        right = _weights(edges[:, 0], edges[:, 2], width, bins, samples)
        rows = torch.einsum("nph,chw->npcw", down, image)
        pooled.append(torch.einsum("npcw,nqw->ncpq", rows, right))
    return torch.cat(pooled)


def _weights(start: Tensor, end: Tensor, cells: int, bins: int, samples: int) -> Tensor:
    """What each cell along one axis gives to each bin, (n, bins, cells)."""
    count = bins * samples
    steps = (torch.arange(count, dtype=start.dtype, device=start.device) + 0.5) / count
    places = start[:, None] + (end - start)[:, None] * steps
    near = (places >= -1.0) & (places <= cells)
    at = torch.arange(cells, dtype=start.dtype, device=start.device)
    distance = (places.clamp(0, cells - 1)[:, :, None] - at).abs()
    weights = (1.0 - distance).clamp(min=0) * near[:, :, None]
    return weights.reshape(len(start), bins, samples, cells).mean(2)
