"""The network as a graph: its layers, the layer to prune, and the cut at that layer.

A traced network is a `torch.fx.GraphModule` whose nodes carry `meta["layer"]`, the
name of the layer they belong to in the file they came from. A layer may be several
nodes (a convolution and its activation); its output is that of the last one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from goodnet.errors import LayerNotFoundError, NotTraceableError, SettingsError
from goodnet.modes import evaluating
from goodnet.networks.layers import (
    ChannelMask,
    ChannelSelect,
    FlattenChannelsLast,
    Rescale,
)
from goodnet.results import LayerRow

_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d)
# Layers that change each number alone and turn zero into zero.
ELEMENTWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    *_PASSING,
)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, ChannelMask | ChannelSelect | FlattenChannelsLast | Rescale)
        return own or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module) -> fx.GraphModule:
    """`network` as a traced network that shares its modules; a traced one as it is.

    The graph is that of evaluation mode, whatever mode the network is in.

    Raises:
        NotTraceableError: Its forward depends on the values it computes.
    """
    if isinstance(network, fx.GraphModule):
        return network
    try:
        with evaluating(network):
            graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise NotTraceableError(
            f"the graph of {type(network).__name__} could not be traced ({error}); "
            "name the layer to prune, or export the network with torch.export"
        ) from error
    for node in graph.nodes:
        node.meta["layer"] = str(node.target) if node.op == "call_module" else node.name
    return fx.GraphModule(network, graph)


def layer_of(node: fx.Node) -> str:
    """Name of the layer that `node` belongs to."""
    return str(node.meta.get("layer", node.name))


def module_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that `node` calls, or None where it calls a function."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def input_node(network: fx.GraphModule) -> fx.Node:
    """The node that takes the images."""
    node: fx.Node = next(node for node in network.graph.nodes if node.op == "placeholder")
    return node


def output_node(network: fx.GraphModule) -> fx.Node:
    """The node whose value is the network's answer."""
    answer = network.graph.output_node().args[0]
    if not isinstance(answer, fx.Node):
        raise NotTraceableError(
            "the network has several outputs; give a classifier with one output of (batch, classes)"
        )
    return answer


def layer_node(network: fx.GraphModule, layer: str) -> fx.Node:
    """The last node of `layer`, whose output is the layer's.

    Raises:
        LayerNotFoundError: No such layer; lists near names.
    """
    nodes: list[fx.Node] = [
        node
        for node in network.graph.nodes
        if node.op not in ("output", "get_attr") and layer_of(node) == layer
    ]
    if not nodes:
        raise LayerNotFoundError(layer, near_names(layer, layer_names(network)))
    return nodes[-1]


def check_has_channels(network: fx.GraphModule, layer: str, size: tuple[int, int, int]) -> None:
    """Nothing, where `layer` gives feature maps for images of `size`.

    Raises:
        LayerNotFoundError: No such layer.
        SettingsError: It gives none.
    """
    node = layer_node(network, layer)
    if len(node_shapes(network, size).get(node, ())) != 3:
        raise SettingsError(
            "layer", layer, "that layer has no channels; choose a convolution or pooling"
        )


