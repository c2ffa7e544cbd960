"""Layers out of operations: a convolution with its weights becomes an `nn.Conv2d`, and so on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from goodnet.formats.exported.program import Reference
from goodnet.networks.layers import ChannelMask, ChannelSelect, FlattenChannelsLast

Kind = TypeVar("Kind", bound=nn.Module)
Bound = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor of the file, under its name there."""

    name: str
    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Transposed:
    """A stored matrix, transposed."""

    stored: Stored


@dataclass(frozen=True, eq=False)
class ChannelsLast:
    """A value with its channels moved to the end."""

    input: Reference


@dataclass(frozen=True, eq=False)
class Layer:
    """A module and the value it is applied to.

    Attributes:
        name: Its name out of its tensors' names; None where it has no tensors.
    """

    module: nn.Module
    input: Reference
    name: str | None = None


def layer_of(name: str, bound: Bound, dimensions: int | None) -> Layer | None:
    """The layer that operation `name` amounts to; None where it is no simple layer.

    Args:
        name: Short name of the operation.
        bound: All its arguments by name; in the place of a Reference may stand what it
            is known to be: `Stored`, `Transposed` or `ChannelsLast`.
        dimensions: Number of dimensions of its input, as far as the file says.
    """
    if name in _WITH_TENSORS:
        return _WITH_TENSORS[name](bound, dimensions)
    make = _WITHOUT_TENSORS.get(name)
    source = bound.get("self", bound.get("input"))
    if isinstance(source, ChannelsLast) and name == "flatten.using_ints":
        whole = (bound["start_dim"], bound["end_dim"]) in ((1, -1), (1, 3))
        return Layer(FlattenChannelsLast(), source.input) if whole else None
    if make is None or not isinstance(source, Reference):
        return None
    module = make(bound)
    return None if module is None else Layer(module, source)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _pair(value: Any, least: int) -> tuple[int, int] | None:
    """`value` as two whole numbers from `least`; None where it is something else."""
    values = value if isinstance(value, list) else [value]
    if any(type(one) is not int or one < least for one in values) or len(values) not in (1, 2):
        return None
    return (values[0], values[-1])


def _module_name(stored: Stored, attribute: str) -> str:
    prefix, _, last = stored.name.rpartition(".")
    return prefix if prefix and last == attribute else stored.name


def _is_vector(value: Any, size: int) -> bool:
    return isinstance(value, Stored) and tuple(value.tensor.shape) == (size,)


def _give(module: Kind, tensors: dict[str, Stored | Tensor | None]) -> Kind:
    """`module`, made without memory, with `tensors` in the place of its own."""
    for name, value in tensors.items():
        tensor = value.tensor if isinstance(value, Stored) else value
        delattr(module, name)
        if tensor is None or isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        else:
            module.register_buffer(name, tensor)
    return module


def _convolution(bound: Bound, _: int | None) -> Layer | None:
    weight, bias, groups = bound["weight"], bound["bias"], bound["groups"]
    if bound.get("transposed") or not isinstance(weight, Stored) or weight.tensor.dim() != 4:
        return None
    out_channels, in_channels, *kernel = weight.tensor.shape
    padding = bound["padding"]
    if not isinstance(padding, str):
        padding = _pair(padding, 0)
    stride, dilation = _pair(bound["stride"], 1), _pair(bound["dilation"], 1)
    fits = bias is None or _is_vector(bias, out_channels)
    if None in (stride, padding, dilation) or not fits or not isinstance(bound["input"], Reference):
        return None
    if type(groups) is not int or groups < 1 or out_channels % groups or not weight.tensor.numel():
        return None
    if isinstance(padding, str) and (padding not in ("same", "valid") or stride != (1, 1)):
        return None
    module = nn.Conv2d(
        in_channels * groups,
        out_channels,
        (kernel[0], kernel[1]),
        stride or 1,
        padding or 0,
        dilation or 1,
        groups,
        bias is not None,
        device="meta",
    )
    _give(module, {"weight": weight, "bias": bias})
    return Layer(module, bound["input"], _module_name(weight, "weight"))


