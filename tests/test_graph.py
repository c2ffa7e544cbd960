"""The graph: names, the layer to prune, the cut that changes nothing."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from goodnet.errors import LayerNotFoundError, NotTraceableError
from goodnet.graph import (
    cut,
    dominators,
    feature_channels,
    find_prune_layer,
    input_node,
    layer_names,
    layer_node,
    layer_of,
    layer_rows,
    node_shapes,
    output_node,
    trace,
    without_softmax,
)
from goodnet.networks import DeepID, PreActResNet18, SmallCNN
from goodnet.networks.layers import FlattenChannelsLast


class Branching(nn.Module):
    """Two convolutions side by side: neither lies on every path."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 2, 1)
        self.right = nn.Conv2d(1, 2, 1)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.flatten(self.left(x) + self.right(x)))
        return out


class Undecided(nn.Module):
    """Its graph depends on the values it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x * 2
        out: Tensor = self.conv(x).flatten(1)
        return out


def test_layers_are_named_as_in_the_network_and_in_order() -> None:
    names = layer_names(trace(DeepID(3, (3, 31, 31))))
    assert names[:5] == ("images", "conv_1", "conv_1_relu", "pool_1", "conv_2")
    assert names[-1] == "output"
    assert layer_names(trace(SmallCNN(3, (3, 8, 8), width=2)))[1] == "features.conv_1"


def test_an_unknown_layer_is_answered_with_near_names() -> None:
    traced = trace(DeepID(3, (3, 31, 31)))
    with pytest.raises(LayerNotFoundError, match=r"no layer 'pol_3'.*pool_3") as caught:
        layer_node(traced, "pol_3")
    assert caught.value.layer == "pol_3"
    assert caught.value.near[0] == "pool_3"


def test_a_name_like_no_other_is_answered_with_the_last_layers() -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        cut(trace(DeepID(3, (3, 31, 31))), "zzz")
    assert caught.value.near[-1] == "output"


@pytest.mark.parametrize(
    ("network", "size", "layer"),
    [
        (DeepID(3), (3, 55, 47), "pool_3"),
        (SmallCNN(3, (3, 16, 16), width=2), (3, 16, 16), "features.pool_3"),
        # Behind pool_3 one pixel a channel is left: the layer before has more.
        (SmallCNN(3, (3, 8, 8), width=2), (3, 8, 8), "features.relu_3"),
        (PreActResNet18(3, (3, 16, 16), width=2), (3, 16, 16), "relu"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten()),
            (1, 4, 4),
            "1",
        ),
        (Branching(), (1, 2, 2), "add"),
    ],
    ids=["DeepID", "SmallCNN", "SmallCNN-tiny", "ResNet", "dropout", "branching"],
)
def test_the_layer_to_prune(network: nn.Module, size: tuple[int, int, int], layer: str) -> None:
    assert find_prune_layer(trace(network), size) == layer


def test_without_feature_maps_there_is_no_layer_to_prune() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(NotTraceableError, match="choose the layer to prune by name"):
        find_prune_layer(trace(network), (1, 2, 2))


def test_a_layer_that_ends_without_feature_maps_is_not_pruned() -> None:
    traced = trace(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 1), nn.Flatten()))
    for node in traced.graph.nodes:
        if layer_of(node) in ("1", "2"):
            node.meta["layer"] = "flat_conv"
    assert find_prune_layer(traced, (1, 2, 2)) == "0"


def test_dominators_pass_by_the_fork() -> None:
    traced = trace(DeepID(3, (3, 31, 31)))
    names = [layer_of(node) for node in dominators(traced)]
    assert names[0] == "images"
    assert names[-4:] == ["pool_3", "add", "activation_1", "output"]
    assert not {"fc_1", "conv_4", "fc_2"} & set(names)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(1, 2)


def test_an_output_without_the_input_is_refused() -> None:
    with pytest.raises(NotTraceableError, match="does not depend on its input"):
        dominators(trace(Constant()))


def test_a_head_on_a_trunk_is_the_network_bit_for_bit(
    architecture: tuple[nn.Module, str, tuple[int, int, int]],
) -> None:
    network, _, size = architecture
    traced = trace(network)
    images = torch.rand(5, *size, generator=torch.Generator().manual_seed(0))
    answer = network(images)
    for node in dominators(traced):
        layer = layer_of(node)
        parts = cut(traced, layer)
        assert torch.equal(parts.head(parts.trunk(images)), answer), layer
        assert {id(p) for p in parts.trunk.parameters()} <= {id(p) for p in network.parameters()}


def test_a_cut_beside_a_parallel_branch_is_refused() -> None:
    with pytest.raises(NotTraceableError, match="runs past layer 'left'"):
        cut(trace(Branching()), "left")


class SharedConstant(nn.Module):
    """A number made from a parameter is used on both sides of the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))
        self.conv = nn.Conv2d(1, 2, 1)
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain * 2
        out: Tensor = self.flatten(self.conv(x * gain)) * gain
        return out


