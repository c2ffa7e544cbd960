"""Which boxes are trained on, and losses worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from goodnet.detection.losses import (
    NO_OBJECT,
    UNDECIDED,
    SampledBoxes,
    Sampling,
    match,
    roi_losses,
    rpn_losses,
    sample,
    sample_proposals,
)
from goodnet.errors import SettingsError

SAMPLING = Sampling(count=8, positive_share=0.5, foreground=0.7, background=0.3)
OBJECT = torch.tensor([[0.0, 0, 10, 10]])
NOTHING = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_boxes_are_matched_by_their_overlap() -> None:
    # Overlaps with the object: 0.8, 0.5, 0.2 and none.
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 2], [50, 50, 60, 60]])
    assert match(boxes, OBJECT, SAMPLING, keep_best=False).tolist() == [
        0,
        UNDECIDED,
        NO_OBJECT,
        NO_OBJECT,
    ]


def test_every_object_gets_its_best_boxes_however_little_they_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 2], [0, 8, 10, 10], [0, 0, 5, 2], [50, 50, 60, 60]])
    objects = torch.cat([OBJECT, torch.tensor([[20.0, 20, 30, 30]])])
    matched = match(boxes, objects, SAMPLING, keep_best=True)
    # Two are equally good; nothing overlaps the second object, so nothing stands for it.
    assert matched.tolist() == [0, 0, NO_OBJECT, NO_OBJECT]


def test_without_objects_all_is_background() -> None:
    boxes = torch.rand(5, 4)
    assert (match(boxes, torch.empty(0, 4), SAMPLING, keep_best=True) == NO_OBJECT).all()


@pytest.mark.parametrize(("objects", "others"), [(0, 20), (2, 20), (9, 20), (9, 1), (3, 2)])
def test_samples_are_of_their_kind_and_never_too_many(objects: int, others: int) -> None:
    matches = torch.tensor([0] * objects + [UNDECIDED] * 3 + [NO_OBJECT] * others)
    positives, negatives = sample(matches, SAMPLING, generator=seeded())
    assert len(positives) == min(objects, 4)
    assert len(negatives) == min(others, 8 - len(positives))
    assert (matches[positives] == 0).all()
    assert (matches[negatives] == NO_OBJECT).all()
    assert len(torch.cat([positives, negatives]).unique()) == len(positives) + len(negatives)


def test_the_generator_alone_draws_the_samples() -> None:
    matches = torch.tensor([0] * 30 + [NO_OBJECT] * 30)
    first = torch.cat(sample(matches, SAMPLING, generator=seeded()))
    torch.manual_seed(7)
    assert torch.equal(first, torch.cat(sample(matches, SAMPLING, generator=seeded())))
    assert not torch.equal(first, torch.cat(sample(matches, SAMPLING, generator=seeded(1))))


def test_rpn_losses_worked_out_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    # The anchor on the object says "object" with logit 1, the other is sure it is none.
    objectness = torch.tensor([[[0.0, 1.0], [100.0, 0.0]]])
    # The right offsets are 0. Beyond 1/9 smooth L1 is |x| - 1/18, below it is 4.5 x^2.
    offsets = torch.tensor([[[1.0, 0.1, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    target = {"boxes": OBJECT, "labels": torch.tensor([1])}
    losses = rpn_losses(objectness, offsets, anchors, [target], SAMPLING, generator=seeded())
    assert float(losses[0]) == pytest.approx(math.log(1 + math.exp(-1)) / 2)
    assert float(losses[1]) == pytest.approx((1 - 1 / 18 + 4.5 * 0.01) / 2)


def test_roi_losses_worked_out_by_hand() -> None:
    # An object of label 2 and a background box; all logits equal, so each costs log 3.
    sampled = SampledBoxes(
        torch.zeros(2, 4), torch.tensor([2, 0]), torch.tensor([[2.0, 0, 0, 0.5]])
    )
    offsets = torch.full((2, 3, 4), 50.0)
    offsets[0, 2] = 0.0  # only those of its own label count
    losses = roi_losses(torch.zeros(2, 3), offsets, [sampled])
    assert float(losses[0]) == pytest.approx(math.log(3))
    assert float(losses[1]) == pytest.approx((1.5 + 0.125) / 2)


def test_images_without_objects_have_losses() -> None:
    objectness, offsets = torch.zeros(1, 6, 2), torch.zeros(1, 6, 4)
    anchors = torch.rand(6, 4)
    losses = rpn_losses(objectness, offsets, anchors, [NOTHING], SAMPLING, generator=seeded())
    assert float(losses[0]) == pytest.approx(math.log(2))
    assert float(losses[1]) == 0.0
    sampled = sample_proposals(anchors, NOTHING, SAMPLING, generator=seeded())
    assert sampled.labels.tolist() == [0] * 6
    assert float(roi_losses(torch.zeros(6, 3), torch.zeros(6, 3, 4), [sampled])[1]) == 0.0


def test_objects_themselves_are_among_the_proposals() -> None:
    target = {"boxes": OBJECT, "labels": torch.tensor([3])}
    far = torch.tensor([[50.0, 50, 60, 60]])
    sampled = sample_proposals(far, target, Sampling(4, 0.5, 0.5, 0.5), generator=seeded())
    assert sampled.boxes.tolist() == [OBJECT[0].tolist(), far[0].tolist()]
    assert sampled.labels.tolist() == [3, 0]
    assert sampled.offsets.tolist() == [[0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("count", (0, 0.5, 0.7, 0.3)),
        ("positive_share", (8, 1.5, 0.7, 0.3)),
        ("foreground", (8, 0.5, 0.0, 0.3)),
        ("background", (8, 0.5, 0.5, 0.6)),
    ],
)
def test_settings_name_their_bad_field(field: str, values: tuple[int, float, float, float]) -> None:
    with pytest.raises(SettingsError, match=f"^{field} is "):
        Sampling(*values)
