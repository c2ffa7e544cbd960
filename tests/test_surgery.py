"""Surgery: pruned channels are zero, nothing else changes, smaller networks answer the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.errors import LayerNotFoundError, NotTraceableError, SurgeryError
from goodnet.graph import trace
from goodnet.networks.layers import ChannelMask, ChannelSelect, FlattenChannelsLast
from goodnet.surgery import prune_channels, remove_channels, zero_channels_

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
SIZE = (2, 6, 6)
CHANNELS = 5
NONE = torch.empty(0, dtype=torch.int64)
SOME = torch.tensor([3, 0])


def seeded(network: nn.Module) -> nn.Module:
    """The network with random weights, running statistics too, in evaluation mode."""
    generator = torch.Generator().manual_seed(7)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.sub_(0.5)
    return network.eval()


def images(count: int = 4) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(2)) * 3


def chain(*middle: nn.Module, features: int = CHANNELS) -> nn.Module:
    """conv, then `middle`, named 1, 2, ..., then a linear layer over pooled features."""
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 3))
    return nn.Sequential(nn.Conv2d(2, CHANNELS, 3, padding=1), *middle, *tail)


class Residual(nn.Module):
    """A norm behind an addition: its shift makes the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, CHANNELS, 1)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.relu(self.norm(x + self.conv(x)))
        out: Tensor = self.output(self.flatten(self.pool(x)))
        return out


class RunsTwice(nn.Module):
    """One convolution runs twice: zeroing it would change the first run too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, CHANNELS, 1)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv(self.conv(self.stem(x)))).flatten(1)
        return out


class TwoUsers(nn.Module):
    """What the convolution makes is used beside the pruned layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, CHANNELS, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.cat([self.relu(x).flatten(1), x.flatten(1)], 1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)).flatten(1)


