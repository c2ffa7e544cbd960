"""The sweep in one pass gives the answers of K separately pruned networks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet import sweep as module
from goodnet.activations import PruneOrder
from goodnet.answers import answers
from goodnet.data.roles import CleanData, TrainingData
from goodnet.errors import LayerNotFoundError, NotTraceableError
from goodnet.graph import cut, trace
from goodnet.surgery import prune_channels
from goodnet.sweep import Sweep, plain_predictions, prepare_sweep, sweep_predictions
from goodnet.training import TrainingSettings, train

Noise = Callable[..., CleanData]
Untouched = Callable[[nn.Module], AbstractContextManager[None]]
ORDERS: tuple[PruneOrder, ...] = ("increasing", "decreasing")
SIZE = (2, 6, 6)


def assert_exact(sweep: Sweep, data: CleanData) -> Tensor:
    """The fast answers are the plain ones; returns them."""
    fast, labels = sweep_predictions(sweep, data)
    plain, right = plain_predictions(sweep, data)
    assert fast.shape == (len(sweep.order) + 1, len(data))
    assert fast.dtype == torch.int32
    assert torch.equal(fast, plain)
    assert torch.equal(labels, right)
    return fast


def shares_of(sweep: Sweep) -> int:
    """How many linear layers the sweep subtracts channels from; 0 is the slow way."""
    assert sweep.outputs is not None
    head = cut(trace(sweep.network), sweep.layer).head
    shape = tuple(sweep.outputs.values.shape[1:])
    return len(module._AdditiveHead(head, shape, sweep.order).shares)


def with_dormant_channels(network: nn.Module, layer: str) -> nn.Module:
    """Two channels of the layer sleep; they are pruned in their weights or by a mask."""
    return prune_channels(network, layer, torch.tensor([1, 5])).eval()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
def test_the_real_networks(
    architecture: tuple[nn.Module, str, tuple[int, int, int]],
    noise: Noise,
    order: PruneOrder,
    trained: bool,
) -> None:
    network, layer, size = architecture
    data = noise(size, 20)
    if trained:
        settings = TrainingSettings(epochs=3, batch_size=8, learning_rate=5e-3)
        training = TrainingData(data.images, data.specification)
        generator = torch.Generator().manual_seed(0)
        network = train(network, training, settings, generator=generator).network
    network = with_dormant_channels(network, layer)
    sweep = prepare_sweep(network, layer, data, order=order)
    assert shares_of(sweep) == (2 if layer == "pool_3" else 1)
    assert_exact(sweep, data)
    # Other data than the order was made from.
    assert_exact(sweep, noise(size, 5))


def test_the_fast_way_seldom_asks_the_plain_head(
    noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    plain_answers = module._AdditiveHead._plain_answers

    def counted(self: module._AdditiveHead, rows: Tensor, remaining: Tensor) -> Tensor:
        asked.append(len(rows))
        return plain_answers(self, rows, remaining)

    monkeypatch.setattr(module._AdditiveHead, "_plain_answers", counted)
    network = seeded(nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 4))
    data = noise(SIZE, 40)
    assert_exact(prepare_sweep(network, "1", data), data)
    assert sum(asked) < 0.1 * 12 * 40


def seeded(*tail: nn.Module, channels: int = 12, seed: int = 5) -> nn.Module:
    """conv, then `tail`, with random weights."""
    network = nn.Sequential(nn.Conv2d(2, channels, 3, padding=1), *tail)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return network.eval()


# Name: what follows the convolution, the layer, shares.
HEADS: dict[str, tuple[Callable[[], list[nn.Module]], int]] = {
    "dense": (lambda: [nn.ReLU(), nn.Flatten(), nn.Linear(432, 4)], 1),
    "softmax": (lambda: [nn.ReLU(), nn.Flatten(), nn.Linear(432, 4), nn.Softmax(1)], 1),
    "dropout": (lambda: [nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(432, 4)], 1),
    "deep": (
        lambda: [
            *(nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(108, 8)),
            *(nn.ReLU(), nn.Linear(8, 4)),
        ],
        1,
    ),
    "strided convolution": (
        lambda: [
            *(nn.ReLU(), nn.Conv2d(12, 5, 3, stride=2, padding=1, dilation=2)),
            *(nn.Sigmoid(), nn.Flatten(), nn.Linear(20, 4)),
        ],
        1,
    ),
    "circular convolution": (
        lambda: [
            *(nn.ReLU(), nn.Conv2d(12, 5, 3, padding=1, padding_mode="circular")),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
        ],
        0,
    ),
    "same padding": (
        lambda: [
            *(nn.ReLU(), nn.Conv2d(12, 5, 3, padding="same")),
            *(nn.Flatten(), nn.Linear(180, 4)),
        ],
        1,
    ),
    "grouped convolution": (
        lambda: [
            *(nn.ReLU(), nn.Conv2d(12, 4, 3, groups=2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
        ],
        0,
    ),
    "tanh behind the cut": (
        lambda: [nn.ReLU(), nn.Tanh(), nn.Flatten(), nn.Linear(432, 4)],
        0,
    ),
    "max pool behind the cut": (
        lambda: [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(108, 4)],
        0,
    ),
    "norm behind the cut": (
        lambda: [nn.ReLU(), nn.BatchNorm2d(12), nn.Flatten(), nn.Linear(432, 4)],
        0,
    ),
    "no linear layer at all": (
        lambda: [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        0,
    ),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", HEADS)
def test_heads_additive_and_not(name: str, noise: Noise, order: PruneOrder) -> None:
    tail, shares = HEADS[name]
    network = seeded(*tail())
    data = noise(SIZE, 30)
    sweep = prepare_sweep(network, "1", data, order=order)
    assert shares_of(sweep) == shares
    found = assert_exact(sweep, data)
    assert name == "no linear layer at all" or len(found.unique()) > 1, (
        "answers that never vary hide mistakes"
    )


class Joined(nn.Module):
    """The channels reach the answer by a dense layer and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flatten(self.pool(self.relu(self.conv(x))))
        out: Tensor = self.output(x) + x
        return out


