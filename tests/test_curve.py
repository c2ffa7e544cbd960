"""The prune curve: chosen on clean data, shown on any."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from goodnet.curve import PruneSettings, prune_curve
from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.results import PruneResult, from_json, to_json

Untouched = Callable[[nn.Module], AbstractContextManager[None]]


def test_the_curve_of_the_lamps_is_the_one_worked_out_by_hand(
    lamps: nn.Sequential,
    clean: CleanData,
    test_data: TestData,
    poisoned: PoisonedData,
    untouched: Untouched,
) -> None:
    settings = PruneSettings("pool", drops=(0.0, 33.0, 50.0))
    with untouched(lamps):
        result = prune_curve(lamps, clean, settings, test=test_data, poisoned=[poisoned])
    assert (result.layer, result.channels, result.prune_order) == ("pool", 4, "increasing")
    # Lamp 3 sleeps on clean images and carries the backdoor.
    assert result.order == (3, 2, 1, 0)
    assert [row.channels_pruned for row in result.curve] == [0, 1, 2, 3, 4]
    # A dark image is called class 2, so that lamp 2 is not missed.
    assert [row.valid_accuracy.count for row in result.curve] == [30, 30, 30, 20, 10]
    assert [row.clean_accuracy.count for row in result.curve if row.clean_accuracy] == [
        *(24, 24, 24, 16, 8)
    ]
    attacks = [row.attack_success_rate["lamp 3"] for row in result.curve if row.attack_success_rate]
    assert [(rate.count, rate.n) for rate in attacks] == [(20, 20), *[(0, 20)] * 4]
    assert [(row.drop, row.rule, row.channels_pruned) for row in result.thresholds] == [
        (0.0, "at-least", 0),
        (0.0, "within", 2),
        (33.0, "at-least", 3),
        (33.0, "within", 2),
        (50.0, "at-least", 4),
        (50.0, "within", 3),
    ]
    assert result.activations.clean == pytest.approx((1 / 3, 0.25, 0.5 / 3, 0.0), rel=1e-5)
    assert result.activations.triggered["lamp 3"][3] == 1.0
    assert result.seconds > 0
    assert from_json(PruneResult, to_json(result), "memory") == result


def test_columns_without_data_are_absent(lamps: nn.Sequential, clean: CleanData) -> None:
    result = prune_curve(lamps, clean, PruneSettings("pool"))
    assert all(row.clean_accuracy is None for row in result.curve)
    assert all(row.attack_success_rate is None for row in result.curve)
    assert [row.drop for row in result.thresholds] == [2.0, 2.0, 4.0, 4.0, 10.0, 10.0]


def test_the_layer_is_found_where_none_is_named(lamps: nn.Sequential, clean: CleanData) -> None:
    assert prune_curve(lamps, clean, PruneSettings()).layer == "relu"


def test_the_other_order(lamps: nn.Sequential, clean: CleanData) -> None:
    result = prune_curve(lamps, clean, PruneSettings("pool", order="decreasing"))
    assert result.order == (0, 1, 2, 3)
    assert result.prune_order == "decreasing"


def shuffled(data: PoisonedData | TestData) -> Tensor:
    return data.images.labels[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))]


def test_test_and_poisoned_data_decide_nothing(
    lamps: nn.Sequential, clean: CleanData, test_data: TestData, poisoned: PoisonedData
) -> None:
    alone = prune_curve(lamps, clean, PruneSettings("pool"))
    wrong_test = TestData(
        replace(test_data.images, labels=shuffled(test_data)), test_data.specification
    )
    noise = replace(
        poisoned.images,
        pixels=torch.rand(30, 4, 2, 2),
        labels=torch.arange(30) % 3,
        true_labels=None,
    )
    others = [
        (test_data, poisoned),
        (wrong_test, poisoned),
        (test_data, PoisonedData(noise, poisoned.specification, "noise")),
    ]
    for test, attack in others:
        result = prune_curve(lamps, clean, PruneSettings("pool"), test=test, poisoned=[attack])
        assert result.order == alone.order
        assert result.thresholds == alone.thresholds
        assert [row.valid_accuracy for row in result.curve] == [
            row.valid_accuracy for row in alone.curve
        ]


@pytest.mark.parametrize("layer", [None, "pool"])
def test_poisoned_data_in_place_of_clean_is_refused(
    lamps: nn.Sequential, poisoned: PoisonedData, layer: str | None
) -> None:
    with pytest.raises(TypeError, match="takes CleanData only, not PoisonedData"):
        prune_curve(lamps, poisoned, PruneSettings(layer))  # type: ignore[arg-type]


class Undecided(nn.Module):
    def __init__(self, lamps: nn.Sequential) -> None:
        super().__init__()
        self.lamps = lamps[:3]
        self.flatten = nn.Flatten()
        self.output = lamps.get_submodule("output")

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < -1e9:
            x = -x
        out: Tensor = self.output(self.flatten(self.lamps(x)))
        return out


def test_the_slow_way_draws_the_same_curve(
    lamps: nn.Sequential, clean: CleanData, test_data: TestData, poisoned: PoisonedData
) -> None:
    fast = prune_curve(lamps, clean, PruneSettings("pool"), test=test_data, poisoned=[poisoned])
    network = Undecided(lamps).eval()
    slow = prune_curve(network, clean, PruneSettings("lamps"), test=test_data, poisoned=[poisoned])
    assert slow.curve == fast.curve
    assert slow.thresholds == fast.thresholds
    assert slow.activations.triggered == fast.activations.triggered
