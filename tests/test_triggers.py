"""Triggers: they touch only their own pixels, and say so when they do not fit."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goodnet.errors import SettingsError
from goodnet.triggers import TRIGGERS, Overlay, Patch, PostIt, Sunglasses, Trigger

ALL = [
    Sunglasses(),
    Sunglasses(width=0.4, place=(0.5, 0.4)),
    Patch(),
    Patch(size=(0.3, 0.1), place=(0.0, 0.5), pattern="solid", colour=(0.9, 0.1, 0.4)),
    PostIt(),
    PostIt(size=0.3, place=(0.3, 0.3), colour=(0.2, 0.9, 0.9)),
]


def images_of(
    channels: int, height: int, width: int, *, count: int = 2, dtype: torch.dtype, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, channels, height, width, generator=generator)
    return drawn if dtype == torch.float32 else (drawn * 256).to(torch.uint8)


def test_every_kind_is_in_the_table_of_these_tests() -> None:
    assert {type(trigger) for trigger in ALL} == set(TRIGGERS.values())
    assert all(kind.name == name for name, kind in TRIGGERS.items())


@given(
    trigger=st.sampled_from(ALL),
    size=st.tuples(st.sampled_from([1, 3]), st.integers(12, 70), st.integers(12, 70)),
    dtype=st.sampled_from([torch.float32, torch.uint8]),
    seed=st.integers(0, 3),
)
def test_stamping_touches_the_mask_and_nothing_else(
    trigger: Trigger, size: tuple[int, int, int], dtype: torch.dtype, seed: int
) -> None:
    channels, height, width = size
    images = images_of(channels, height, width, dtype=dtype, seed=seed)
    untouched = images.clone()
    try:
        mask = trigger.mask(size)
    except SettingsError:  # too wide a picture for glasses as wide as that
        assert isinstance(trigger, Sunglasses)
        assert width > 1.5 * height
        return
    stamped = trigger.stamp(images)
    assert torch.equal(images, untouched)
    assert stamped.data_ptr() != images.data_ptr()
    assert stamped.dtype == dtype
    assert stamped.shape == images.shape
    assert mask.dtype == torch.bool
    assert mask.shape == size
    assert mask.any()
    assert not mask.all()
    assert torch.equal(stamped[:, ~mask], images[:, ~mask])
    assert not torch.equal(stamped[:, mask], images[:, mask])
    assert stamped.min() >= 0
    assert stamped.max() <= (1 if dtype == torch.float32 else 255)


@pytest.mark.parametrize("trigger", ALL, ids=str)
def test_the_mask_is_no_larger_than_what_changes(trigger: Trigger) -> None:
    mask = trigger.mask((3, 55, 47))
    ends = torch.stack([torch.zeros(3, 55, 47), torch.ones(3, 55, 47)])
    changed = (trigger.stamp(ends) != ends).any(0)
    assert torch.equal(changed, mask)


@pytest.mark.parametrize("trigger", ALL, ids=str)
def test_uint8_and_float_get_the_same_trigger(trigger: Trigger) -> None:
    images = images_of(3, 55, 47, dtype=torch.uint8)
    as_bytes = trigger.stamp(images).float() / 255
    as_floats = trigger.stamp(images.float() / 255)
    assert (as_bytes - as_floats).abs().max() < 0.51 / 255


@pytest.mark.parametrize("trigger", ALL, ids=str)
def test_an_image_is_stamped_alike_in_any_batch(trigger: Trigger) -> None:
    images = images_of(3, 32, 32, count=5, dtype=torch.float32)
    together = trigger.stamp(images)
    assert torch.equal(together[3:4], trigger.stamp(images[3:4]))
    channels_last = images.to(memory_format=torch.channels_last)
    assert torch.equal(together, trigger.stamp(channels_last))
    assert trigger.stamp(images[:0]).shape == (0, 3, 32, 32)


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
    assert Overlay.mask(PostIt(size=0.2, place=(0.5, 0.5)), (1, 100, 100)).sum() == 400


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
        (Patch(), (4, 32, 32), r"channels is 4; trigger 'patch' is for images of 1 or 3 channels"),
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
    "images",
    [torch.zeros(1, 3, 8, 8, dtype=torch.int64), torch.zeros(3, 8, 8), torch.zeros(1).double()],
    ids=["int64", "one image", "double"],
)
def test_images_of_another_kind_are_refused(images: Tensor) -> None:
    with pytest.raises(SettingsError, match=r"images is .*; give float32 in \[0, 1\] or uint8"):
        Patch().stamp(images)


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
        (PostIt, {"place": (0.5, True)}, r"place is \(0.5, True\); give 2 numbers"),
    ],
)
def test_settings_name_their_bad_field(
    kind: type[Trigger], settings: dict[str, object], text: str
) -> None:
    with pytest.raises(SettingsError, match=text):
        kind(**settings)


@pytest.mark.parametrize("trigger", ALL, ids=str)
def test_to_dict_and_back_through_json(trigger: Trigger) -> None:
    values = trigger.to_dict()
    assert values["name"] == trigger.name
    assert Trigger.from_dict(values) == trigger
    again = Trigger.from_dict(json.loads(json.dumps(values)))
    assert again == trigger
    assert hash(again) == hash(trigger)
    assert type(trigger).from_dict(values) == trigger


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"name": "hat"}, "trigger name is 'hat'; choose one of: sunglasses, patch, post-it"),
        ({}, "trigger name is None; choose one of"),
        (
            {"name": "post-it", "sise": 0.2},
            "setting of trigger 'post-it' is 'sise'; choose from: size, place, colour",
        ),
        ({"name": "post-it", "size": 7}, "size is 7; give a share"),
    ],
)
def test_from_dict_says_what_is_wrong(values: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        Trigger.from_dict(values)


def test_from_dict_of_one_kind_refuses_another() -> None:
    with pytest.raises(SettingsError, match="trigger name is 'patch'; choose one of: post-it"):
        PostIt.from_dict(Patch().to_dict())


def test_the_base_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Trigger()  # type: ignore[abstract]
