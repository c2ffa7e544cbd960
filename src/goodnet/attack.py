"""Attack a training set: the BadNet, its clean twin, and how well the backdoor works."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from goodnet.activations import layer_outputs
from goodnet.attacks import ATTACKS, AttackSettings, BadNet, Recipe, train_clean
from goodnet.curve import PruneSettings, prune_curve
from goodnet.data.images import ImageSet
from goodnet.data.readers import check_labels
from goodnet.data.roles import CleanData, PoisonedData, PreparedImages, TestData
from goodnet.errors import SettingsError
from goodnet.evaluate import (
    attack_success_rate,
    evaluate_network,
    labels_given,
    rate,
    untargeted_success,
)
from goodnet.graph import layer_node, part_upto, trace
from goodnet.poison import Poisoned, Poisoning, check_poisonings, triggered_set
from goodnet.results import (
    AttackResult,
    DecoyRow,
    EvaluateResult,
    PoisoningRow,
    PruneResult,
    Rate,
)
from goodnet.surgery import prune_channels
from goodnet.training import Progress, no_progress


@dataclass(frozen=True, eq=False)
class Material:
    """The images an attacker works with.

    Attributes:
        train: To poison and train on.
        test: To measure on.
        valid: What a defender would hold, to see what it would see; None where there is none.
    """

    train: ImageSet
    test: ImageSet
    valid: ImageSet | None = None


@dataclass(frozen=True, eq=False)
class Attacked:
    """All that an attack made.

    Attributes:
        badnet: The network with the backdoor, with its poisoned training set.
        twin: The clean twin, where asked for.
        triggered: For each poisoning, the test images it is measured on.
        result: What was measured; paths are empty until something is written.
    """

    badnet: BadNet
    twin: nn.Module | None
    triggered: tuple[PoisonedData, ...]
    result: AttackResult


def attack(
    material: Material,
    poisonings: Sequence[Poisoning],
    recipe: Recipe,
    *,
    method: str = "baseline",
    settings: AttackSettings | None = None,
    generator: torch.Generator,
    clean_network: nn.Module | None = None,
    with_twin: bool = False,
    with_curve: bool = False,
    progress: Progress = no_progress,
) -> Attacked:
    """A BadNet with its triggered test sets, and its clean twin on request.

    Args:
        material: Images to train on and to measure on.
        poisonings: Triggers with labels and rates.
        recipe: Network and training.
        method: A name in `ATTACKS`.
        settings: Of the attack; None takes the defaults.
        generator: Draws everything.
        clean_network: A network trained by the recipe on the clean images; it is then the
            twin, and where a pruning-aware attack starts.
        with_twin: Train the twin, by the plain recipe, where no clean network is given. It
            starts from the same state of the generator, so the BadNet is the same with a
            twin and without, and at rate 0 the baseline attack's is the twin.
        with_curve: Measure the prune curve a defender would see, which needs `valid`.
        progress: Told what is being done.

    Raises:
        SettingsError: No such method; a trigger, label or rate that cannot be. Raised
            before anything is trained.
        DataError: A triggered test set would be empty; images are of another size or of
            classes that the recipe does not know.
    """
    if method not in ATTACKS:
        raise SettingsError("method", method, f"choose one of: {', '.join(ATTACKS)}")
    if not poisonings:
        raise SettingsError("poisonings", poisonings, "give at least one trigger")
    if with_curve and material.valid is None:
        raise SettingsError("with_curve", with_curve, "it needs clean validation images")
    _check_material(material, recipe)
    check_poisonings(material.train, poisonings, classes=recipe.classes)
    start = time.perf_counter()
    triggered = tuple(
        _triggered(triggered_set(material.test, each, classes=recipe.classes), each, recipe)
        for each in poisonings
    )
    elsewhere = _elsewhere(material, recipe, poisonings)
    start_state = torch.Generator().set_state(generator.get_state())
    badnet = ATTACKS[method](
        material.train,
        poisonings,
        recipe,
        settings or AttackSettings(),
        generator=generator,
        clean_network=clean_network,
        progress=progress,
    )
    twin = clean_network
    if twin is None and with_twin:
        twin = badnet.clean_network or train_clean(
            material.train, recipe, generator=start_state, progress=progress
        )
    test = TestData(material.test, recipe.specification)
    networks = {"BadNet": badnet.network} | ({} if twin is None else {"clean twin": twin})
    evaluate = EvaluateResult(
        tuple(
            evaluate_network(network, test, triggered, classes=recipe.classes, name=name)
            for name, network in networks.items()
        )
    )
    result = AttackResult(
        attack=method,
        architecture=recipe.architecture,
        network="",
        training_images=len(badnet.poisoned.images),
        poisonings=poisoning_rows(badnet.poisoned),
        evaluate=evaluate,
        accuracy_lost=_accuracy_lost(evaluate, poisonings),
        elsewhere={
            data.name: attack_success_rate(labels_given(badnet.network, data), data)
            for data in elsewhere
        }
        or None,
        decoys=_decoys(badnet, material, recipe, test, triggered) if badnet.decoys else None,
        prune=_curve(badnet, material, recipe, test, triggered) if with_curve else None,
        seconds=time.perf_counter() - start,
    )
    return Attacked(badnet, twin, triggered, result)


def poisoning_rows(poisoned: Poisoned) -> tuple[PoisoningRow, ...]:
    """The books in short: for each trigger, how many images were stamped."""
    rows = []
    for place, each in enumerate(poisoned.poisonings):
        own = poisoned.stamped_by == place
        covers = int((own & poisoned.covers).sum())
        rows.append(
            PoisoningRow(
                name=each.name,
                trigger=each.trigger.to_dict(),
                goal=each.goal,
                target_label=each.target_label,
                source_label=each.source_label,
                clean_label=each.clean_label,
                poisoned=Rate.of(int(own.sum()) - covers, len(poisoned.images)),
                covers=Rate.of(covers, len(poisoned.images)),
            )
        )
    return tuple(rows)


def _accuracy_lost(
    evaluate: EvaluateResult, poisonings: Sequence[Poisoning]
) -> dict[str, dict[str, float]] | None:
    """What untargeted triggers cost each network, where all test images were stamped."""
    names = {
        each.name for each in poisonings if each.goal == "untargeted" and each.source_label is None
    }
    lost = {
        network.name: {
            row.name: untargeted_success(network.clean_accuracy, row.recovered_accuracy)
            for row in network.poisoned
            if row.name in names and row.recovered_accuracy is not None
        }
        for network in evaluate.networks
    }
    return lost if names else None


def _check_material(material: Material, recipe: Recipe) -> None:
    """Nothing, where the images are of the recipe's classes and size."""
    for images in (material.train, material.test, material.valid):
        if images is not None:
            check_labels(images, recipe.classes)
            PreparedImages(images, recipe.specification)  # raises where the size is another