def test_a_shortcut_past_the_linear_layer(noise: Noise) -> None:
    data = noise(SIZE, 30)
    torch.manual_seed(0)
    sweep = prepare_sweep(Joined().eval(), "relu", data)
    assert shares_of(sweep) == 0
    assert_exact(sweep, data)


@pytest.mark.parametrize("ends", [[], [nn.Softmax(1)]], ids=["logits", "softmax"])
@pytest.mark.parametrize("order", ORDERS)
def test_ties_are_answered_as_the_plain_networks_do(
    noise: Noise, order: PruneOrder, ends: list[nn.Module]
) -> None:
    network = seeded(nn.ReLU(), nn.Flatten(), nn.Linear(432, 6), *ends)
    output = network.get_submodule("3")
    assert isinstance(output, nn.Linear)
    # Classes 0, 2 and 5 are always equal; 1 and 4 differ by a hair.
    for this, that in ((2, 0), (5, 0), (4, 1)):
        output.weight.data[this] = output.weight.data[that]
        output.bias.data[this] = output.bias.data[that]
    output.bias.data[4] += 1e-7
    data = noise(SIZE, 60)
    assert_exact(prepare_sweep(network, "1", data, order=order), data)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("loudness", [1e4, 1e6, 1e9])
def test_a_channel_that_drowns_the_others_leaves_no_rounding(
    noise: Noise, order: PruneOrder, loudness: float
) -> None:
    """With the loud channel subtracted, the sums would be what its rounding left."""
    network = seeded(nn.ReLU(), nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 4))
    conv, hidden = network.get_submodule("0"), network.get_submodule("3")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(hidden, nn.Linear)
    conv.weight.data[7] = loudness
    # It only silences hidden units, so no score ever shows its size.
    hidden.weight.data[:, 7 * 36 : 8 * 36] = -1.0
    data = noise(SIZE, 60)
    sweep = prepare_sweep(network, "1", data, order=order)
    assert sweep.order[0 if order == "decreasing" else -1] == 7
    assert shares_of(sweep) == 1
    found = assert_exact(sweep, data)
    assert order == "increasing" or len(found.unique()) > 1


