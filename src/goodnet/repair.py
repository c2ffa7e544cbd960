"""Repair a network with clean data alone: B′ by one of the defenses, and the GoodNet."""

from __future__ import annotations

import time

import torch
from torch import nn

from goodnet.answers import accuracy_of
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired, own_settings
from goodnet.detector import GoodNet, calibrated, signs_of, signs_of_tuned
from goodnet.errors import SettingsError
from goodnet.evaluate import goodnet_curve, labels_given, rate
from goodnet.familiarity import feature_distance
from goodnet.probes import FEW
from goodnet.results import RepairResult
from goodnet.risk import remaining_risk
from goodnet.training import Progress, no_progress

FEW_HELD_OUT = 50
FALSE_ALARMS = 0.01
"""Share of the held-out clean images that a GoodNet may flag, unless told otherwise."""


def repair(
    network: nn.Module,
    clean: CleanData,
    *,
    classes: int,
    method: str,
    settings: DefenseSettings | None = None,
    generator: torch.Generator,
    false_alarms: float | None = FALSE_ALARMS,
    with_risk: bool = True,
    progress: Progress = no_progress,
) -> tuple[Repaired, GoodNet, RepairResult]:
    """B′, the GoodNet of B and B′, and what was measured on held-out clean data.

    Args:
        network: B, left bit-identical.
        clean: D_valid; a part is held out and decides, the rest is tuned on.
        classes: N.
        method: A name in `DEFENSES`.
        settings: Of the defense; None takes the method's own.
        generator: Draws the split and the training order.
        false_alarms: Budget to calibrate the GoodNet to, on the held-out part, and half of it on
            all of D_valid by disagreement and by distance each; None leaves the plain rule.
        with_risk: Whether the remaining risk is estimated too; see `goodnet.risk`.
        progress: Told what is being done.

    Raises:
        SettingsError: No such method.
    """
    if method not in DEFENSES:
        raise SettingsError("method", method, f"choose one of: {', '.join(DEFENSES)}")
    settings = settings or own_settings(method)
    start = time.perf_counter()
    tuning, held_out = require_clean(clean).split(settings.held_out, generator=generator)
    repaired = DEFENSES[method](
        network, tuning, held_out, settings, generator=generator, progress=progress
    )
    # With many images a repair leaves less to see, and false alarms would cost more than it shows.
    few = len(tuning) < FEW * classes
    distance = feature_distance(network, tuning) if few and false_alarms is not None else None
    goodnet = GoodNet(network, repaired.network, distance=distance)
    signs = signs_of(goodnet, held_out), signs_of_tuned(goodnet, tuning)
    if false_alarms is not None:
        goodnet = calibrated(goodnet, *signs, false_alarms=false_alarms)
    seconds = time.perf_counter() - start
    before = accuracy_of(network, held_out)
    risk = None
    if with_risk:
        # Drawn on from where the defense stopped, so that no change is one it was taught.
        risk = remaining_risk(
            network,
            repaired.network,
            held_out,
            classes=classes,
            generator=generator,
            precision=settings.training.precision,
            progress=progress,
        )
    result = RepairResult(
        method=method,
        network="",
        goodnet="",
        held_out=len(held_out),
        valid_accuracy_before=before,
        valid_accuracy_after=accuracy_of(repaired.network, held_out),
        false_alarm_rate=rate(labels_given(goodnet, held_out) == classes),
        goodnet_threshold=float(goodnet.threshold),
        goodnet_distance=None if goodnet.distance is None else float(goodnet.limit),
        channels_pruned=sum(len(each.channels) for each in repaired.pruned),
        layer=repaired.pruned[0].layer if len(repaired.pruned) == 1 else None,
        epochs=repaired.epochs,
        sparsity=repaired.sparsity,
        stopped=repaired.stopped,
        warnings=data_warnings(tuning, held_out),
        remaining_risk=None if risk is None else risk.remaining_risk,
        risk=risk,
        goodnet_curve=goodnet_curve(*signs, budget=false_alarms),
        seconds=seconds,
    )
    return repaired, goodnet, result


def data_warnings(tuning: CleanData, held_out: CleanData) -> tuple[str, ...]:
    """Why held-out figures on these data say less than they seem to."""
    warnings = []
    if len(held_out) < FEW_HELD_OUT:
        warnings.append(f"Only {len(held_out)} images were held out: their figures are coarse.")
    unknown = int((~torch.isin(held_out.labels, tuning.labels)).sum())
    if unknown:
        warnings.append(
            f"{unknown} of {len(held_out)} held-out images are of classes of which no image was "
            "tuned on: tuning may forget such classes. Give several clean images of each class."
        )
    if len(torch.cat([tuning.labels, held_out.labels]).unique()) == 1:
        warnings.append(
            "All clean images have one label. If they are triggered images, nothing here holds."
        )
    return tuple(warnings)