class Undecided(nn.Module):
    """Its graph depends on the values it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, CHANNELS, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            x = -x
        out: Tensor = self.relu(self.conv(x)).flatten(1)
        return out


# Name: network, layer, whether the weights alone can make its channels zero.
PLACES: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "conv": (lambda: chain(nn.Identity()), "0", True),
    "conv-relu-pool": (lambda: chain(nn.ReLU(), nn.MaxPool2d(2)), "2", True),
    "conv-norm-relu": (lambda: chain(nn.BatchNorm2d(CHANNELS), nn.ReLU()), "2", True),
    "conv-relu-norm": (lambda: chain(nn.ReLU(), nn.BatchNorm2d(CHANNELS)), "2", True),
    "conv-gelu-dropout": (lambda: chain(nn.GELU(), nn.Dropout(0.5)), "2", True),
    "norm behind an addition": (Residual, "relu", True),
    "norm without a shift": (lambda: chain(nn.BatchNorm2d(CHANNELS, affine=False)), "1", False),
    "sigmoid": (lambda: chain(nn.Sigmoid()), "1", False),
    "softplus before a pool": (lambda: chain(nn.Softplus(), nn.MaxPool2d(2)), "2", False),
    "runs twice": (RunsTwice, "relu", False),
    "two users": (TwoUsers, "relu", False),
    "addition": (Residual, "add", False),
    "functional relu": (Functional, "relu", False),
    "untraceable": (Undecided, "relu", False),
}


@pytest.fixture(params=PLACES, ids=list(PLACES))
def place(request: pytest.FixtureRequest) -> tuple[nn.Module, str, bool]:
    build, layer, baked = PLACES[request.param]
    return seeded(build()), layer, baked


def output_of(network: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """What the layer, with its mask if it has one, hands on."""
    masks = [module for module in network.modules() if isinstance(module, ChannelMask)]
    seen: list[Tensor] = []
    module = masks[0] if masks else network.get_submodule(layer)
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    network(inputs)
    hook.remove()
    return seen[-1]


def test_pruned_channels_are_zero_and_no_others(
    place: tuple[nn.Module, str, bool], untouched: Untouched
) -> None:
    network, layer, _ = place
    before = network(images())
    with untouched(network):
        pruned = prune_channels(network, layer, SOME)
    assert torch.equal(network(images()), before)
    output = output_of(pruned, layer, images())
    zero = (output == 0).flatten(2).all(2).all(0)
    assert sorted(zero.nonzero().flatten().tolist()) == sorted(SOME.tolist())
    assert not torch.equal(pruned(images()), before)


def test_weights_are_zeroed_where_that_is_exact_and_masked_elsewhere(
    place: tuple[nn.Module, str, bool],
) -> None:
    network, layer, baked = place
    pruned = prune_channels(network, layer, SOME)
    masks = [module for module in pruned.modules() if isinstance(module, ChannelMask)]
    assert len(masks) == (0 if baked else 1)
    if not baked:
        # A masked network has the weights it had.
        assert [p.tolist() for p in pruned.parameters()] == [
            p.tolist() for p in network.parameters()
        ]


def test_the_other_channels_are_as_they_were(place: tuple[nn.Module, str, bool]) -> None:
    network, layer, _ = place
    if layer not in dict(network.named_modules()):
        pytest.skip("the layer is a function, which no hook can read")
    before = output_of(network, layer, images())
    after = output_of(prune_channels(network, layer, SOME), layer, images())
    kept = [channel for channel in range(CHANNELS) if channel not in SOME.tolist()]
    assert torch.equal(after[:, kept], before[:, kept])


def test_pruning_no_channel_keeps_every_output(place: tuple[nn.Module, str, bool]) -> None:
    network, layer, _ = place
    pruned = prune_channels(network, layer, NONE)
    assert pruned is not network
    assert torch.equal(pruned(images()), network(images()))


def test_pruning_in_two_steps_is_pruning_at_once(place: tuple[nn.Module, str, bool]) -> None:
    network, layer, _ = place
    if isinstance(network, Undecided):
        pytest.skip("the mask takes the place of the module, whose name is then the mask's")
    once = prune_channels(network, layer, SOME)
    twice = prune_channels(prune_channels(network, layer, SOME[:1]), layer, SOME[1:])
    assert torch.equal(once(images()), twice(images()))


@pytest.mark.parametrize("network", [chain(nn.ReLU()), Undecided()], ids=["traced", "not"])
def test_an_unknown_layer_is_answered_with_names(network: nn.Module) -> None:
    with pytest.raises(LayerNotFoundError, match="no layer 'rel'; choose one of: "):
        prune_channels(network, "rel", SOME)


def test_a_bias_of_minus_1e20_stays_silent_and_prunes_to_zero() -> None:
    for norm in ([], [nn.BatchNorm2d(CHANNELS)]):
        network = seeded(chain(*norm, nn.ReLU()))
        conv = network.get_submodule("0")
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        conv.bias.data[SOME] = -1e20
        layer = str(len(norm) + 1)
        pruned = prune_channels(network, layer, SOME)
        output = output_of(pruned, layer, images())
        assert (output[:, SOME] == 0).all()
        # The channels never spoke, so their going changes no answer.
        assert torch.equal(pruned(images()), network(images()))
        pruned_conv = pruned.get_submodule("0")
        assert isinstance(pruned_conv, nn.Conv2d)
        assert pruned_conv.bias is not None
        assert (pruned_conv.bias[SOME] == 0).all()


def test_zeroing_in_place_says_whether_it_could() -> None:
    traced = trace(seeded(chain(nn.ReLU())))
    assert zero_channels_(traced, "1", SOME)
    assert (traced.get_parameter("0.weight")[SOME] == 0).all()
    for network, layer in ((seeded(chain(nn.Sigmoid())), "1"), (seeded(RunsTwice()), "conv")):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        assert not zero_channels_(trace(network), layer, SOME)
        assert not zero_channels_(network, layer, SOME)
        assert all(torch.equal(network.state_dict()[name], v) for name, v in before.items())


# --- removal -------------------------------------------------------------------------


def fork() -> nn.Module:
    class Fork(nn.Module):
        """A dense and a convolution layer both read the pruned channels, as in DeepID."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, CHANNELS, 3)
            self.relu = nn.ReLU()
            self.flatten = FlattenChannelsLast()
            self.left = nn.Linear(CHANNELS * 16, 4)
            self.conv_2 = nn.Conv2d(CHANNELS, 3, 2)
            self.right = nn.Linear(27, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.conv(x))
            out: Tensor = self.left(self.flatten(x)) + self.right(self.flatten(self.conv_2(x)))
            return out

    return Fork()


def flattening(flatten: nn.Module, *before: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3), nn.ReLU(), *before, flatten, nn.Linear(CHANNELS * 16, 3)
    )


# Name: network, layer, whether a selection of channels has to be inserted.
REMOVALS: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "channels first": (lambda: flattening(nn.Flatten()), "1", False),
    "channels last": (lambda: flattening(FlattenChannelsLast()), "1", False),
    "through GELU": (lambda: flattening(nn.Flatten(), nn.GELU()), "1", False),
    "global pool": (lambda: chain(nn.ReLU()), "1", False),
    "fork": (fork, "relu", False),
    "norm behind the conv": (lambda: chain(nn.BatchNorm2d(CHANNELS), nn.ReLU()), "2", False),
    "norm behind an addition": (Residual, "relu", True),
    "sigmoid": (lambda: chain(nn.Sigmoid()), "1", True),
    "dense": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(72, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, 3)
        ),
        "2",
        True,
    ),
}