def _linear_layer(source: Any, weight: Stored, bias: Any) -> Layer | None:
    if weight.tensor.dim() != 2 or not weight.tensor.numel() or not isinstance(source, Reference):
        return None
    out_features, in_features = weight.tensor.shape
    if not (bias is None or _is_vector(bias, out_features)):
        return None
    module = nn.Linear(in_features, out_features, bias is not None, device="meta")
    _give(module, {"weight": weight, "bias": bias})
    return Layer(module, source, _module_name(weight, "weight"))


def _linear(bound: Bound, _: int | None) -> Layer | None:
    weight = bound["weight"]
    if not isinstance(weight, Stored):
        return None
    return _linear_layer(bound["input"], weight, bound["bias"])


def _matrix_product(bound: Bound, _: int | None) -> Layer | None:
    """A linear layer as the decompositions of torch write it: x times the transposed weight."""
    source, weight, bias = bound["self"], bound["mat2"], None
    if "mat1" in bound:
        source, bias = bound["mat1"], bound["self"]
        if bound["beta"] != 1 or bound["alpha"] != 1:
            return None
    if not isinstance(weight, Transposed) or isinstance(bias, Reference):
        return None
    return _linear_layer(source, weight.stored, bias)


def _batch_norm(bound: Bound, dimensions: int | None) -> Layer | None:
    mean, variance = bound["running_mean"], bound["running_var"]
    weight, bias = bound["weight"], bound["bias"]
    numbers = _is_number(bound["momentum"]) and _is_number(bound["eps"])
    if not (isinstance(mean, Stored) and mean.tensor.dim() == 1 and numbers):
        return None
    features = len(mean.tensor)
    fits = all(value is None or _is_vector(value, features) for value in (weight, bias, variance))
    if variance is None or not fits or not isinstance(bound["input"], Reference):
        return None
    kind = nn.BatchNorm2d if dimensions == 4 else nn.BatchNorm1d
    affine = weight is not None
    if affine is False and bias is not None:
        return None
    module = kind(features, bound["eps"], bound["momentum"], affine, device="meta")
    tensors = {"running_mean": mean, "running_var": variance}
    tensors |= {"weight": weight, "bias": bias}
    _give(module, {**tensors, "num_batches_tracked": torch.tensor(0)})
    named_by, attribute = (weight, "weight") if affine else (mean, "running_mean")
    return Layer(module, bound["input"], _module_name(named_by, attribute))


def _channel_mask(bound: Bound, _: int | None) -> Layer | None:
    index = bound["index"]
    if not _is_channel_index(bound) or bound["value"] != 0:
        return None
    return Layer(ChannelMask(index.tensor), bound["self"], _module_name(index, "pruned"))


def _channel_select(bound: Bound, _: int | None) -> Layer | None:
    if not _is_channel_index(bound):
        return None
    index = bound["index"]
    return Layer(ChannelSelect(index.tensor), bound["self"], _module_name(index, "kept"))


def _is_channel_index(bound: Bound) -> bool:
    index = bound["index"]
    is_index = isinstance(index, Stored) and index.tensor.dim() == 1
    return is_index and bound["dim"] == 1 and isinstance(bound["self"], Reference)


_WITH_TENSORS: dict[str, Callable[[Bound, int | None], Layer | None]] = {
    "conv2d.default": _convolution,
    "conv2d.padding": _convolution,
    "convolution.default": _convolution,
    "linear.default": _linear,
    "addmm.default": _matrix_product,
    "mm.default": _matrix_product,
    "batch_norm.default": _batch_norm,
    "_native_batch_norm_legit_no_training.default": _batch_norm,
    "index_fill.int_Scalar": _channel_mask,
    "index_select.default": _channel_select,
}


def _max_pool(bound: Bound) -> nn.Module | None:
    kernel, padding = _pair(bound["kernel_size"], 1), _pair(bound["padding"], 0)
    stride, dilation = (
        _pair(bound["stride"] or bound["kernel_size"], 1),
        _pair(bound["dilation"], 1),
    )
    if kernel is None or stride is None or padding is None or dilation is None:
        return None
    return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=bound["ceil_mode"] is True)


