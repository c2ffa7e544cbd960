"""One cell of the bench: one network of the zoo, repaired by one method, then measured.

The triggered test images are stamped again from the manifest that the attack wrote, so no set
has to lie beside the network. The repair is given clean validation images and nothing else;
test images are read when it is over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from goodnet.bench.inputs import images_for
from goodnet.bench.zoo import CLEAN
from goodnet.cases import set_path
from goodnet.data.roles import Batches, CleanData, PoisonedData, TestData
from goodnet.defenses import DefenseSettings, own_settings
from goodnet.detector import GoodNet
from goodnet.errors import DataError, GoodnetError, SettingsError
from goodnet.evaluate import attack_success_rate, labels_given, rate
from goodnet.formats import read_model
from goodnet.formats.model import network_suffix
from goodnet.poison import Poisoning, triggered_set
from goodnet.repair import FALSE_ALARMS, repair
from goodnet.results import AttackResult, Cell, CellResult, CellTrigger, from_json
from goodnet.runs import file_hash, make_manifest, read_run
from goodnet.training import Precision, Progress, no_progress
from goodnet.triggers import trigger_from_dict

SETS = ("valid", "test")
_ZOO = "give a run of the zoo: ZOO/NETWORK/MEMBER/seed-N"


@dataclass(frozen=True)
class CellTask:
    """One network of the zoo, to be repaired by one method.

    Attributes:
        run: Its run folder, ZOO/NETWORK/MEMBER/seed-N.
        data: Folder with the images.
        method: A name in `DEFENSES`.
        repair_seed: Of everything the repair draws.
        precision: Of the numbers while tuning.
        file: Where the cell is written.
        risk: Whether the repair estimates the remaining risk too.
        device: On which it is made; as the number of threads, no setting of the cell.
    """

    run: Path
    data: Path
    method: str
    repair_seed: int
    precision: Precision
    file: Path
    risk: bool = True
    device: str = "cpu"

    @property
    def member(self) -> str:
        """Which attack."""
        return self.run.parent.name

    @property
    def seed(self) -> int:
        """Of the network."""
        return int(self.run.name.removeprefix("seed-"))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The whole command line behind `goodnet`."""
        return (
            *("bench", "cell", str(self.run), str(self.data), "--method", self.method),
            *("--seed", str(self.repair_seed), "--precision", self.precision),
            *("--out", str(self.file), "--device", self.device),
            *(() if self.risk else ("--no-risk",)),
        )

    def result(self, data: Mapping[str, str]) -> CellResult | None:
        """What was measured, if it is there, made with these settings and inputs.

        Args:
            data: SHA-256 of the valid and test set, by role.
        """
        try:
            cell = from_json(Cell, self.file.read_bytes(), self.file)
            badnet = open_badnet(self.run)
            inputs = {role: file_hash(path)["sha256"] for role, path in badnet.files.items()}
            made_of = {role: entry["sha256"] for role, entry in cell.manifest["inputs"].items()}
            settings = cell_settings(badnet, self.method, self.precision, risk=self.risk)
            same = (
                cell.manifest["settings"] == settings
                and cell.manifest["seed"] == self.repair_seed
                and made_of == {**inputs, **data}
            )
        except (OSError, KeyError, TypeError, AttributeError, GoodnetError):
            return None
        return cell.result if same else None


@dataclass(frozen=True)
class ZooBadNet:
    """A network of the zoo as its run folder tells of it.

    Attributes:
        member: Which attack.
        network: Architecture, and width where it is not the usual one.
        seed: It was made with.
        files: The network (`badnet`) and its clean twin (`twin`), which of a clean one is
            itself.
        poisonings: What was asked for, as the manifest has it.
        test: SHA-256 of the test images that its attack was measured on.
    """

    member: str
    network: str
    seed: int
    files: dict[str, Path]
    poisonings: Sequence[Mapping[str, Any]]
    test: str


