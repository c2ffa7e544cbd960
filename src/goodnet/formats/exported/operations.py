"""The operations that an exported program may ask for.

Every one computes new tensors from tensors and numbers and does nothing else: none
reads or writes a file, changes a tensor in place, draws random numbers or hands out
memory it has not filled. What is not listed is refused.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from goodnet.formats.exported.archive import USE_EVAL, MalformedError, UnsafeError, shown

ATEN = "torch.ops.aten."

_ELEMENTWISE = """
    abs add.Scalar add.Tensor bitwise_and.Tensor bitwise_not bitwise_or.Tensor ceil celu clamp
    clamp.Tensor clamp_max clamp_min clone cos div.Scalar div.Scalar_mode div.Tensor
    div.Tensor_mode elu eq.Scalar eq.Tensor erf exp expm1 floor floor_divide floor_divide.Scalar
    fmod.Scalar fmod.Tensor ge.Scalar ge.Tensor gelu gt.Scalar gt.Tensor hardsigmoid hardswish
    hardtanh isfinite isinf isnan le.Scalar le.Tensor leaky_relu log log10 log1p log2 log_sigmoid
    logical_and logical_not logical_or logical_xor lt.Scalar lt.Tensor maximum minimum mish
    mul.Scalar mul.Tensor nan_to_num ne.Scalar ne.Tensor neg pow.Scalar pow.Tensor_Scalar
    pow.Tensor_Tensor prelu reciprocal relu relu6 remainder.Scalar remainder.Tensor round
    rsqrt rsub.Scalar rsub.Tensor selu sigmoid sign silu sin softplus sqrt square sub.Scalar
    sub.Tensor tan tanh threshold where.Scalar where.ScalarOther where.ScalarSelf where.self
    masked_fill.Scalar masked_fill.Tensor
"""
_LAYERS = """
    _adaptive_avg_pool2d _log_softmax _native_batch_norm_legit_no_training _softmax
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d addmm avg_pool1d avg_pool2d
    avg_pool3d baddbmm batch_norm bmm conv1d conv1d.padding conv2d conv2d.padding
    conv_transpose2d.input convolution dropout feature_dropout group_norm layer_norm linear
    log_softmax.int matmul max_pool1d max_pool2d max_pool2d_with_indices mm native_group_norm
    native_layer_norm scaled_dot_product_attention softmax.int upsample_bilinear2d.vec
    upsample_nearest2d.vec
"""
_REDUCTIONS = """
    all.dim amax amin any.dim argmax argmin argsort cumsum linalg_vector_norm
    logsumexp max max.dim mean mean.dim min.dim norm.ScalarOpt_dim prod.dim_int sort std.correction
    sum sum.dim_IntList topk var.correction
"""
_SHAPES = """
    alias cat chunk constant_pad_nd contiguous detach expand expand_as flatten.using_ints flip
    gather index.Tensor index_put index_fill.int_Scalar index_select lift_fresh_copy movedim.int
    movedim.intlist narrow pad permute pixel_shuffle pixel_unshuffle
    reflection_pad2d repeat replication_pad2d reshape roll scatter.src scatter.value select.int
    slice.Tensor split.Tensor split_with_sizes squeeze squeeze.dim squeeze.dims stack t
    transpose.int unbind.int unflatten.int unsqueeze view view_as
"""
_NEW = """
    _to_copy arange arange.start arange.start_step einsum eye full full_like new_full new_ones
    new_zeros ones ones_like scalar_tensor sym_size.int to.dtype zeros zeros_like
"""

# In place in the file; the rebuilt network computes a new tensor instead.
_IN_PLACE = """
    add_.Scalar add_.Tensor clamp_ clamp_max_ clamp_min_ detach_ div_.Scalar div_.Tensor dropout_
    elu_ exp_ feature_dropout_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_ mish_ mul_.Scalar
    mul_.Tensor neg_ pow_.Scalar relu6_ relu_ selu_ sigmoid_ silu_ sqrt_ sub_.Scalar sub_.Tensor
    tanh_ threshold_
"""
_IN_PLACE_AS = {"pow_.Scalar": "pow.Tensor_Scalar"}

# Checks on sizes, which the reader makes itself; they compute nothing.
_DROPPED = """
    _assert_async _assert_async.msg _assert_scalar _assert_tensor_metadata
    sym_constrain_range sym_constrain_range_for_size
