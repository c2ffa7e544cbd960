"""What holds for triggers of every kind: they touch what they report, alike in any batch."""

from __future__ import annotations

import base64
import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from goodnet.errors import SettingsError
from goodnet.triggers import (
    TRIGGERS,
    Blend,
    Eyebrows,
    ImageFile,
    ImageTrigger,
    Lipstick,
    Noise,
    Overlay,
    Patch,
    PixelPattern,
    PostIt,
    Sine,
    SoundTrigger,
    Sunglasses,
    Tone,
    Trigger,
    Warp,
    trigger_from_dict,
)


def ring() -> str:
    """A 6×4 picture, half transparent at the left, with a hole."""
    picture = Image.new("RGBA", (6, 4), (220, 30, 40, 255))
    picture.paste((220, 30, 40, 128), (0, 0, 2, 4))
    picture.paste((0, 0, 0, 0), (2, 1, 4, 3))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


IMAGES: list[Trigger] = [
    Sunglasses(),
    Sunglasses(width=0.4, place=(0.5, 0.4)),
    Lipstick(),
    Lipstick(width=0.5, place=(0.6, 0.5), colour=(1.0, 0.2, 0.1)),
    Eyebrows(),
    Eyebrows(width=0.7, place=(0.5, 0.5), colour=(0.1, 0.1, 0.1)),
    Patch(),
    Patch(size=(0.3, 0.1), place=(0.0, 0.5), pattern="solid", colour=(0.9, 0.1, 0.4)),
    PixelPattern(),
    PixelPattern(pattern=("#",), spot=0.01, place=(0.1, 0.9), colour=(1.0, 1.0, 0.3)),
    PostIt(),
    PostIt(size=0.3, place=(0.3, 0.3), colour=(0.2, 0.9, 0.9)),
    ImageFile(ring()),
    ImageFile(ring(), size=0.6, place=(0.5, 0.4), opacity=0.4),
    Blend(),
    Blend(opacity=0.5, cells=3, seed=5),
    Sine(),
    Sine(amplitude=0.05, frequency=2.5),
    Warp(),
    Warp(strength=0.1, control=2, seed=3),
]
SOUNDS: list[Trigger] = [
    Tone(),
    Tone(amplitude=0.5, start=0.5, length=0.5, frequency=1.0),
    Noise(),
    Noise(amplitude=1.0, start=0.25, length=0.5, seed=2),
]
ALL = [*IMAGES, *SOUNDS]

# What each takes, fractions and whole numbers, and the step between two whole numbers.
DTYPES = {"images": (torch.float32, torch.uint8), "sound": (torch.float32, torch.int16)}
STEP = {"images": 1 / 255, "sound": 1 / 32768}


def short(trigger: object) -> str:
    return str(trigger)[:50]


def drawn(
    trigger: Trigger, size: tuple[int, ...], dtype: torch.dtype, *, count: int = 2, seed: int = 0
) -> Tensor:
    """Random inputs that the trigger takes."""
    generator = torch.Generator().manual_seed(seed)
    fractions = torch.rand(count, *size, generator=generator)
    if trigger.takes == "images":
        return fractions if dtype == torch.float32 else (fractions * 256).to(torch.uint8)
    waves = fractions * 2 - 1
    return waves if dtype == torch.float32 else (waves * 32768).to(torch.int16)


def a_size(trigger: Trigger) -> tuple[int, ...]:
    return (3, 55, 47) if trigger.takes == "images" else (800,)


def test_every_kind_is_in_the_table_of_these_tests() -> None:
    assert {type(trigger) for trigger in ALL} == set(TRIGGERS.values())
    assert all(kind.name == name for name, kind in TRIGGERS.items())
    assert all(isinstance(trigger, ImageTrigger) == (trigger in IMAGES) for trigger in ALL)
    assert all(isinstance(trigger, SoundTrigger) == (trigger in SOUNDS) for trigger in ALL)


