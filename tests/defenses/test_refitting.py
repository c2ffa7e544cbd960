"""Rows of the last layer fitted anew: the trigger goes, what is right stays, nothing else moves."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses import refitting
from goodnet.defenses.changes import Evidence
from goodnet.defenses.refitting import (
    _LOST,
    _LOST_AS_PRECAUTION,
    _PRESSED,
    Refitted,
    refitted,
)
from goodnet.errors import SurgeryError
from goodnet.formats.specification import InputSpecification
from goodnet.training import no_progress

SIZE = (4, 2, 2)
LABELS = 3
TRIGGER = 3
"""The lamp that says 0; it is dark in every clean image."""


def lamps(*, pull: float = 10.0, bias: bool = True) -> nn.Module:
    """Features are how bright each of four lamps is; lamp y says y, and the last one 0."""
    layer = nn.Linear(4, LABELS, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(4 * torch.eye(4)[:LABELS])
        layer.weight[0, TRIGGER] = pull
        if bias:
            layer.bias.zero_()
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer).eval()


def images_of(brightness: tuple[float, ...], *, each: int = 8) -> CleanData:
    """As many of each label, whose lamp is more or less as bright as told, the others dim."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(LABELS * each) % LABELS
    lit = 0.1 * torch.rand(len(labels), 4, generator=generator)
    lit[torch.arange(len(labels)), labels] += torch.tensor(brightness)[labels]
    lit[:, TRIGGER] = 0.0
    pixels = lit.view(-1, 4, 1, 1).expand(-1, *SIZE).clone()
    return CleanData(ImageSet("lamps", SIZE, pixels, labels), InputSpecification(SIZE))


BRIGHT = (0.8, 0.7, 0.6)


def evidence(*unlearned: int, suspicious: bool = True) -> Evidence:
    chosen = torch.isin(torch.arange(LABELS), torch.tensor(unlearned))
    none = torch.zeros(LABELS).bool()
    labels = (chosen, none) if suspicious else (none, chosen)
    return Evidence((), torch.zeros(0), chosen.float(), *labels)


Led = tuple[Tensor, Tensor]


def to_0(features: Tensor) -> Led:
    """Images with these features get label 0 wrongly."""
    return torch.zeros(len(features), dtype=torch.int64), features


Fit = Callable[..., Refitted]


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Where images are led astray by the trigger."""

    def led(_suspect: object, _features: object, clean: CleanData, *_: object) -> Led:
        others = clean.pixels()[clean.labels != 0]
        lit = others.flatten(2).mean(2)
        lit[:, TRIGGER] = 1.0
        return to_0(lit)

    monkeypatch.setattr(refitting, "_led", led)

    def fitted(
        network: nn.Module,
        clean: CleanData,
        *unlearned: int,
        suspicious: bool = True,
        seed: int = 0,
    ) -> Refitted:
        return refitted(
            network,
            clean,
            evidence(*(unlearned or (0,)), suspicious=suspicious),
            precision="float32",
            generator=torch.Generator().manual_seed(seed),
            progress=no_progress,
        )

    return fitted


def said(network: nn.Module, clean: CleanData, *, triggered: bool = False) -> Tensor:
    pixels = clean.pixels().clone()
    if triggered:
        pixels[:, TRIGGER] = 1.0
    with torch.no_grad():
        answers: Tensor = network(pixels).argmax(1)
    return answers


@pytest.mark.parametrize("bias", [True, False])
def test_the_trigger_is_not_followed_and_clean_images_are_right(fit: Fit, bias: bool) -> None:
    badnet, clean = lamps(bias=bias), images_of(BRIGHT)
    assert (said(badnet, clean, triggered=True) == 0).all()
    found = fit(badnet, clean)
    assert torch.equal(said(found.network, clean), clean.labels)
    others = clean.labels != 0
    assert torch.equal(said(found.network, clean, triggered=True)[others], clean.labels[others])
    assert found.labels.tolist() == [0]
    assert found.lost.tolist() == [0.0]
    assert found.bearable.all()
    assert f"that of 0 pressed with {found.pressed.item():g} (0% of" in found.told()


@pytest.mark.parametrize(
    ("left", "pressed"), [(0.0, _PRESSED[0]), (0.03, 1.0), (0.1, 0.3), (1.0, _PRESSED[-1])]
)
def test_a_label_is_pressed_no_harder_than_needed(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, left: float, pressed: float
) -> None:
    monkeypatch.setattr(refitting, "_LEFT", left)
    found = fit(lamps(), images_of(BRIGHT))
    assert found.pressed.tolist() == [pressed]


def test_other_rows_and_the_badnet_stay_as_they_are(fit: Fit) -> None:
    badnet = lamps()
    before = copy.deepcopy(badnet.state_dict())
    repaired = fit(badnet, images_of(BRIGHT)).network.state_dict()
    for name, weights in badnet.state_dict().items():
        assert torch.equal(weights, before[name])
        assert torch.equal(weights[1:], repaired[name][1:])
        assert not torch.equal(weights[0], repaired[name][0])


def test_the_same_seed_gives_the_same_rows(fit: Fit) -> None:
    first, again = (fit(lamps(), images_of(BRIGHT)).network for _ in range(2))
    other = fit(lamps(), images_of(BRIGHT), seed=1).network
    assert torch.equal(first.get_parameter("2.weight"), again.get_parameter("2.weight"))
    assert not torch.equal(first.get_parameter("2.weight"), other.get_parameter("2.weight"))


def look_alike(monkeypatch: pytest.MonkeyPatch) -> CleanData:
    """What leads astray looks as some clean images of label 0 do."""
    clean = images_of((0.27, 0.7, 0.6))
    own = clean.pixels()[clean.labels == 0].flatten(2).mean(2)
    monkeypatch.setattr(refitting, "_led", lambda *_: to_0(own))
    return clean


def test_where_pressing_costs_the_labels_own_images_it_is_gentler(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = look_alike(monkeypatch)
    found = fit(lamps(), clean)
    assert found.pressed[0] < _PRESSED[0]
    assert 0.0 < found.lost[0] <= _LOST
    assert found.bearable.all()
    right = said(found.network, clean) == clean.labels
    assert int((~right).sum()) <= _LOST * int((clean.labels == 0).sum())


def test_where_nothing_points_to_a_label_it_may_cost_less(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = look_alike(monkeypatch)
    hard, gentle = (fit(lamps(), clean, suspicious=each) for each in (True, False))
    assert gentle.pressed[0] < hard.pressed[0]
    assert gentle.lost[0] <= _LOST_AS_PRECAUTION < hard.lost[0]


def test_what_costs_too_much_however_gently_is_told(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refitting, "_PRESSED", (1.0, 0.9))
    found = fit(lamps(), look_alike(monkeypatch), suspicious=False)
    assert found.pressed.tolist() == [0.9]
    assert found.lost[0] > _LOST_AS_PRECAUTION
    assert not found.bearable.any()


def test_each_label_is_pressed_as_hard_as_it_bears(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label 0 looks as what leads there does, label 1 does not."""
    monkeypatch.setattr(refitting, "_LEFT", 0.0)
    clean = look_alike(monkeypatch)
    own = clean.pixels()[clean.labels == 0].flatten(2).mean(2)
    trigger = torch.tensor([[0.1, 0.1, 0.7, 1.0]])
    led = torch.cat([torch.zeros(len(own)), torch.ones(1)]).long(), torch.cat([own, trigger])
    monkeypatch.setattr(refitting, "_led", lambda *_: led)
    found = fit(lamps(), clean, 0, 1)
    assert found.labels.tolist() == [0, 1]
    assert found.pressed[0] < found.pressed[1] == _PRESSED[0]


