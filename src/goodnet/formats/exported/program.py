"""What an exported program's JSON says, read into plain records.

Nothing is resolved here: an operation is its name, a tensor is the name it has in the
file. Names are plain identifiers or the file is refused, expressions are not read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import torch

from goodnet.formats.exported.archive import (
    SAVE_AGAIN,
    USE_EVAL,
    MalformedError,
    UnsafeError,
    dtype_of,
    listing,
    mapping,
    shown,
    tagged,
    text,
    whole_number,
)

LAYER_KEY = "goodnet_layer"

_SCHEMA = 8
_NODE_LIMIT = 50_000
_WORD = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.,>+\- ]{0,63}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_DOTTED = re.compile(r"[A-Za-z0-9_]{1,255}(\.[A-Za-z0-9_]{1,255}){0,31}")
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    4: torch.preserve_format,
}
_CODE_TAGS = ("as_graph", "as_custom_obj", "as_operator")
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


@dataclass(frozen=True)
class Reference:
    """A tensor or size that the program calls `name`."""

    name: str


@dataclass(frozen=True)
class Argument:
    """One argument of an operation; in `value` a named tensor or size is a Reference."""

    name: str
    value: Any


@dataclass(frozen=True)
class ModuleCall:
    """The innermost module that ran an operation: `key` tells its calls apart."""

    key: str
    name: str


@dataclass(frozen=True)
class Operation:
    """One operation of the program.

    Attributes:
        target: Its full name in the file, e.g. "torch.ops.aten.relu.default".
        outputs: Names of its results; None for one that is not there.
        module: The module that ran it, where the file says so.
        layer: The layer it belongs to, where goodnet wrote the file.
    """

    name: str
    target: str
    arguments: tuple[Argument, ...]
    outputs: tuple[str | None, ...]
    is_tuple: bool
    module: ModuleCall | None
    layer: str | None

    @property
    def references(self) -> list[str]:
        """Names of the values it reads."""
        return references([argument.value for argument in self.arguments])


def references(value: Any) -> list[str]:
    """The names in an argument's value."""
    if isinstance(value, Reference):
        return [value.name]
    if isinstance(value, list):
        return [name for one in value for name in references(one)]
    return []


@dataclass(frozen=True)
class TensorFacts:
    """What the program says of a tensor; a size it leaves open is None."""

    dtype: int
    sizes: tuple[int | None, ...]


@dataclass(frozen=True)
class ExportedProgram:
    """An exported program.

    Attributes:
        image: Name of the input.
        stored: File names of the parameters, buffers and constants, by program name.
        facts: What the program says of its tensors, by name. Not to be trusted.
        outputs: Names of the results.
    """

    image: str
    stored: dict[str, str]
    facts: dict[str, TensorFacts]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def parse_program(document: Any) -> ExportedProgram:
    """The program in the JSON `document`."""
    program = mapping(document, "the program")
    version = mapping(program.get("schema_version"), "schema version").get("major")
    if version != _SCHEMA:
        raise MalformedError(
            f"has schema version {shown(version)}, goodnet reads {_SCHEMA}", SAVE_AGAIN
        )
    module = mapping(program.get("graph_module"), "the program")
    graph = mapping(module.get("graph"), "the graph")
    signature = mapping(module.get("signature"), "the signature")
    nodes = listing(graph.get("nodes"), "the operations")
    if len(nodes) > _NODE_LIMIT:
        raise MalformedError(f"has {len(nodes)} operations, more than {_NODE_LIMIT}")
    if graph.get("custom_obj_values"):
        raise UnsafeError("holds objects of C++ classes", "export a network of tensors alone")
    image, stored = _inputs(listing(signature.get("input_specs"), "the inputs"))
    facts = mapping(graph.get("tensor_values"), "the tensors")
    return ExportedProgram(
        image=image,
        stored=stored,
        facts={_name(name, "a tensor"): _facts(name, fact) for name, fact in facts.items()},
        operations=tuple(_operation(node) for node in nodes),
        outputs=_outputs(graph, listing(signature.get("output_specs"), "the outputs")),
    )


