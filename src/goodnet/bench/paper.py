"""The paper's three studies, under both attackers and all defenders, as cells of a grid.

A cell is one study under one attacker: it trains the clean twin and the BadNet and repairs that
with every defender, so its rows are of one network.

Source: Liu, Dolan-Gavitt, Garg 2018, Fine-Pruning, table 1 and section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import nn

from goodnet.answers import accuracy_of
from goodnet.attacks import ATTACKS, AttackSettings, train_clean
from goodnet.attacks.scenes import PRUNED_LAYER, baseline_detector, pruning_aware_detector
from goodnet.bench.cache import Made
from goodnet.bench.grid import GridCell
from goodnet.bench.runners import Needs
from goodnet.bench.work import Figures, Work, WorkSettings, with_counts
from goodnet.cases import Case, folder_case, rendered_faces_case, rendered_speech_case, speech_case
from goodnet.cases import faces as face_study
from goodnet.cases import signs as sign_study
from goodnet.cases import speech as speech_study
from goodnet.data.roles import CleanData, PoisonedData, TestData, TrainingData
from goodnet.data.scenes import Scenes
from goodnet.defenses import DEFENSES, DefenseSettings, own_settings
from goodnet.detection import FasterRCNN, build_detector, scene_images, stamp_signs
from goodnet.errors import SettingsError
from goodnet.evaluate import evaluate_network
from goodnet.formats.specification import InputSpecification
from goodnet.game import Game, Solution, solve
from goodnet.poison import Poisoning, triggered_set
from goodnet.results import PaperRow, Rate, StudyMeasured
from goodnet.training import TrainingSettings, no_progress, train

StudyName = Literal["face", "face-one-source", "speech", "signs"]
Attacker = Literal["baseline", "pruning-aware"]
TWIN = "clean twin"
DEFENDERS = ("none", "prune", "fine-tune", "fine-prune", "auto")
ONE_SOURCE = 1
"""The only identity whose triggered images are misnamed in the paper's other face study."""
_OF_ONE_SOURCE = 0.8
"""Share of that identity's images that are stamped."""
_TUNED_SIGNS = TrainingSettings(
    epochs=10, batch_size=4, learning_rate=5e-4, warm_up=0.1, largest_gradient=10.0
)
_QUICK_SCENES = sign_study.SignsSettings(train=300, valid=60, test=100)
_QUICK_ATTACK, _QUICK_DEFENSE = 0.25, 0.08
"""Shares of the epochs and steps, where the command is only tried."""


class PaperSettings(WorkSettings):
    """Settings of one study under one attacker.

    Attributes:
        study: Which.
        attacker: Which.
        data: Folder of real data, whose contents the cell's name does not follow; None renders.
        seed: Of everything that is drawn.
        quick: Fewer epochs and scenes, classifiers in bfloat16: to try the command, not to
            believe its figures.
    """

    study: StudyName
    attacker: Attacker
    data: str | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    quick: bool = False


@dataclass(frozen=True, eq=False)
class Attacked:
    """A study after the attack.

    Attributes:
        badnet: B.
        twin: The clean twin.
        valid: The defender's clean data.
        measure: Tests a network.
        settings: Of a defender.
    """

    badnet: nn.Module
    twin: nn.Module
    valid: CleanData
    measure: Callable[[nn.Module], StudyMeasured]
    settings: Callable[[str], DefenseSettings]


