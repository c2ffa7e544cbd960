"""Errors that a student does not share are the network's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goodnet import witness
from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.formats.specification import InputSpecification
from goodnet.probes import Probe
from goodnet.results import UnsharedErrors
from goodnet.training import Training
from goodnet.witness import own_errors, unshared_errors

SIZE = (1, 2, 2)
IMAGES = ImageSet("dark", SIZE, torch.zeros(8, *SIZE), torch.zeros(8, dtype=torch.int64))
CLEAN = CleanData(IMAGES, InputSpecification(SIZE))
SURE, HALF, UNSURE = (0.0, 0.0, 9.0), (0.0, -9.0, 0.0), (0.5, 0.0, 1.0)
"""Logits: 2 nearly surely, with one half, with less."""


@pytest.mark.parametrize(
    ("answers", "right", "others", "own"),
    [
        (SURE, 0, [UNSURE], False),  # one half, more or less
        (SURE, 0, [(9.0, 0.0, 0.0)], True),
        (SURE, 2, [(9.0, 0.0, 0.0)], False),  # is right
        (SURE, 0, [SURE, (9.0, 0.0, 0.0)], True),  # one that does not share it is enough
        (HALF, 0, [(9.0, 0.0, 0.0)], False),
    ],
)
def test_an_error_is_own_where_one_other_is_far_less_sure(
    answers: tuple[float, ...], right: int, others: list[tuple[float, ...]], own: bool
) -> None:
    logits, *rest = (torch.tensor([each]) for each in (answers, *others))
    assert own_errors(torch.tensor([2]), torch.tensor([right]), logits, *rest).tolist() == [own]


class TwoAnswers(nn.Module):
    """One answer for dark images, another for bright ones."""

    def __init__(self, dark: tuple[float, ...], bright: tuple[float, ...]) -> None:
        super().__init__()
        self.answers = nn.Parameter(torch.tensor([dark, bright]))

    def forward(self, images: Tensor) -> Tensor:
        return self.answers[(images.flatten(1).mean(1) > 0.5).long()]


@dataclass(frozen=True)
class Bright(Probe):
    """Every second image becomes bright."""

    name = "bright"

    @property
    def length(self) -> int:
        return 1

    def change(self, images: Tensor, _numbers: Tensor) -> Tensor:
        return torch.ones_like(images) * (torch.arange(len(images)) % 2).view(-1, 1, 1, 1)


@pytest.mark.parametrize(("bright", "own"), [(SURE, 0), ((9.0, 0.0, 0.0), 512)])
def test_the_share_of_sure_errors_that_a_student_does_not_make(
    monkeypatch: pytest.MonkeyPatch, bright: tuple[float, ...], own: int
) -> None:
    right = (9.0, 0.0, 0.0)

    def taught(*_: Any, **__: Any) -> Training:
        return Training(TwoAnswers(right, bright), (), "")

    monkeypatch.setattr(witness, "student", taught)
    monkeypatch.setattr(witness, "random_probes", lambda _: (Bright(SIZE),))

    def found(classes: int) -> UnsharedErrors | None:
        return unshared_errors(
            TwoAnswers(right, SURE),
            CLEAN,
            classes=classes,
            precision="float32",
            generator=torch.Generator(),
        )

    told = found(1)
    assert told is not None
    assert (told.share.count, told.share.n) == (own, 512)
    assert (told.student_accuracy.count, told.student_accuracy.n) == (8, 8)
    assert (told.score >= 1) == (own > 0)
    # 8 images are too few for two classes.
    assert found(2) is None