"""

_SIZES = "add sub mul floordiv mod neg eq ne lt le gt ge"
SIZE_OPERATIONS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name) for name in _SIZES.split()
}

# May hand out the tensor they were given, though their schema does not say so.
MAY_ALIAS = ("dropout.default", "feature_dropout.default")

# Settings that make an operation random, or learn from the batch it is given.
_REQUIRED = {
    ("dropout.default", "train"): False,
    ("feature_dropout.default", "train"): False,
    ("batch_norm.default", "training"): False,
    ("scaled_dot_product_attention.default", "dropout_p"): 0.0,
}


def _full_names(names: str) -> tuple[str, ...]:
    return tuple(name if "." in name else f"{name}.default" for name in names.split())


IN_PLACE = {
    name: _IN_PLACE_AS.get(name, name.replace("_.", ".")) for name in _full_names(_IN_PLACE)
}
_DROPPED_TARGETS = frozenset(ATEN + name for name in _full_names(_DROPPED))


@functools.cache
def allowed_operations() -> dict[str, OpOverload]:
    """The allowed tensor operations of this torch, by name, e.g. "relu.default"."""
    found: dict[str, OpOverload] = {}
    for name in _full_names(_ELEMENTWISE + _LAYERS + _REDUCTIONS + _SHAPES + _NEW):
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if isinstance(operation, OpOverload):
            found[name] = operation
    return found


def is_dropped(target: str) -> bool:
    """Whether the operation is a check that computes nothing."""
    return target in _DROPPED_TARGETS


def is_in_place(target: str) -> bool:
    """Whether the operation changes its first argument."""
    return target.removeprefix(ATEN) in IN_PLACE and target.startswith(ATEN)


def is_known(target: str) -> bool:
    """Whether a program with this operation can be read."""
    name = target.removeprefix(ATEN)
    on_tensors = target.startswith(ATEN) and (name in allowed_operations() or name in IN_PLACE)
    return on_tensors or target in SIZE_OPERATIONS or is_dropped(target)


def resolve(target: str) -> tuple[str, OpOverload]:
    """The allowed operation of that name in a file, with its short name.

    Raises:
        UnsafeError: It is not allowed.
    """
    name = target.removeprefix(ATEN) if target.startswith(ATEN) else ""
    name = IN_PLACE.get(name, name)
    operation = allowed_operations().get(name)
    if operation is None:
        raise UnsafeError(
            f"uses the operation {shown(target)}, which goodnet does not run",
            "export the network with plain layers (convolution, linear, norm, activation, "
            "pooling); if the operation is harmless, ask for it to be allowed",
        )
    return name, operation


def bind(operation: OpOverload, given: dict[str, Any], name: str) -> dict[str, Any]:
    """Every argument of `operation` by name: those given, and the defaults of the rest."""
    schema = operation._schema.arguments
    unknown = set(given) - {argument.name for argument in schema}
    if unknown:
        raise MalformedError(f"{name} has no argument {shown(min(unknown))}")
    bound = {}
    for argument in schema:
        if argument.name in given:
            bound[argument.name] = given[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
        else:
            raise MalformedError(f"{name} lacks its argument {argument.name}")
    for (restricted, setting), value in _REQUIRED.items():
        if restricted == name and bound[setting] != value:
            raise MalformedError(
                f"{name} has {setting} = {shown(bound[setting])}: it was exported for training",
                USE_EVAL,
            )
    return bound


def call_arguments(
    operation: OpOverload, given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments for a call with those `given`."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    gap = False
    for argument in operation._schema.arguments:
        if argument.name not in given:
            gap = True
        elif gap or argument.kwarg_only:
            # Where a tensor lies is for whoever runs the network to say.
            if argument.name not in ("device", "layout", "pin_memory"):
                keywords[argument.name] = given[argument.name]
        else:
            positional.append(given[argument.name])
    return tuple(positional), keywords


def may_alias(name: str, operation: OpOverload) -> bool:
    """Whether a result may be the memory of the first argument."""
    views = any(result.alias_info is not None for result in operation._schema.returns)
    return views or name in MAY_ALIAS
