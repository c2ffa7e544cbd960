"""Pruning: channels that sleep on clean data are where a backdoor can hide.

Source: Liu, Dolan-Gavitt, Garg 2018, Fine-Pruning, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodnet.answers import accuracy_of, rightly_named
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired, check_drop
from goodnet.graph import find_prune_layer, trace
from goodnet.results import LayerChannels, ThresholdRule
from goodnet.surgery import prune_channels
from goodnet.sweep import Sweep, prepare_sweep, sweep_predictions
from goodnet.training import Progress


def prune(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,  # noqa: ARG001
    progress: Progress,
) -> Repaired:
    """The network with dormant channels pruned, as many as the allowed drop lets.

    The order comes from the tuning part; where to stop is read on the held-out part.
    """
    require_clean(held_out)
    size = require_clean(tuning).specification.size
    layer = settings.layer or find_prune_layer(trace(network), size)
    sweep = prepare_sweep(network, layer, tuning, order=settings.order)
    correct, things = correct_by_count(sweep, held_out), accuracy_of(network, held_out).n
    count = channels_for_drop(correct, things, settings.drop, "within")
    progress("pruning", 1, 1)
    channels = sweep.order[:count]
    stopped = f"one channel more would cost over {settings.drop:g} points of held-out accuracy"
    if count == len(sweep.order):
        stopped = f"all {count} channels cost at most {settings.drop:g} points"
    return Repaired(
        prune_channels(network, layer, channels),
        stopped=stopped,
        pruned=(LayerChannels(layer, tuple(channels.tolist())),),
    )


def correct_by_count(sweep: Sweep, data: CleanData) -> Tensor:
    """How many images, or things in them, are named rightly with 0, 1, … K channels pruned.

    int64 (K + 1,).
    """
    if data.images.task is None:
        given, right = sweep_predictions(sweep, data)
        return (given == right).sum(1)
    pruned = (
        prune_channels(sweep.network, sweep.layer, sweep.order[:count])
        for count in range(len(sweep.order) + 1)
    )
    return torch.stack([rightly_named(network, data).sum() for network in pruned])


def channels_for_drop(correct: Tensor, n: int, drop: float, rule: ThresholdRule) -> int:
    """How many channels to prune for a drop of `drop` points of clean accuracy.

    Args:
        correct: Images labelled rightly with 0, 1, … K channels pruned.
        n: Images in all.
        drop: Points (hundredths) below the unpruned network.
        rule: `at-least` gives the first network at or past the drop, or all K if none
            is; `within` the last one before the curve first falls past it.
    """
    check_drop(drop)
    lost = (correct[0] - correct).to(torch.float64) * 100 / n
    # Counts are whole, so a lost share equals the drop exactly or by a wide margin.
    past = lost >= drop - 1e-9 if rule == "at-least" else lost > drop + 1e-9
    first = int(past.to(torch.int64).argmax()) if past.any() else len(correct)
    return min(first, len(correct) - 1) if rule == "at-least" else first - 1