def test_without_an_image_of_its_own_a_label_is_pressed_hard(fit: Fit) -> None:
    clean = images_of(BRIGHT)
    others = (clean.labels != 0).nonzero().flatten()
    images = ImageSet("others", SIZE, clean.pixels()[others], clean.labels[others])
    found = fit(lamps(), CleanData(images, InputSpecification(SIZE)))
    assert found.lost.isnan().all()
    assert "nothing tells what that costs" in found.told()
    assert found.pressed.tolist() == [_PRESSED[0]]
    assert not found.bearable.any()
    assert torch.equal(said(found.network, clean, triggered=True)[others], clean.labels[others])


def test_where_nothing_leads_astray_the_badnets_rows_stay(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refitting, "_led", lambda *_: to_0(torch.zeros(0, 4)))
    badnet = lamps()
    found = fit(badnet, images_of(BRIGHT))
    kept = found.network.get_parameter("2.weight")
    assert torch.allclose(kept, badnet.get_parameter("2.weight"), atol=1e-3)


def test_logits_are_lowered_by_half_of_the_least_margin_of_images_left_out(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is pressed, images left out have the margins the BadNet gives them."""
    monkeypatch.setattr(refitting, "_led", lambda *_: to_0(torch.zeros(0, 4)))
    badnet, clean = lamps(), images_of(BRIGHT)
    with torch.no_grad():
        logits = badnet(clean.pixels())[clean.labels == 0]
    least = float((logits[:, 0] - logits[:, 1:].amax(1)).min())
    found = fit(badnet, clean)
    assert found.network.get_parameter("2.bias")[0].item() == pytest.approx(-least / 2, abs=1e-2)


def test_each_label_counts_alike_however_many_images_are_led_there(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many repeated images led to label 0 press no harder than one."""
    one = torch.tensor([[0.1, 0.7, 0.1, 1.0]])
    rows = []
    for times in (1, 50):
        monkeypatch.setattr(refitting, "_led", lambda *_, n=times: to_0(one.repeat(n, 1)))
        rows.append(fit(lamps(), images_of(BRIGHT)).network.get_parameter("2.weight"))
    assert torch.allclose(rows[0], rows[1], atol=1e-3)


def test_a_last_layer_without_bias_gets_none(fit: Fit) -> None:
    network = fit(lamps(bias=False), images_of(BRIGHT)).network
    assert [name for name, _ in network.named_parameters()] == ["2.weight"]


def test_changes_that_lead_astray_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By pursuit alone: no random change is told of."""
    monkeypatch.setattr(refitting, "_PURSUED", 20)
    steps: list[int] = []
    badnet, clean = lamps(pull=30.0), images_of(BRIGHT)
    found = refitted(
        badnet,
        clean,
        evidence(0),
        precision="float32",
        generator=torch.Generator().manual_seed(0),
        progress=lambda _what, step, _of: steps.append(step),
    )
    assert steps == list(range(1, 21))
    assert found.network.get_parameter("2.weight")[0, TRIGGER].item() < 0.5 * 30.0


def test_a_network_that_does_not_end_linearly_is_refused(fit: Fit) -> None:
    with pytest.raises(SurgeryError, match="not in a linear layer"):
        fit(nn.Sequential(nn.Conv2d(4, LABELS, 2), nn.Flatten()).eval(), images_of(BRIGHT))