@st.composite
def a_trigger_and_a_size(draw: st.DrawFn) -> tuple[Trigger, tuple[int, ...]]:
    trigger = draw(st.sampled_from(ALL))
    if trigger.takes == "sound":
        return trigger, (draw(st.one_of(st.integers(12, 70), st.just(8000))),)
    side = st.integers(12, 70)
    sides = draw(st.one_of(st.tuples(side, side), st.just((224, 224))))
    return trigger, (draw(st.sampled_from([1, 3])), *sides)


@given(one=a_trigger_and_a_size(), whole=st.booleans(), seed=st.integers(0, 3))
def test_stamping_touches_the_mask_and_nothing_else(
    one: tuple[Trigger, tuple[int, ...]], whole: bool, seed: int
) -> None:
    trigger, size = one
    dtype = DTYPES[trigger.takes][whole]
    inputs = drawn(trigger, size, dtype, seed=seed)
    untouched = inputs.clone()
    try:
        mask = trigger.mask(size)
    except SettingsError:
        if trigger == Sine():
            assert size[2] == 12  # every column lies where its six waves are zero
        else:  # too wide a picture for what is as wide as that
            assert isinstance(trigger, Sunglasses | Lipstick | Eyebrows)
            assert size[2] > 1.5 * size[1]
        return
    stamped = trigger.stamp(inputs)
    assert torch.equal(inputs, untouched)
    assert stamped.data_ptr() != inputs.data_ptr()
    assert stamped.dtype == dtype
    assert stamped.shape == inputs.shape
    assert mask.dtype == torch.bool
    assert mask.shape == size
    assert mask.any()
    assert torch.equal(stamped[:, ~mask], inputs[:, ~mask])
    assert not torch.equal(stamped[:, mask], inputs[:, mask])
    low, high = {
        torch.float32: (0 if trigger.takes == "images" else -1, 1),
        torch.uint8: (0, 255),
        torch.int16: (-32768, 32767),
    }[dtype]
    assert stamped.min() >= low
    assert stamped.max() <= high


@pytest.mark.parametrize("trigger", ALL, ids=short)
def test_the_mask_is_no_larger_than_what_changes(trigger: Trigger) -> None:
    size = a_size(trigger)
    random = drawn(trigger, size, torch.float32, count=4)
    low = torch.full((1, *size), 0.0 if trigger.takes == "images" else -1.0)
    inputs = torch.cat([random, low, torch.ones(1, *size)])
    changed = (trigger.stamp(inputs) != inputs).any(0)
    assert torch.equal(changed, trigger.mask(size))


@pytest.mark.parametrize("trigger", ALL, ids=short)
def test_whole_numbers_are_fractions_rounded(trigger: Trigger) -> None:
    whole = drawn(trigger, a_size(trigger), DTYPES[trigger.takes][1], count=4)
    step = STEP[trigger.takes]
    as_whole = trigger.stamp(whole).float() * step
    as_fractions = trigger.stamp(whole.float() * step)
    # Full scale itself is one step above the largest int16.
    most = 1.0 if trigger.takes == "images" else 1.0 - step
    assert (as_whole - as_fractions.clamp(max=most)).abs().max() < 0.51 * step


@pytest.mark.parametrize("trigger", ALL, ids=short)
def test_an_input_is_stamped_alike_in_any_batch(trigger: Trigger) -> None:
    size = a_size(trigger)
    inputs = drawn(trigger, size, torch.float32, count=5)
    together = trigger.stamp(inputs)
    assert torch.equal(together[3:4], trigger.stamp(inputs[3:4]))
    backwards = inputs.transpose(1, -1).contiguous().transpose(1, -1)
    assert torch.equal(together, trigger.stamp(backwards))
    assert torch.equal(together[::2], trigger.stamp(inputs[::2]))
    assert trigger.stamp(inputs[:0]).shape == (0, *size)