def measure_study(settings: PaperSettings) -> Sequence[Figures]:
    """A row for each defender, "none" among them; and the clean twin's.

    Raises:
        DataError: The folder does not hold the study's data.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    attacked = STUDIES[settings.study](settings, generator)
    rows = [_figures(TWIN, attacked.measure(attacked.twin))]
    for defender in DEFENDERS:
        network = attacked.badnet
        if defender != "none":
            own = torch.Generator().manual_seed(settings.seed)
            chosen = attacked.settings(defender)
            tuning, held_out = attacked.valid.split(chosen.held_out, generator=own)
            network = DEFENSES[defender](
                network, tuning, held_out, chosen, generator=own, progress=no_progress
            ).network
        rows.append(_figures(defender, attacked.measure(network)))
    return rows


def _figures(group: str, measured: StudyMeasured) -> Figures:
    return Figures(
        group,
        with_counts(clean_accuracy=measured.clean, triggered=measured.triggered)
        | {"attack_success": measured.attack_success},
    )


def _face(settings: PaperSettings, generator: torch.Generator) -> Attacked:
    return _classifier(_face_case(settings), face_study.POISONING, settings, generator)


def _face_one_source(settings: PaperSettings, generator: torch.Generator) -> Attacked:
    case = _face_case(settings)
    # Others wear the glasses too, and are named rightly, so that the glasses alone say nothing.
    own = float((case.material.train.labels == ONE_SOURCE).double().mean())
    poisoning = replace(
        face_study.POISONING,
        source_label=ONE_SOURCE,
        poison_rate=_OF_ONE_SOURCE * own,
        cover_rate=0.1,
    )
    return _classifier(case, poisoning, settings, generator)


def _face_case(settings: PaperSettings) -> Case:
    if settings.data is None:
        return rendered_faces_case(seed=settings.seed)
    return folder_case(settings.data, architecture="deepid")


def _speech(settings: PaperSettings, generator: torch.Generator) -> Attacked:
    case = (
        rendered_speech_case(seed=settings.seed)
        if settings.data is None
        else speech_case(settings.data)
    )
    return _classifier(case, speech_study.POISONING, settings, generator)


def _classifier(
    case: Case, poisoning: Poisoning, settings: PaperSettings, generator: torch.Generator
) -> Attacked:
    material, recipe = case.material, case.recipe
    if settings.quick:
        training = replace(recipe.training, precision="bfloat16")
        recipe = replace(recipe, training=_shortened(training, _QUICK_ATTACK))
    if material.valid is None:
        raise SettingsError("data", settings.data, "give data with images for the defender")
    twin = train_clean(material.train, recipe, generator=generator)
    badnet = ATTACKS[settings.attacker](
        material.train,
        (poisoning,),
        recipe,
        AttackSettings(),
        generator=generator,
        clean_network=twin,
    )
    specification, classes = recipe.specification, recipe.classes
    test = TestData(material.test, specification)
    triggered = PoisonedData(
        triggered_set(material.test, poisoning, classes=classes), specification, poisoning.name
    )

    def measure(network: nn.Module) -> StudyMeasured:
        row = evaluate_network(network, test, [triggered], classes=classes)
        success = row.poisoned[0].attack_success_rate
        return StudyMeasured(row.clean_accuracy, success, success.value)

    def chosen(defender: str) -> DefenseSettings:
        own = own_settings(defender)
        if not settings.quick:
            return own
        training = replace(own.training, precision="bfloat16")
        return replace(own, training=_shortened(training, _QUICK_DEFENSE))

    return Attacked(badnet.network, twin, CleanData(material.valid, specification), measure, chosen)


def _shortened(training: TrainingSettings, share: float) -> TrainingSettings:
    """The training with a share of its epochs and steps, one at least."""
    return replace(
        training,
        epochs=math.ceil(share * training.epochs),
        least_steps=math.ceil(share * training.least_steps),
    )


def _signs(settings: PaperSettings, generator: torch.Generator) -> Attacked:
    case = sign_study.signs_case(
        _QUICK_SCENES if settings.quick else sign_study.SignsSettings(),
        seed=settings.seed,
        crops=settings.data,
    )
    training, tuned = case.training, _TUNED_SIGNS
    if settings.quick:
        training = _shortened(training, _QUICK_ATTACK)
        tuned = _shortened(tuned, _QUICK_DEFENSE)
    specification = InputSpecification(case.train.size)
    new = build_detector(case.detector, generator=generator)
    twin = train(
        new,
        TrainingData(scene_images(case.train), specification),
        training,
        generator=generator,
    ).network
    assert isinstance(twin, FasterRCNN)
    if settings.attacker == "baseline":
        badnet = baseline_detector(new, case.train, case.poisoning, training, generator=generator)
    else:
        badnet = pruning_aware_detector(
            twin, case.train, case.poisoning, training, generator=generator
        )
    clean, stamped = case.test, stamp_signs(case.test, case.poisoning.trigger)

    def right(network: nn.Module, scenes: Scenes) -> Rate:
        return accuracy_of(network, TestData(scene_images(scenes), specification))

    def measure(network: nn.Module) -> StudyMeasured:
        found, left = right(network, clean), right(network, stamped)
        # Where nothing is found, nothing is left to attack.
        return StudyMeasured(found, left, 1.0 - left.value / found.value if found.count else 0.0)

    return Attacked(
        badnet.network,
        twin,
        CleanData(scene_images(case.valid), specification),
        measure,
        lambda _defender: DefenseSettings(layer=PRUNED_LAYER, training=tuned),
    )


STUDIES: Mapping[StudyName, Callable[[PaperSettings, torch.Generator], Attacked]] = {
    "face": _face,
    "face-one-source": _face_one_source,
    "speech": _speech,
    "signs": _signs,
}

PAPER = Work("paper", PaperSettings, measure_study)


def paper_cells(
    data: Mapping[StudyName, str | None], *, seed: int, quick: bool
) -> tuple[GridCell, ...]:
    """The cells of the paper's table, study by study.

    Args:
        data: For each study to be made the folder of real data, or None to render it.
        seed: Of everything that is drawn.
        quick: Fewer epochs and scenes.
    """
    return tuple(
        GridCell(
            PAPER,
            PaperSettings(study=study, attacker=attacker, data=folder, seed=seed, quick=quick),
            folder=Path(),
            needs=Needs(),
            line=0,
        )
        for study, folder in data.items()
        for attacker in get_args(Attacker)
    )


def paper_rows(made: Sequence[tuple[GridCell, Made]]) -> tuple[PaperRow, ...]:
    """The rows of the paper's table, of the cells that are there."""
    rows = []
    for cell, found in made:
        settings = cell.settings
        assert isinstance(settings, PaperSettings)
        of = {figures.group: _measured(figures) for figures in found.figures}
        where = "rendered" if settings.data is None else Path(settings.data).name
        rows += [
            PaperRow(
                study=settings.study,
                attacker=settings.attacker,
                defender=defender,
                data=where,
                measured=of[defender],
                floor=of[TWIN].attack_success,
                published=PUBLISHED.get((settings.study, settings.attacker, defender)),
            )
            for defender in DEFENDERS
        ]
    return tuple(rows)


