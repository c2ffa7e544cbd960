"""Roles: what a set may be used for, and the split that holds a part back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goodnet.data.images import ImageSet
from goodnet.data.roles import (
    CleanData,
    PoisonedData,
    PreparedImages,
    TestData,
    TrainingData,
    require_clean,
)
from goodnet.errors import DataError, SettingsError
from goodnet.formats.specification import InputSpecification

SPECIFICATION = InputSpecification((1, 1, 1))


def numbered(
    labels: list[int], groups: list[int] | None = None, *, label_offset: int = 0
) -> CleanData:
    """Images whose one pixel is their number."""
    count = len(labels)
    images = ImageSet(
        source="numbers",
        size=(1, 1, 1),
        pixels=torch.arange(float(count)).view(-1, 1, 1, 1) / 1000,
        labels=torch.tensor(labels),
        groups=None if groups is None else torch.tensor(groups),
    )
    return CleanData(images, InputSpecification((1, 1, 1), label_offset=label_offset))


def numbers(data: PreparedImages) -> list[int]:
    return [round(1000 * value) for value in data.pixels().flatten().tolist()]


def split(data: CleanData, held_out: float, seed: int = 0) -> tuple[CleanData, CleanData]:
    return data.split(held_out, generator=torch.Generator().manual_seed(seed))


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    held_out=st.floats(0.01, 0.99),
    seed=st.integers(0, 20),
)
def test_a_split_is_a_partition(labels: list[int], held_out: float, seed: int) -> None:
    data = numbered(labels)
    tuning, out = split(data, held_out, seed)
    assert sorted(numbers(tuning) + numbers(out)) == list(range(len(labels)))
    assert len(tuning) >= 1
    assert len(out) >= 1
    # Images keep their labels and their order.
    for part in (tuning, out):
        assert part.labels.tolist() == [labels[number] for number in numbers(part)]
        assert numbers(part) == sorted(numbers(part))
    assert abs(len(out) - held_out * len(labels)) <= 0.5 or 1 in (len(out), len(tuning))
    again = split(data, held_out, seed)
    assert [numbers(part) for part in again] == [numbers(tuning), numbers(out)]


@given(
    counts=st.lists(st.integers(1, 15), min_size=1, max_size=6),
    held_out=st.floats(0.05, 0.5),
    seed=st.integers(0, 20),
)
def test_classes_are_held_out_in_proportion(counts: list[int], held_out: float, seed: int) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    if len(labels) < 4:
        return
    tuning, out = split(numbered(labels), held_out, seed)
    for label, count in enumerate(counts):
        held = int((out.labels == label).sum())
        if len(out) > 1:
            assert abs(held - held_out * count) < 1.0 + 1e-9
        if count >= 2:
            assert (tuning.labels == label).any()


@given(
    groups=st.lists(st.integers(0, 6), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1),
    held_out=st.floats(0.05, 0.95),
    seed=st.integers(0, 20),
)
def test_a_group_is_never_split(groups: list[int], held_out: float, seed: int) -> None:
    tuning, out = split(numbered([group % 3 for group in groups], groups), held_out, seed)
    assert tuning.images.groups is not None
    assert out.images.groups is not None
    assert not set(tuning.images.groups.tolist()) & set(out.images.groups.tolist())
    assert len(tuning) + len(out) == len(groups)


def test_another_seed_holds_out_others() -> None:
    data = numbered([0, 1] * 20)
    assert numbers(split(data, 0.2, 0)[1]) != numbers(split(data, 0.2, 1)[1])


def test_shares_that_end_on_whole_images_are_met_exactly() -> None:
    for count in (10, 1000, 99_995):
        for held_out in (0.2, 0.4, 0.6):
            out = split(numbered([0] * count), held_out)[1]
            assert len(out) == round(held_out * count)


@pytest.mark.parametrize("groups", [None, [7]])
def test_one_image_cannot_be_split(groups: list[int] | None) -> None:
    with pytest.raises(DataError, match="has 1 images in 1 group; give clean data with at least"):
        split(numbered([0], groups), 0.2)


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="numbers: has 5 images in 1 group"):
        split(numbered([0, 1, 2, 0, 1], [3] * 5), 0.2)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(held_out: float) -> None:
    with pytest.raises(SettingsError, match=r"held_out is .*; give a share between 0 and 1"):
        split(numbered([0, 1]), held_out)


def test_only_clean_data_is_clean() -> None:
    data = numbered([0, 1])
    assert require_clean(data) is data
    others: list[object] = [
        PoisonedData(data.images, SPECIFICATION, "set"),
        TestData(data.images, SPECIFICATION),
        TrainingData(data.images, SPECIFICATION),
        PreparedImages(data.images, SPECIFICATION),
        data.images,
        None,
    ]
    for other in others:
        kind = type(other).__name__
        with pytest.raises(TypeError, match=f"a defense takes CleanData only, not {kind}"):
            require_clean(other)


def test_labels_are_class_indices_whatever_the_data_calls_them() -> None:
    data = numbered([1, 2, 3], label_offset=1)
    assert data.labels.tolist() == [0, 1, 2]
    assert [labels.tolist() for _, labels in data.batches(2)] == [[0, 1], [2]]
    assert data.true_labels is None
    images = ImageSet("p", (1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([1]), torch.tensor([3]))
    poisoned = PoisonedData(images, data.specification, "set")
    assert poisoned.true_labels is not None
    assert (poisoned.labels.tolist(), poisoned.true_labels.tolist()) == ([0], [2])


def test_batches_are_prepared_as_the_network_wants_them() -> None:
    specification = InputSpecification((1, 1, 1), range=(0.0, 255.0))
    data = TestData(numbered([0] * 5).images, specification)
    inputs = torch.cat([batch for batch, _ in data.batches(2)])
    assert torch.allclose(inputs.flatten(), torch.arange(5.0) / 1000 * 255)


def test_images_of_another_size_are_refused() -> None:
    expected = "numbers: has images of 1x1x1 but the network takes 3x8x8"
    with pytest.raises(DataError, match=expected):
        TestData(numbered([0]).images, InputSpecification((3, 8, 8)))