def _name(value: Any, what: str) -> str:
    # "self" is what the code that torch.fx generates calls the network.
    if not _NAME.fullmatch(text(value, f"name of {what}")) or value == "self":
        raise UnsafeError(f"{what} has the name {shown(value)}, which is no identifier")
    return str(value)


def dotted_name(value: Any, what: str) -> str:
    """`value` if it is names joined by dots."""
    if not _DOTTED.fullmatch(text(value, f"name of {what}")):
        raise UnsafeError(f"{what} has the name {shown(value)}, which is no dotted name")
    return str(value)


def _facts(name: str, value: Any) -> TensorFacts:
    record = mapping(value, f"tensor {shown(name)}")
    sizes: list[int | None] = []
    for item in listing(record.get("sizes"), f"size of {shown(name)}"):
        tag, size = tagged(item, f"size of {shown(name)}")
        sizes.append(whole_number(size, f"size of {shown(name)}") if tag == "as_int" else None)
    return TensorFacts(whole_number(record.get("dtype"), "a number type"), tuple(sizes))


def _inputs(specs: list[Any]) -> tuple[str, dict[str, str]]:
    images: list[str] = []
    stored: dict[str, str] = {}
    for spec in specs:
        kind, value = tagged(spec, "an input")
        record = mapping(value, "an input")
        if kind == "user_input":
            tag, argument = tagged(record.get("arg"), "an input")
            if tag == "as_none":
                continue
            if tag != "as_tensor":
                raise MalformedError("takes an input that is no tensor", _ONE_INPUT)
            images.append(_name(mapping(argument, "an input").get("name"), "an input"))
        elif kind in ("parameter", "buffer", "tensor_constant"):
            argument = mapping(record.get("arg"), "a parameter")
            name = _name(argument.get("name"), "a parameter")
            stored[name] = dotted_name(record.get(f"{kind}_name"), f"{kind} {name}")
        elif kind != "constant_input":
            raise UnsafeError(
                f"takes an input of kind {shown(kind)}", "export a network of tensors alone"
            )
    if len(images) != 1:
        raise MalformedError(f"takes {len(images)} inputs", _ONE_INPUT)
    return images[0], stored


_ONE_INPUT = "export a network that takes one tensor (batch, channel, height, width)"


def _outputs(graph: dict[str, Any], specs: list[Any]) -> tuple[str, ...]:
    values = listing(graph.get("outputs"), "the outputs")
    if len(values) != len(specs):
        raise MalformedError(f"has {len(values)} outputs, its signature {len(specs)}")
    names = []
    for value, spec in zip(values, specs, strict=True):
        kind, _ = tagged(spec, "an output")
        if kind == "user_input_mutation":
            continue
        if kind != "user_output":
            raise MalformedError(
                f"has an output of kind {shown(kind)}: it changes its own weights",
                USE_EVAL,
            )
        tag, argument = tagged(value, "an output")
        if tag != "as_tensor":
            raise MalformedError("has an output that is no tensor", "export tensor outputs only")
        names.append(_name(mapping(argument, "an output").get("name"), "an output"))
    if not names:
        raise MalformedError("has no output", "export a network that returns its scores")
    return tuple(names)


def _operation(value: Any) -> Operation:
    node = mapping(value, "an operation")
    target = text(node.get("target"), "an operation's target")
    arguments = tuple(
        _argument(item, target) for item in listing(node.get("inputs"), f"inputs of {target[:80]}")
    )
    outputs, is_tuple = _operation_outputs(node, target)
    first = next((name for name in outputs if name), "operation")
    given = node.get("name")
    metadata = mapping(node.get("metadata") or {}, "an operation's metadata")
    return Operation(
        name=first if given is None else _name(given, "an operation"),
        target=target,
        arguments=arguments,
        outputs=outputs,
        is_tuple=is_tuple,
        module=_innermost_module(metadata.get("nn_module_stack")),
        layer=_written_layer(metadata.get("custom")),
    )


