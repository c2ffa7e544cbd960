"""Magnitude pruning: the schedule, and the sparsity really reached."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from goodnet.data.roles import CleanData
from goodnet.defenses import DefenseSettings, magnitude
from goodnet.defenses.magnitude import sparsity_at, sparsity_of, zero_smallest_
from goodnet.training import TrainingSettings, no_progress


def test_the_schedule_runs_from_half_to_seven_tenths() -> None:
    assert sparsity_at(0, 10) == pytest.approx(0.5)
    assert sparsity_at(10, 10) == 0.7
    # Of the way of 0.2, (1 - 5/10) ** 3 = 1/8 is left.
    assert sparsity_at(5, 10) == pytest.approx(0.7 - 0.2 / 8)
    steps = [sparsity_at(step, 10) for step in range(11)]
    assert steps == sorted(steps)


def test_the_smallest_go_whatever_their_sign() -> None:
    weight = torch.tensor([[0.1, -3.0], [-0.2, 2.0], [0.3, -0.4]])
    zero_smallest_(weight, 0.5)
    assert weight.tolist() == [[0.0, -3.0], [0.0, 2.0], [0.0, pytest.approx(-0.4)]]


@given(count=st.integers(1, 60), sparsity=st.floats(0.0, 1.0))
def test_the_share_is_met_and_not_by_more_than_one(count: int, sparsity: float) -> None:
    weight = torch.arange(1.0, count + 1)
    zero_smallest_(weight, sparsity)
    zeros = int((weight == 0).sum())
    assert sparsity * count <= zeros + 1e-9
    assert zeros <= sparsity * count + 1
    assert (weight[:zeros] == 0).all()


def test_equal_weights_are_zeroed_no_more_than_asked() -> None:
    weight = torch.ones(10)
    zero_smallest_(weight, 0.5)
    assert int((weight == 0).sum()) == 5


def test_memory_order_does_not_matter() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    last = weight.clone().contiguous(memory_format=torch.channels_last)
    zero_smallest_(weight, 0.6)
    zero_smallest_(last, 0.6)
    assert torch.equal(weight, last)


def test_every_layer_reaches_the_final_sparsity_and_says_so(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in lamps.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    settings = DefenseSettings(training=TrainingSettings(epochs=3, batch_size=8, patience=1))
    repaired = magnitude(lamps, clean, clean, settings, generator=generator, progress=no_progress)
    # Of 16 weights 11.2 and of 12 weights 8.4, rounded up.
    assert [(row.layer, row.sparsity.count, row.sparsity.n) for row in repaired.sparsity] == [
        ("conv", 12, 16),
        ("output", 9, 12),
    ]
    for name, n in (("conv", 12), ("output", 9)):
        weight = repaired.network.get_parameter(f"{name}.weight")
        assert int((weight == 0).sum()) == n
        assert int((lamps.get_parameter(f"{name}.weight") == 0).sum()) == 0
    # Early stopping would end before the final sparsity.
    assert len(repaired.epochs) == 3


def test_sparsity_counts_exact_zeros_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([[0.0, -0.0], [1e-30, 1.0]]))
    rows = sparsity_of(network)
    assert [(row.layer, row.sparsity.count, row.sparsity.n) for row in rows] == [("0", 2, 4)]