def open_badnet(run: Path) -> ZooBadNet:
    """What the run folder ZOO/NETWORK/MEMBER/seed-N holds.

    Raises:
        DataError: It is no run of an attack, or is damaged.
    """
    run = run.resolve()
    manifest, result = read_run(run)
    if not isinstance(result, AttackResult):
        raise DataError(run, "is no run of goodnet attack", _ZOO)
    name = f"badnet{network_suffix(result.architecture)}"
    try:
        return ZooBadNet(
            member=run.parent.name,
            network=run.parents[1].name,
            seed=manifest["seed"],
            files={"badnet": run / name, "twin": run.parents[1] / CLEAN / run.name / name},
            poisonings=manifest["settings"]["poisonings"],
            test=manifest["inputs"]["test"]["sha256"],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(run, "has a manifest without poisonings or test images", _ZOO) from error


def cell_settings(
    badnet: ZooBadNet, method: str, precision: Precision, *, risk: bool
) -> dict[str, Any]:
    """Whatever decides a cell beside files and seed, as JSON has it."""
    settings = {
        "method": method,
        "defense": asdict(_defense_settings(method, precision)),
        "false_alarms": FALSE_ALARMS,
        "risk": risk,
        "poisonings": list(badnet.poisonings),
    }
    as_json: dict[str, Any] = json.loads(json.dumps(settings))
    return as_json


def _defense_settings(method: str, precision: Precision) -> DefenseSettings:
    own = own_settings(method)
    return replace(own, training=replace(own.training, precision=precision))


def data_hashes(data: Path) -> dict[str, str]:
    """SHA-256 of the valid and the test set in the folder `data`, by role."""
    return {role: file_hash(_path(data, role))["sha256"] for role in SETS}


def make_cell(
    run: Path,
    data: Path,
    *,
    method: str,
    seed: int,
    precision: Precision,
    risk: bool = True,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Cell:
    """One network of the zoo, repaired by one method, and what test images show afterwards.

    Args:
        run: Run folder of the network, ZOO/NETWORK/MEMBER/seed-N; the clean twin lies at
            ZOO/NETWORK/clean/seed-N.
        data: Folder with the images the zoo was made of.
        method: A name in `DEFENSES`.
        seed: Of everything the repair draws.
        precision: Of the numbers while tuning.
        risk: Whether the repair estimates the remaining risk too.
        device: On which it is made.
        progress: Told what is being done.

    Raises:
        DataError: The run or the images are not there, damaged, or do not belong together.
        ModelFileError: So with a network.
    """
    badnet = open_badnet(run)
    manifest = make_manifest(
        "bench cell",
        title=f"{badnet.network}, {badnet.member}, seed {badnet.seed}: {method}",
        seed=seed,
        settings=cell_settings(badnet, method, precision, risk=risk),
        inputs={**badnet.files, **{role: _path(data, role) for role in SETS}},
    )
    if manifest["inputs"]["test"]["sha256"] != badnet.test:
        raise DataError(data, f"has other test images than {run}", "give the data of the zoo")
    manifest["machine"]["device"] = device
    model, twin = (read_model(badnet.files[role]) for role in ("badnet", "twin"))
    for each in (model, twin):
        each.network.to(device)
    classes = model.classes
    repaired, goodnet, result = repair(
        model.network,
        CleanData(images_for(_path(data, "valid"), model), model.specification),
        classes=classes,
        method=method,
        settings=_defense_settings(method, precision),
        generator=torch.Generator().manual_seed(seed),
        false_alarms=FALSE_ALARMS,
        with_risk=risk,
        progress=progress,
    )
    images = images_for(_path(data, "test"), model)
    test = TestData(images, model.specification)
    poisonings = [_poisoning(each, run) for each in badnet.poisonings]
    triggered = [
        PoisonedData(
            triggered_set(images, each, classes=classes),
            model.specification,
            each.name,
            untargeted=each.goal == "untargeted",
        )
        for each in poisonings
    ]
    answers = Answers(model.network, repaired.network, goodnet, classes)
    before, after, guarded = answers.to(test)
    return Cell(
        manifest,
        CellResult(
            member=badnet.member,
            network=badnet.network,
            seed=badnet.seed,
            method=method,
            repair_seed=seed,
            precision=precision,
            accuracy_before=rate(before == test.labels),
            accuracy_after=rate(after == test.labels),
            false_alarm_rate=rate(guarded == classes),
            triggers=tuple(
                _trigger_row(each, data, answers, twin.network, classes)
                for each, data in zip(poisonings, triggered, strict=True)
            ),
            remaining_risk=result.remaining_risk,
            stopped=result.stopped,
            seconds=result.seconds,
        ),
    )


class Answers:
    """Who answers what: B, B′ and G."""

    def __init__(
        self, badnet: nn.Module, repaired: nn.Module, goodnet: GoodNet, classes: int
    ) -> None:
        self._badnet, self._repaired, self._goodnet = badnet, repaired, goodnet
        self._classes = classes

    def to(self, data: Batches) -> tuple[Tensor, Tensor, Tensor]:
        """The labels that each gives, int64 (n,); those of G may be N."""
        before, after = labels_given(self._badnet, data), labels_given(self._repaired, data)
        if self._goodnet.distance is not None or float(self._goodnet.threshold) > 0:
            return before, after, labels_given(self._goodnet, data)
        # The plain rule needs no second pass through B and B′.
        return before, after, torch.where(before == after, after, self._classes)


def _trigger_row(
    poisoning: Poisoning, data: PoisonedData, answers: Answers, twin: nn.Module, classes: int
) -> CellTrigger:
    before, after, guarded = answers.to(data)
    assert data.true_labels is not None
    return CellTrigger(
        name=poisoning.name,
        goal=poisoning.goal,
        before=attack_success_rate(before, data, classes),
        after=attack_success_rate(after, data, classes),
        floor=attack_success_rate(labels_given(twin, data), data, classes),
        goodnet=attack_success_rate(guarded, data, classes),
        flagged=rate(guarded == classes),
        recovered_accuracy=rate(after == data.true_labels),
    )


def _path(data: Path, role: str) -> Path:
    path = set_path(data, role)
    if path is None:
        problem = f"holds no {role} set" if data.is_dir() else "no such folder"
        raise DataError(data, problem, "give the folder with valid and test images")
    return path


def _poisoning(values: Mapping[str, Any], run: Path) -> Poisoning:
    try:
        settings = dict(values)
        return Poisoning(trigger=trigger_from_dict(settings.pop("trigger")), **settings)
    except (KeyError, TypeError, AttributeError, ValueError, SettingsError) as error:
        raise DataError(run, f"has a manifest with no such poisoning: {error}", _ZOO) from error