def test_infinite_activations_do_not_poison_later_answers(noise: Noise) -> None:
    network = seeded(nn.ReLU(), nn.Flatten(), nn.Linear(432, 4))
    conv = network.get_submodule("0")
    assert isinstance(conv, nn.Conv2d)
    conv.weight.data[3] = 3e38
    data = noise(SIZE, 20)
    sweep = prepare_sweep(network, "1", data, order="decreasing")
    found = assert_exact(sweep, data)
    assert len(found[1:].unique()) > 1


def test_row_k_is_the_network_with_k_channels_pruned(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    sweep = prepare_sweep(lamps, "pool", clean)
    assert sweep.order.tolist() == [3, 2, 1, 0]
    found, labels = sweep_predictions(sweep)
    # Lamp 3 is dark; without its lamp an image is called class 2, the class of darkness.
    rows = [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 2, 2], [2, 2, 2]]
    assert found[:, :3].tolist() == rows
    assert torch.equal(labels, clean.labels)
    assert torch.equal(found, sweep_predictions(sweep, clean)[0])
    assert torch.equal(found[0].long(), answers(lamps, clean)[0])


class Undecided(nn.Module):
    """Its graph depends on the values it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.lamps = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.output = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < -1e9:
            x = -x
        out: Tensor = self.output(self.lamps(x).flatten(1))
        return out


def undecided(lamps: nn.Sequential) -> nn.Module:
    network = Undecided()
    network.lamps[0].load_state_dict(lamps.get_submodule("conv").state_dict())
    network.output.load_state_dict(lamps.get_submodule("output").state_dict())
    return network.eval()


def test_an_untraceable_network_goes_the_slow_way_to_the_same(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    sweep = prepare_sweep(undecided(lamps), "lamps", clean)
    assert sweep.outputs is None
    fast = prepare_sweep(lamps, "pool", clean)
    assert torch.equal(sweep.order, fast.order)
    assert torch.allclose(sweep.means, fast.means)
    assert torch.equal(sweep_predictions(sweep, clean)[0], sweep_predictions(fast)[0])
    with pytest.raises(NotTraceableError, match="give the data again"):
        sweep_predictions(sweep)


class Beside(nn.Module):
    """A layer off the main path, and made of two nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 3, 1)
        self.right = nn.Conv2d(2, 3, 1)
        self.output = nn.Linear(3 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output((F.relu(self.left(x)) + self.right(x)).flatten(1))
        return out


def test_a_layer_off_the_main_path_is_read_behind_its_last_node(noise: Noise) -> None:
    torch.manual_seed(1)
    traced = trace(Beside().eval())
    for node in traced.graph.nodes:
        if node.name == "relu":
            node.meta["layer"] = "left"
    data = noise(SIZE, 12)
    sweep = prepare_sweep(traced, "left", data)
    assert sweep.outputs is None
    inputs = torch.cat([batch for batch, _ in data.batches(12)])
    left = traced.get_submodule("left")
    assert torch.allclose(sweep.means, left(inputs).relu().mean((0, 2, 3)).double())
    assert_exact(sweep, data)


def test_an_unknown_layer_is_answered_with_near_names(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    for network in (lamps, undecided(lamps)):
        with pytest.raises(LayerNotFoundError, match=r"no layer 'lampss'"):
            prepare_sweep(network, "lampss", clean)


def test_sweeping_leaves_the_network_as_it_was(
    lamps: nn.Sequential, clean: CleanData, untouched: Untouched
) -> None:
    lamps.train()
    lamps.get_submodule("relu").eval()
    with untouched(lamps):
        sweep_predictions(prepare_sweep(lamps, "pool", clean))
    slow = undecided(lamps).train()
    with untouched(slow):
        sweep_predictions(prepare_sweep(slow, "lamps", clean), clean)


def test_a_network_in_training_mode_is_swept_in_evaluation_mode(noise: Noise) -> None:
    network = seeded(nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(432, 4)).train()
    data = noise(SIZE, 30)
    assert_exact(prepare_sweep(network, "1", data), data)
