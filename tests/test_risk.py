"""Remaining risk: high while a backdoor is there, low when it is gone, from clean data alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.probes import random_probes, searched_probes
from goodnet.results import RiskResult, from_json, to_json
from goodnet.risk import remaining_risk, unseen_probes
from goodnet.surgery import prune_channels

Untouched = Callable[[nn.Module], AbstractContextManager[None]]


def risk_of(
    badnet: nn.Module, repaired: nn.Module, data: CleanData, *, seed: int = 0
) -> RiskResult:
    return remaining_risk(
        badnet, repaired, data, classes=3, generator=torch.Generator().manual_seed(seed)
    )


def without_lamp_3(lamps: nn.Sequential) -> nn.Module:
    return prune_channels(lamps, "pool", torch.tensor([3]))


def test_it_is_high_with_the_backdoor_and_low_without(
    lamps: nn.Sequential, clean: CleanData, untouched: Untouched
) -> None:
    repaired = without_lamp_3(lamps)
    with untouched(lamps), untouched(repaired):
        kept, mended = (risk_of(lamps, network, clean) for network in (lamps, repaired))
    assert kept.remaining_risk.value > 0.9
    assert mended.remaining_risk.value < 0.1
    # Both were asked about the same changes, which B alone decides.
    assert [row.misled for row in kept.rows] == [row.misled for row in mended.rows]
    assert all(row.remains == row.misled for row in kept.rows)


def test_a_network_without_a_backdoor_has_no_trigger_to_follow(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    mended = without_lamp_3(lamps)
    result = risk_of(mended, mended, clean)
    assert (result.remaining_risk.count, result.remaining_risk.n) == (0, 0)
    assert not [row for row in result.rows if row.source == "searched"]


def test_the_lamp_is_among_the_triggers_reconstructed(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    result = risk_of(lamps, lamps, clean)
    searched = [row for row in result.rows if row.source == "searched"]
    assert any(row.target == 0 and row.misled.value == 1.0 for row in searched)
    assert result.remaining_risk == max((row.remains for row in searched), key=lambda r: r.value)
    # Images of the target do not count: a third of thirty is of class 0.
    assert {row.misled.n for row in searched if row.target == 0} == {20}
    assert {row.misled.n for row in result.rows if row.source != "searched"} == {30}


def test_every_kind_of_change_is_tried(lamps: nn.Sequential, clean: CleanData) -> None:
    rows = risk_of(lamps, lamps, clean).rows
    size = clean.specification.size
    kinds = {"random": random_probes(size), "unseen": unseen_probes(size)}
    for source, probes in kinds.items():
        names = [row.kind for row in rows if row.source == source]
        assert names == [probe.name for probe in probes]
    searched = {row.kind for row in rows if row.source == "searched"}
    assert searched <= {probe.name for probe in searched_probes(size)}


def test_same_seed_same_numbers(lamps: nn.Sequential, clean: CleanData) -> None:
    first, again, other = (risk_of(lamps, lamps, clean, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_it_survives_json(lamps: nn.Sequential, clean: CleanData) -> None:
    result = risk_of(lamps, without_lamp_3(lamps), clean)
    assert from_json(RiskResult, to_json(result), "memory") == result


def test_it_is_made_of_clean_data_only(
    lamps: nn.Sequential, poisoned: PoisonedData, test_data: TestData
) -> None:
    assert not set(inspect.signature(remaining_risk).parameters) & {"poisoned", "test", "trigger"}
    for data in (poisoned, test_data):
        with pytest.raises(TypeError, match="takes CleanData only"):
            risk_of(lamps, lamps, data)  # type: ignore[arg-type]


def test_a_network_that_is_never_right_has_nothing_to_count(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    wrong = without_lamp_3(lamps)
    wrong.get_parameter("output.weight").data.mul_(-1.0)
    wrong.get_parameter("output.bias").data.copy_(torch.tensor([9.0, 0.0, 0.0]))
    never = CleanData(clean.images.select((clean.labels != 0).nonzero()[:, 0]), clean.specification)
    result = risk_of(wrong, lamps, never)
    assert (result.remaining_risk.count, result.remaining_risk.n) == (0, 0)


@pytest.mark.parametrize("size", [(3, 16, 16), (1, 9, 13), (4, 8, 8)])
def test_unseen_kinds_change_images_and_stay_in_range(size: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, *size, generator=generator)
    for probe in unseen_probes(size):
        numbers = probe.draw(40, images, generator=generator)
        assert numbers.shape == (40, probe.length)
        changed = probe.change(images, numbers)
        assert changed.shape == images.shape
        assert changed.min() >= 0.0
        assert changed.max() <= 1.0
        different = (changed - images).abs().flatten(1).amax(1) > 1e-3
        assert different.float().mean() > 0.9, probe.name
