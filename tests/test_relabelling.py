"""Changes that make each label another one are found where there are such, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.probes import Relabellings, Suspect, relabellings
from goodnet.probes.masks import Masks

LABELS = 20
NEXT = (torch.arange(LABELS) + 1) % LABELS


def found_of(network: nn.Module, clean: CleanData, *, seed: int = 0) -> Relabellings:
    return relabellings(
        Suspect(network, clean.specification),
        clean,
        classes=LABELS,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodnet.probes.relabelling._STEPS", 40)
    monkeypatch.setattr("goodnet.probes.relabelling._FURTHER", 5)


def test_the_trigger_and_what_becomes_of_each_label_are_found(
    relabeller: Callable[..., nn.Module], places: CleanData
) -> None:
    network = relabeller()
    found = found_of(network, places).of_backdoors()
    assert len(found) >= 1
    best = int(found.shares.argmax())
    assert float(found.shares[best]) > 0.8
    assert float((found.becomes[best] == NEXT).float().mean()) > 0.8
    images = as_float(places.pixels())
    changed = found.changed(images, best)
    with torch.no_grad():
        said = network(changed).argmax(1)
    led = said == found.becomes[best][places.labels]
    assert float(led.float().mean()) == pytest.approx(float(found.shares[best]))
    # The pattern lies in the corner, where the trigger is.
    moved = (changed - images).abs().mean((0, 1))
    assert float(moved[-4:, -4:].mean()) > 5 * float(moved.mean())


def test_a_network_without_a_backdoor_has_no_small_one(
    relabeller: Callable[..., nn.Module], places: CleanData
) -> None:
    assert not len(found_of(relabeller(pull=0.0), places).of_backdoors())


@pytest.mark.usefixtures("few_steps")
def test_no_label_is_led_to_from_more_than_two_and_none_from_itself(
    relabeller: Callable[..., nn.Module], places: CleanData
) -> None:
    found = found_of(relabeller(pull=0.0), places)
    assert found.becomes.shape == (4, LABELS)
    for each in found.becomes:
        assert int(each.bincount(minlength=LABELS).max()) <= 2
        assert not (each == torch.arange(LABELS)).any()


@pytest.mark.usefixtures("few_steps")
def test_the_same_seed_finds_the_same_and_the_network_stays(
    relabeller: Callable[..., nn.Module], places: CleanData
) -> None:
    network = relabeller()
    before = [weights.clone() for weights in network.parameters()]
    first, again, other = (found_of(network, places, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.numbers, again.numbers)
    assert not torch.equal(first.numbers, other.numbers)
    assert all(map(torch.equal, before, network.parameters()))


@pytest.mark.parametrize(
    ("extent", "share", "counts"),
    [(0.42, 0.41, True), (0.43, 0.9, False), (0.01, 0.4, False)],
)
def test_only_small_changes_that_lead_many_images_are_a_backdoors(
    extent: float, share: float, counts: bool
) -> None:
    probe = Masks((1, 4, 4))
    one = torch.ones(1)
    found = Relabellings(probe, torch.zeros(1, probe.length), NEXT[None], share * one, extent * one)
    assert len(found.of_backdoors()) == counts


def shown(probe: Masks, numbers: Tensor) -> Tensor:
    """What black images become."""
    return probe.change(torch.zeros(len(numbers), *probe.size), numbers)


def test_a_coarse_mask_is_told_by_fewer_numbers_and_is_interpolated() -> None:
    """By hand: logits of the mask go from -50 on the left to 50 on the right, 0 in the middle."""
    probe = Masks((1, 3, 3), grain=2)
    assert probe.length == 2 * 2 * 2
    mask = torch.tensor([[-50.0, 50.0], [-50.0, 50.0]]).flatten()
    numbers = torch.cat([mask, torch.full((4,), 50.0)]).unsqueeze(0)
    assert shown(probe, numbers).view(3, 3).tolist() == [pytest.approx([0.0, 0.5, 1.0])] * 3
    assert float(probe.extent(numbers)) == pytest.approx(0.5)


def test_a_coarse_mask_begins_as_next_to_nothing() -> None:
    probe = Masks((3, 55, 47), grain=4)
    numbers = probe.start(2, generator=torch.Generator().manual_seed(0))
    assert numbers.shape == (2, 4 * 14 * 12)
    assert probe.extent(numbers).tolist() == pytest.approx([0.05, 0.05], abs=0.01)
