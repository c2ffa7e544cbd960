"""The baseline attack: repeatable, and at rate 0 the clean twin bit for bit."""

from __future__ import annotations

import torch
from torch import nn

from goodnet.attacks import train_badnet
from goodnet.data.images import ImageSet
from goodnet.data.roles import PoisonedData, TestData, TrainingData
from goodnet.evaluate import evaluate_network
from goodnet.formats.specification import InputSpecification
from goodnet.networks import build_network
from goodnet.poison import Poisoning, triggered_set
from goodnet.training import TrainingSettings, train
from goodnet.triggers import Patch

SIZE = (3, 8, 8)
SPECIFICATION = InputSpecification(SIZE)
PATCH = Patch(size=(0.25, 0.25), place=(0.0, 0.0), pattern="solid")


def stripes(count: int = 60, seed: int = 0) -> ImageSet:
    """Three classes told apart by the colour of the lower half, with some noise."""
    labels = torch.arange(count) % 3
    pixels = torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(seed)) * 0.3
    pixels[torch.arange(count), labels, 4:] += 0.6
    return ImageSet("stripes", SIZE, pixels, labels)


def badnet(rate: float, *, seed: int = 0, epochs: int = 2) -> tuple[nn.Module, ImageSet]:
    result = train_badnet(
        stripes(),
        Poisoning(PATCH, target_label=1, poison_rate=rate),
        architecture="small_cnn",
        specification=SPECIFICATION,
        classes=3,
        settings=TrainingSettings(epochs=epochs, batch_size=16, learning_rate=0.01),
        generator=torch.Generator().manual_seed(seed),
        width=4,
    )
    return result.network, result.poisoned.images


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_at_rate_zero_it_is_the_clean_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    twin = build_network("small_cnn", 3, SIZE, generator=generator, width=4)
    settings = TrainingSettings(epochs=2, batch_size=16, learning_rate=0.01)
    clean = TrainingData(stripes(), SPECIFICATION)
    twin = train(twin, clean, settings, generator=generator).network
    network, images = badnet(0.0)
    assert same_bits(network, twin)
    assert len(images) == 60
    assert not same_bits(badnet(0.2)[0], twin)


def test_same_seed_same_bits() -> None:
    assert same_bits(badnet(0.2)[0], badnet(0.2)[0])
    assert not same_bits(badnet(0.2)[0], badnet(0.2, seed=1)[0])


def test_the_global_random_state_is_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    badnet(0.2, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_backdoor_is_there_and_the_clean_twin_has_none() -> None:
    test = TestData(stripes(30, seed=1), SPECIFICATION)
    stamped = triggered_set(stripes(30, seed=1), PATCH, 1)
    poisoned = PoisonedData(stamped, SPECIFICATION, "patch")
    rates = []
    for rate in (0.0, 0.3):
        network, images = badnet(rate, epochs=12)
        assert len(images) == round(60 / (1 - rate))
        row = evaluate_network(network, test, [poisoned], classes=3)
        assert row.clean_accuracy.value > 0.9
        rates.append(row.poisoned[0].attack_success_rate.value)
    assert rates[0] < 0.1
    assert rates[1] > 0.9
