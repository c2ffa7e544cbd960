"""Evaluation against counts made by hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import PoisonedData, TestData
from goodnet.detector import GoodNet
from goodnet.evaluate import (
    attack_success_rate,
    evaluate_network,
    labels_given,
    poisoned_row,
    untargeted_success,
)
from goodnet.formats.specification import InputSpecification
from goodnet.results import Rate
from goodnet.surgery import prune_channels

Untouched = Callable[[nn.Module], AbstractContextManager[None]]


def poisoned_of(
    target: list[int], true: list[int] | None, *, label_offset: int = 0
) -> PoisonedData:
    images = ImageSet(
        source="by hand",
        size=(1, 1, 1),
        pixels=torch.zeros(len(target), 1, 1, 1),
        labels=torch.tensor(target) + label_offset,
        true_labels=None if true is None else torch.tensor(true) + label_offset,
    )
    return PoisonedData(images, InputSpecification((1, 1, 1), label_offset=label_offset), "set")


@pytest.mark.parametrize("label_offset", [0, 1])
def test_a_poisoned_set_by_hand(label_offset: int) -> None:
    # Three classes; the target is 0. Answers: hit, hit but that is right, N, right, wrong.
    data = poisoned_of([0, 0, 0, 0, 0], [1, 0, 2, 2, 1], label_offset=label_offset)
    row = poisoned_row(torch.tensor([0, 0, 3, 2, 2]), data, classes=3)
    assert row.name == "set"
    # The second image, whose true label is the target, does not count.
    assert (row.attack_success_rate.count, row.attack_success_rate.n) == (1, 4)
    assert (row.flagged.count, row.flagged.n) == (1, 5)
    assert row.recovered_accuracy is not None
    assert (row.recovered_accuracy.count, row.recovered_accuracy.n) == (2, 5)


def test_without_true_labels_all_images_count() -> None:
    data = poisoned_of([0, 0, 0], None)
    row = poisoned_row(torch.tensor([0, 0, 1]), data, classes=3)
    assert (row.attack_success_rate.count, row.attack_success_rate.n) == (2, 3)
    assert row.recovered_accuracy is None


def test_every_image_may_have_its_own_target() -> None:
    data = poisoned_of([1, 2, 0], [0, 1, 2])
    assert attack_success_rate(torch.tensor([1, 2, 2]), data).count == 2


def test_where_labels_are_the_true_ones_any_wrong_answer_is_a_success() -> None:
    data = poisoned_of([0, 1, 2], [0, 1, 2])
    row = poisoned_row(torch.tensor([0, 2, 3]), data, classes=3)
    # The third is flagged, which is no success.
    assert (row.attack_success_rate.count, row.attack_success_rate.n) == (1, 3)
    assert untargeted_success(Rate.of(8, 10), Rate.of(2, 10)) == pytest.approx(0.75)
    assert untargeted_success(Rate.of(0, 10), Rate.of(0, 10)) == 0.0


def test_a_set_of_the_target_class_alone_says_nothing() -> None:
    rate = attack_success_rate(torch.tensor([0, 0]), poisoned_of([0, 0], [0, 0]))
    assert (rate.count, rate.n, rate.interval) == (0, 0, (0.0, 1.0))


def test_a_badnet_and_its_goodnet(
    lamps: nn.Sequential, test_data: TestData, poisoned: PoisonedData, untouched: Untouched
) -> None:
    repaired = prune_channels(lamps, "pool", torch.tensor([3]))
    goodnet = GoodNet(lamps, repaired)
    with untouched(lamps), untouched(goodnet):
        rows = [
            evaluate_network(network, test_data, [poisoned], classes=3, name=name, path="p")
            for name, network in (("B", lamps), ("B′", repaired), ("G", goodnet))
        ]
    assert [(row.name, row.path, row.kind) for row in rows] == [
        ("B", "p", "network"),
        ("B′", "p", "network"),
        ("G", "p", "goodnet"),
    ]
    assert [row.clean_accuracy.count for row in rows] == [24, 24, 24]
    assert [row.false_alarm_rate.count for row in rows] == [0, 0, 0]
    # Of 30 triggered images twenty are not of the target class.
    attacks = [row.poisoned[0].attack_success_rate for row in rows]
    assert [(rate.count, rate.n) for rate in attacks] == [(20, 20), (0, 20), (0, 20)]
    assert [row.poisoned[0].flagged.count for row in rows] == [0, 0, 20]
    recovered = [row.poisoned[0].recovered_accuracy for row in rows]
    assert [rate.count for rate in recovered if rate is not None] == [10, 30, 10]


def test_false_alarms_are_counted_on_clean_images(
    lamps: nn.Sequential, test_data: TestData
) -> None:
    # Without lamp 1 the repaired network calls class 1 class 2.
    goodnet = GoodNet(lamps, prune_channels(lamps, "pool", torch.tensor([1])))
    row = evaluate_network(goodnet, test_data, [], classes=3)
    assert (row.false_alarm_rate.count, row.false_alarm_rate.n) == (8, 24)
    assert row.clean_accuracy.count == 16
    assert row.poisoned == ()


def test_a_file_may_say_that_it_is_a_goodnet(lamps: nn.Sequential, test_data: TestData) -> None:
    assert evaluate_network(lamps, test_data, [], classes=3, is_goodnet=True).kind == "goodnet"


def test_a_network_in_training_is_asked_in_evaluation_and_left_in_training(
    test_data: TestData, untouched: Untouched
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 3)).train()
    with untouched(network):
        given = labels_given(network, test_data)
    assert torch.equal(given, labels_given(network, test_data))
    assert torch.equal(given, network.eval()(test_data.pixels()).argmax(1))
