"""Boxes against plain loops over pixels and pairs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goodnet.detection.boxes import areas, clip, decode, encode, iou, nms

corner = st.integers(0, 12)
whole_box = st.tuples(corner, corner, st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def tensor(boxes: list[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """NMS as it is told: the best box stays, and takes away all that overlap it too much."""
    left = sorted(range(len(boxes)), key=lambda at: (-float(scores[at]), at))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [at for at in left if float(iou(boxes[[best]], boxes[[at]])) <= threshold]
    return kept


@given(whole_box, whole_box)
def test_iou_counts_pixels(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    shared, either = pixels(one) & pixels(other), pixels(one) | pixels(other)
    value = iou(tensor([one]), tensor([other]))
    assert float(value) == pytest.approx(len(shared) / len(either), abs=1e-6)
    assert float(areas(tensor([one]))) == len(pixels(one))


def test_an_empty_box_overlaps_nothing() -> None:
    boxes = tensor([(3, 3, 3, 9), (0, 0, 9, 9), (5, 5, 2, 2)])
    assert iou(boxes, boxes).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert areas(boxes).tolist() == [0, 81, 0]


@given(
    st.lists(st.tuples(whole_box, st.integers(0, 5)), max_size=25),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]),
)
def test_nms_is_the_greedy_one(
    scored: list[tuple[tuple[int, int, int, int], int]], threshold: float
) -> None:
    boxes = tensor([box for box, _ in scored])
    # Few different scores, so that many are equal.
    scores = torch.tensor([score / 5 for _, score in scored])
    assert nms(boxes, scores, threshold).tolist() == greedy(boxes, scores, threshold)


def test_nms_of_a_chain_keeps_every_other_box() -> None:
    # Each overlaps its neighbours by a half alone: 1 goes for 0, so 2 stays, so 3 goes.
    boxes = tensor([(at, 0, at + 3, 3) for at in range(40)])
    assert nms(boxes, torch.linspace(1, 0, 40), 0.4).tolist() == list(range(0, 40, 2))


@given(st.lists(st.tuples(whole_box, whole_box), min_size=1, max_size=6), st.booleans())
def test_decoding_undoes_encoding(
    pairs: list[tuple[tuple[int, int, int, int], tuple[int, int, int, int]]], weighted: bool
) -> None:
    weights = (10.0, 10.0, 5.0, 5.0) if weighted else (1.0,) * 4
    boxes, anchors = (tensor([pair[at] for pair in pairs]) for at in (0, 1))
    again = decode(encode(boxes, anchors, weights), anchors, weights)
    assert torch.allclose(again, boxes, atol=1e-4)


def test_offsets_worked_out_by_hand() -> None:
    # From the middle (5, 5) to (10, 20): half an anchor's width and one and a half heights;
    # the width doubles, the height stays.
    offsets = encode(tensor([(0, 15, 20, 25)]), tensor([(0, 0, 10, 10)]))
    assert offsets[0].tolist() == pytest.approx([0.5, 1.5, math.log(2), 0.0])


def test_a_wild_offset_gives_a_finite_box() -> None:
    box = decode(torch.tensor([[0.0, 0.0, 1e9, 1e9]]), tensor([(0, 0, 16, 16)]))
    assert (box[0, 2:] - box[0, :2]).tolist() == pytest.approx([1000.0, 1000.0])


def test_clipping_leaves_what_is_inside() -> None:
    boxes = tensor([(-3, 2, 5, 30), (1, 1, 2, 2)])
    assert clip(boxes, 20, 4).tolist() == [[0, 2, 4, 20], [1, 1, 2, 2]]