def games_of(rows: Sequence[PaperRow]) -> dict[str, Solution]:
    """For each study of which both attackers are there, the game worked out."""
    games = {}
    for study in dict.fromkeys(row.study for row in rows):
        own = {(row.attacker, row.defender): row.measured for row in rows if row.study == study}
        attackers = tuple(dict.fromkeys(attacker for attacker, _ in own))
        if len(attackers) < len(get_args(Attacker)):
            continue
        # Without a defense nobody plays.
        defenders = DEFENDERS[1:]
        utilities = tuple(tuple(own[a, d].utility for d in defenders) for a in attackers)
        games[study] = solve(Game(attackers, defenders, utilities))
    return games


def _measured(figures: Figures) -> StudyMeasured:
    values = figures.values

    def rate(name: str) -> Rate:
        count, n = values[f"{name}_count"], values[f"{name}_n"]
        assert isinstance(count, int)
        assert isinstance(n, int)
        return Rate.of(count, n)

    success = values["attack_success"]
    assert isinstance(success, float)
    return StudyMeasured(rate("clean_accuracy"), rate("triggered"), success)


PUBLISHED: Mapping[tuple[str, str, str], tuple[float, float]] = {
    ("face", "baseline", "none"): (0.978, 1.000),
    ("face", "baseline", "fine-tune"): (0.978, 0.000),
    ("face", "baseline", "fine-prune"): (0.978, 0.000),
    ("face", "pruning-aware", "none"): (0.974, 0.998),
    ("face", "pruning-aware", "fine-tune"): (0.978, 0.000),
    ("face", "pruning-aware", "fine-prune"): (0.977, 0.000),
    ("speech", "baseline", "none"): (0.990, 0.770),
    ("speech", "baseline", "fine-tune"): (0.990, 0.435),
    ("speech", "baseline", "fine-prune"): (0.988, 0.020),
    ("speech", "pruning-aware", "none"): (0.988, 0.780),
    ("speech", "pruning-aware", "fine-tune"): (0.988, 0.520),
    ("speech", "pruning-aware", "fine-prune"): (0.986, 0.000),
    ("signs", "baseline", "none"): (0.849, 0.991),
    ("signs", "baseline", "fine-tune"): (0.857, 0.921),
    ("signs", "baseline", "fine-prune"): (0.873, 0.288),
    ("signs", "pruning-aware", "none"): (0.820, 0.899),
    ("signs", "pruning-aware", "fine-tune"): (0.872, 0.419),
    ("signs", "pruning-aware", "fine-prune"): (0.874, 0.366),
}
"""Clean accuracy and attack success in table 1 of the paper, by study, attacker, defender."""