def near_names(layer: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names most like `layer`, or the last ones where none is like it."""
    close = difflib.get_close_matches(layer, names, n=5, cutoff=0.5)
    return tuple(close) or names[-12:]


def layer_names(network: fx.GraphModule) -> tuple[str, ...]:
    """The layers' names in the order they run."""
    names = (
        layer_of(node) for node in network.graph.nodes if node.op not in ("output", "get_attr")
    )
    return tuple(dict.fromkeys(names))


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op not in ("get_attr", "output"):
            self.shapes[n] = tuple(value.shape[1:])
        return value


@torch.no_grad()
def node_shapes(
    network: fx.GraphModule, size: tuple[int, int, int]
) -> dict[fx.Node, tuple[int, ...]]:
    """Shape of each node's output without the batch, for images of `size`."""
    parameter = next(network.parameters(), torch.empty(0))
    recorder = _ShapeRecorder(network)
    with evaluating(network):
        recorder.run(torch.zeros(2, *size, device=parameter.device))
    return recorder.shapes


def layer_rows(network: fx.GraphModule, size: tuple[int, int, int]) -> tuple[LayerRow, ...]:
    """Every layer with its kind, output shape, parameters and the layers it reads."""
    shapes = node_shapes(network, size)
    members: dict[str, list[fx.Node]] = {name: [] for name in layer_names(network)}
    for node in network.graph.nodes:
        if node.op not in ("output", "get_attr"):
            members[layer_of(node)].append(node)
    rows = []
    for name, nodes in members.items():
        # A module that runs twice has its parameters once.
        modules = {module for node in nodes if (module := module_of(network, node)) is not None}
        inputs = (
            layer_of(source)
            for node in nodes
            for source in node.all_input_nodes
            if source.op != "get_attr" and layer_of(source) != name
        )
        rows.append(
            LayerRow(
                name=name,
                kind=_kind(network, nodes),
                shape=shapes.get(nodes[-1], ()),
                parameters=sum(p.numel() for module in modules for p in module.parameters()),
                inputs=tuple(dict.fromkeys(inputs)),
            )
        )
    return tuple(rows)


def _kind(network: fx.GraphModule, nodes: list[fx.Node]) -> str:
    if nodes[0].op == "placeholder":
        return "Input"
    kinds = []
    for node in nodes:
        module = module_of(network, node)
        if module is not None:
            kinds.append(type(module).__name__)
        else:
            kinds.append(str(getattr(node.target, "__name__", node.target)).split(".")[0])
    return " + ".join(kinds)


def dominators(network: fx.GraphModule) -> list[fx.Node]:
    """The nodes through which every path from the input to the output runs, in order."""
    flow: Any = nx.DiGraph()
    flow.add_nodes_from(network.graph.nodes)
    for node in network.graph.nodes:
        flow.add_edges_from((source, node) for source in node.all_input_nodes)
    start, node = input_node(network), output_node(network)
    parents = nx.immediate_dominators(flow, start)
    if node not in parents:
        raise NotTraceableError("the network's output does not depend on its input")
    path = [node]
    while node is not start:
        node = parents[node]
        path.append(node)
    return path[::-1]


def find_prune_layer(network: fx.GraphModule, size: tuple[int, int, int]) -> str:
    """The last layer with spatial channels through which every path to the output runs.

    Layers that pass their input on (dropout) do not count, and one is taken whose
    feature maps have more than one pixel if there is any.

    Raises:
        NotTraceableError: No layer before the output has channels.
    """
    shapes = node_shapes(network, size)
    candidates = [
        node
        for node in dominators(network)[1:]
        if len(shapes.get(node, ())) == 3
        and not isinstance(module_of(network, node), _PASSING)
        and node is layer_node(network, layer_of(node))
    ]
    if not candidates:
        raise NotTraceableError(
            "no layer with feature maps lies on every path to the output; "
            "choose the layer to prune by name"
        )
    spatial = [node for node in candidates if shapes[node][1] * shapes[node][2] > 1]
    return layer_of((spatial or candidates)[-1])


@dataclass(frozen=True)
class Cut:
    """A network in two parts that share its modules: head(trunk(images)) = network(images)."""

    trunk: fx.GraphModule
    head: fx.GraphModule


def cut(network: fx.GraphModule, layer: str) -> Cut:
    """The network cut behind `layer`.

    Raises:
        LayerNotFoundError: No such layer.
        NotTraceableError: A path to the output runs past the layer, so that the head
            would need more than the layer's output.
    """
    node = layer_node(network, layer)
    if node not in dominators(network):
        raise NotTraceableError(
            f"a path to the output runs past layer {layer!r}, so the network cannot be cut there"
        )
    before = _ancestors(node) & _varying(network)
    head = fx.Graph()
    copied = {node: head.placeholder("activation")}
    copied[node].meta["layer"] = layer
    for old in network.graph.nodes:
        if old not in before and old.op not in ("placeholder", "output"):
            copied[old] = head.node_copy(old, copied.__getitem__)
    head.output(copied[output_node(network)])
    return Cut(part_upto(network, node), _on_modules_of(network, head))


def part_upto(network: fx.GraphModule, node: fx.Node) -> fx.GraphModule:
    """The part of the network that computes `node`, sharing its modules."""
    needed = _ancestors(node)
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for old in network.graph.nodes:
        if old in needed:
            copied[old] = graph.node_copy(old, copied.__getitem__)
    graph.output(copied[node])
    return _on_modules_of(network, graph)


def _on_modules_of(network: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    part = fx.GraphModule(network, graph)
    if part.graph.eliminate_dead_code():
        part.recompile()
    return part


def _varying(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose value depends on the images."""
    found = {input_node(network)}
    for node in network.graph.nodes:
        if found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(current.all_input_nodes)
    return found


def without_softmax(network: fx.GraphModule) -> fx.GraphModule:
    """The network up to its logits, sharing its modules; as it is where no softmax ends it."""
    answer = output_node(network)
    is_softmax = isinstance(module_of(network, answer), nn.Softmax)
    if is_softmax or answer.target in (F.softmax, torch.softmax, "softmax"):
        return part_upto(network, answer.all_input_nodes[0])
    return network


class _ChannelFollower(fx.Interpreter):
    """Runs a part of a network in which elementwise layers pass everything on unchanged."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(self.fetch_attr(str(target)), ELEMENTWISE):
            return args[0]
        return super().call_module(target, args, kwargs)


@torch.no_grad()
def feature_channels(head: fx.GraphModule, upto: fx.Node, shape: tuple[int, ...]) -> Tensor | None:
    """Which channel of the head's input each feature of node `upto` comes from.

    Found by sending the channel numbers themselves through the nodes in between, so
    that every order of flattening and every pooling is followed alike.

    Args:
        head: A head whose nodes up to `upto` keep channels apart.
        upto: A node of it.
        shape: Shape of the head's input without the batch.

    Returns:
        int64, the shape of the node's output without the batch; None where a feature
        is not made of one channel alone.
    """
    numbers = torch.arange(1.0, shape[0] + 1, dtype=torch.float64)
    numbers = numbers.view(1, -1, *([1] * (len(shape) - 1))).expand(1, *shape)
    result: Tensor = _ChannelFollower(part_upto(head, upto)).run(numbers)[0]
    whole = result.round()
    if not torch.allclose(result, whole) or whole.min() < 1 or whole.max() > shape[0]:
        return None
    return whole.to(torch.int64) - 1
