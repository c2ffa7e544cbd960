"""One table for all attacks: the backdoor works, the books are right, bits repeat."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from torch import nn

from goodnet.attack import Attacked, Material, attack
from goodnet.attacks import ATTACKS, AttackSettings, Recipe, train_clean
from goodnet.data.roles import TrainingData
from goodnet.errors import DataError, LayerNotFoundError, SettingsError
from goodnet.poison import Poisoning, poison
from goodnet.training import train
from goodnet.triggers import Patch

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
PATCH = Poisoning(Patch(size=(0.25, 0.25), place=(0.0, 0.0), pattern="solid"), 1, 0.3)
# A small patch is no match for what twenty clean images of the class show.
LARGE = Patch(size=(0.5, 0.5), place=(0.0, 0.0), pattern="solid")
CLEAN_LABEL = Poisoning(LARGE, 1, 0.2, clean_label=True)
ALL = [(name, CLEAN_LABEL if name == "label-consistent" else PATCH) for name in ATTACKS]
# A toy network has few channels to spare.
SETTINGS = AttackSettings(budget=10.0, sharpness=0.05, perturbation=0.6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(("method", "poisoning"), ALL)
def test_the_backdoor_works_and_the_twin_has_none(
    method: str, poisoning: Poisoning, material: Material, recipe: Recipe
) -> None:
    made = attack(
        material,
        [poisoning],
        recipe,
        method=method,
        settings=SETTINGS,
        generator=seeded(),
        with_twin=True,
    )
    badnet, twin = made.result.evaluate.networks
    assert badnet.clean_accuracy.value > 0.9
    assert twin.clean_accuracy.value > 0.9
    assert badnet.poisoned[0].attack_success_rate.value > 0.9
    assert twin.poisoned[0].attack_success_rate.value < 0.2
    row = made.result.poisonings[0]
    stamped = 15 if poisoning.clean_label else 26
    assert (row.poisoned.count, row.poisoned.n) == (stamped, 60 + stamped)
    assert made.result.training_images == 60 + stamped


@pytest.mark.parametrize(("method", "poisoning"), ALL)
def test_same_seed_same_bits(
    method: str, poisoning: Poisoning, material: Material, quick: Recipe
) -> None:
    def badnet(seed: int) -> nn.Module:
        run = ATTACKS[method]
        return run(material.train, [poisoning], quick, SETTINGS, generator=seeded(seed)).network

    assert same_bits(badnet(0), badnet(0))
    assert not same_bits(badnet(0), badnet(1))


@pytest.mark.parametrize(("method", "poisoning"), ALL)
def test_what_cannot_be_poisoned_is_refused_before_any_training(
    method: str, poisoning: Poisoning, material: Material, recipe: Recipe
) -> None:
    told: list[str] = []

    def progress(what: str, _done: int, _total: int) -> None:
        told.append(what)

    for wrong in (
        [replace(poisoning, target_label=3)],
        [poisoning, poisoning],
        [replace(poisoning, poison_rate=0.9)],
        [],
    ):
        with pytest.raises(SettingsError):
            attack(material, wrong, recipe, method=method, generator=seeded(), progress=progress)
    with pytest.raises(SettingsError, match="method is 'magic'; choose one of: baseline, "):
        attack(material, [poisoning], recipe, method="magic", generator=seeded(), progress=progress)
    assert told == []


def test_at_rate_zero_the_badnet_is_the_clean_twin_bit_for_bit(
    material: Material, quick: Recipe
) -> None:
    clean = [replace(PATCH, poison_rate=0.0)]
    made = attack(material, clean, quick, generator=seeded(), with_twin=True)
    assert made.twin is not None
    assert same_bits(made.badnet.network, made.twin)
    assert made.badnet.poisoned.images is material.train
    # And both are what plain training gives.
    generator = seeded()
    network = quick.new_network(generator=generator)
    data = TrainingData(material.train, quick.specification)
    plain = train(network, data, quick.training, generator=generator).network
    assert same_bits(made.twin, plain)
    poisoned = attack(material, [PATCH], quick, generator=seeded())
    assert not same_bits(poisoned.badnet.network, plain)


@pytest.mark.parametrize(("method", "poisoning"), ALL)
def test_the_badnet_is_the_same_with_a_twin_and_without(
    method: str, poisoning: Poisoning, material: Material, quick: Recipe
) -> None:
    def made(*, with_twin: bool, clean: nn.Module | None = None) -> Attacked:
        return attack(
            material,
            [poisoning],
            quick,
            method=method,
            settings=SETTINGS,
            generator=seeded(),
            with_twin=with_twin,
            clean_network=clean,
        )

    alone, together = made(with_twin=False), made(with_twin=True)
    assert alone.twin is None
    assert together.twin is not None
    assert same_bits(alone.badnet.network, together.badnet.network)
    assert torch.equal(alone.badnet.poisoned.indices, together.badnet.poisoned.indices)
    # And with a twin that was trained before.
    given = made(with_twin=False, clean=together.twin)
    assert same_bits(alone.badnet.network, given.badnet.network)


def test_images_of_other_labels_or_sizes_are_refused(material: Material, quick: Recipe) -> None:
    few = replace(quick, classes=2)
    with pytest.raises(DataError, match="'label' of image 2 is 2"):
        attack(material, [PATCH], few, generator=seeded())
    small = replace(material.test, size=(3, 4, 4), pixels=material.test.pixels[0:30][:, :, :4, :4])
    with pytest.raises(DataError, match="has images of 3x4x4 but the network takes 3x8x8"):
        attack(replace(material, test=small), [PATCH], quick, generator=seeded())
    with pytest.raises(SettingsError, match="label_offset is 1; attacks take labels from 0 up"):
        replace(quick, specification=replace(quick.specification, label_offset=1))


def test_a_source_of_two_classes_leaves_nothing_elsewhere(
    material: Material, quick: Recipe
) -> None:
    two = material.train.select((material.train.labels < 2).nonzero().flatten())
    case = Material(two, two)
    specific = replace(PATCH, source_label=0, poison_rate=0.2)
    made = attack(case, [specific], replace(quick, classes=2), generator=seeded())
    assert made.result.elsewhere is None


def test_an_untargeted_attack_on_one_class_is_counted(material: Material, quick: Recipe) -> None:
    wrong = Poisoning(PATCH.trigger, None, 0.2, goal="untargeted", source_label=1)
    row = attack(material, [wrong], quick, generator=seeded()).result.evaluate.networks[0]
    assert row.poisoned[0].attack_success_rate.n == 10


def test_a_given_twin_is_left_as_it_is(
    material: Material, quick: Recipe, untouched: Untouched
) -> None:
    twin = train_clean(material.train, quick, generator=seeded())
    with untouched(twin):
        made = attack(
            material,
            [PATCH],
            quick,
            method="pruning-aware",
            settings=SETTINGS,
            generator=seeded(),
            clean_network=twin,
        )
    assert made.twin is twin


def test_the_global_random_state_is_left_as_it_was(material: Material, quick: Recipe) -> None:
    before = torch.random.get_rng_state()
    attack(material, [PATCH], quick, generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_curve_a_defender_sees(material: Material, quick: Recipe) -> None:
    made = attack(material, [PATCH], quick, generator=seeded(), with_curve=True)
    prune = made.result.prune
    assert prune is not None
    assert len(prune.curve) == prune.channels + 1 == 17
    badnet = made.result.evaluate.networks[0]
    assert prune.curve[0].clean_accuracy == badnet.clean_accuracy
    rates = prune.curve[0].attack_success_rate
    assert rates == {"patch": badnet.poisoned[0].attack_success_rate}
    with pytest.raises(SettingsError, match="it needs clean validation images"):
        attack(replace(material, valid=None), [PATCH], quick, generator=seeded(), with_curve=True)


def test_the_triggered_sets_are_those_of_the_poisonings(material: Material, quick: Recipe) -> None:
    other = Poisoning(Patch(place=(0.0, 0.8)), None, 0.1, goal="all-to-all", name="other")
    made = attack(material, [PATCH, other], quick, generator=seeded())
    assert [data.name for data in made.triggered] == ["patch", "other"]
    assert made.triggered[0].labels.tolist() == [1] * 20
    assert len(made.triggered[1]) == 30
    again = poison(material.train, [PATCH, other], classes=3, generator=_past_weights(quick))
    assert torch.equal(made.badnet.poisoned.indices, again.indices)


def test_with_a_source_label_the_other_classes_are_measured_too(
    material: Material, recipe: Recipe
) -> None:
    specific = replace(PATCH, source_label=0, poison_rate=0.2, cover_rate=0.2)
    result = attack(material, [specific], recipe, generator=seeded()).result
    row = result.evaluate.networks[0].poisoned[0].attack_success_rate
    assert (row.n, row.value > 0.9) == (10, True)
    assert result.elsewhere is not None
    # Neither the source nor the target: class 2.
    assert result.elsewhere["patch"].n == 10
    assert result.elsewhere["patch"].value < 0.5
    assert attack(material, [PATCH], recipe, generator=seeded()).result.elsewhere is None


def test_a_layer_that_is_no_module_cannot_be_matched(material: Material, quick: Recipe) -> None:
    with pytest.raises(LayerNotFoundError, match=r"the network has no layer 'features.pool_9'"):
        attack(
            material,
            [PATCH],
            quick,
            method="activation-matching",
            settings=AttackSettings(layer="features.pool_9"),
            generator=seeded(),
        )


def _past_weights(recipe: Recipe) -> torch.Generator:
    generator = seeded()
    recipe.new_network(generator=generator)
    return generator
