"""The prune curve with its thresholds: chosen on clean data, shown on any."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from goodnet.activations import PruneOrder, check_order
from goodnet.data.roles import Batches, CleanData, PoisonedData, TestData, require_clean
from goodnet.defenses.prune import channels_for_drop
from goodnet.defenses.repaired import check_drop
from goodnet.evaluate import attack_success_rate, rate
from goodnet.graph import find_prune_layer, trace
from goodnet.results import ChannelActivations, CurveRow, PruneResult, ThresholdRow
from goodnet.sweep import (
    Sweep,
    channel_means,
    plain_predictions,
    prepare_sweep,
    sweep_predictions,
)

DROPS = (2.0, 4.0, 10.0)


@dataclass(frozen=True)
class PruneSettings:
    """Settings of a prune curve.

    Attributes:
        layer: Layer to prune; None finds it.
        order: Order in which channels are pruned.
        drops: Points of clean accuracy for which networks are chosen.
    """

    layer: str | None = None
    order: PruneOrder = "increasing"
    drops: tuple[float, ...] = DROPS

    def __post_init__(self) -> None:
        check_order(self.order)
        for drop in self.drops:
            check_drop(drop)


def prune_curve(
    network: nn.Module,
    clean: CleanData,
    settings: PruneSettings,
    *,
    test: TestData | None = None,
    poisoned: Sequence[PoisonedData] = (),
) -> PruneResult:
    """The prune curve of one layer.

    The order and the thresholds come from `clean` alone; pruning fits nothing to its
    labels, so all of it serves both. Test and poisoned sets only add columns.

    Args:
        network: Left bit-identical.
        clean: D_valid.
        settings: What to prune.
        test: Clean test images, for the column `clean_accuracy`.
        poisoned: Triggered images, for the columns `attack_success_rate`.
    """
    start = time.perf_counter()
    size = require_clean(clean).specification.size
    layer = settings.layer or find_prune_layer(trace(network), size)
    sweep = prepare_sweep(network, layer, clean, order=settings.order)
    given, right = _predictions(sweep, clean, own=True)
    valid = given == right
    accuracy = None
    if test is not None:
        answers, labels = _predictions(sweep, test)
        accuracy = answers == labels
    attacked = [(data, _predictions(sweep, data)[0]) for data in poisoned]
    rows = tuple(
        CurveRow(
            channels_pruned=count,
            valid_accuracy=rate(valid[count]),
            clean_accuracy=None if accuracy is None else rate(accuracy[count]),
            attack_success_rate={
                data.name: attack_success_rate(answers[count], data) for data, answers in attacked
            }
            or None,
        )
        for count in range(len(sweep.order) + 1)
    )
    correct = valid.sum(1)
    thresholds = tuple(
        ThresholdRow(drop, rule, channels_for_drop(correct, len(clean), drop, rule))
        for drop in settings.drops
        for rule in ("at-least", "within")
    )
    activations = ChannelActivations(
        clean=_rounded(sweep.means),
        triggered={data.name: _rounded(_means(sweep, data)) for data in poisoned},
    )
    return PruneResult(
        layer=layer,
        channels=len(sweep.order),
        prune_order=settings.order,
        order=tuple(sweep.order.tolist()),
        curve=rows,
        thresholds=thresholds,
        activations=activations,
        seconds=time.perf_counter() - start,
    )


def _predictions(sweep: Sweep, data: Batches, *, own: bool = False) -> tuple[Tensor, Tensor]:
    if sweep.outputs is None:
        return plain_predictions(sweep, data)
    return sweep_predictions(sweep, None if own else data)


def _means(sweep: Sweep, data: Batches) -> Tensor:
    return channel_means(sweep.network, sweep.layer, data)[0]


def _rounded(means: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in means.tolist())