def _average_pool(bound: Bound) -> nn.Module | None:
    kernel, padding = _pair(bound["kernel_size"], 1), _pair(bound["padding"], 0)
    stride = _pair(bound["stride"] or bound["kernel_size"], 1)
    if kernel is None or stride is None or padding is None:
        return None
    divisor = bound["divisor_override"]
    if not (divisor is None or (type(divisor) is int and divisor > 0)):
        return None
    return nn.AvgPool2d(
        kernel,
        stride,
        padding,
        ceil_mode=bound["ceil_mode"] is True,
        count_include_pad=bound["count_include_pad"] is True,
        divisor_override=divisor,
    )


def _adaptive_average_pool(bound: Bound) -> nn.Module | None:
    size = _pair(bound["output_size"], 1)
    return None if size is None else nn.AdaptiveAvgPool2d(size)


def _mean(bound: Bound) -> nn.Module | None:
    """The mean over height and width, as the decompositions of torch write global pooling."""
    over_pixels = bound["dim"] in ([-1, -2], [-2, -1]) and bound["keepdim"] is True
    return nn.AdaptiveAvgPool2d(1) if over_pixels and bound["dtype"] is None else None


def _flatten(bound: Bound) -> nn.Module | None:
    start, end = bound["start_dim"], bound["end_dim"]
    if type(start) is not int or type(end) is not int:
        return None
    return nn.Flatten(start, end)


def _softmax(bound: Bound) -> nn.Module | None:
    plain = bound.get("dtype") is None and not bound.get("half_to_float")
    return nn.Softmax(bound["dim"]) if plain and type(bound["dim"]) is int else None


def _log_softmax(bound: Bound) -> nn.Module | None:
    plain = bound.get("dtype") is None and not bound.get("half_to_float")
    return nn.LogSoftmax(bound["dim"]) if plain and type(bound["dim"]) is int else None


def _elu(bound: Bound) -> nn.Module | None:
    plain = bound["scale"] == 1 and bound["input_scale"] == 1 and _is_number(bound["alpha"])
    return nn.ELU(bound["alpha"]) if plain else None


def _hardtanh(bound: Bound) -> nn.Module | None:
    low, high = bound["min_val"], bound["max_val"]
    if not (_is_number(low) and _is_number(high) and low < high):
        return None
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


def _leaky_relu(bound: Bound) -> nn.Module | None:
    slope = bound["negative_slope"]
    return nn.LeakyReLU(slope) if _is_number(slope) else None


def _gelu(bound: Bound) -> nn.Module | None:
    return nn.GELU(bound["approximate"]) if bound["approximate"] in ("none", "tanh") else None


def _dropout(kind: type[nn.Dropout] | type[nn.Dropout2d]) -> Callable[[Bound], nn.Module | None]:
    def make(bound: Bound) -> nn.Module | None:
        share = bound["p"]
        return kind(share) if _is_number(share) and 0 <= share <= 1 else None

    return make


def _plain(kind: Callable[[], nn.Module]) -> Callable[[Bound], nn.Module | None]:
    return lambda _: kind()


_WITHOUT_TENSORS: dict[str, Callable[[Bound], nn.Module | None]] = {
    "relu.default": _plain(nn.ReLU),
    "relu6.default": _plain(nn.ReLU6),
    "selu.default": _plain(nn.SELU),
    "sigmoid.default": _plain(nn.Sigmoid),
    "tanh.default": _plain(nn.Tanh),
    "silu.default": _plain(nn.SiLU),
    "mish.default": _plain(nn.Mish),
    "hardswish.default": _plain(nn.Hardswish),
    "hardsigmoid.default": _plain(nn.Hardsigmoid),
    "hardtanh.default": _hardtanh,
    "leaky_relu.default": _leaky_relu,
    "elu.default": _elu,
    "gelu.default": _gelu,
    "softmax.int": _softmax,
    "_softmax.default": _softmax,
    "log_softmax.int": _log_softmax,
    "_log_softmax.default": _log_softmax,
    "max_pool2d.default": _max_pool,
    "max_pool2d_with_indices.default": _max_pool,
    "avg_pool2d.default": _average_pool,
    "adaptive_avg_pool2d.default": _adaptive_average_pool,
    "_adaptive_avg_pool2d.default": _adaptive_average_pool,
    "mean.dim": _mean,
    "flatten.using_ints": _flatten,
    "dropout.default": _dropout(nn.Dropout),
    "feature_dropout.default": _dropout(nn.Dropout2d),
}
