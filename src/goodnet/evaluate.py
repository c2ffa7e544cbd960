"""What networks and GoodNets answer to clean and to triggered test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from goodnet.answers import device_of
from goodnet.data.roles import Batches, PoisonedData, TestData
from goodnet.detector import GoodNet, Signs, Thresholds, signs_of, thresholds_within
from goodnet.modes import evaluating
from goodnet.results import FlaggedRow, GoodNetCurve, NetworkRow, PoisonedRow, Rate

# 0 to 20 %.
BUDGETS = tuple(percent / 100 for percent in range(21))


@torch.no_grad()
def labels_given(network: nn.Module, data: Batches) -> Tensor:
    """The label each input gets, int64 (n,); a GoodNet's may be N, "backdoored".

    Args:
        network: A network (scores out) or a GoodNet (label and scores out).
        data: Network inputs.
    """
    device = device_of(network)
    given = []
    with evaluating(network):
        for inputs, _ in data.batches(256):
            answer = network(inputs.to(device))
            given.append((answer[0] if isinstance(answer, tuple) else answer.argmax(1)).cpu())
    return torch.cat(given)


def evaluate_network(
    network: nn.Module,
    test: TestData,
    poisoned: Sequence[PoisonedData],
    *,
    classes: int,
    is_goodnet: bool | None = None,
    name: str = "",
    path: str = "",
) -> NetworkRow:
    """Clean accuracy, false alarms, and what became of each poisoned set.

    Attack success counts the triggered images whose true label is not the target and
    that get the target (see `attack_success_rate`). Where true labels are unknown, all
    images count.

    Args:
        network: A network or a GoodNet.
        test: Clean images.
        poisoned: Triggered images; `labels` is the target.
        classes: N.
        is_goodnet: Whether answers may be N; None looks at the type.
        name: What tables call it.
        path: Its file.
    """
    if is_goodnet is None:
        is_goodnet = isinstance(network, GoodNet)
    clean = labels_given(network, test)
    return NetworkRow(
        name=name,
        path=path,
        kind="goodnet" if is_goodnet else "network",
        clean_accuracy=rate(clean == test.labels),
        false_alarm_rate=rate(clean == classes),
        poisoned=tuple(
            poisoned_row(labels_given(network, data), data, classes) for data in poisoned
        ),
    )


def poisoned_row(given: Tensor, data: PoisonedData, classes: int) -> PoisonedRow:
    """What became of one poisoned set, from the labels its images got."""
    true = data.true_labels
    return PoisonedRow(
        name=data.name,
        attack_success_rate=attack_success_rate(given, data, classes),
        flagged=rate(given == classes),
        recovered_accuracy=None if true is None else rate(given == true),
    )


def attack_success_rate(given: Tensor, data: PoisonedData, classes: int | None = None) -> Rate:
    """Share of the images, whose true label is not the target, that get the target.

    An untargeted attack succeeds where the answer is another class than the right one, and
    not N.

    Args:
        given: The label each image got.
        data: The poisoned set.
        classes: N, where the answers may be N.
    """
    true = data.true_labels
    if true is None:
        return rate(given == data.labels)
    untargeted = data.untargeted
    if untargeted is None:
        untargeted = torch.equal(true, data.labels) and len(true.unique()) > 1
    if untargeted:
        return rate((given != true) & (given != classes))
    return rate((given == data.labels)[true != data.labels])


def goodnet_curve(
    held_out: Signs, tuned: Signs | None = None, *, budget: float | None
) -> GoodNetCurve:
    """What calibrating the GoodNet to each budget of false alarms would flag of held-out images.

    Args:
        held_out: Of clean inputs that neither network was tuned on.
        tuned: Of those that B′ was tuned on; see `goodnet.detector.calibrated`.
        budget: The one it was calibrated to, which is a row too; None for the plain rule.
    """
    budgets = sorted({*BUDGETS, *(() if budget is None else (budget,))})
    chosen = [thresholds_within(each, held_out, tuned) for each in budgets]
    rows = [
        FlaggedRow(
            each,
            thresholds.disagreement,
            rate(held_out.flagged(thresholds)),
            distance=thresholds.distance,
        )
        for each, thresholds in zip(budgets, chosen, strict=True)
    ]
    return GoodNetCurve(budget=budget, rows=tuple(rows))


def measured_curve(
    curve: GoodNetCurve, goodnet: GoodNet, test: TestData, poisoned: Sequence[PoisonedData]
) -> GoodNetCurve:
    """The curve with what its thresholds flag of test and poisoned sets; they choose nothing."""
    clean = signs_of(goodnet, test)
    triggered = {data.name: signs_of(goodnet, data) for data in poisoned}
    rows = []
    for row in curve.rows:
        thresholds = Thresholds(row.threshold, row.distance)
        flagged = {name: rate(signs.flagged(thresholds)) for name, signs in triggered.items()}
        rows.append(
            replace(
                row,
                test_false_alarm_rate=rate(clean.flagged(thresholds)),
                flagged=flagged or None,
            )
        )
    return replace(curve, rows=tuple(rows))


def untargeted_success(clean_accuracy: Rate, triggered_accuracy: Rate) -> float:
    """1 - A_backdoor / A_clean: the share of right answers that an untargeted trigger costs.

    Args:
        clean_accuracy: On clean inputs.
        triggered_accuracy: On the same inputs with the trigger.

    Source: Liu et al. 2018, Fine-Pruning, traffic sign study.
    """
    if clean_accuracy.value == 0.0:
        return 0.0
    return 1.0 - triggered_accuracy.value / clean_accuracy.value


def rate(hits: Tensor) -> Rate:
    """The share of true entries."""
    return Rate.of(int(hits.sum()), len(hits))