def test_many_images_are_stamped_like_few() -> None:
    """They are worked on in pieces, of which these make up more than one."""
    images = drawn(Warp(), (3, 128, 128), torch.uint8, count=90)
    assert torch.equal(Warp().stamp(images)[88:], Warp().stamp(images[88:]))


@pytest.mark.parametrize("trigger", ALL, ids=short)
def test_its_picture_shows_something(trigger: Trigger) -> None:
    for size in ((3, 40, 60), (1, 40, 60)):
        picture = trigger.picture(size)
        assert picture.shape == (3, 40, 60)
        assert picture.dtype == torch.uint8
        assert len(picture.flatten(1).unique(dim=1).T) > 1
        if trigger.takes == "images":
            mask = trigger.mask(size).any(0)
            assert set(picture[:, ~mask].unique().tolist()) <= {150, 195}


@pytest.mark.parametrize("trigger", ALL, ids=short)
def test_the_cover_is_the_trigger_but_for_a_warp(trigger: Trigger) -> None:
    inputs = drawn(trigger, a_size(trigger), DTYPES[trigger.takes][1], count=3)
    cover = trigger.cover(inputs, generator=torch.Generator().manual_seed(4))
    assert cover.shape == inputs.shape
    assert cover.dtype == inputs.dtype
    assert torch.equal(cover, trigger.stamp(inputs)) == (not isinstance(trigger, Warp))


@pytest.mark.parametrize("trigger", ALL, ids=short)
def test_to_dict_and_back_through_json(trigger: Trigger) -> None:
    values = trigger.to_dict()
    assert values["name"] == trigger.name
    again = trigger_from_dict(json.loads(json.dumps(values)))
    assert again == trigger
    assert hash(again) == hash(trigger)
    assert type(trigger).from_dict(values) == trigger
    inputs = drawn(trigger, a_size(trigger), torch.float32)
    assert torch.equal(again.stamp(inputs), trigger.stamp(inputs))


@pytest.mark.parametrize("trigger", IMAGES, ids=short)
def test_what_is_no_image_is_refused(trigger: Trigger) -> None:
    for other in (
        torch.zeros(1, 3, 8, 8, dtype=torch.int64),
        torch.zeros(1, 3, 8, 8).double(),
        torch.zeros(3, 8, 8),
        torch.zeros(2, 800, dtype=torch.int16),
    ):
        text = (
            rf"images is '{other.dtype} of .*; give float32 in \[0, 1\] or uint8, .* to trigger "
            f"'{trigger.name}', which is for images"
        )
        with pytest.raises(SettingsError, match=text):
            trigger.stamp(other)
    with pytest.raises(SettingsError, match=r"size is \(800,\); trigger .* is for images"):
        trigger.mask((800,))
    with pytest.raises(SettingsError, match=r"size is \(3, 0, 8\); trigger .* is for images"):
        trigger.stamp(torch.zeros(1, 3, 0, 8))
    text = f"channels is 4; trigger '{trigger.name}' is for images of 1 or 3 channels"
    with pytest.raises(SettingsError, match=text):
        trigger.mask((4, 32, 32))
    with pytest.raises(SettingsError, match=text):
        trigger.stamp(torch.zeros(1, 4, 32, 32))


@pytest.mark.parametrize("trigger", SOUNDS, ids=short)
def test_what_is_no_sound_is_refused(trigger: Trigger) -> None:
    for other in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, dtype=torch.uint8), torch.zeros(8)):
        text = (
            rf"sound is '{other.dtype} of .*; give float32 in \[-1, 1\] or int16, .* to trigger "
            f"'{trigger.name}', which is for sound"
        )
        with pytest.raises(SettingsError, match=text):
            trigger.stamp(other)
    with pytest.raises(SettingsError, match=f"trigger '{trigger.name}' is for sound"):
        trigger.mask((3, 32, 32))


def test_the_bases_cannot_be_made() -> None:
    bases: tuple[type[object], ...] = (Trigger, ImageTrigger, Overlay, SoundTrigger)
    for base in bases:
        with pytest.raises(TypeError, match="abstract"):
            base()
