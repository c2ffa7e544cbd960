"""Prune channels of one layer: in the weights where that is exact, by a mask elsewhere.

Each function returns a new network; the one handed in stays bit-identical.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from goodnet.errors import LayerNotFoundError, NotTraceableError, SurgeryError
from goodnet.graph import (
    ELEMENTWISE,
    cut,
    feature_channels,
    layer_node,
    module_of,
    near_names,
    node_shapes,
    trace,
)
from goodnet.networks.layers import ChannelMask, ChannelSelect, FlattenChannelsLast

# Layers that treat each channel apart and turn zero into zero.
_ZERO_KEEPING = (
    *ELEMENTWISE,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.ZeroPad2d,
    nn.Upsample,
)
_FLATTENING = (nn.Flatten, FlattenChannelsLast)


@dataclass(frozen=True)
class Producers:
    """What computes a layer's channels, when nothing else uses it on the way.

    Attributes:
        convolution: Its rows make the channels.
        norm: Stands between the convolution and the layer, or makes the channels itself.
        norm_node: Its place in the graph.
        node: Where the channels' values are before the activation and what follows.
        rectified: Whether a ReLU stands between that and the layer's output.
    """

    convolution: nn.Conv2d | None
    norm: nn.BatchNorm2d | None
    norm_node: fx.Node | None
    node: fx.Node | None
    rectified: bool

    @property
    def found(self) -> bool:
        """Whether the channels can be changed in the weights."""
        return self.convolution is not None or self.norm is not None


def producers(network: fx.GraphModule, layer: str) -> Producers:
    """What computes the channels of `layer` in a traced network.

    Raises:
        LayerNotFoundError: No such layer.
    """
    node = layer_node(network, layer)
    calls = [str(n.target) for n in network.graph.nodes if n.op == "call_module"]
    norm, norm_node, rectified = None, None, False
    current = node
    while calls.count(str(current.target)) == 1 and (current is node or len(current.users) == 1):
        module = module_of(network, current)
        if isinstance(module, nn.Conv2d):
            return Producers(module, norm, norm_node, norm_node or current, rectified)
        if isinstance(module, nn.BatchNorm2d) and module.affine and norm is None:
            norm, norm_node = module, current
        elif not isinstance(module, _ZERO_KEEPING) or norm is not None:
            break
        rectified = rectified or isinstance(module, nn.ReLU)
        current = current.all_input_nodes[0]
    return Producers(None, norm, norm_node, norm_node, rectified)


@torch.no_grad()
def prune_channels(network: nn.Module, layer: str, channels: Tensor) -> nn.Module:
    """A new network in which `channels` of `layer` are zero for every image.

    Where zero passes unchanged from the weights to the layer's output (convolution,
    norm, ReLU, pooling) the weights and biases, and the norm's scale and shift, become
    zero; elsewhere a channel mask becomes part of the network.

    Args:
        network: Left bit-identical.
        layer: Name of the layer; its output is (batch, channel, ...).
        channels: Indices of the channels to prune, int64.

    Raises:
        LayerNotFoundError: No such layer.
    """
    pruned = copy.deepcopy(network)
    if len(channels) == 0:
        return pruned
    try:
        traced = trace(pruned)
    except NotTraceableError:
        return _mask_module(pruned, layer, channels)
    if not zero_channels_(traced, layer, channels):
        return _mask_node(traced, layer, channels)
    return traced


@torch.no_grad()
def zero_channels_(network: nn.Module, layer: str, channels: Tensor) -> bool:
    """Zero in place the weights that make `channels` of `layer`, if zero reaches its output.

    Args:
        network: A traced network; changed.
        layer: Name of the layer.
        channels: Indices, int64.

    Returns:
        Whether the weights alone make the channels zero.
    """
    if not isinstance(network, fx.GraphModule):
        return False
    made_by = producers(network, layer)
    for module in (made_by.convolution, made_by.norm):
        if module is not None:
            assert isinstance(module.weight, Tensor)
            module.weight[channels] = 0.0
            if module.bias is not None:
                module.bias[channels] = 0.0
    return made_by.found


def _mask_node(network: fx.GraphModule, layer: str, channels: Tensor) -> fx.GraphModule:
    node = layer_node(network, layer)
    _insert_behind(network, node, f"{layer}_mask", ChannelMask(channels))
    return network


def _insert_behind(network: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> fx.Node:
    # The name becomes part of generated code and may come from an untrusted file.
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    name = name if name[:1].isalpha() else f"layer_{name}"
    taken, number = name, 2
    while hasattr(network, name):
        name, number = f"{taken}_{number}", number + 1
    parameter = next(network.parameters(), torch.empty(0))
    network.add_submodule(name, module.to(parameter.device))
    with network.graph.inserting_after(node):
        inserted = network.graph.call_module(name, (node,))
    inserted.meta["layer"] = name
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
    network.recompile()
    return inserted


def _mask_module(network: nn.Module, layer: str, channels: Tensor) -> nn.Module:
    names = tuple(name for name, _ in network.named_modules() if name)
    if layer not in names:
        raise LayerNotFoundError(layer, near_names(layer, names))
    inner = network.get_submodule(layer)
    parameter = next(network.parameters(), torch.empty(0))
    network.set_submodule(layer, nn.Sequential(inner, ChannelMask(channels.to(parameter.device))))
    return network


@torch.no_grad()
def remove_channels(
    network: nn.Module, layer: str, channels: Tensor, size: tuple[int, int, int]
) -> fx.GraphModule:
    """A new, smaller network without `channels` of `layer`.

    It gives the same answers as one in which they are zero, up to rounding.

    Args:
        network: Left bit-identical.
        layer: Name of a layer through which every path to the output runs.
        channels: Indices of the channels to take out, int64; at least one must stay.
        size: (channels, height, width) of the images.

    Raises:
        LayerNotFoundError: No such layer.
        NotTraceableError: The network cannot be cut at the layer.
        SurgeryError: All channels would go, or a layer behind mixes channels in a way
            that cannot be made smaller.
    """
    smaller = trace(copy.deepcopy(network))
    node = layer_node(smaller, layer)
    shape = node_shapes(smaller, size)[node]
    gone = torch.zeros(shape[0], dtype=torch.bool)
    gone[channels] = True
    kept = (~gone).nonzero().flatten()
    if len(kept) == 0:
        raise SurgeryError(f"all {shape[0]} channels of {layer!r} would go; keep at least one")
    for consumer, source in _consumers(cut(smaller, layer).head, shape):
        if _calls(smaller, consumer) > 1:
            raise SurgeryError(
                f"a layer that reads {layer!r} runs more than once and cannot be made smaller; "
                "keep the pruned network at its size"
            )
        _keep_inputs(consumer, kept if source is None else torch.isin(source, kept))
    made_by = producers(smaller, layer)
    if made_by.convolution is not None:
        _keep_outputs(made_by.convolution, kept)
    elif made_by.norm_node is not None:
        before = made_by.norm_node.all_input_nodes[0]
        _insert_behind(smaller, before, f"{layer}_select", ChannelSelect(kept))
    else:
        _insert_behind(smaller, node, f"{layer}_select", ChannelSelect(kept))
    if made_by.norm is not None:
        _keep_features(made_by.norm, kept)
    smaller.recompile()
    return smaller


def _calls(network: fx.GraphModule, module: nn.Module) -> int:
    return sum(module_of(network, node) is module for node in network.graph.nodes)


def _consumers(
    head: fx.GraphModule, shape: tuple[int, ...]
) -> list[tuple[nn.Module, Tensor | None]]:
    """The layers that read the head's channels; for a dense one, each feature's channel."""
    found: list[tuple[nn.Module, Tensor | None]] = []
    waiting = [next(iter(head.graph.nodes))]
    while waiting:
        node = waiting.pop()
        for user in node.users:
            module = module_of(head, user)
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                found.append((module, None))
            elif isinstance(module, nn.Linear):
                source = feature_channels(head, node, shape)
                if source is None:
                    raise SurgeryError(
                        f"what layer {user.name!r} reads is mixed from several channels; "
                        "keep the pruned network at its size"
                    )
                found.append((module, source))
            elif isinstance(module, _ZERO_KEEPING + _FLATTENING):
                waiting.append(user)
            else:
                # A norm is such a layer too: it turns zero into something else.
                raise SurgeryError(
                    f"layer {user.name!r} reads the pruned channels and cannot be made smaller; "
                    "keep the pruned network at its size"
                )
    return found


def _keep_inputs(module: nn.Module, kept: Tensor) -> None:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    module.weight = nn.Parameter(module.weight[:, kept].clone(), module.weight.requires_grad)
    if isinstance(module, nn.Conv2d):
        module.in_channels = module.weight.shape[1]
    else:
        module.in_features = module.weight.shape[1]


def _keep_outputs(convolution: nn.Conv2d, kept: Tensor) -> None:
    if convolution.groups != 1:
        raise SurgeryError(
            "a grouped convolution cannot lose single channels; keep the pruned network at its size"
        )
    weight = convolution.weight
    convolution.weight = nn.Parameter(weight[kept].clone(), weight.requires_grad)
    if convolution.bias is not None:
        bias = convolution.bias
        convolution.bias = nn.Parameter(bias[kept].clone(), bias.requires_grad)
    convolution.out_channels = len(kept)


def _keep_features(norm: nn.BatchNorm2d, kept: Tensor) -> None:
    for name in ("weight", "bias"):
        old = getattr(norm, name)
        if old is not None:
            setattr(norm, name, nn.Parameter(old[kept].clone(), old.requires_grad))
    for name in ("running_mean", "running_var"):
        old = getattr(norm, name)
        if old is not None:
            setattr(norm, name, old[kept].clone())
    norm.num_features = len(kept)
