"""The input specification prepares images by its own words and refuses impossible ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from goodnet.errors import SettingsError
from goodnet.formats import InputSpecification

SIZE = (3, 1, 2)
IMAGES = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.75, 1.0]).view(1, *SIZE)


def prepared(**fields: Any) -> list[float]:
    values: list[float] = InputSpecification(SIZE, **fields).prepare(IMAGES).flatten().tolist()
    return values


def test_the_plain_reading_changes_nothing() -> None:
    assert InputSpecification(SIZE).prepare(IMAGES) is IMAGES


def test_ranges_are_what_black_and_white_become() -> None:
    assert prepared(range=(0.0, 255.0)) == [0, 255, 127.5, 63.75, 191.25, 255]
    assert prepared(range=(-1.0, 1.0)) == [-1, 1, 0, -0.5, 0.5, 1]


def test_bgr_turns_the_channels_before_the_mean() -> None:
    assert prepared(channel_order="BGR") == [0.75, 1.0, 0.5, 0.25, 0.0, 1.0]
    assert prepared(channel_order="BGR", mean=(1.0, 0.0, 0.0))[:2] == [-0.25, 0.0]


def test_mean_and_deviation_come_after_the_range() -> None:
    given = prepared(range=(0.0, 2.0), mean=(1.0, 0.0, 0.5), std=(2.0, 1.0, 0.5))
    assert given == [-0.5, 0.5, 1.0, 0.5, 2.0, 3.0]


def test_grey_images_have_no_order() -> None:
    grey = torch.rand(2, 1, 2, 2)
    assert InputSpecification((1, 2, 2), channel_order="BGR").prepare(grey) is grey


def test_the_images_handed_in_stay_as_they_are() -> None:
    before = IMAGES.clone()
    prepared(range=(0.0, 255.0), mean=(1.0, 1.0, 1.0), std=(2.0, 2.0, 2.0), channel_order="BGR")
    assert torch.equal(IMAGES, before)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("size", (3, 4), "give (channels, height, width)"),
        ("size", (3, 0, 4), "give (channels, height, width)"),
        ("range", (1.0, 1.0), "low < high"),
        ("range", (255.0, 0.0), "low < high"),
        ("range", (NAN, 1.0), "finite"),
        ("range", (0.0, INF), "finite"),
        ("mean", (0.5,), "give 3 values"),
        ("mean", (NAN, 0.0, 0.0), "finite"),
        ("std", (1.0, 1.0), "give 3 values"),
        ("std", (1.0, 0.0, 1.0), "above 0"),
        ("std", (1.0, -1.0, 1.0), "above 0"),
        ("std", (1.0, NAN, 1.0), "finite"),
        ("std", (1.0, INF, 1.0), "finite"),
    ],
)
def test_impossible_fields_are_named(field: str, value: tuple[float, ...], remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        InputSpecification(**{"size": SIZE, field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert remedy in str(caught.value)


def test_one_line_for_people() -> None:
    plain = InputSpecification((3, 55, 47), "channels-last", (0.0, 255.0))
    assert plain.describe() == "3x55x47, channels-last, 0..255, RGB"
    full = InputSpecification((1, 2, 2), mean=(0.5,), label_offset=1)
    assert full.describe() == "1x2x2, channels-first, 0..1, mean (0.5,), std 1, labels from 1"
