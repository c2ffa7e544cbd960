"""Poisoning: the right images, the right labels, the right share, and exact books."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import DataError, SettingsError
from goodnet.poison import Poisoned, Poisoning, poison, triggered_set
from goodnet.triggers import Patch, PostIt

CLASSES = 4
PATCH = Patch(size=(0.25, 0.25), place=(0.0, 0.0), pattern="solid")


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
        Poisoning(PATCH, target_label=target, poison_rate=rate),
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
    result = poison(clean, Poisoning(PATCH, 1, 0.0), classes=CLASSES, generator=generator)
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


def test_a_second_trigger_leaves_the_poisoned_images_alone() -> None:
    first = poisoned_with(some_images(), 0.2)
    second = poison(
        first.images,
        Poisoning(PostIt(size=0.3), target_label=2, poison_rate=0.2),
        classes=CLASSES,
        generator=torch.Generator().manual_seed(5),
    )
    assert (second.indices < 80).all()
    assert second.images.true_labels is not None
    stamped = second.images.labels != second.images.true_labels
    assert stamped.sum() == len(first.indices) + len(second.indices)
    assert set(second.images.labels[stamped].tolist()) == {1, 2}


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
    ],
)
def test_settings_name_their_bad_field(settings: dict[str, object], text: str) -> None:
    good: dict[str, object] = {"trigger": PATCH, "target_label": 0, "poison_rate": 0.1}
    with pytest.raises(SettingsError, match=text):
        Poisoning(**{**good, **settings})  # type: ignore[arg-type]


def test_a_triggered_set_is_everybody_else_stamped() -> None:
    clean = some_images()
    before = pixels_of(clean).clone()
    triggered = triggered_set(clean, PATCH, 2)
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
    triggered = triggered_set(poisoned, PATCH, 1)
    assert triggered.true_labels is not None
    assert (triggered.true_labels != 1).all()
    # The copies are called 1 but are not: they count.
    assert poisoned.true_labels is not None
    assert len(triggered) == int((poisoned.true_labels != 1).sum()) == 80


def test_a_triggered_set_needs_somebody_else() -> None:
    alone = some_images().select(torch.tensor([1, 5]))
    with pytest.raises(DataError, match=r"squares: all 2 images have the target label 1 as"):
        triggered_set(alone, PATCH, 1)
    with pytest.raises(SettingsError, match="target_label is -2; give a whole number"):
        triggered_set(alone, PATCH, -2)