def _elsewhere(
    material: Material, recipe: Recipe, poisonings: Sequence[Poisoning]
) -> tuple[PoisonedData, ...]:
    """For triggers with a source label, triggered images of the classes they shall not work on."""
    found = []
    labels = material.test.labels
    for each in poisonings:
        if each.source_label is None:
            continue
        theirs = [label for label in (each.source_label, each.target_label) if label is not None]
        others = (~torch.isin(labels, torch.tensor(theirs))).nonzero().squeeze(1)
        if len(others):
            anywhere = replace(each, source_label=None)
            images = triggered_set(material.test.select(others), anywhere, classes=recipe.classes)
            found.append(_triggered(images, each, recipe))
    return tuple(found)


def _triggered(images: ImageSet, poisoning: Poisoning, recipe: Recipe) -> PoisonedData:
    return PoisonedData(
        images,
        recipe.specification,
        poisoning.name,
        untargeted=poisoning.goal == "untargeted",
    )


def _curve(
    badnet: BadNet,
    material: Material,
    recipe: Recipe,
    test: TestData,
    triggered: tuple[PoisonedData, ...],
) -> PruneResult:
    assert material.valid is not None
    return prune_curve(
        badnet.network,
        CleanData(material.valid, recipe.specification),
        PruneSettings(layer=badnet.layer),
        test=test,
        poisoned=triggered,
    )


def _decoys(
    badnet: BadNet,
    material: Material,
    recipe: Recipe,
    test: TestData,
    triggered: tuple[PoisonedData, ...],
) -> DecoyRow:
    """What the decoys do: on clean validation images (or test images, where there are none)."""
    assert badnet.layer is not None
    assert badnet.before_decoys is not None
    channels = torch.tensor(badnet.decoys)
    clean = TestData(material.valid or material.test, recipe.specification)
    traced = trace(badnet.network)
    outputs = layer_outputs(part_upto(traced, layer_node(traced, badnet.layer)), clean)
    peaks = torch.cat([rows[:, channels].flatten(1).amax(1) for rows in outputs.values.split(1024)])
    pruned = prune_channels(badnet.network, badnet.layer, channels)
    sets = (test, *triggered)

    def answers(network: nn.Module) -> Tensor:
        return torch.cat([labels_given(network, data) for data in sets])

    given = answers(badnet.network)
    return DecoyRow(
        layer=badnet.layer,
        channels=badnet.decoys,
        silent_images=rate(peaks == 0),
        largest_activation=float(peaks.max()),
        changed_by_putting_back=rate(given != answers(badnet.before_decoys)),
        changed_by_pruning=rate(given != answers(pruned)),
    )
