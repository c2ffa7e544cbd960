"""Rows of the last layer are read and put back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goodnet.last_layer import has_bias, put_rows, rows_of


@pytest.mark.parametrize("bias", [True, False])
def test_rows_are_weights_and_behind_them_biases(bias: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 4, bias=bias))
    rows = rows_of(network, "0")
    assert rows.dtype == torch.float64
    assert torch.equal(rows[:, :3].float(), network.get_parameter("0.weight"))
    last = network.get_parameter("0.bias") if bias else torch.zeros(4)
    assert torch.equal(rows[:, 3].float(), last)
    assert has_bias(network, "0") == bias


@pytest.mark.parametrize("bias", [True, False])
def test_only_rows_of_the_labels_told_are_put(bias: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 4, bias=bias))
    before = rows_of(network, "0")
    put_rows(network, "0", torch.arange(8.0).view(2, 4).double(), torch.tensor([2, 0]))
    after = rows_of(network, "0")
    assert after[2, :3].tolist() == [0.0, 1.0, 2.0]
    assert after[0].tolist() == [4.0, 5.0, 6.0, 7.0 * bias]
    assert torch.equal(after[[1, 3]], before[[1, 3]])
