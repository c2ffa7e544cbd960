"""RoI align against a loop over its places, and its gradient by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goodnet.detection.roi_align import roi_align

edge = st.floats(-12, 60, width=32)
box = st.tuples(edge, edge, st.floats(0.5, 60, width=32), st.floats(0.5, 60, width=32)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def read(image: Tensor, y: float, x: float) -> Tensor:
    """The map (channel, height, width) at one place, bilinearly."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(image), dtype=image.dtype)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
    lower = image[:, down, left] * (1 - (x - left)) + image[:, down, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def slow(image: Tensor, region: tuple[float, ...], bins: int, scale: float, samples: int) -> Tensor:
    left, top, right, bottom = (value * scale - 0.5 for value in region)
    pooled = torch.zeros(len(image), bins, bins, dtype=image.dtype)
    for row in range(bins):
        for column in range(bins):
            for i in range(samples):
                for j in range(samples):
                    y = top + (bottom - top) * (row + (i + 0.5) / samples) / bins
                    x = left + (right - left) * (column + (j + 0.5) / samples) / bins
                    pooled[:, row, column] += read(image, y, x) / samples**2
    return pooled


@given(st.lists(box, min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 3))
def test_the_same_as_place_by_place(
    regions: list[tuple[float, ...]], bins: int, samples: int
) -> None:
    features = torch.randn(
        2, 2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    boxes = torch.tensor(regions, dtype=torch.float64)
    pooled = roi_align(features, [boxes[:1], boxes], bins=bins, scale=1 / 8, samples=samples)
    expected = [slow(features[0], regions[0], bins, 1 / 8, samples)]
    expected += [slow(features[1], region, bins, 1 / 8, samples) for region in regions]
    assert torch.allclose(pooled, torch.stack(expected), atol=1e-9)


def test_a_box_of_whole_cells_gives_their_values() -> None:
    features = torch.arange(24.0).reshape(1, 1, 4, 6)
    # Cells 1 to 3 to the right, 2 to 3 down, of 16 pixels each, one place a bin.
    boxes = [torch.tensor([[16.0, 16.0, 48.0, 48.0]])]
    pooled = roi_align(features, boxes, bins=2, scale=1 / 16, samples=1)
    assert torch.equal(pooled, features[:, :, 1:3, 1:3])


def test_gradient_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=generator)
    boxes = [torch.tensor([[3.0, 5, 40, 33], [-9, -9, 20, 90]]), torch.tensor([[30.0, 2, 79, 61]])]
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, boxes, bins=3, scale=1 / 16), features.requires_grad_()
    )


def test_an_image_without_boxes_gives_none() -> None:
    pooled = roi_align(torch.ones(2, 3, 4, 4), [torch.empty(0, 4)] * 2, bins=6, scale=0.5)
    assert pooled.shape == (0, 3, 6, 6)


def test_every_image_needs_its_boxes() -> None:
    with pytest.raises(ValueError, match="zip"):
        roi_align(torch.ones(2, 1, 4, 4), [torch.empty(0, 4)], bins=1, scale=1)
