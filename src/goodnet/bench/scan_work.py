"""A cell that scans one network file and compares the labels it flags with the true targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from goodnet.bench.inputs import model_with_clean
from goodnet.bench.work import Figures, Work, WorkSettings, with_counts
from goodnet.errors import SettingsError
from goodnet.results import Rate
from goodnet.scan import ScanSettings, scan
from goodnet.training import Precision


class ScanWorkSettings(WorkSettings):
    """Settings of one scan.

    Attributes:
        network: The network file.
        valid: Clean images, all that the scan is given.
        targets: Labels that the network's backdoors lead to; none of a clean network, nor of
            all-to-all and untargeted backdoors. The scan is not told.
        seed: Of everything the scan draws.
        precision: Of the numbers inside the network.
    """

    network: Path
    valid: Path
    targets: tuple[Annotated[int, Field(ge=0)], ...] = ()
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Precision = ScanSettings.precision


def measure_scan(settings: ScanWorkSettings) -> Sequence[Figures]:
    """Targets found and labels flagged wrongly; whether the network is called backdoored.

    Raises:
        ModelFileError: The network cannot be read.
        DataError: Images cannot be read, or are of another network.
        InputSpecificationError: The network is not fed as it was trained.
        SettingsError: The network has no such label.
    """
    model, clean = model_with_clean(settings.network, settings.valid)
    targets = set(settings.targets)
    own = range(model.specification.label_offset, model.specification.label_offset + model.classes)
    for target in sorted(targets):
        if target not in own:
            raise SettingsError("targets", target, f"the labels go from {own[0]} to {own[-1]}")
    result = scan(
        model.network,
        clean,
        classes=model.classes,
        settings=_scan_settings(settings),
        generator=torch.Generator().manual_seed(settings.seed),
    ).result
    flagged = [each.label for each in result.targets]
    return [
        Figures(
            "labels",
            with_counts(
                found=Rate.of(len(targets.intersection(flagged)), len(targets)),
                false_alarms=Rate.of(len(set(flagged) - targets), model.classes - len(targets)),
            )
            | {"flagged": " ".join(map(str, flagged)), "backdoored": result.backdoored},
        )
    ]


def _scan_settings(settings: ScanWorkSettings) -> ScanSettings:
    return ScanSettings(precision=settings.precision)


def _decided_by(settings: ScanWorkSettings) -> dict[str, Any]:
    return {"scan": asdict(_scan_settings(settings))}


SCAN = Work("scan", ScanWorkSettings, measure_scan, _decided_by)