@pytest.mark.parametrize("name", REMOVALS)
def test_a_smaller_network_answers_as_one_with_zeros(name: str, untouched: Untouched) -> None:
    build, layer, selects = REMOVALS[name]
    network = seeded(build())
    with untouched(network):
        smaller = remove_channels(network, layer, SOME, SIZE)
    if name == "dense":
        zeroed = seeded(build())
        zeroed.get_parameter("3.weight").data[:, SOME] = 0
    else:
        zeroed = prune_channels(network, layer, SOME)
    assert torch.allclose(smaller(images()), zeroed(images()), atol=1e-5)
    assert not torch.allclose(smaller(images()), network(images()), atol=1e-5)
    count = sum(parameter.numel() for parameter in smaller.parameters())
    assert count < sum(parameter.numel() for parameter in network.parameters())
    assert any(isinstance(m, ChannelSelect) for m in smaller.modules()) == selects
    for module in smaller.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert len(module.running_mean) == module.num_features == CHANNELS - len(SOME)


def test_removal_makes_the_real_networks_smaller(
    architecture: tuple[nn.Module, str, tuple[int, int, int]], untouched: Untouched
) -> None:
    network, layer, size = architecture
    inputs = torch.rand(3, *size, generator=torch.Generator().manual_seed(4))
    with untouched(network):
        smaller = remove_channels(network, layer, torch.tensor([1, 4]), size)
        zeroed = prune_channels(network, layer, torch.tensor([1, 4]))
    assert torch.allclose(smaller(inputs), zeroed(inputs), atol=1e-5)
    assert sum(p.numel() for p in smaller.parameters()) < sum(
        p.numel() for p in network.parameters()
    )


def test_a_clipping_layer_hides_no_channel_from_removal() -> None:
    network = seeded(
        nn.Sequential(nn.Conv2d(2, 9, 3), nn.ReLU(), nn.ReLU6(), nn.Flatten(), nn.Linear(9 * 16, 3))
    )
    gone = torch.tensor([2, 7])
    smaller = remove_channels(network, "1", gone, SIZE)
    zeroed = prune_channels(network, "1", gone)
    assert torch.allclose(smaller(images()), zeroed(images()), atol=1e-5)


class Reader(nn.Module):
    """The layer behind the pruned one runs a second time on something else."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, CHANNELS, 1)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.relu(self.conv(self.stem(x)))).flatten(1)
        return out


REFUSALS: dict[str, tuple[Callable[[], nn.Module], str, type[Exception], str]] = {
    "a norm": (
        # It turns the zeros into its shift, which a smaller network would not have.
        lambda: chain(nn.BatchNorm2d(CHANNELS), nn.ReLU()),
        "0",
        SurgeryError,
        r"layer '_1' reads the pruned channels .* keep the pruned network at its size",
    ),
    "an addition": (Residual, "stem", SurgeryError, "reads the pruned channels"),
    "the output": (
        lambda: nn.Sequential(nn.Conv2d(2, CHANNELS, 1), nn.ReLU()),
        "1",
        SurgeryError,
        "'output' reads the pruned channels",
    ),
    "padding that mixes": (
        lambda: nn.Sequential(
            nn.Conv2d(2, CHANNELS, 1),
            nn.ZeroPad2d(1),
            nn.Flatten(),
            nn.Linear(CHANNELS * 64, 2),
        ),
        "0",
        SurgeryError,
        "is mixed from several channels",
    ),
    "a reader that runs twice": (Reader, "relu", SurgeryError, "runs more than once"),
    "a grouped convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        ),
        "0",
        SurgeryError,
        "grouped convolution",
    ),
    "a layer off the path": (TwoUsers, "relu", NotTraceableError, "runs past layer 'relu'"),
    "no graph": (Undecided, "relu", NotTraceableError, "could not be traced"),
    "no such layer": (fork, "rlu", LayerNotFoundError, "choose one of: relu"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_why_and_leaves_everything(name: str, untouched: Untouched) -> None:
    build, layer, error, why = REFUSALS[name]
    network = seeded(build())
    with untouched(network), pytest.raises(error, match=why):
        remove_channels(network, layer, SOME, SIZE)


def test_one_channel_must_stay(untouched: Untouched) -> None:
    network = seeded(chain(nn.ReLU()))
    with untouched(network), pytest.raises(SurgeryError, match="all 5 channels of '1' would go"):
        remove_channels(network, "1", torch.arange(CHANNELS), SIZE)
    smallest = remove_channels(network, "1", torch.arange(CHANNELS - 1), SIZE)
    assert smallest.get_parameter("0.weight").shape[0] == 1


def test_removing_no_channel_keeps_the_answers() -> None:
    network = seeded(fork())
    assert torch.equal(remove_channels(network, "relu", NONE, SIZE)(images()), network(images()))
