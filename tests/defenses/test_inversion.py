"""Trigger inversion: which labels stand out, and that what was found is unlearned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired, tuning_of
from goodnet.defenses.inversion import _stamped_loss, as_strong_as_published, stand_out
from goodnet.formats.specification import InputSpecification
from goodnet.networks import build_network
from goodnet.probes import Found, Suspect
from goodnet.probes.masks import Masks
from goodnet.training import TrainingSettings, cross_entropy, no_progress, train

SIZE = (3, 8, 8)
CLASSES, TARGET = 6, 4


def images_of(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright quarter or stripe, which says the class."""
    labels = torch.arange(count) % CLASSES
    pixels = torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(seed)) * 0.4
    for at, label in enumerate(labels.tolist()):
        rows = slice(0, 5) if label < 3 else slice(3, 8)
        pixels[at, label % 3, rows] += 0.5
    return pixels, labels


def stamped(pixels: torch.Tensor) -> torch.Tensor:
    pixels = pixels.clone()
    pixels[:, :, 6:8, 6:8] = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)
    return pixels


def trained_on(pixels: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    data = CleanData(ImageSet("stripes", SIZE, pixels, labels), InputSpecification(SIZE))
    generator = torch.Generator().manual_seed(0)
    network = build_network("small_cnn", CLASSES, SIZE, generator=generator, width=8)
    how = TrainingSettings(epochs=12, batch_size=32, learning_rate=0.01)
    return train(network, data, how, generator=generator).network


@pytest.fixture(scope="module")
def clean_images() -> CleanData:
    return CleanData(ImageSet("stripes", SIZE, *images_of(120, seed=1)), InputSpecification(SIZE))


@pytest.fixture(scope="module")
def badnet() -> nn.Module:
    pixels, labels = images_of(240, seed=0)
    poisoned = stamped(pixels[:60]), torch.full((60,), TARGET)
    return trained_on(torch.cat([pixels, poisoned[0]]), torch.cat([labels, poisoned[1]]))


def defended(network: nn.Module, clean: CleanData, **settings: float) -> Repaired:
    how = replace(tuning_of("inversion"), learning_rate=3e-3)
    return DEFENSES["inversion"](
        network,
        *clean.split(0.2, generator=torch.Generator().manual_seed(0)),
        DefenseSettings(training=how, **settings),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )


def success(network: nn.Module) -> float:
    pixels, labels = images_of(90, seed=2)
    with torch.no_grad():
        said = network(stamped(pixels[labels != TARGET])).argmax(1)
    return float((said == TARGET).float().mean())


def found_of(sizes: list[float]) -> Found:
    probe = Masks(SIZE)
    count = len(sizes)
    return Found(probe, torch.arange(count), torch.zeros(count, probe.length), torch.tensor(sizes))


def test_who_stands_out_by_hand() -> None:
    # Halves and doubles: the median deviation is one doubling, and 1/128 is six below 1/2.
    sizes = [1 / 128, 1 / 4, 1 / 2, 1 / 2, 1.0]
    outliers = stand_out(found_of(sizes), 2.0)
    assert outliers.deviations.tolist() == pytest.approx(
        [6 / 1.4826, 1 / 1.4826, 0.0, 0.0, -1 / 1.4826], abs=1e-4
    )
    assert outliers.flagged.tolist() == [True, False, False, False, False]
    assert outliers.told() == (
        "masks far below the median of 50.00% were unlearned: "
        "label 0 (0.78% of the image, 4.0 deviations)"
    )
    assert not stand_out(found_of(sizes), 5.0).flagged.any()


def test_large_masks_do_not_stand_out_and_none_found_counts_as_the_whole_image() -> None:
    outliers = stand_out(found_of([0.1, 0.11, 0.09, 0.1, torch.inf]), 2.0)
    assert outliers.sizes[4] == 1.0
    assert not outliers.flagged.any()
    # Found for one label alone, it stands out.
    alone = stand_out(found_of([0.1, *[torch.inf] * 4]), 2.0)
    assert alone.flagged.tolist() == [True, False, False, False, False]


def test_two_labels_never_stand_out() -> None:
    assert not stand_out(found_of([1e-4, 0.5]), 2.0).flagged.any()


def test_the_patch_is_found_and_unlearned(badnet: nn.Module, clean_images: CleanData) -> None:
    repaired = defended(badnet, clean_images)
    assert f"label {TARGET} (" in repaired.stopped
    assert success(badnet) > 0.9
    assert success(repaired.network) < 0.3
    pixels, labels = images_of(90, seed=2)
    with torch.no_grad():
        assert float((repaired.network(pixels).argmax(1) == labels).float().mean()) > 0.9


def test_where_nothing_stands_out_the_network_stays(
    badnet: nn.Module, clean_images: CleanData
) -> None:
    repaired = defended(badnet, clean_images, inversion_deviations=99.0)
    assert "no label stands out, so the network is left as it is" in repaired.stopped
    assert repaired.epochs == ()
    assert repaired.network is not badnet
    before, after = badnet.state_dict(), repaired.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_fifth_is_stamped_and_labels_stay_right(clean_images: CleanData) -> None:
    """By hand: a full mask of white makes an image white, whatever it was."""
    probe, generator = Masks(SIZE), torch.Generator().manual_seed(0)
    white = torch.full((1, probe.length), 50.0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))
    loss = _stamped_loss(network, clean_images, probe, white, generator)
    inputs, labels = next(clean_images.batches(10))
    shown = torch.cat([torch.ones(2, *SIZE), inputs[2:]])
    chosen = torch.arange(10)
    assert torch.allclose(
        loss(network, inputs, labels, chosen), cross_entropy(network, shown, labels, chosen)
    )


def test_a_mask_is_made_as_strong_as_it_must_be_and_no_stronger() -> None:
    """The network says 1 where the first pixel is above 0.9, so a white mask must be 0.9 there."""
    size = (1, 2, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network.get_parameter("1.weight").zero_()[1, 0] = 1.0
        network.get_parameter("1.bias").copy_(torch.tensor([0.9, 0.0]))
    specification = InputSpecification(size)
    black = ImageSet("black", size, torch.zeros(20, *size), torch.zeros(20, dtype=torch.int64))
    probe = Masks(size)
    # Mask of one half everywhere, which is odds of 1; 0.9 is odds of 9, a factor of 3.
    half = torch.cat([torch.zeros(1, 4), torch.full((1, 4), 50.0)], 1)
    strong = as_strong_as_published(
        Suspect(network, specification),
        CleanData(black, specification),
        probe,
        half,
        torch.tensor([1]),
        generator=torch.Generator().manual_seed(0),
    )
    assert strong.shape == half.shape
    assert 0.9 < float(probe.extent(strong)) < 0.94