def test_a_constant_from_before_the_cut_may_be_used_behind_it() -> None:
    network = SharedConstant()
    parts = cut(trace(network), "conv")
    images = torch.rand(2, 1, 2, 2)
    assert torch.equal(parts.head(parts.trunk(images)), network(images))


def test_a_layer_of_several_nodes_ends_with_its_last() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten()))
    for node in traced.graph.nodes:
        if layer_of(node) in ("0", "1"):
            node.meta["layer"] = "conv"
    assert layer_names(traced)[1:] == ("conv", "2")
    images = torch.randn(4, 1, 3, 3)
    assert torch.equal(cut(traced, "conv").trunk(images), traced.get_submodule("0")(images).relu())
    row = layer_rows(traced, (1, 3, 3))[1]
    assert (row.kind, row.shape, row.parameters) == ("Conv2d + ReLU", (2, 3, 3), 4)


def test_rows_tell_shape_parameters_and_inputs() -> None:
    rows = {row.name: row for row in layer_rows(trace(DeepID(3)), (3, 55, 47))}
    assert rows["images"].kind == "Input"
    assert rows["pool_3"].shape == (60, 5, 4)
    assert rows["conv_3"].parameters == 60 * 40 * 9 + 60
    assert rows["add"].inputs == ("fc_1", "fc_2")
    assert rows["output"].shape == (3,)


def test_a_layer_that_runs_twice_has_its_parameters_once() -> None:
    conv = nn.Conv2d(1, 1, 1)
    row = layer_rows(trace(nn.Sequential(conv, nn.ReLU(), conv)), (1, 2, 2))[1]
    assert (row.name, row.parameters) == ("0", 2)


def test_asking_for_shapes_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten()).train()
    network[1].eval()
    bits = {name: value.clone() for name, value in network.state_dict().items()}
    node_shapes(trace(network), (1, 2, 2))
    assert [module.training for module in network] == [True, False, True]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in bits.items())


class FunctionalSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.output(x.flatten(1)), dim=1)


class MethodSoftmax(FunctionalSoftmax):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(x.flatten(1)).softmax(1)
        return out


def test_the_softmax_comes_off_however_it_is_written() -> None:
    images = torch.rand(3, 1, 2, 2)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    for network in (nn.Sequential(*plain, nn.Softmax(1)), FunctionalSoftmax(), MethodSoftmax()):
        logits = without_softmax(trace(network))(images)
        assert torch.equal(torch.softmax(logits, 1), network(images))
        assert not torch.equal(logits, network(images))


def test_a_network_without_softmax_is_as_it_is() -> None:
    traced = trace(nn.Sequential(nn.Flatten(), nn.Softmax(1), nn.Linear(4, 3)))
    assert without_softmax(traced) is traced


def test_a_network_that_decides_by_value_is_not_traceable() -> None:
    remedy = "name the layer to prune, or export the network with torch.export"
    with pytest.raises(NotTraceableError, match=re.escape(remedy)):
        trace(Undecided())


class TwoAnswers(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_network_with_two_outputs_is_refused() -> None:
    with pytest.raises(NotTraceableError, match="give a classifier with one output"):
        output_node(trace(TwoAnswers()))


def test_a_traced_network_stays_itself() -> None:
    traced = trace(nn.Sequential(nn.Flatten()))
    assert isinstance(traced, fx.GraphModule)
    assert trace(traced) is traced
    assert layer_of(input_node(traced)) == "input_1"


class OwnDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training).flatten(1)


def test_the_graph_is_that_of_evaluation_mode() -> None:
    network = OwnDropout().train()
    images = torch.ones(2, 1, 4, 4)
    assert torch.equal(trace(network)(images), images.flatten(1))
    assert network.training


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ([nn.Flatten()], [0] * 4 + [1] * 4 + [2] * 4),
        ([FlattenChannelsLast()], [0, 1, 2] * 4),
        ([nn.MaxPool2d(2), nn.Flatten()], [0, 1, 2]),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], [0, 1, 2]),
        ([nn.GELU(), nn.MaxPool2d(2), nn.Flatten()], [0, 1, 2]),
        ([nn.ZeroPad2d(1), nn.Flatten()], None),
        ([nn.Conv2d(3, 3, 1).double(), nn.Flatten()], None),
    ],
    ids=["first", "last", "max", "average", "gelu", "padding", "mixing"],
)
def test_features_know_their_channel(between: list[nn.Module], expected: list[int] | None) -> None:
    head = trace(nn.Sequential(*between))
    found = feature_channels(head, output_node(head), (3, 2, 2))
    assert (None if found is None else found.tolist()) == expected


def test_a_clipping_layer_does_not_hide_channels_above_its_limit() -> None:
    head = trace(nn.Sequential(nn.ReLU6(), nn.Flatten()))
    found = feature_channels(head, output_node(head), (9, 1, 1))
    assert found is not None
    assert found.tolist() == list(range(9))
