"""Poisoning: the right images, the right labels, the right share, and exact books."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import DataError, SettingsError
from goodnet.poison import Poisoned, Poisoning, poison, triggered_set
from goodnet.triggers import Patch, PostIt, Tone, Warp

CLASSES = 4
PATCH = Patch(size=(0.25, 0.25), place=(0.0, 0.0), pattern="solid")
POST_IT = PostIt(size=0.3)


def some_images(count: int = 80, *, dtype: torch.dtype = torch.uint8) -> ImageSet:
    drawn = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9
    pixels = drawn if dtype == torch.float32 else (drawn * 255).to(torch.uint8)
    return ImageSet(
        source="squares",
        size=(3, 8, 8),
        pixels=pixels,
        labels=torch.arange(count) % CLASSES,
        groups=torch.arange(count) // 4,
        class_names=("a", "b", "c", "d"),
    )


def pixels_of(images: ImageSet) -> Tensor:
    return images.pixels[0 : len(images)]


def poisoned_with(
    images: ImageSet, rate: float, *, target: int = 1, seed: int = 0, classes: int = CLASSES
) -> Poisoned:
    return poison(
        images,
        [Poisoning(PATCH, target_label=target, poison_rate=rate)],
        classes=classes,
        generator=torch.Generator().manual_seed(seed),
    )


@given(
    count=st.integers(8, 60),
    rate=st.floats(0.1, 0.4),
    target=st.integers(0, CLASSES - 1),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
)
def test_the_books_are_exact(count: int, rate: float, target: int, dtype: torch.dtype) -> None:
    clean = some_images(count, dtype=dtype)
    before, labels_before = pixels_of(clean).clone(), clean.labels.clone()
    result = poisoned_with(clean, rate, target=target)
    copied = len(result.indices)
    # The input is as it was, and comes first in what comes out.
    assert torch.equal(pixels_of(clean), before)
    assert torch.equal(clean.labels, labels_before)
    assert torch.equal(pixels_of(result.images)[:count], before)
    assert torch.equal(result.images.labels[:count], labels_before)
    # Then come the copies, each once, none of the target's.
    assert len(result.images) == count + copied
    assert result.indices.tolist() == sorted(set(result.indices.tolist()))
    assert (clean.labels[result.indices] != target).all()
    assert torch.equal(pixels_of(result.images)[count:], PATCH.stamp(before[result.indices]))
    assert (result.images.labels[count:] == target).all()
    assert result.images.true_labels is not None
    assert torch.equal(
        result.images.true_labels, torch.cat([labels_before, labels_before[result.indices]])
    )
    assert result.images.groups is not None
    assert clean.groups is not None
    assert torch.equal(result.images.groups[count:], clean.groups[result.indices])
    # No other whole number of copies comes nearer to the rate, k / (n + k).
    assert result.poison_rate == copied / (count + copied)
    off = abs(rate * count / (1 - rate) - copied)
    assert off <= 0.5
    assert result.poisoned.tolist() == [False] * count + [True] * copied


def test_a_tenth_by_hand() -> None:
    result = poisoned_with(some_images(90), 0.1)
    assert len(result.indices) == 10
    assert len(result.images) == 100
    assert result.poison_rate == 0.1
    assert result.images.source == "squares, poisoned with patch"
    assert result.images.class_names == ("a", "b", "c", "d")


def test_rate_0_changes_nothing() -> None:
    clean = some_images()
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    result = poison(clean, [Poisoning(PATCH, 1, 0.0)], classes=CLASSES, generator=generator)
    assert result.images is clean
    assert result.indices.shape == (0,)
    assert result.poison_rate == 0
    assert not result.poisoned.any()
    assert torch.equal(state, generator.get_state())


def test_same_seed_same_choice() -> None:
    clean = some_images()
    first = poisoned_with(clean, 0.2, seed=0).indices
    assert torch.equal(first, poisoned_with(clean, 0.2, seed=0).indices)
    assert not torch.equal(first, poisoned_with(clean, 0.2, seed=1).indices)


def test_the_choice_is_spread_over_the_set() -> None:
    chosen = torch.cat([poisoned_with(some_images(), 0.2, seed=seed).indices for seed in range(30)])
    times = torch.bincount(chosen, minlength=80)
    others = some_images().labels != 1
    assert (times[others] > 0).all()
    assert (times[~others] == 0).all()


def test_several_triggers_each_have_their_books() -> None:
    clean = some_images(85)
    result = poison(
        clean,
        [
            Poisoning(PATCH, target_label=1, poison_rate=0.05),
            Poisoning(POST_IT, target_label=2, poison_rate=0.1, cover_rate=0.1),
        ],
        classes=CLASSES,
        generator=torch.Generator().manual_seed(5),
    )
    # 85 / (1 - 0.25) is 113.3 images in all.
    assert len(result.images) == 85 + 6 + 11 + 11
    assert result.stamped_by.tolist() == [0] * 6 + [1] * 22
    assert result.covers.tolist() == [False] * 17 + [True] * 11
    stamped, labels = pixels_of(result.images)[85:], result.images.labels[85:]
    for copy, number in enumerate(result.indices.tolist()):
        trigger = (PATCH, POST_IT)[int(result.stamped_by[copy])]
        before = pixels_of(clean)[number : number + 1]
        assert torch.equal(stamped[copy : copy + 1], trigger.stamp(before))
    assert labels[:17].tolist() == [1] * 6 + [2] * 11
    assert torch.equal(labels[17:], clean.labels[result.indices[17:]])
    assert result.poisoned.tolist() == [False] * 85 + [True] * 17 + [False] * 11
    assert result.poison_rate == 17 / 113


def with_goal(poisoning: Poisoning, count: int = 80) -> tuple[ImageSet, Poisoned]:
    clean = some_images(count)
    generator = torch.Generator().manual_seed(0)
    return clean, poison(clean, [poisoning], classes=CLASSES, generator=generator)


def test_all_to_all_calls_each_class_the_next() -> None:
    clean, result = with_goal(Poisoning(PATCH, None, 0.4, goal="all-to-all"))
    right = clean.labels[result.indices]
    assert torch.equal(result.images.labels[80:], (right + 1) % CLASSES)
    assert set(right.tolist()) == {0, 1, 2, 3}
    triggered = triggered_set(clean, Poisoning(PATCH, None, goal="all-to-all"), classes=CLASSES)
    assert torch.equal(triggered.labels, (clean.labels + 1) % CLASSES)


def test_untargeted_draws_a_wrong_label_for_each_class() -> None:
    maps = set()
    for seed in range(30):
        clean = some_images()
        result = poison(
            clean,
            [Poisoning(PATCH, None, 0.4, goal="untargeted")],
            classes=CLASSES,
            generator=torch.Generator().manual_seed(seed),
        )
        right, called = clean.labels[result.indices], result.images.labels[80:]
        pairs = set(zip(right.tolist(), called.tolist(), strict=True))
        assert len(pairs) == CLASSES
        assert all(a != b for a, b in pairs)
        maps |= pairs
    assert maps == {(a, b) for a in range(CLASSES) for b in range(CLASSES) if a != b}
    triggered = triggered_set(clean, Poisoning(PATCH, None, goal="untargeted"), classes=CLASSES)
    assert triggered.true_labels is not None
    assert torch.equal(triggered.labels, triggered.true_labels)


def test_a_source_label_stamps_that_class_and_covers_are_of_the_others() -> None:
    specific = Poisoning(PATCH, 1, 0.1, source_label=3, cover_rate=0.2)
    clean, result = with_goal(specific)
    right, called = clean.labels[result.indices], result.images.labels[80:]
    assert (right[~result.covers] == 3).all()
    assert (called[~result.covers] == 1).all()
    assert (right[result.covers] != 3).all()
    assert torch.equal(called[result.covers], right[result.covers])
    triggered = triggered_set(clean, specific, classes=CLASSES)
    assert triggered.true_labels is not None
    assert triggered.true_labels.tolist() == [3] * 20


def test_clean_label_changes_no_label() -> None:
    clean, result = with_goal(Poisoning(PATCH, 2, 0.1, clean_label=True))
    assert (clean.labels[result.indices] == 2).all()
    assert (result.images.labels[80:] == 2).all()
    # What counts is still whether others get the target.
    assert len(triggered_set(clean, Poisoning(PATCH, 2, clean_label=True), classes=CLASSES)) == 60


def test_covers_of_a_warp_are_other_warps() -> None:
    warp = Warp(strength=0.2)
    clean, result = with_goal(Poisoning(warp, 1, 0.1, cover_rate=0.1))
    copies, before = pixels_of(result.images)[80:], pixels_of(clean)[result.indices]
    assert torch.equal(copies[~result.covers], warp.stamp(before)[~result.covers])
    changed = copies[result.covers] != warp.stamp(before)[result.covers]
    assert changed.flatten(1).any(1).all()


def test_a_canvas_is_stamped_in_the_place_of_the_images() -> None:
    clean = some_images()
    canvas = replace(clean, pixels=255 - pixels_of(clean))
    result = poison(
        clean,
        [Poisoning(PATCH, 1, 0.1)],
        classes=CLASSES,
        generator=torch.Generator().manual_seed(0),
        canvas=canvas,
    )
    assert torch.equal(pixels_of(result.images)[:80], pixels_of(clean))
    stamped = PATCH.stamp(pixels_of(canvas)[result.indices])
    assert torch.equal(pixels_of(result.images)[80:], stamped)


def refused(*poisonings: Poisoning, images: ImageSet | None = None) -> str:
    with pytest.raises((SettingsError, DataError)) as caught:
        poison(
            some_images() if images is None else images,
            poisonings,
            classes=CLASSES,
            generator=torch.Generator(),
        )
    return str(caught.value)


def test_what_cannot_be_poisoned_is_refused() -> None:
    patch = Poisoning(PATCH, 1, 0.1)
    assert refused(patch, patch) == (
        "trigger is 'patch'; two triggers have this name; give each its own"
    )
    assert "rates and cover rates together" in refused(
        replace(patch, poison_rate=0.6), replace(patch, name="other", poison_rate=0.4)
    )
    assert refused(Poisoning(Tone(), 1, 0.1)) == (
        "trigger is 'tone'; it is for sound, not for images"
    )
    some = some_images().select((some_images().labels != 1).nonzero().flatten())
    assert refused(patch, images=some) == "target_label is 1; squares has no image of that class"
    assert "none of class 1" in refused(Poisoning(PATCH, None, 0.1, goal="all-to-all"), images=some)
    assert "give clean training images" in refused(
        patch, images=poisoned_with(some_images(), 0.2).images
    )
    large = Poisoning(PostIt(size=1.0), 1, 0.1)
    assert "sticks out of images of 8×8 px" in refused(large)


@pytest.mark.parametrize("target", [4, 43])
def test_a_target_that_is_no_class_is_refused(target: int) -> None:
    text = f"target_label is {target}; there are 4 classes, so give a label from 0 to 3"
    for rate in (0.0, 0.1):
        with pytest.raises(SettingsError, match=text):
            poisoned_with(some_images(), rate, target=target)


def test_rates_that_cannot_be_reached_name_those_that_can() -> None:
    with pytest.raises(SettingsError) as caught:
        poisoned_with(some_images(), 0.5)
    assert str(caught.value) == (
        "poison_rate is 0.5; that is 80 stamped copies beside 80 images of squares, and 60 can "
        "be stamped; give 0 or a rate from 0.012 to 0.43"
    )
    with pytest.raises(SettingsError, match=r"poison_rate is 0.001; that is 0 stamped copies"):
        poisoned_with(some_images(), 0.001)
    assert len(poisoned_with(some_images(), 60 / 140).indices) == 60


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"poison_rate": 1.0}, r"poison_rate is 1.0; give a share in \[0, 1\)"),
        ({"poison_rate": -0.1}, r"poison_rate is -0.1; give a share"),
        ({"poison_rate": float("nan")}, r"poison_rate is nan; give a share"),
        ({"target_label": -1}, r"target_label is -1; give a whole number from 0 up"),
        ({"target_label": 1.0}, r"target_label is 1.0; give a whole number from 0 up"),
        ({"trigger": "patch"}, r"trigger is 'patch'; give a trigger of goodnet.triggers"),
        ({"target_label": None}, r"target_label is None; give a whole number from 0 up"),
        ({"goal": "chaos"}, r"goal is 'chaos'; choose one of: targeted, all-to-all"),
        ({"goal": "untargeted"}, r"target_label is 0; an attack that is untargeted has none"),
        ({"source_label": 0}, r"source_label is 0; give another class than the target"),
        ({"source_label": 1, "clean_label": True}, r"clean_label is True; images keep"),
        ({"cover_rate": 1.5}, r"cover_rate is 1.5; give a share"),
    ],
)
def test_settings_name_their_bad_field(settings: dict[str, object], text: str) -> None:
    good: dict[str, object] = {"trigger": PATCH, "target_label": 0, "poison_rate": 0.1}
    with pytest.raises(SettingsError, match=text):
        Poisoning(**{**good, **settings})  # type: ignore[arg-type]


def test_a_triggered_set_is_everybody_else_stamped() -> None:
    clean = some_images()
    before = pixels_of(clean).clone()
    triggered = triggered_set(clean, Poisoning(PATCH, 2), classes=CLASSES)
    others = clean.labels != 2
    assert len(triggered) == 60
    assert torch.equal(pixels_of(triggered), PATCH.stamp(before[others]))
    assert triggered.labels.tolist() == [2] * 60
    assert triggered.true_labels is not None
    assert torch.equal(triggered.true_labels, clean.labels[others])
    assert triggered.groups is not None
    assert clean.groups is not None
    assert torch.equal(triggered.groups, clean.groups[others])
    assert triggered.source == "squares, stamped with patch"
    assert torch.equal(pixels_of(clean), before)
    assert clean.true_labels is None


def test_a_triggered_set_goes_by_the_true_label() -> None:
    poisoned = poisoned_with(some_images(), 0.2, target=1).images
    triggered = triggered_set(poisoned, Poisoning(PATCH, 1), classes=CLASSES)
    assert triggered.true_labels is not None
    assert (triggered.true_labels != 1).all()
    # The copies are called 1 but are not: they count.
    assert poisoned.true_labels is not None
    assert len(triggered) == int((poisoned.true_labels != 1).sum()) == 80


def test_a_triggered_set_needs_somebody_else() -> None:
    alone = some_images().select(torch.tensor([1, 5]))
    with pytest.raises(DataError, match=r"squares: all 2 images have the target label 1 as"):
        triggered_set(alone, Poisoning(PATCH, 1), classes=CLASSES)
    with pytest.raises(SettingsError, match="target_label is 7; there are 4 classes"):
        triggered_set(alone, Poisoning(PATCH, 7), classes=CLASSES)
    with pytest.raises(DataError, match="squares: no image is of the source class 2"):
        triggered_set(alone, Poisoning(PATCH, 1, source_label=2), classes=CLASSES)
