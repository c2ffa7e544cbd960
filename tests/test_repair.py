"""Repair: B′, the GoodNet and the record, from clean data alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from goodnet.answers import accuracy_of
from goodnet.data.roles import CleanData, PoisonedData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired
from goodnet.detector import GoodNet, Signs, calibrated
from goodnet.errors import SettingsError
from goodnet.evaluate import attack_success_rate, labels_given
from goodnet.repair import FALSE_ALARMS, repair
from goodnet.results import RepairResult, RiskResult, from_json, to_json
from goodnet.risk import remaining_risk
from goodnet.training import TrainingSettings

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
SETTINGS = DefenseSettings(
    layer="pool", drop=4.0, held_out=0.4, training=TrainingSettings(epochs=2, batch_size=8)
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pruned(
    network: nn.Module,
    clean: CleanData,
    *,
    settings: DefenseSettings = SETTINGS,
    false_alarms: float | None = FALSE_ALARMS,
) -> tuple[Repaired, GoodNet, RepairResult]:
    """Repaired by pruning alone, without an estimate of the risk."""
    return repair(
        network,
        clean,
        classes=3,
        method="prune",
        settings=settings,
        generator=generator(),
        false_alarms=false_alarms,
        with_risk=False,
    )


@pytest.mark.parametrize("method", DEFENSES)
def test_the_record_is_what_was_done(
    lamps: nn.Sequential, clean: CleanData, method: str, untouched: Untouched
) -> None:
    told: list[str] = []
    with untouched(lamps):
        repaired, goodnet, result = repair(
            lamps,
            clean,
            classes=3,
            method=method,
            settings=SETTINGS,
            generator=generator(),
            false_alarms=None,
            with_risk=False,
            progress=lambda what, _done, _total: told.append(what),
        )
    _, held_out = clean.split(0.4, generator=generator())
    assert result.method == method
    assert result.held_out == len(held_out) == 12
    assert result.valid_accuracy_before == accuracy_of(lamps, held_out)
    assert result.valid_accuracy_after == accuracy_of(repaired.network, held_out)
    flagged = labels_given(goodnet, held_out) == 3
    assert (result.false_alarm_rate.count, result.false_alarm_rate.n) == (int(flagged.sum()), 12)
    assert (result.goodnet_threshold, result.goodnet_distance) == (0.0, None)
    assert (result.risk, result.remaining_risk) == (None, None)
    assert result.channels_pruned == sum(len(each.channels) for each in repaired.pruned)
    layers = [each.layer for each in repaired.pruned]
    assert result.layer == (layers[0] if len(layers) == 1 else None)
    assert (result.epochs, result.sparsity, result.stopped) == (
        repaired.epochs,
        repaired.sparsity,
        repaired.stopped,
    )
    assert result.seconds > 0
    assert told


@pytest.mark.parametrize("method", DEFENSES)
def test_the_record_survives_json(lamps: nn.Sequential, clean: CleanData, method: str) -> None:
    result = repair(
        lamps,
        clean,
        classes=3,
        method=method,
        settings=SETTINGS,
        generator=generator(),
        with_risk=method == "prune",
    )[2]
    assert (result.risk is not None) == (method == "prune")
    assert result.goodnet_curve is not None
    # As far off as no held-out image and none of the rest is.
    assert result.goodnet_distance is not None
    (row,) = (row for row in result.goodnet_curve.rows if row.budget == result.goodnet_curve.budget)
    assert row.threshold == result.goodnet_threshold
    assert row.distance == pytest.approx(result.goodnet_distance)
    assert from_json(RepairResult, to_json(result), "memory") == result


def test_the_remaining_risk_is_of_the_held_out_part(
    lamps: nn.Sequential, clean: CleanData, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("goodnet.repair")
    asked: list[CleanData] = []

    def watched(*networks: nn.Module, **how: Any) -> RiskResult:
        asked.append(networks[2])  # type: ignore[arg-type]
        assert networks[0] is lamps
        return remaining_risk(*networks, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "remaining_risk", watched)
    result = repair(
        lamps, clean, classes=3, method="prune", settings=SETTINGS, generator=generator()
    )[2]
    _, held_out = clean.split(0.4, generator=generator())
    assert [data.pixels().tolist() for data in asked] == [held_out.pixels().tolist()]
    assert result.risk is not None
    assert result.remaining_risk == result.risk.remaining_risk
    assert result.remaining_risk.value < 0.1


def test_the_budget_is_one_percent_unless_told_otherwise(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    # So much may be lost that the repaired network disagrees on clean images.
    settings = DefenseSettings(layer="pool", drop=70.0, held_out=0.4)
    result = pruned(lamps, clean, settings=settings)[2]
    curve = result.goodnet_curve
    assert curve is not None
    assert curve.budget == 0.01
    # 1 % of 12 images is less than one.
    assert result.false_alarm_rate.count == 0
    (chosen,) = [row for row in curve.rows if row.budget == curve.budget]
    assert (chosen.threshold, chosen.false_alarm_rate) == (
        result.goodnet_threshold,
        result.false_alarm_rate,
    )


@pytest.mark.parametrize(
    # Where the trigger says the truth nobody disagrees; its features are unlike clean ones too.
    ("false_alarms", "flagged"),
    [(None, 20), (0.01, 30)],
)
def test_pruning_takes_the_backdoor_out(
    lamps: nn.Sequential,
    clean: CleanData,
    poisoned: PoisonedData,
    false_alarms: float | None,
    flagged: int,
) -> None:
    repaired, goodnet, result = pruned(lamps, clean, false_alarms=false_alarms)
    assert repaired.pruned[0].channels[0] == 3
    assert result.valid_accuracy_after.value == 1.0
    assert attack_success_rate(labels_given(lamps, poisoned), poisoned).value == 1.0
    assert attack_success_rate(labels_given(repaired.network, poisoned), poisoned).value == 0.0
    assert int((labels_given(goodnet, poisoned) == 3).sum()) == flagged


@pytest.mark.parametrize(("images", "asks"), [(59, True), (60, False)])
def test_distances_are_asked_for_where_images_are_few(
    lamps: nn.Sequential, clean: CleanData, images: int, asks: bool
) -> None:
    tuned_and_held_out = torch.arange(images + 40) % len(clean)
    many = CleanData(clean.images.select(tuned_and_held_out), clean.specification)
    result = pruned(lamps, many, settings=replace(SETTINGS, held_out=40 / len(many)))[2]
    assert result.held_out == 40
    assert (result.goodnet_distance is not None) == asks


def test_same_seed_same_repair(lamps: nn.Sequential, clean: CleanData) -> None:
    first, again, other = (
        repair(
            lamps,
            clean,
            classes=3,
            method="fine-prune",
            settings=SETTINGS,
            generator=generator(seed),
            with_risk=False,
        )[0].network.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_the_goodnet_is_calibrated_on_the_held_out_part_and_the_rest_on_request(
    lamps: nn.Sequential, clean: CleanData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def watched(goodnet: GoodNet, held_out: Signs, tuned: Signs, *, false_alarms: float) -> GoodNet:
        asked.append((len(held_out.disagreement), len(tuned.disagreement)))
        return calibrated(goodnet, held_out, tuned, false_alarms=false_alarms)

    # `goodnet.repair` is the function; the module of that name is found by its import.
    monkeypatch.setattr(import_module("goodnet.repair"), "calibrated", watched)
    # So much may be lost that the repaired network disagrees on clean images.
    settings = DefenseSettings(layer="pool", drop=70.0, held_out=0.4)
    plain, strict = (
        pruned(lamps, clean, settings=settings, false_alarms=budget) for budget in (None, 0.0)
    )
    assert asked == [(12, len(clean) - 12)]
    assert plain[2].false_alarm_rate.count > 0
    assert plain[2].goodnet_threshold == 0.0
    assert strict[2].false_alarm_rate.count == 0
    assert strict[2].goodnet_threshold > 0
    # What is not flagged is the repaired network's answer, not the suspicious one's.
    given = labels_given(strict[1], clean)
    assert torch.equal(given, labels_given(strict[0].network, clean))
    assert not torch.equal(given, labels_given(lamps, clean))


def test_an_unknown_method_is_answered_with_the_known_ones(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    known = "auto, prune, fine-tune, fine-prune, magnitude"
    with pytest.raises(SettingsError, match=f"method is 'pray'; choose one of: {known}"):
        repair(lamps, clean, classes=3, method="pray", settings=SETTINGS, generator=generator())


def test_a_repair_cannot_be_shown_poisoned_data(
    lamps: nn.Sequential, poisoned: PoisonedData
) -> None:
    names = set(inspect.signature(repair).parameters)
    assert not names & {"poisoned", "test", "trigger", "test_data", "target_label"}
    with pytest.raises(TypeError, match="takes CleanData only"):
        repair(
            lamps,
            poisoned,  # type: ignore[arg-type]
            classes=3,
            method="prune",
            settings=SETTINGS,
            generator=generator(),
        )