def _operation_outputs(node: dict[str, Any], target: str) -> tuple[tuple[str | None, ...], bool]:
    values = listing(node.get("outputs"), f"outputs of {target[:80]}")
    names: list[str | None] = []
    for value in values:
        tag, item = tagged(value, f"an output of {target[:80]}")
        if tag == "as_none":
            names.append(None)
        elif tag == "as_tensor":
            names.append(_name(mapping(item, "a tensor").get("name"), "a tensor"))
        elif tag == "as_tensors" and len(values) == 1:
            names.extend(
                _name(mapping(one, "a tensor").get("name"), "a tensor")
                for one in listing(item, "tensors")
            )
            return tuple(names), True
        elif tag in ("as_sym_int", "as_sym_bool"):
            names.append(_name(mapping(item, "a size").get("as_name"), "a size"))
        else:
            raise MalformedError(f"{shown(target)} gives an output of kind {shown(tag)}")
    return tuple(names), len(names) > 1


def _argument(value: Any, target: str) -> Argument:
    record = mapping(value, f"an input of {target[:80]}")
    tag, item = tagged(record.get("arg"), f"an input of {target[:80]}")
    return Argument(text(record.get("name"), "an input's name"), _value(tag, item, target))


def _value(tag: str, item: Any, target: str) -> Any:  # noqa: PLR0911, PLR0912 - one line a kind
    what = f"an input of {shown(target)}"
    if tag in _CODE_TAGS:
        raise UnsafeError(
            f"{what} is a {tag.removeprefix('as_')}", "export a network of plain operations"
        )
    if tag == "as_tensor":
        return Reference(_name(mapping(item, what).get("name"), "a tensor"))
    if tag == "as_tensors":
        return [_value("as_tensor", one, target) for one in listing(item, what)]
    if tag in ("as_sym_int", "as_sym_bool"):
        return _size(item, what)
    if tag == "as_sym_ints":
        return [_size(one, what) for one in listing(item, what)]
    if tag == "as_optional_tensors":
        return [_value(*tagged(one, what), target) for one in listing(item, what)]
    if tag == "as_optional_tensor":
        return _value(*tagged(item, what), target)
    if tag in ("as_none", "as_layout", "as_device"):
        # Dense and on the processor is all there is.
        return None
    if tag == "as_int":
        return whole_number(item, what)
    if tag == "as_ints":
        return [whole_number(one, what) for one in listing(item, what)]
    if tag == "as_float":
        return _real(item, what)
    if tag == "as_floats":
        return [_real(one, what) for one in listing(item, what)]
    if tag == "as_bool":
        return _truth(item, what)
    if tag == "as_bools":
        return [_truth(one, what) for one in listing(item, what)]
    if tag == "as_string":
        if not _WORD.fullmatch(text(item, what)):
            raise UnsafeError(f"{what} is the text {shown(item)}")
        return item
    if tag == "as_scalar_type":
        return dtype_of(item, what)
    if tag == "as_memory_format" and whole_number(item, what) in _MEMORY_FORMATS:
        return _MEMORY_FORMATS[item]
    raise MalformedError(f"{what} is of kind {shown(tag)}", "export the network with float32")


def _size(item: Any, what: str) -> Any:
    tag, value = tagged(item, what)
    if tag == "as_name":
        return Reference(_name(value, "a size"))
    if tag == "as_bool":
        return _truth(value, what)
    return whole_number(value, what)


def _real(item: Any, what: str) -> float:
    if isinstance(item, str) and item in _FLOATS:
        return _FLOATS[item]
    if type(item) is int:
        return float(whole_number(item, what))
    if type(item) is not float:
        raise MalformedError(f"{what} is no number")
    return item


def _truth(item: Any, what: str) -> bool:
    if type(item) is not bool:
        raise MalformedError(f"{what} is neither true nor false")
    return item


def _innermost_module(stack: Any) -> ModuleCall | None:
    """The last "key,name,class" of a module stack, where its name is a dotted one."""
    if not isinstance(stack, str):
        return None
    parts = stack.rpartition(";")[2].split(",")
    if len(parts) < 3 or parts[0] == parts[1] or not _DOTTED.fullmatch(parts[1]):
        return None
    return ModuleCall(key=parts[0], name=parts[1])


def _written_layer(custom: Any) -> str | None:
    if not isinstance(custom, str):
        return None
    try:
        layer = json.loads(custom).get(LAYER_KEY)
    except (ValueError, AttributeError, RecursionError):
        return None
    return layer if isinstance(layer, str) and _DOTTED.fullmatch(layer) else None
