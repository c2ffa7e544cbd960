"""A Keras graph as a native PyTorch network, and back.

The network is a traced one with the file's own layer names. A Keras layer may become
several nodes (padding, convolution, activation); the last one is its output.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from goodnet.errors import ModelFileError
from goodnet.formats.keras.config import KerasGraph, KerasLayer
from goodnet.graph import layer_of, module_of
from goodnet.networks.layers import ChannelMask, ChannelSelect, FlattenChannelsLast, Rescale

Weights = list[NDArray[np.float32]]
Shape = tuple[int, ...]

# Values of one image in a layer's output; more would ask for gigabytes.
LARGEST_OUTPUT = 2**26

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "softmax": lambda: nn.Softmax(dim=1),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "relu6": nn.ReLU6,
    "softplus": nn.Softplus,
}
_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "Maximum": torch.maximum,
}


class _UnsupportedError(ValueError):
    """A known layer with a setting that has no native counterpart."""


# What wrong numbers and types of an untrusted config make of the code below.
_MISFITS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    OverflowError,
    ZeroDivisionError,
)


def input_size(graph: KerasGraph, path: Path) -> tuple[tuple[int, int, int], bool]:
    """(channels, height, width) of the input, and whether the file has channels last."""
    # A Flatten's own says only in what order it flattens.
    formats = {
        str(layer.settings["data_format"])
        for layer in graph.layers
        if layer.settings.get("data_format") is not None and layer.kind != "Flatten"
    }
    if formats - {"channels_last", "channels_first"} or len(formats) > 1:
        raise ModelFileError(path, "mixes channel layouts", "save it with one data_format")
    last = formats != {"channels_first"}
    entry = next(layer for layer in graph.layers if layer.kind == "InputLayer")
    shape = entry.settings.get("batch_shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or not all(type(extent) is int and extent > 0 for extent in shape[1:])
        or math.prod(shape[1:]) > LARGEST_OUTPUT
    ):
        raise ModelFileError(
            path,
            f"takes inputs of shape {str(shape)[:80]}",
            "give a network for images of one fixed size (height, width, channels)",
        )
    height, width, channels = shape[1:] if last else (*shape[2:], shape[1])
    return (int(channels), int(height), int(width)), last


def native_network(
    graph: KerasGraph,
    weights: dict[str, Weights],
    shapes: dict[str, tuple[tuple[Shape, ...], ...]],
    path: Path,
) -> fx.GraphModule:
    """The network that computes what the Keras graph does, in evaluation mode.

    Args:
        graph: Its layers.
        weights: Each layer's arrays in Keras order.
        shapes: For each layer and call, the shapes of its inputs in Keras, with the batch.
        path: The file, for messages.

    Shape: (batch, channel, height, width) to what the Keras network gives.

    Raises:
        ModelFileError: A setting has no native counterpart; names the layer.
    """
    root, nodes = nn.Module(), fx.Graph()
    values: dict[str, fx.Node] = {}
    last = input_size(graph, path)[1]
    targets: dict[str, list[str]] = {}
    for layer, number in graph.in_order():
        name = layer.values[number]
        if layer.kind == "InputLayer":
            values[name] = nodes.placeholder("images")
            values[name].meta["layer"] = layer.name
            continue
        try:
            if layer.name not in targets:
                steps = _shared_steps(layer, weights.get(layer.name, []), shapes[layer.name], last)
                targets[layer.name] = [
                    _register(root, layer.name, suffix, module) for suffix, module in steps
                ]
            inputs = [values[source] for source in layer.calls[number]]
            value = _merge(nodes, layer, inputs, shapes[layer.name][number], last)
        except _UnsupportedError as error:
            raise ModelFileError(
                path, f"layer {layer.name!r}: {error}", "build the network without it"
            ) from error
        except _MISFITS as error:
            raise ModelFileError(
                path,
                f"layer {layer.name!r} has settings that do not fit "
                f"({type(error).__name__}: {str(error)[:80]})",
                "save the model again",
            ) from error
        for target in targets[layer.name]:
            value = nodes.call_module(target, (value,))
            value.meta["layer"] = layer.name
        value.meta["value"] = name
        values[name] = value
    nodes.output(values[graph.output])
    network = fx.GraphModule(root, nodes)
    return network.eval()


# Its attributes are names that no layer's module can have.
_BARE = fx.GraphModule(nn.Module(), fx.Graph())


def _register(root: nn.Module, layer: str, suffix: str, module: nn.Module) -> str:
    # The name becomes part of generated code and the file is untrusted: letters only.
    base = re.sub(r"\W", "_", f"{layer}_{suffix}" if suffix else layer, flags=re.ASCII)
    base = base if base[:1].isalpha() and not keyword.iskeyword(base) else f"layer_{base}"
    name, number = base, 2
    while hasattr(root, name) or hasattr(_BARE, name):
        name, number = f"{base}_{number}", number + 1
    root.add_module(name, module)
    return name


def _merge(
    nodes: fx.Graph,
    layer: KerasLayer,
    inputs: list[fx.Node],
    shapes: tuple[Shape, ...],
    last: bool,
) -> fx.Node:
    if len(inputs) == 1:
        return inputs[0]
    rank = len(shapes[0])
    if any(len(shape) != rank for shape in shapes):
        raise _UnsupportedError("joins feature maps with what has none")
    if layer.kind == "Concatenate":
        axis = layer.settings.get("axis", -1)
        if axis % rank != (rank - 1 if last or rank == 2 else 1):
            raise _UnsupportedError(f"joins along axis {axis}, not along the channels")
        value = nodes.call_function(torch.cat, (inputs, 1))
        value.meta["layer"] = layer.name
        return value
    join = operator.add if layer.kind == "Average" else _MERGES.get(layer.kind)
    if join is None:
        raise _UnsupportedError(f"{layer.kind} takes one input, not {len(inputs)}")
    value = inputs[0]
    for other in inputs[1:]:
        value = nodes.call_function(join, (value, other))
        value.meta["layer"] = layer.name
    if layer.kind == "Average":
        value = nodes.call_function(operator.truediv, (value, len(inputs)))
        value.meta["layer"] = layer.name
    return value


def _shared_steps(
    layer: KerasLayer, weights: Weights, shapes: tuple[tuple[Shape, ...], ...], last: bool
) -> list[tuple[str, nn.Module]]:
    """The modules of a layer, where they are the same for each of its calls."""
    steps = [
        _steps(layer, weights, shape, last)
        for shape in dict.fromkeys(inputs[0] for inputs in shapes)
    ]
    if len({repr(one) for one in steps}) > 1:
        raise _UnsupportedError("is applied to inputs of different sizes")
    return steps[0]


def _steps(  # noqa: PLR0912, PLR0915 - one branch a kind of layer
    layer: KerasLayer, weights: Weights, shape: tuple[int, ...], last: bool
) -> list[tuple[str, nn.Module]]:
    """The modules that make up one Keras layer, with name suffixes."""
    settings = layer.settings
    flat = len(shape) == 2
    match layer.kind:
        case "Conv2D" | "DepthwiseConv2D":
            steps = _convolution(layer, weights, shape, last)
        case "Dense":
            if not flat:
                raise _UnsupportedError("is dense over feature maps; flatten them first")
            steps = [("", _dense(weights))]
        case "BatchNormalization":
            steps = [("", _norm(layer, weights, shape, last))]
        case "MaxPooling2D" | "AveragePooling2D":
            steps = _pooling(layer, shape, last)
        case "GlobalAveragePooling2D" | "GlobalMaxPooling2D":
            average = layer.kind == "GlobalAveragePooling2D"
            steps = [("", nn.AdaptiveAvgPool2d(1) if average else nn.AdaptiveMaxPool2d(1))]
            if not settings.get("keepdims"):
                steps.append(("flatten", nn.Flatten()))
        case "Flatten":
            reorders = settings.get("data_format") == "channels_first"
            if last and reorders and not flat:
                raise _UnsupportedError("flattens channels first what has them last")
            swaps = last or reorders
            steps = [("", FlattenChannelsLast() if swaps and not flat else nn.Flatten())]
        case "Dropout" | "SpatialDropout2D":
            wide = layer.kind == "SpatialDropout2D"
            rate = float(settings.get("rate", 0.5))
            steps = [("", nn.Dropout2d(rate) if wide else nn.Dropout(rate))]
        case "GaussianNoise":
            steps = [("", nn.Identity())]
        case "Activation":
            steps = []
            if settings["activation"] in (None, "linear"):
                steps = [("", nn.Identity())]
        case "ReLU":
            steps = [("", _relu(settings))]
        case "LeakyReLU":
            steps = [("", nn.LeakyReLU(float(settings.get("negative_slope", 0.3))))]
        case "ELU":
            steps = [("", nn.ELU(float(settings.get("alpha", 1.0))))]
        case "Softmax":
            if settings.get("axis", -1) not in (-1, 1) or not flat:
                raise _UnsupportedError("takes its softmax over something else than the classes")
            steps = [("", nn.Softmax(dim=1))]
        case "Rescaling":
            steps = [("", Rescale(_number(settings, "scale"), _number(settings, "offset")))]
        case "UpSampling2D":
            if settings.get("interpolation", "nearest") != "nearest":
                raise _UnsupportedError("upsamples otherwise than by the nearest pixel")
            factors = tuple(float(factor) for factor in _pair(settings.get("size", 2)))
            steps = [("", nn.Upsample(scale_factor=factors))]
        case "ZeroPadding2D":
            steps = [("", nn.ZeroPad2d(_borders(settings.get("padding", 1))))]
        case _:
            steps = []
    activation = settings.get("activation")
    if activation not in (None, "linear"):
        if activation == "softmax" and not flat:
            raise _UnsupportedError("takes its softmax over feature maps")
        module = _ACTIVATIONS[activation]()
        if steps and isinstance(module, nn.ReLU):
            # Nothing else reads the layer before its activation, so its memory can serve twice.
            module.inplace = True
        steps.append((activation if steps else "", module))
    return steps


def _number(settings: dict[str, Any], key: str) -> float:
    value = settings.get(key, 0.0)
    if not isinstance(value, int | float):
        raise _UnsupportedError(f"has a {key} for each channel; use a BatchNormalization for that")
    return float(value)


def _pair(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return int(pair[0]), int(pair[1])


def _borders(padding: Any) -> tuple[int, int, int, int]:
    """Keras's padding as PyTorch's (left, right, top, bottom)."""
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    (top, bottom), (left, right) = _pair(rows), _pair(columns)
    return left, right, top, bottom


def _same_padding(
    shape: tuple[int, ...],
    window: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    last: bool,
) -> tuple[int, int, int, int]:
    """What `padding="same"` adds: (left, right, top, bottom); more after than before."""
    extents = shape[1:3] if last else shape[2:4]
    sides = []
    for extent, size, step, spread in zip(extents, window, stride, dilation, strict=True):
        reach = (size - 1) * spread + 1
        total = max((-(-extent // step) - 1) * step + reach - extent, 0)
        sides.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = sides
    return left, right, top, bottom


def _convolution(
    layer: KerasLayer, weights: Weights, shape: tuple[int, ...], last: bool
) -> list[tuple[str, nn.Module]]:
    settings = layer.settings
    kernel = weights[0]
    stride, dilation = _pair(settings.get("strides", 1)), _pair(settings.get("dilation_rate", 1))
    channels = shape[-1] if last else shape[1]
    if layer.kind == "DepthwiseConv2D":
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
        groups = channels
    else:
        groups = int(settings.get("groups") or 1)
    window = (kernel.shape[0], kernel.shape[1])
    steps: list[tuple[str, nn.Module]] = []
    padding = (0, 0)
    if settings.get("padding") == "same":
        left, right, top, bottom = _same_padding(shape, window, stride, dilation, last)
        if (left, top) == (right, bottom):
            padding = (top, left)
        else:
            steps.append(("pad", nn.ZeroPad2d((left, right, top, bottom))))
    elif settings.get("padding", "valid") != "valid":
        raise _UnsupportedError(f"has padding {settings.get('padding')!r}")
    convolution = nn.Conv2d(
        channels, kernel.shape[3], window, stride, padding, dilation, groups, len(weights) == 2
    )
    _load(convolution.weight, kernel.transpose(3, 2, 0, 1))
    if convolution.bias is not None:
        _load(convolution.bias, weights[1])
    return [*steps, ("", convolution)]


def _pooling(layer: KerasLayer, shape: tuple[int, ...], last: bool) -> list[tuple[str, nn.Module]]:
    settings = layer.settings
    window = _pair(settings.get("pool_size", 2))
    stride = _pair(settings.get("strides") or window)
    kind = nn.MaxPool2d if layer.kind == "MaxPooling2D" else nn.AvgPool2d
    if settings.get("padding", "valid") == "valid":
        return [("", kind(window, stride))]
    left, right, top, bottom = _same_padding(shape, window, stride, (1, 1), last)
    if (left, top) == (0, 0):
        # The windows that hang over the far edges: PyTorch leaves the outside out too.
        return [("", kind(window, stride, ceil_mode=True))]
    if kind is nn.MaxPool2d:
        border = nn.ConstantPad2d((left, right, top, bottom), -torch.inf)
        return [("pad", border), ("", nn.MaxPool2d(window, stride))]
    if (left, top) == (right, bottom):
        return [("", nn.AvgPool2d(window, stride, (top, left), count_include_pad=False))]
    raise _UnsupportedError("averages over windows that hang over both edges unequally")


def _dense(weights: Weights) -> nn.Linear:
    linear = nn.Linear(weights[0].shape[0], weights[0].shape[1], bias=len(weights) == 2)
    _load(linear.weight, weights[0].T)
    if linear.bias is not None:
        _load(linear.bias, weights[1])
    return linear


def _norm(layer: KerasLayer, weights: Weights, shape: tuple[int, ...], last: bool) -> nn.Module:
    settings = layer.settings
    axis = settings.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) else axis
    channel_axis = len(shape) - 1 if last or len(shape) == 2 else 1
    if axis % len(shape) != channel_axis:
        raise _UnsupportedError(f"normalises along axis {axis}, not each channel")
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    norm = kind(
        shape[channel_axis],
        eps=float(settings.get("epsilon", 1e-3)),
        momentum=1.0 - float(settings.get("momentum", 0.99)),
    )
    arrays = iter(weights)
    if settings.get("scale", True):
        _load(norm.weight, next(arrays))
    if settings.get("center", True):
        _load(norm.bias, next(arrays))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    _load(norm.running_mean, next(arrays))
    _load(norm.running_var, next(arrays))
    return norm


def _relu(settings: dict[str, Any]) -> nn.Module:
    slope = float(settings.get("negative_slope") or 0.0)
    limit = settings.get("max_value")
    if float(settings.get("threshold") or 0.0) or limit not in (None, 6, 6.0):
        raise _UnsupportedError("is a ReLU with a threshold or an unusual upper limit")
    if limit is not None and slope:
        raise _UnsupportedError("is a leaky ReLU with an upper limit")
    if limit is not None:
        return nn.ReLU6()
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


@torch.no_grad()
def _load(parameter: Tensor, array: NDArray[np.float32]) -> None:
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def keras_graph(network: fx.GraphModule, original: KerasGraph) -> KerasGraph:
    """`original` brought up to date with what surgery did to the network.

    Layers that lost channels get their new sizes; masks and selections put in become
    plain Keras convolutions.
    """
    graph = original
    kinds = {layer.name: layer.kind for layer in original.layers}
    layout = next(
        (
            layer.settings["data_format"]
            for layer in original.layers
            if layer.kind != "Flatten" and layer.settings.get("data_format")
        ),
        "channels_last",
    )
    settings: dict[str, dict[str, Any]] = {}
    for node in network.graph.nodes:
        module, name = module_of(network, node), layer_of(node)
        if isinstance(module, ChannelMask | ChannelSelect) and name not in kinds:
            before = node.all_input_nodes[0]
            source = str(before.meta.get("value", layer_of(before)))
            readers = [layer_of(user) for user in node.users if user.op != "output"]
            inserted = _inserted(name, source, module, layout)
            graph = graph.rewired(source, inserted, readers)
            kinds[name] = inserted.kind
        elif isinstance(module, nn.Conv2d):
            depthwise = kinds.get(name) == "DepthwiseConv2D"
            settings[name] = (
                {"depth_multiplier": module.out_channels // module.groups}
                if depthwise
                else {"filters": module.out_channels}
            )
        elif isinstance(module, nn.Linear):
            settings[name] = {"units": module.out_features}
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            settings[name] = {"center": True, "scale": True}
    layers = tuple(
        KerasLayer(
            layer.name, layer.kind, layer.settings | settings.get(layer.name, {}), layer.calls
        )
        for layer in graph.layers
    )
    return KerasGraph(layers, graph.output)


def _inserted(
    name: str, source: str, module: ChannelMask | ChannelSelect, layout: str
) -> KerasLayer:
    settings: dict[str, Any] = {
        "kernel_size": 1,
        "strides": 1,
        "padding": "valid",
        "use_bias": False,
        "data_format": layout,
    }
    kind = "DepthwiseConv2D"
    if isinstance(module, ChannelSelect):
        kind, settings["filters"] = "Conv2D", len(module.kept)
    return KerasLayer(name, kind, settings, ((source,),))


def layer_weights(network: fx.GraphModule, layer: str, shapes: list[tuple[int, ...]]) -> Weights:
    """A layer's arrays in Keras order and of the Keras shapes."""
    modules = [
        module
        for node in network.graph.nodes
        if layer_of(node) == layer and (module := module_of(network, node)) is not None
    ]
    for module in modules:
        if isinstance(module, nn.Conv2d):
            kernel = module.weight.permute(2, 3, 1, 0)
            return _arrays(kernel.reshape(shapes[0]), module.bias)
        if isinstance(module, nn.Linear):
            return _arrays(module.weight.T, module.bias)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return _arrays(module.weight, module.bias, module.running_mean, module.running_var)
        if isinstance(module, ChannelMask):
            keep = torch.ones(shapes[0])
            keep[:, :, module.pruned] = 0.0
            return _arrays(keep)
        if isinstance(module, ChannelSelect):
            chosen = torch.zeros(shapes[0])
            chosen[0, 0, module.kept, torch.arange(len(module.kept))] = 1.0
            return _arrays(chosen)
    return []


def _arrays(*values: Tensor | None) -> Weights:
    return [value.detach().cpu().numpy() for value in values if value is not None]
