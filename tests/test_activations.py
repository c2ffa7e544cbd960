"""Mean activations by hand, the order they give, outputs in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from goodnet.activations import layer_outputs, mean_activation, prune_order
from goodnet.data.roles import CleanData
from goodnet.errors import LayerNotFoundError, SettingsError, SurgeryError
from goodnet.graph import cut, trace

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
# Of 30 images ten of each class, whose lamp has brightness 1, 0.75, 0.5; lamp 3 is dark.
BEHIND_THE_POOL = [1.0 / 3, 0.75 / 3, 0.5 / 3, 0.0]
# Before it a lamp is one pixel of four.
BEFORE_THE_POOL = [value / 4 for value in BEHIND_THE_POOL]


@pytest.mark.parametrize(("layer", "means"), [("pool", BEHIND_THE_POOL), ("relu", BEFORE_THE_POOL)])
def test_means_are_those_worked_out_by_hand(
    lamps: nn.Sequential, clean: CleanData, layer: str, means: list[float]
) -> None:
    trunk = cut(trace(lamps), layer).trunk
    assert layer_outputs(trunk, clean).channel_means().tolist() == pytest.approx(means)
    assert mean_activation(lamps, layer, clean).tolist() == pytest.approx(means)


def test_outputs_are_the_layer_s_and_labels_the_data_s(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    outputs = layer_outputs(cut(trace(lamps), "pool").trunk, clean, batch_size=7)
    inputs = torch.cat([batch for batch, _ in clean.batches(30)])
    assert torch.equal(outputs.values, inputs.amax((2, 3), keepdim=True))
    assert torch.equal(outputs.labels, clean.labels)
    assert len(outputs) == 30


def test_outputs_past_the_budget_go_to_disk_and_are_the_same(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    trunk = cut(trace(lamps), "relu").trunk
    size = 30 * 4 * 2 * 2 * 4
    here = layer_outputs(trunk, clean, memory_budget=size)
    there = layer_outputs(trunk, clean, memory_budget=size - 1)
    assert here._folder is None
    assert there._folder is not None
    assert torch.equal(here.values, there.values)
    assert torch.equal(here.labels, there.labels)
    assert torch.equal(here.channel_means(), there.channel_means())


def test_reading_a_layer_leaves_the_network_as_it_was(
    lamps: nn.Sequential, clean: CleanData, untouched: Untouched
) -> None:
    lamps.train()
    lamps.get_submodule("relu").eval()
    with untouched(lamps):
        mean_activation(lamps, "relu", clean)
        layer_outputs(cut(trace(lamps), "pool").trunk, clean)


def test_means_are_those_of_evaluation_mode(clean: CleanData) -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.Conv2d(4, 2, 1)).train()
    here = mean_activation(network, "1", clean)
    assert torch.equal(here, mean_activation(network.eval(), "1", clean))


def test_the_hook_is_gone_after_a_failure(clean: CleanData, untouched: Untouched) -> None:
    network = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Linear(99, 2)).train()
    with untouched(network), pytest.raises(RuntimeError):
        mean_activation(network, "0", clean)


@pytest.mark.parametrize("layer", ["rellu", ""])
def test_an_unknown_layer_is_answered_with_near_names(
    lamps: nn.Sequential, clean: CleanData, layer: str
) -> None:
    with pytest.raises(LayerNotFoundError, match=f"no layer '{layer}'; .*relu") as caught:
        mean_activation(lamps, layer, clean)
    assert caught.value.layer == layer


class Skips(nn.Module):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.conv(x)
        return x


@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_must_run_once(clean: CleanData, times: int) -> None:
    with pytest.raises(SurgeryError, match=f"'conv' runs {times} times"):
        mean_activation(Skips(times), "conv", clean)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_the_order_is_a_stable_permutation(values: list[int]) -> None:
    means = torch.tensor(values, dtype=torch.float64)
    for order, sign in (("increasing", 1), ("decreasing", -1)):
        found = prune_order(means, order).tolist()  # type: ignore[arg-type]
        expected = np.argsort(sign * np.array(values), kind="stable").tolist()
        assert found == expected
        assert sorted(found) == list(range(len(values)))


def test_increasing_prunes_sleeping_channels_first() -> None:
    means = torch.tensor([0.2, 0.0, 0.9, 0.0])
    assert prune_order(means).tolist() == [1, 3, 0, 2]
    assert prune_order(means, "decreasing").tolist() == [2, 0, 1, 3]


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(SettingsError, match="order is 'up'; choose one of: increasing, decreasing"):
        prune_order(torch.zeros(2), "up")  # type: ignore[arg-type]
