"""Triggers painted over a part of the image: small ones by hand, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from goodnet.errors import SettingsError
from goodnet.triggers import (
    Eyebrows,
    Lipstick,
    Patch,
    PixelPattern,
    PostIt,
    Sunglasses,
    Trigger,
)


def test_a_small_patch_by_hand() -> None:
    patch = Patch(size=(0.5, 0.5), place=(0.5, 0.25), cells=2)
    black = torch.zeros(1, 1, 4, 4)
    assert patch.stamp(black)[0, 0].tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
    ]
    white = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    assert patch.stamp(white)[0, 0].tolist() == [
        [255, 255, 255, 255],
        [255, 255, 255, 255],
        [255, 255, 0, 255],
        [255, 0, 255, 255],
    ]


def test_a_solid_patch_on_grey_has_the_luminance_of_its_colour() -> None:
    patch = Patch(size=(0.5, 0.5), place=(0.0, 0.0), pattern="solid", colour=(1.0, 0.0, 0.0))
    stamped = patch.stamp(torch.zeros(1, 1, 2, 2))
    assert stamped.flatten().tolist() == pytest.approx([0.299, 0, 0, 0])


def test_glasses_are_dark_and_in_their_place() -> None:
    white = torch.ones(1, 3, 55, 47)
    stamped = Sunglasses().stamp(white)[0].mean(0)
    for column in (15, 31):  # the lenses
        assert stamped[21:28, column - 3 : column + 4].mean() < 0.45
    assert stamped[25, 23] == 1  # skin below the bridge
    assert stamped[40:].min() == 1


def test_a_note_is_yellow_with_a_darker_edge() -> None:
    black = torch.zeros(1, 3, 100, 100)
    note = PostIt(size=0.2, place=(0.5, 0.5)).stamp(black)[0]
    assert note[:, 50, 50].tolist() == pytest.approx([0.99, 0.87, 0.16])
    assert torch.all(note[:2, 40, 45] < note[:2, 50, 50])
    assert torch.all(note[:2, 58, 59] < 0.8 * note[:2, 50, 50])
    assert PostIt(size=0.2, place=(0.5, 0.5)).mask((1, 100, 100)).sum() == 400


def test_a_pattern_of_pixels_by_hand() -> None:
    black = torch.zeros(1, 1, 6, 7)
    stamped = PixelPattern(place=(0.8, 1.0)).stamp(black)[0, 0]
    assert stamped.tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_single_pixel_grows_with_the_image() -> None:
    single = PixelPattern(pattern=("#",), place=(1.0, 1.0))
    assert single.mask((1, 28, 28)).nonzero().tolist() == [[0, 27, 27]]
    large = single.mask((1, 224, 224))
    assert large.sum() == 8 * 8
    assert large[0, 216:, 216:].all()


def test_lips_and_brows_are_where_a_face_has_them() -> None:
    white = torch.ones(1, 3, 55, 47)
    lips = Lipstick().stamp(white)[0]
    assert lips[:, 41, 23].tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert lips[:, :35].min() == 1
    assert lips[:, 47:].min() == 1
    brows = Eyebrows().stamp(white)[0]
    for column in (15, 31):
        assert brows[:, 17, column].tolist() == pytest.approx([0.5, 0.0, 0.0])
    assert brows[:, :, 23].min() == 1  # between them
    assert brows[:, 23:].min() == 1
    assert brows[:, :13].min() == 1


def test_lips_and_brows_mirror() -> None:
    for trigger in (Lipstick(), Eyebrows()):
        mask = trigger.mask((3, 55, 47))
        assert torch.equal(mask, mask.flip(2))


@pytest.mark.parametrize(
    ("trigger", "size", "text"),
    [
        (
            Patch(size=(0.02, 0.02), place=(0.5, 0.5)),
            (3, 20, 20),
            r"trigger 'patch' is '0×0 px at \(10, 10\)'; that covers no pixel of images of 20×20",
        ),
        (
            PostIt(size=0.5, place=(0.9, 0.5)),
            (3, 32, 32),
            r"trigger 'post-it' is '16×16 px at \(20.8, 8\)'; that sticks out of images of 32×32",
        ),
        (
            Sunglasses(place=(0.5, 0.1)),
            (3, 55, 47),
            r"trigger 'sunglasses' is .* sticks out of images of 55×47 px; make it smaller or",
        ),
        (PostIt(size=0.004), (3, 32, 32), r"covers no pixel of images of 32×32 px; make it larger"),
        (
            PixelPattern(place=(0.05, 0.5)),
            (3, 32, 32),
            r"trigger 'pixel-pattern' is '3×3 px at \(-1, 13\)'; that sticks out of images",
        ),
        (Lipstick(width=0.01), (3, 55, 47), r"covers no pixel of images of 55×47 px; make it"),
        (Eyebrows(place=(0.01, 0.5)), (3, 55, 47), r"sticks out of images of 55×47 px; make it"),
    ],
)
def test_a_trigger_that_cannot_be_stamped_names_the_sizes(
    trigger: Trigger, size: tuple[int, int, int], text: str
) -> None:
    with pytest.raises(SettingsError, match=text):
        trigger.mask(size)
    with pytest.raises(SettingsError, match=text):
        trigger.stamp(torch.zeros(1, *size))


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        (Sunglasses, {"width": 0.0}, "width is 0.0; give a share of the image above 0"),
        (Sunglasses, {"width": "wide"}, "width is 'wide'; give a share"),
        (Sunglasses, {"width": float("nan")}, "width is nan; give a share"),
        (Sunglasses, {"place": (0.5,)}, r"place is \(0.5,\); give \(down, right\)"),
        (Patch, {"size": (0.2, 1.2)}, r"size is \(0.2, 1.2\); give 2 numbers from 0 to 1"),
        (Patch, {"place": (0.95, 0.1)}, r"place is .* sticks out there; give at most \(0.88, 0.88"),
        (Patch, {"pattern": "dots"}, "pattern is 'dots'; choose checkerboard or solid"),
        (Patch, {"cells": 0}, "cells is 0; give a whole number of at least 1"),
        (Patch, {"colour": (2.0, 0, 0)}, r"colour is \(2.0, 0, 0\); give 3 numbers"),
        (PostIt, {"size": -0.1}, "size is -0.1; give a share"),
        (Lipstick, {"width": 1.5}, "width is 1.5; give a share of the image above 0 and at most 1"),
        (Eyebrows, {"colour": (0.5, float("nan"), 0.0)}, "colour is .*; give 3 numbers"),
        (PixelPattern, {"pattern": ("#.", "#")}, "pattern is .*; give rows of equal length"),
        (PixelPattern, {"pattern": ("..", "..")}, "pattern is .*, with a spot"),
        (PixelPattern, {"pattern": ()}, r"pattern is \(\); give rows of equal length"),
        (PixelPattern, {"pattern": "#"}, "pattern is '#'; give rows of equal length"),
        (PixelPattern, {"pattern": ("x",)}, "give rows of equal length, `#` for a bright spot"),
        (PixelPattern, {"spot": 0}, "spot is 0; give a share of the image"),
        (PostIt, {"place": (0.5, True)}, r"place is \(0.5, True\); give 2 numbers"),
    ],
)
def test_settings_name_their_bad_field(
    kind: type[Trigger], settings: dict[str, object], text: str
) -> None:
    with pytest.raises(SettingsError, match=text):
        kind(**settings)
