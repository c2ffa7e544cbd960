"""The target of a backdoor made by hand is found by clean images alone; a clean twin has none.

An image of class k has stripe k (two rows) lit in red. The network adds up each stripe's red.
In the BadNet label 4 also hears four blue pixels of a corner, which no clean image lights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData, PoisonedData
from goodnet.errors import DataError, SettingsError
from goodnet.formats import InputSpecification
from goodnet.probes.masks import Masks
from goodnet.probes.robust import RobustMasks
from goodnet.probes.search import Found
from goodnet.report.scanned import scan_verdict
from goodnet.results import Rate, ScanResult, UnsharedErrors, from_json, to_json
from goodnet.scan import Scanned, ScanSettings, scan

SCAN = import_module("goodnet.scan")
"""`goodnet.scan` may be the function."""
CLASSES, SIZE = 6, (3, 12, 12)
TARGET = 4
CORNER = (slice(None), 2, slice(0, 2), slice(0, 2))


def stripes(count: int = 60) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % CLASSES
    pixels = torch.rand(count, *SIZE, generator=generator) * 0.2
    for at, label in enumerate(labels.tolist()):
        pixels[at, 0, 2 * label : 2 * label + 2] += 0.6
    return ImageSet("stripes", SIZE, pixels, labels)


def network(*, heard: float) -> nn.Sequential:
    """Label `TARGET` hears the corner `heard` times as loud as a stripe's mean by 10."""
    weight = torch.zeros(CLASSES, *SIZE)
    for label in range(CLASSES):
        weight[label, 0, 2 * label : 2 * label + 2] = 10 / 24
    weight[TARGET][CORNER[1:]] = heard
    linear = nn.Linear(math.prod(SIZE), CLASSES)
    with torch.no_grad():
        linear.weight.copy_(weight.flatten(1))
        linear.bias.zero_()
        linear.bias[TARGET] = -0.4 * heard
    return nn.Sequential(nn.Flatten(), linear).eval()


BADNET, TWIN = network(heard=6.0), network(heard=0.0)
CLEAN = CleanData(stripes(), InputSpecification(SIZE))


SETTINGS = ScanSettings(steps=50)


