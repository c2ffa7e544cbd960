"""A cell that repairs one network file with one method and measures what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field

from goodnet.bench.inputs import images_for, model_with_clean
from goodnet.bench.work import Figures, Work, WorkSettings, with_counts
from goodnet.data.roles import PoisonedData, TestData
from goodnet.defenses import DEFENSES, DefenseSettings, own_settings
from goodnet.evaluate import attack_success_rate, labels_given, rate
from goodnet.repair import repair
from goodnet.training import Precision


def _known(method: str) -> str:
    if method not in DEFENSES:
        raise ValueError(f"choose from: {', '.join(DEFENSES)}")
    return method


class RepairSettings(WorkSettings):
    """Settings of one repair.

    Attributes:
        network: The network file, B.
        valid: Clean images, all that the repair is given.
        test: Clean images to measure on.
        poisoned: Triggered images to measure on, if there are any.
        method: A name in `DEFENSES`.
        seed: Of everything the repair draws.
        epochs: Of tuning; None leaves it to the method.
        drop: Points of clean accuracy that pruning may cost.
        precision: Of the numbers while tuning.
        risk: Whether the remaining risk is estimated too.
    """

    network: Path
    valid: Path
    test: Path
    poisoned: Path | None = None
    method: Annotated[str, AfterValidator(_known)]
    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int | None = Field(None, ge=1)
    drop: float = Field(DefenseSettings().drop, ge=0, le=100)
    precision: Precision = "float32"
    risk: bool = False


def measure_repair(settings: RepairSettings) -> Sequence[Figures]:
    """Clean accuracy and false alarms, and attack success where there are triggered images.

    Raises:
        ModelFileError: The network cannot be read.
        DataError: Images cannot be read, or are of another network.
        InputSpecificationError: The network is not fed as it was trained.
    """
    model, valid = model_with_clean(settings.network, settings.valid)
    classes, specification = model.classes, model.specification
    repaired, goodnet, result = repair(
        model.network,
        valid,
        classes=classes,
        method=settings.method,
        settings=defense_settings(settings),
        generator=torch.Generator().manual_seed(settings.seed),
        with_risk=settings.risk,
    )
    test = TestData(images_for(settings.test, model), specification)
    networks = (model.network, repaired.network, goodnet)
    before, after, guarded = (labels_given(each, test) for each in networks)
    found = [
        Figures(
            "clean",
            with_counts(
                accuracy_before=rate(before == test.labels),
                accuracy_after=rate(after == test.labels),
                flagged=rate(guarded == classes),
                remaining_risk=result.remaining_risk,
            )
            | {"channels_pruned": result.channels_pruned, "stopped": result.stopped},
        )
    ]
    if settings.poisoned is not None:
        data = PoisonedData(
            images_for(settings.poisoned, model), specification, settings.poisoned.stem
        )
        before, after, guarded = (labels_given(each, data) for each in networks)
        found.append(
            Figures(
                "triggered",
                with_counts(
                    attack_success_before=attack_success_rate(before, data, classes),
                    attack_success_after=attack_success_rate(after, data, classes),
                    attack_success_goodnet=attack_success_rate(guarded, data, classes),
                    flagged=rate(guarded == classes),
                ),
            )
        )
    return found


def defense_settings(settings: RepairSettings) -> DefenseSettings:
    """The method's own settings with what the cell says otherwise."""
    own = own_settings(settings.method)
    training = replace(own.training, precision=settings.precision)
    if settings.epochs is not None:
        training = replace(training, epochs=settings.epochs)
    return replace(own, drop=settings.drop, training=training)


def _decided_by(settings: RepairSettings) -> dict[str, Any]:
    return {"defense": asdict(defense_settings(settings))}


REPAIR = Work("repair", RepairSettings, measure_repair, _decided_by)
