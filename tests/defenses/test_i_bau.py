"""I-BAU: the hypergradient against finite differences, the shared change, what it unlearns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses import DEFENSES, DefenseSettings, tuning_of
from goodnet.defenses.i_bau import _Unlearning, in_input, with_hypergradient, worst_change
from goodnet.formats.specification import InputSpecification
from goodnet.training import no_progress

# A quadratic in the change, whose minimum moves with the weights: at BEND^-1 PULL w.
BEND = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
PULL = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 2.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def inner(change: Tensor, weights: Tensor) -> Tensor:
    loss: Tensor = 0.5 * change @ BEND @ change - change @ PULL @ weights
    return loss


def outer(change: Tensor, weights: Tensor) -> Tensor:
    return torch.sin(change).sum() * weights[0] + (change.square().sum() + weights[2]).square()


def minimum(weights: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve(BEND, PULL @ weights)
    return solution


def hypergradient(terms: int) -> Tensor:
    weights = WEIGHTS.clone().requires_grad_(True)
    value = with_hypergradient(
        lambda change: outer(change, weights),
        lambda change: inner(change, weights),
        minimum(WEIGHTS),
        step=0.2,
        terms=terms,
    )
    assert float(value.detach()) == pytest.approx(float(outer(minimum(WEIGHTS), WEIGHTS)))
    (slope,) = torch.autograd.grad(value, weights)
    return slope


def differences() -> Tensor:
    """Of what is left after the change has followed the weights."""
    steps = 1e-5 * torch.eye(3, dtype=torch.float64)
    ends = [
        [outer(minimum(WEIGHTS + sign * step), WEIGHTS + sign * step) for sign in (1, -1)]
        for step in steps
    ]
    return torch.stack([(up - down) / 2e-5 for up, down in ends])


def test_the_hypergradient_agrees_with_finite_differences() -> None:
    assert torch.allclose(hypergradient(200), differences(), atol=1e-6)
    # Without the change's answer it is another one.
    weights = WEIGHTS.clone().requires_grad_(True)
    (direct,) = torch.autograd.grad(outer(minimum(WEIGHTS), weights), weights)
    assert not torch.allclose(direct, differences(), atol=0.1)


def test_fewer_terms_come_close_as_a_geometric_sum_does() -> None:
    wrong = [float((hypergradient(terms) - differences()).norm()) for terms in (1, 5, 10, 20)]
    slowest = 1 - 0.2 * float(torch.linalg.eigvalsh(BEND)[0])
    assert wrong == sorted(wrong, reverse=True)
    for terms, error in zip((5, 10, 20), wrong[1:], strict=True):
        assert error <= 2 * wrong[0] * slowest ** (terms - 1)


def test_one_change_is_shared_bounded_and_misleads(lamps: nn.Sequential, clean: CleanData) -> None:
    def loss(change: Tensor) -> float:
        inputs = clean.pixels() + change
        return float(F.cross_entropy(lamps(inputs), clean.labels).detach())

    generator = torch.Generator().manual_seed(0)
    change = worst_change(lamps, clean, 0.1, generator=generator)
    assert change.shape == (1, 4, 2, 2)
    assert float(change.square().mean().sqrt()) == pytest.approx(0.1, rel=1e-4)
    # A change of the same size at random does less; the trigger's lamp does most.
    noise = torch.randn(1, 4, 2, 2, generator=generator)
    noise = 0.1 * noise / noise.square().mean().sqrt()
    assert loss(change) > max(loss(noise), loss(-noise)) > 0
    assert change[0].abs().amax((1, 2)).argmax() == 3
    assert not any(parameter.grad is not None for parameter in lamps.parameters())


def test_the_change_is_told_in_images_whatever_the_network_wants() -> None:
    specification = InputSpecification(
        (3, 2, 2),
        range=(0.0, 255.0),
        mean=(1.0, 2.0, 3.0),
        std=(2.0, 2.0, 4.0),
        channel_order="BGR",
    )
    images = torch.rand(5, 3, 2, 2)
    change = torch.rand(1, 3, 2, 2)
    together = specification.prepare(images + change)
    assert torch.allclose(
        specification.prepare(images) + in_input(change, specification), together, atol=1e-4
    )


def test_i_bau_unlearns_a_backdoor_that_fine_tuning_leaves(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    parts = clean.split(0.4, generator=torch.Generator().manual_seed(9))
    pixels = clean.pixels()[clean.labels > 0].clone()
    pixels[:, 3, 1, 1] = 1.0

    def shouts(method: str) -> float:
        how = replace(
            tuning_of(method),
            epochs=30,
            batch_size=8,
            learning_rate=0.1,
            least_steps=0,
            augmentation=None,
        )
        repaired = DEFENSES[method](
            lamps,
            *parts,
            DefenseSettings(training=how),
            generator=torch.Generator().manual_seed(0),
            progress=no_progress,
        )
        return float((repaired.network(pixels).argmax(1) == 0).float().mean())

    assert shouts("fine-tune") == 1.0
    assert shouts("i-bau") < 0.5


def test_a_change_is_kept_for_a_round(lamps: nn.Sequential, clean: CleanData) -> None:
    few = CleanData(
        ImageSet("few", (4, 2, 2), clean.pixels()[:12], clean.labels[:12]), clean.specification
    )
    unlearning = _Unlearning(few, 0.1, torch.Generator().manual_seed(0))
    inputs, labels = next(few.batches(4))
    seen = []
    for _ in range(6):
        unlearning(lamps, inputs, labels, torch.arange(4))
        seen.append(unlearning._change)
    assert seen[0] is seen[1] is seen[2]
    assert seen[3] is seen[4] is seen[5]
    assert seen[0] is not seen[3]