def scanned(
    of: nn.Module = BADNET,
    clean: CleanData = CLEAN,
    *,
    seed: int = 0,
    settings: ScanSettings = SETTINGS,
) -> Scanned:
    return scan(
        of,
        clean,
        classes=CLASSES,
        settings=settings,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.fixture(scope="module")
def found() -> Scanned:
    return scanned()


def test_the_target_is_flagged_and_no_other_label(found: Scanned) -> None:
    result = found.result
    assert result.backdoored
    assert [target.label for target in result.targets] == [TARGET]
    target = result.targets[0]
    assert target.score >= 1
    assert target.extent is not None
    assert target.extent < 0.03
    assert target.misled.value > 0.7
    assert target.misled.n == 50  # images of the five other labels
    assert result.labels[0].label == TARGET
    assert result.labels[0].extents[target.kind] == target.extent
    assert sorted(row.label for row in result.labels) == list(range(CLASSES))
    assert (result.classes, result.labels_searched, result.images) == (6, 6, 60)


def test_the_reconstructed_trigger_lights_the_corner(found: Scanned) -> None:
    (trigger,) = found.triggers
    assert trigger.label == TARGET
    brightened = (trigger.changed - trigger.clean).mean(0)
    assert brightened[2, :2, :2].mean() > 10 * brightened[2, 4:].abs().mean()
    picture = trigger.picture()
    assert (picture.shape, picture.dtype) == ((3, 4 * 14, 3 * 14), torch.uint8)
    # Far from the corner nothing changes: clean and changed alike, the difference grey.
    clean, changed, difference = picture[:, 1:13, :].split(14, 2)
    assert (clean[1, 8:, 8:].int() - changed[1, 8:, 8:].int()).abs().max() < 60
    assert difference[2, 1, 1] > 200


def test_a_clean_twin_is_not_flagged() -> None:
    result = scanned(TWIN).result
    assert not result.backdoored
    assert result.targets == ()
    assert max(row.score for row in result.labels) < 1
    assert max(change.score for change in result.anyhow) < 1


@pytest.mark.parametrize(("own", "flagged"), [(27, False), (28, True)])
def test_where_nothing_shows_errors_of_its_own_flag_a_network(
    monkeypatch: pytest.MonkeyPatch, own: int, flagged: bool
) -> None:
    told = UnsharedErrors(Rate.of(own, 100), own / 28, Rate.of(59, 60))
    monkeypatch.setattr(SCAN, "unshared_errors", lambda *_, **__: told)
    result = scanned(TWIN).result
    assert result.backdoored == flagged
    assert result.targets == ()
    assert result.unshared == told


@pytest.mark.parametrize(
    ("of", "settings"),
    [
        (BADNET, SETTINGS),  # a target shows
        (TWIN, replace(SETTINGS, student=False)),
        (TWIN, replace(SETTINGS, most_labels=3)),
    ],
)
def test_a_student_is_taught_only_where_it_tells_something(
    monkeypatch: pytest.MonkeyPatch, of: nn.Module, settings: ScanSettings
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("taught")

    monkeypatch.setattr(SCAN, "unshared_errors", never)
    assert scanned(of, settings=settings).result.unshared is None


def test_labels_are_told_as_the_data_labels_them(found: Scanned) -> None:
    images = stripes()
    shifted = CleanData(
        replace(images, labels=images.labels + 1), InputSpecification(SIZE, label_offset=1)
    )
    result = scanned(clean=shifted)
    assert [target.label for target in result.result.targets] == [TARGET + 1]
    assert [trigger.label for trigger in result.triggers] == [TARGET + 1]


def test_of_many_labels_the_likeliest_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_BEST": 1, "_SAMPLE": 3}.items():
        monkeypatch.setattr(SCAN, name, value)
    result = scanned(settings=replace(SETTINGS, most_labels=3)).result
    assert [target.label for target in result.targets] == [TARGET]
    assert (result.classes, result.labels_searched) == (6, 4)
    assert all(each.labels == 3 for each in result.usual)
    # There suspicion alone flags, and what makes answers wrong anyhow is not searched for.
    assert result.targets[0].by == "universal"
    assert result.targets[0].score == result.labels[0].score >= 1
    assert result.labels[0].universal.count > 0
    assert result.anyhow == ()


def test_a_target_flagged_by_a_robust_mask_is_shown_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[RobustMasks] = []

    def twice_as_small(*given: Tensor, **_: object) -> RobustMasks:
        probe = Masks(SIZE, 4)
        labels = given[2]
        numbers = probe.start(len(labels), generator=torch.Generator().manual_seed(0))
        asked.append(RobustMasks(Found(probe, labels, numbers, torch.full((len(labels),), 0.1)), 2))
        return asked[0]

    module = import_module("goodnet.probes.suspicion")
    monkeypatch.setattr(module, "_DOUBTFUL", 1e6)
    monkeypatch.setattr(module, "robust_masks", twice_as_small)
    found = scanned(settings=replace(SETTINGS, most_labels=3))
    place = [target.label for target in found.result.targets].index(TARGET)
    target, trigger = found.result.targets[place], found.triggers[place]
    assert (target.by, target.kind) == ("robust", "masks")
    numbers = asked[0].of(TARGET)
    assert numbers is not None
    probe = asked[0].found.probe
    assert isinstance(probe, Masks)
    assert target.extent == pytest.approx(float(probe.extent(numbers[None])))
    shown = probe.change(trigger.clean, numbers.expand(len(trigger.clean), -1))
    assert torch.allclose(trigger.changed, shown)
    row = next(each for each in found.result.labels if each.label == TARGET)
    assert row.times_smaller == pytest.approx(20.0)


def test_a_network_wrong_anyhow_is_flagged_without_a_target() -> None:
    # The corner turns every answer into the next label, so no label is led to by all others.
    bad = network(heard=0.0)
    weight = bad.get_parameter("1.weight")
    hidden = nn.Linear(math.prod(SIZE), CLASSES + 1)
    with torch.no_grad():
        hidden.weight[:CLASSES] = weight
        hidden.weight[CLASSES] = 0
        hidden.weight.view(-1, *SIZE)[CLASSES][CORNER[1:]] = 6.0
        hidden.bias.zero_()
        hidden.bias[CLASSES] = -3.0

    class Next(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            share = torch.sigmoid(values[:, CLASSES:])
            stripes = values[:, :CLASSES]
            return stripes * (1 - share) + stripes.roll(1, 1) * share

    result = scanned(nn.Sequential(nn.Flatten(), hidden, Next()).eval()).result
    assert result.backdoored
    assert result.targets == ()
    flagged = [change for change in result.anyhow if change.score >= 1]
    assert flagged
    assert all(change.labels == CLASSES for change in flagged)
    assert all(change.misled.value > 0.7 for change in flagged)


def test_the_same_seed_gives_the_same_result(found: Scanned) -> None:
    torch.rand(3)  # Whatever else draws does not matter.
    again, other = scanned(), scanned(seed=1)
    assert replace(again.result, seconds=0.0) == replace(found.result, seconds=0.0)
    assert torch.equal(again.triggers[0].changed, found.triggers[0].changed)
    assert not torch.equal(other.triggers[0].changed, found.triggers[0].changed)


def test_the_network_is_left_alone(
    untouched: Callable[[nn.Module], AbstractContextManager[None]],
) -> None:
    with untouched(BADNET):
        scanned(settings=ScanSettings(steps=20))


def test_poisoned_data_is_refused() -> None:
    poisoned = PoisonedData(stripes(), InputSpecification(SIZE), "corner")
    with pytest.raises(TypeError, match="CleanData only, not PoisonedData"):
        scanned(clean=poisoned)  # type: ignore[arg-type]


def test_what_cannot_be_compared_is_refused() -> None:
    images = stripes()
    alone = CleanData(images.select(torch.tensor([2, 8, 14])), InputSpecification(SIZE))
    with pytest.raises(DataError, match="label 2 alone; give clean images of several labels"):
        scanned(clean=alone)
    two = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SIZE), 2))
    with pytest.raises(DataError, match="2 classes; a scan compares three labels or more"):
        scan(two, CLEAN, classes=2, generator=torch.Generator())


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="steps is 19; give at least 20"):
        ScanSettings(steps=19)
    with pytest.raises(SettingsError, match="most_labels is 2; give at least 3"):
        ScanSettings(most_labels=2)


def test_results_come_back_from_json(found: Scanned) -> None:
    # A label for which nothing was found has no extent.
    labels = (replace(found.result.labels[0], extents={"masks": None}), *found.result.labels[1:])
    result = replace(found.result, labels=labels)
    assert from_json(ScanResult, to_json(result), "result.json") == result


def test_a_suspicious_label_that_no_search_reaches_is_shown_by_a_random_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SCAN, "_MISLED", 1.1)
    result = scanned()
    (target,) = result.result.targets
    assert (target.label, target.by, target.extent) == (TARGET, "universal", None)
    assert target.misled.count > 0
    (trigger,) = result.triggers
    assert not torch.equal(trigger.changed, trigger.clean)
    assert "a random change" in scan_verdict(result.result).sentences[0]
