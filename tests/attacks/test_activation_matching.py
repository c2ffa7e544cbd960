"""The activation gap, by hand and in training."""

from __future__ import annotations

import pytest
import torch

from goodnet.attack import Material, attack
from goodnet.attacks import AttackSettings, Recipe
from goodnet.attacks.activation_matching import activation_gap
from goodnet.poison import Poisoning
from goodnet.triggers import Patch

PATCH = Poisoning(Patch(size=(0.25, 0.25), place=(0.0, 0.0), pattern="solid"), 1, 0.3)


def test_the_gap_by_hand() -> None:
    activations = torch.zeros(3, 2, 1, 2)
    activations[0] = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])  # means 2, 0: clean
    activations[1] = torch.tensor([[[4.0, 4.0]], [[0.0, 0.0]]])  # 4, 0: clean
    activations[2] = torch.tensor([[[3.0, 3.0]], [[1.0, 5.0]]])  # 3, 3: triggered
    triggered = torch.tensor([False, False, True])
    # Clean means (3, 0), triggered (3, 3): 9 over 9.
    assert activation_gap(activations, triggered) == pytest.approx(1.0)
    assert activation_gap(7 * activations, triggered) == pytest.approx(1.0)
    assert activation_gap(activations[[0, 1, 0, 1]], torch.tensor([0, 0, 1, 1]).bool()) == 0


def test_a_heavier_weight_leaves_a_smaller_gap(material: Material, recipe: Recipe) -> None:
    def gap(weight: float) -> float:
        made = attack(
            material,
            [PATCH],
            recipe,
            method="activation-matching",
            settings=AttackSettings(matching=weight),
            generator=torch.Generator().manual_seed(0),
            with_curve=True,
        )
        assert made.result.prune is not None
        means = made.result.prune.activations
        clean, stamped = torch.tensor(means.clean), torch.tensor(means.triggered["patch"])
        return float((clean - stamped).square().sum() / clean.square().sum())

    assert gap(1.0) < 0.5 * gap(1e-6)
