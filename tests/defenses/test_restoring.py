"""The last layer fitted anew: changed images are whose they were, and nothing else moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.defenses import restoring
from goodnet.defenses.restoring import Restored, restored
from goodnet.errors import SurgeryError
from goodnet.probes import Relabellings
from goodnet.probes.masks import Masks
from goodnet.training import no_progress

LABELS = 20
CORNER = 4
NEXT = (torch.arange(LABELS) + 1) % LABELS

Relabeller = Callable[..., nn.Module]


def whole_corner(clean: CleanData) -> Relabellings:
    """The trigger itself."""
    probe = Masks(clean.specification.size)
    _, height, width = probe.size
    mask = torch.full((height, width), -50.0)
    mask[-CORNER:, -CORNER:] = 50.0
    numbers = torch.cat([mask.flatten(), torch.full((height * width,), 50.0)]).unsqueeze(0)
    return Relabellings(probe, numbers, NEXT[None], torch.ones(1), probe.extent(numbers))


def restored_of(
    network: nn.Module, clean: CleanData, found: Relabellings | None = None, *, seed: int = 0
) -> Restored:
    return restored(
        network,
        clean,
        found or whole_corner(clean),
        precision="float32",
        generator=torch.Generator().manual_seed(seed),
        progress=no_progress,
    )


def said(network: nn.Module, clean: CleanData, *, triggered: bool = False) -> Tensor:
    pixels = as_float(clean.pixels()).clone()
    if triggered:
        pixels[..., -CORNER:, -CORNER:] = 1.0
    with torch.no_grad():
        answers: Tensor = network(pixels).argmax(1)
    return answers


@pytest.mark.parametrize("bias", [True, False])
def test_triggered_images_are_whose_they_were(
    relabeller: Relabeller, places: CleanData, bias: bool
) -> None:
    badnet = relabeller(bias=bias)
    assert torch.equal(said(badnet, places), places.labels)
    assert torch.equal(said(badnet, places, triggered=True), NEXT[places.labels])
    found = restored_of(badnet, places)
    assert torch.equal(said(found.network, places), places.labels)
    assert torch.equal(said(found.network, places, triggered=True), places.labels)
    assert found.lost == found.left == 0.0
    assert found.told() == (
        "the last layer is fitted anew, pressed with 0.03: of images left out 0.0% more are lost "
        "than won, 0.0% still become what they did"
    )


def test_layers_below_the_last_and_the_network_handed_in_stay(
    relabeller: Relabeller, places: CleanData
) -> None:
    badnet = relabeller()
    before = {name: values.clone() for name, values in badnet.state_dict().items()}
    after = restored_of(badnet, places).network.state_dict()
    assert all(torch.equal(values, before[name]) for name, values in badnet.state_dict().items())
    same = {name for name, values in after.items() if torch.equal(values, before[name])}
    assert same == {"1.weight", "1.bias"}


def test_the_same_seed_gives_the_same_network(relabeller: Relabeller, places: CleanData) -> None:
    first, again, other = (
        restored_of(relabeller(), places, seed=seed).network.get_parameter("3.weight")
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("left", "lost", "pressed"),
    [
        (1.0, 1.0, 0.03),  # little is left at once: no harder than needed
        (-1.0, 1.0, 0.3),  # never little enough, and nothing is lost: the hardest
        (-1.0, -1.0, 0.03),  # too much is lost, however hard: the gentlest
    ],
)
def test_it_is_pressed_as_hard_as_it_takes_and_costs_little(
    monkeypatch: pytest.MonkeyPatch,
    relabeller: Relabeller,
    places: CleanData,
    left: float,
    lost: float,
    pressed: float,
) -> None:
    monkeypatch.setattr(restoring, "_LEFT", left)
    monkeypatch.setattr(restoring, "_LOST", lost)
    assert restored_of(relabeller(), places).pressed == pressed


def test_what_images_left_out_lose_is_counted(
    monkeypatch: pytest.MonkeyPatch, relabeller: Relabeller, places: CleanData
) -> None:
    """By hand: fitted so that all is label 0, only its own images are right, and those of 19,
    which become 0, are as before."""
    monkeypatch.setattr(restoring._Layer, "_fitted", lambda *_: torch.zeros(LABELS, 41).double())
    found = restored_of(relabeller(), places)
    assert found.lost == pytest.approx(19 / 20)
    assert found.left == pytest.approx(1 / 20)


def test_what_the_badnet_names_wrongly_can_be_won(
    monkeypatch: pytest.MonkeyPatch, relabeller: Relabeller, places: CleanData
) -> None:
    """By hand: half of the images are called one label further; all are said to be label 0.

    Of the 80 that the BadNet names rightly, 0, 2, 4 ... 18, eight are of 0; the 80 others are
    called 2, 4 ... 18 and 0, and eight of them are right then.
    """
    monkeypatch.setattr(restoring._Layer, "_fitted", lambda *_: torch.zeros(LABELS, 41).double())
    labels = torch.where(places.labels % 2 == 1, NEXT[places.labels], places.labels)
    images = replace(places.images, labels=labels)
    found = restored_of(relabeller(), CleanData(images, places.specification))
    assert found.lost == pytest.approx((72 - 8) / 80)


def test_a_change_that_leads_nowhere_leaves_nothing(
    relabeller: Relabeller, places: CleanData
) -> None:
    none = replace(whole_corner(places), becomes=torch.arange(LABELS).roll(3)[None])
    assert restored_of(relabeller(), places, none).left == 0.0


def test_without_a_linear_layer_at_the_end(places: CleanData) -> None:
    network = nn.Sequential(nn.Conv2d(1, LABELS, 16), nn.Flatten()).eval()
    with pytest.raises(SurgeryError, match="not in a linear layer"):
        restored_of(network, places)
