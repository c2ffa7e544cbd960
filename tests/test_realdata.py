"""The course's real BadNets: read, fed and pruned, they do what was measured elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from goodnet.curve import PruneSettings, prune_curve
from goodnet.data.images import ImageSet
from goodnet.data.readers import read_images
from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.evaluate import evaluate_network
from goodnet.formats import Model, read_model, write_model
from goodnet.graph import find_prune_layer
from goodnet.readings import likely_readings, settle_reading
from goodnet.results import PruneResult, Rate

os.environ["KERAS_BACKEND"] = "torch"

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BADNETS = DATA / "badnets"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not BADNETS.is_dir(), reason=f"the data packs are not at {DATA}"),
]

# From the packs' own notes: range, clean accuracy, attack success by sample set, in points.
PUBLISHED = {
    "bd": ((0.0, 255.0), 99, {"sunglasses": 100}),
    "sunglasses_bd": ((0.0, 1.0), 95, {"sunglasses": 100}),
    "multi_trigger_multi_target_bd": (
        (0.0, 1.0),
        91,
        {"multi_eyebrows": 91, "multi_lipstick": 92, "multi_sunglasses": 100},
    ),
}
TARGETS = {"sunglasses": 0, "multi_eyebrows": 5, "multi_lipstick": 1, "multi_sunglasses": 8}
# Channels of pool_3 pruned: clean accuracy and attack success of bd_net, in points.
CURVE = {40: (99, 100), 45: (94, 100), 50: (85, 100), 52: (83, 76), 53: (76, 26), 54: (51, 13),
         56: (18, 0)}  # fmt: skip
SIZE = (3, 55, 47)


def points(rate: Rate | None) -> float:
    assert rate is not None
    return 100 * rate.value


def samples(name: str) -> ImageSet:
    return read_images(BADNETS / "samples" / f"{name}.h5", size=SIZE)


@pytest.fixture(scope="module", params=PUBLISHED)
def network(request: pytest.FixtureRequest) -> tuple[str, Model]:
    return request.param, read_model(BADNETS / f"{request.param}_net.h5")


def test_the_reading_is_recognised(network: tuple[str, Model]) -> None:
    name, model = network
    assert (model.classes, model.specification.size, model.specified) == (1283, SIZE, False)
    readings = likely_readings(model.network, model.specification, samples("clean"), classes=1283)
    best = settle_reading(readings, stated=False, source=name)
    value_range, clean, _ = PUBLISHED[name]
    assert best.specification.range == value_range
    assert (best.specification.channel_order, best.specification.label_offset) == ("RGB", 0)
    assert points(best.accuracy) == pytest.approx(clean, abs=1)


def test_clean_accuracy_and_attack_success(network: tuple[str, Model]) -> None:
    name, model = network
    value_range, clean, attacks = PUBLISHED[name]
    specification = type(model.specification)(SIZE, range=value_range)
    sets = [PoisonedData(samples(attack), specification, attack) for attack in attacks]
    for data in sets:
        assert set(data.labels.tolist()) == {TARGETS[data.name]}
    row = evaluate_network(
        model.network, TestData(samples("clean"), specification), sets, classes=1283
    )
    assert points(row.clean_accuracy) == pytest.approx(clean, abs=1)
    for poisoned in row.poisoned:
        assert points(poisoned.attack_success_rate) == pytest.approx(attacks[poisoned.name], abs=1)


def test_answers_are_those_of_keras(network: tuple[str, Model], tmp_path: Path) -> None:
    import keras  # noqa: PLC0415

    name, model = network
    pixels = samples("clean").pixels[0:8]
    images = pixels.to(torch.float32) / (255.0 if PUBLISHED[name][0][1] == 1.0 else 1.0)
    fed = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    with torch.no_grad():
        native = model.network(images).numpy()
    for path in (
        BADNETS / f"{name}_net.h5",
        write_model(model, model.network, tmp_path / "again.h5"),
    ):
        plain = keras.models.load_model(path, compile=False)
        answer = np.asarray(plain(fed, training=False).detach())
        np.testing.assert_allclose(native, answer, atol=1e-5, rtol=0)


def test_weights_alone_are_the_same_network(network: tuple[str, Model], tmp_path: Path) -> None:
    name, model = network
    weights = read_model(BADNETS / f"{name}_weights.h5", architecture="deepid")
    images = torch.rand(4, *SIZE)
    with torch.no_grad():
        expected = model.network(images)
        assert torch.equal(weights.network(images), expected)
        again = read_model(
            write_model(weights, weights.network, tmp_path / "again"), architecture="deepid"
        )
        assert torch.equal(again.network(images), expected)


@pytest.fixture(scope="module")
def lab_curve() -> PruneResult:
    model = read_model(BADNETS / "bd_net.h5")
    specification = type(model.specification)(SIZE, range=(0.0, 255.0))
    return prune_curve(
        model.network,
        CleanData(samples("clean"), specification),
        PruneSettings(),
        poisoned=[PoisonedData(samples("sunglasses"), specification, "sunglasses")],
    )


def test_pool_3_is_the_layer_to_prune(network: tuple[str, Model], lab_curve: PruneResult) -> None:
    assert find_prune_layer(network[1].network, SIZE) == "pool_3"
    assert (lab_curve.layer, lab_curve.channels, len(lab_curve.curve)) == ("pool_3", 60, 61)


@pytest.mark.parametrize("count", CURVE)
def test_the_prune_curve_of_the_lab(count: int, lab_curve: PruneResult) -> None:
    row = lab_curve.curve[count]
    assert row.channels_pruned == count
    clean, attack = CURVE[count]
    assert row.attack_success_rate is not None
    assert points(row.valid_accuracy) == pytest.approx(clean, abs=1)
    assert points(row.attack_success_rate["sunglasses"]) == pytest.approx(attack, abs=1)


def test_pruning_alone_saves_clean_accuracy_or_the_network(lab_curve: PruneResult) -> None:
    """While 4 points are all it may cost, the attack stays whole: the lab's own finding."""
    within = next(row for row in lab_curve.thresholds if (row.drop, row.rule) == (4.0, "within"))
    row = lab_curve.curve[within.channels_pruned]
    assert row.attack_success_rate is not None
    assert points(row.attack_success_rate["sunglasses"]) > 99
