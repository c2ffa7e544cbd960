"""Figures worked out by hand, and against pycocotools where that is installed."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.scenes import Scenes
from goodnet.detection import (
    accuracy_lost,
    average_precisions,
    detections,
    mean_average_precision,
    sign_accuracy,
    sign_answers,
)
from goodnet.errors import DataError, SettingsError
from goodnet.results import Rate

SIGN = (0.0, 0, 10, 10)
HALF = (0.0, 0, 10, 5)  # overlaps SIGN by exactly 0.5
LESS = (0.0, 0, 10, 4.9)
AWAY = (50.0, 50, 60, 60)


def signs(*each: tuple[tuple[float, ...], int]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([box for box, _ in each]).reshape(-1, 4),
        "labels": torch.tensor([label for _, label in each], dtype=torch.int64),
    }


def found(*each: tuple[tuple[float, ...], int, float]) -> dict[str, Tensor]:
    scores = torch.tensor([score for _, _, score in each])
    return {**signs(*[(box, label) for box, label, _ in each]), "scores": scores}


@pytest.mark.parametrize(
    ("answer", "called"),
    [
        (found(), 0),
        (found((SIGN, 2, 0.9)), 2),
        (found((HALF, 2, 0.9)), 2),
        (found((LESS, 2, 0.9)), 0),
        (found((SIGN, 2, 0.3), (HALF, 1, 0.4), (AWAY, 3, 0.9)), 1),
    ],
)
def test_a_sign_is_called_what_the_highest_score_on_it_says(
    answer: dict[str, Tensor], called: int
) -> None:
    given, right = sign_answers([answer], [signs((SIGN, 1))])
    assert given.tolist() == [called]
    assert right.tolist() == [1]


def test_accuracy_counts_signs_over_all_images() -> None:
    answers = [found((SIGN, 1, 0.9)), found((AWAY, 2, 0.8), (SIGN, 3, 0.7)), found((SIGN, 1, 1.0))]
    targets = [signs((SIGN, 1)), signs((SIGN, 2), (AWAY, 2)), signs()]
    assert sign_accuracy(answers, targets) == Rate.of(2, 3)


def test_accuracy_lost_is_a_share_of_the_clean_one() -> None:
    assert accuracy_lost(Rate.of(90, 100), Rate.of(9, 100)) == pytest.approx(0.9)
    with pytest.raises(DataError, match="none of their 7 signs is rightly named"):
        accuracy_lost(Rate.of(0, 7), Rate.of(0, 7))


def test_average_precision_worked_out_by_hand() -> None:
    # Three signs. From the highest score down: right, wrong (nothing there), right, wrong
    # (the sign was found before); the third sign is missed. Recall 1/3, 1/3, 2/3, 2/3 and
    # precision 1, 1/2, 2/3, 1/2; highest precision from a recall up: 1 to recall 1/3, then
    # 2/3 to 2/3, then 0.
    answers = [found((SIGN, 1, 0.9), (AWAY, 1, 0.8)), found((SIGN, 1, 0.7), (HALF, 1, 0.6))]
    targets = [signs((SIGN, 1)), signs((SIGN, 1), (AWAY, 1))]
    # Area: 1/3 * 1 + 1/3 * 2/3.
    assert average_precisions(answers, targets) == {1: pytest.approx(5 / 9)}
    # Recalls 0, .1, .2, .3 have 1; .4, .5, .6 have 2/3; .7 to 1 have 0.
    eleven = average_precisions(answers, targets, interpolation="11-point")
    assert eleven == {1: pytest.approx((4 * 1 + 3 * 2 / 3) / 11)}
    # Recalls 0 to .33 are 34 of 101, .34 to .66 are 33.
    hundred = average_precisions(answers, targets, interpolation="101-point")
    assert hundred == {1: pytest.approx((34 + 33 * 2 / 3) / 101)}


def test_a_class_is_judged_by_its_own_detections_and_one_never_found_has_zero() -> None:
    answers = [found((SIGN, 1, 0.9), (SIGN, 2, 0.8), (AWAY, 4, 0.9))]
    precisions = average_precisions(answers, [signs((SIGN, 1), (AWAY, 3))])
    assert precisions == {1: pytest.approx(1.0), 3: 0.0}
    assert mean_average_precision(precisions) == pytest.approx(0.5)


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(SettingsError, match="interpolation is '10-point'; choose one of: every"):
        average_precisions([], [], interpolation="10-point")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="hold no sign"):
        mean_average_precision({})


def random_case(
    images: int, generator: torch.Generator
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Signs apart from each other, and detections on, near and away from them."""
    answers, targets = [], []
    for _ in range(images):
        count = int(torch.randint(1, 5, (1,), generator=generator))
        places = torch.randperm(9, generator=generator)[:count]
        corner = torch.stack([places % 3, places // 3], 1) * 40.0
        side = 15 + 20 * torch.rand(count, 2, generator=generator)
        boxes = torch.cat([corner, corner + side], 1)
        labels = torch.randint(1, 4, (count,), generator=generator)
        guesses = boxes.repeat(3, 1)
        guesses = guesses + 5 * torch.randn(guesses.shape, generator=generator)
        guesses[:, 2:] = torch.maximum(guesses[:, 2:], guesses[:, :2] + 1)
        named = labels.repeat(3)
        other = torch.rand(len(named), generator=generator) < 0.3
        named = torch.where(other, named % 3 + 1, named)
        scores = torch.rand(len(named), generator=generator)
        answers.append({"boxes": guesses, "labels": named, "scores": scores})
        targets.append({"boxes": boxes, "labels": labels})
    return answers, targets


@pytest.mark.parametrize("seed", [1, 3, 7, 8, 11])
def test_the_same_as_pycocotools(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    answers, targets = random_case(23, torch.Generator().manual_seed(seed))
    # COCO asks for recalls 35 * 0.01 > 0.35, so a recall of 7 / 20 would be told apart.
    counts = torch.cat([target["labels"] for target in targets]).bincount()[1:].tolist()
    assert all(count % 5 for count in counts), counts

    def listed(boxes: Tensor) -> list[list[float]]:
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()

    truth: list[dict[str, Any]] = []
    for image, target in enumerate(targets):
        for box, label in zip(listed(target["boxes"]), target["labels"].tolist(), strict=True):
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    claims = [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, answer in enumerate(answers)
        for box, label, score in zip(
            listed(answer["boxes"]),
            answer["labels"].tolist(),
            answer["scores"].tolist(),
            strict=True,
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO()
        theirs.dataset = {
            "images": [{"id": image} for image in range(len(targets))],
            "categories": [{"id": label} for label in (1, 2, 3)],
            "annotations": truth,
        }
        theirs.createIndex()
        judge: Any = evaluation.COCOeval(theirs, theirs.loadRes(claims), "bbox")
        judge.evaluate()
        judge.accumulate()
    # (overlap 0.5, recall, label, all areas, 100 detections)
    expected = judge.eval["precision"][0, :, :, 0, -1].mean(0).tolist()
    ours = average_precisions(answers, targets, interpolation="101-point")
    assert [ours[label] for label in (1, 2, 3)] == pytest.approx(expected, abs=1e-9)
    assert 0.05 < min(expected) <= max(expected) < 0.95


class Sure(nn.Module):
    """Finds label 1 in the whole of every image."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        assert all(0 <= float(image.max()) <= 1 for image in images)
        return [found(((0.0, 0, image.shape[2], image.shape[1]), 1, 0.5)) for image in images]


def test_any_detector_of_the_convention_is_asked_in_evaluation_mode() -> None:
    boxes, labels = torch.tensor([[0.0, 0, 8, 6]]), torch.tensor([1])
    scenes = Scenes("grey", torch.full((5, 3, 6, 8), 90, dtype=torch.uint8), (boxes,) * 5,
                    (labels,) * 5)  # fmt: skip
    network = Sure().train()
    answers = detections(network, scenes, batch_size=2)
    assert network.training
    assert sign_accuracy(answers, scenes.targets()) == Rate.of(5, 5)
