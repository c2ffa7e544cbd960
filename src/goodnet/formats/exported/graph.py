"""The network that an exported program describes, rebuilt from allowed parts only."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from goodnet.formats.exported.archive import USE_EVAL, MalformedError, shown
from goodnet.formats.exported.modules import ChannelsLast, Layer, Stored, Transposed, layer_of
from goodnet.formats.exported.names import LayerNames, ModuleNames, modules_with_tensors
from goodnet.formats.exported.operations import (
    SIZE_OPERATIONS,
    bind,
    call_arguments,
    is_dropped,
    is_in_place,
    may_alias,
    resolve,
)
from goodnet.formats.exported.program import ExportedProgram, Operation, Reference, references

_FUNCTIONAL = "export it again and call run_decompositions() on the program before saving"


def build_network(program: ExportedProgram, tensors: dict[str, Tensor]) -> fx.GraphModule:
    """The network, in eval mode; each node's `meta["layer"]` names its layer.

    Operations with parameters and those with a simple counterpart become modules, the
    rest stay calls of the operations themselves. What the output does not need is left
    out.

    Args:
        program: What the file says.
        tensors: Its parameters, buffers and constants, by their name in the program.
    """
    return _Builder(program, tensors).build()


class _Aliases:
    """Which names may be the same memory, and how long each is in use."""

    def __init__(self, program: ExportedProgram) -> None:
        self._group: dict[str, set[str]] = {}
        self._last_use: dict[str, int] = {}
        for index, operation in enumerate(program.operations):
            for name in operation.references:
                self._last_use[name] = index
        for name in program.outputs:
            self._last_use[name] = len(program.operations)

    def join(self, names: Iterable[str | None], source: str | None) -> None:
        """Note that `names` may be the memory of `source`, or are new memory each."""
        for name in names:
            if name is not None:
                group = {name} if source is None else self._of(source)
                group.add(name)
                self._group[name] = group

    def _of(self, name: str) -> set[str]:
        return self._group.setdefault(name, {name})

    def others_in_use(self, name: str, index: int) -> list[str]:
        """Other names for the memory of `name` that are read behind operation `index`."""
        others = self._of(name) - {name}
        return sorted(other for other in others if self._last_use.get(other, -1) > index)

    def is_among(self, name: str, others: Iterable[str]) -> bool:
        """Whether the memory of `name` may be that of one of `others`."""
        return not self._of(name).isdisjoint(others)


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of an operation, as the file has it.

    Attributes:
        name: Short name of what is called, e.g. "relu.default".
        given: The arguments in the file, by name.
        bound: All arguments by name, with what is known of them.
    """

    operation: Operation
    name: str
    overload: OpOverload
    given: dict[str, Any]
    bound: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A call that becomes a node only if its result is used other than as `pattern`."""

    call: _Call
    pattern: Transposed | ChannelsLast


class _Builder:
    def __init__(self, program: ExportedProgram, tensors: dict[str, Tensor]) -> None:
        self._program = program
        self._graph = fx.Graph()
        self._values: dict[str, fx.Node | Stored | _Waiting] = {
            name: Stored(program.stored[name], tensor) for name, tensor in tensors.items()
        }
        self._by_file_name = {program.stored[name]: tensor for name, tensor in tensors.items()}
        self._aliases = _Aliases(program)
        self._layers = LayerNames(program)
        self._targets = ModuleNames(modules_with_tensors(program))
        self._attributes: dict[str, nn.Module | Tensor] = {}
        self._shared: dict[tuple[Any, ...], str] = {}
        self._tensor_nodes: list[tuple[fx.Node, Stored]] = []
        self._uses = Counter(program.outputs)
        for operation in program.operations:
            self._uses.update(operation.references)

    def build(self) -> fx.GraphModule:
        image = self._graph.placeholder("images")
        image.meta["layer"] = self._layers.fresh(self._program.image)
        self._values[self._program.image] = image
        for index, operation in enumerate(self._program.operations):
            if not is_dropped(operation.target):
                self._add(index, operation)
        outputs = [self._node(name) for name in self._program.outputs]
        self._graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self._name_tensors()
        network = fx.GraphModule(self._attributes, self._graph)
        network.graph.eliminate_dead_code()
        used = {n.target for n in network.graph.nodes if n.op in ("call_module", "get_attr")}
        attributes = {name: value for name, value in self._attributes.items() if name in used}
        return fx.GraphModule(attributes, network.graph).eval()

    def _name_tensors(self) -> None:
        """Name the tensors that stand alone, after every module has its name."""
        names: dict[int, str] = {}
        for node, stored in self._tensor_nodes:
            if id(stored.tensor) not in names:
                name = self._targets.for_tensor(stored.name)
                names[id(stored.tensor)] = name
                self._attributes[name] = stored.tensor
            node.target = names[id(stored.tensor)]

    def _add(self, index: int, operation: Operation) -> None:
        given = {argument.name: argument.value for argument in operation.arguments}
        if len(given) != len(operation.arguments):
            raise MalformedError(f"{shown(operation.target)} has an argument twice")
        if any(name in self._values for name in operation.outputs):
            raise MalformedError(f"{shown(operation.target)} gives a name that is taken")
        if operation.target in SIZE_OPERATIONS:
            self._add_size(operation)
            return
        name, overload = resolve(operation.target)
        bound = bind(overload, given, name)
        self._check_outputs(operation, overload)
        changed = self._changed_in_place(index, operation, bound)
        self._note_aliases(name, overload, operation, bound)
        known = {key: self._known(value) for key, value in bound.items()}
        call = _Call(operation, name, overload, given, known)
        pattern = self._pattern(call)
        if pattern is not None:
            self._values[operation.outputs[0] or ""] = _Waiting(call, pattern)
            return
        layer = None
        if not any(self._uses[one] for one in operation.outputs[1:] if one is not None):
            layer = layer_of(name, known, self._dimensions(known))
        node = self._call_function(call) if layer is None else self._call_module(call, layer)
        if operation.is_tuple and layer is None:
            self._take_apart(operation, node)
        elif operation.outputs[0] is not None:
            self._values[operation.outputs[0]] = node
        if changed is not None:
            self._values[changed] = node

    def _check_outputs(self, operation: Operation, overload: OpOverload) -> None:
        returns = overload._schema.returns
        gives_tuple = len(returns) > 1 or str(returns[0].type) == "List[Tensor]"
        if operation.is_tuple != gives_tuple or not operation.outputs:
            raise MalformedError(
                f"{shown(operation.target)} gives {len(operation.outputs)} results"
            )

    def _add_size(self, operation: Operation) -> None:
        values = [argument.value for argument in operation.arguments]
        plain = all(isinstance(one, Reference) or type(one) is int for one in values)
        arity = 1 if operation.target.endswith(".neg") else 2
        if len(values) != arity or not plain or len(operation.outputs) != 1:
            raise MalformedError(f"{operation.target} does not take {arity} size(s) and give one")
        node = self._graph.create_node(
            "call_function",
            SIZE_OPERATIONS[operation.target],
            tuple(self._as_nodes(values)),
            name=operation.name,
        )
        node.meta["layer"] = self._layers.fresh(operation.name)
        self._values[operation.outputs[0] or ""] = node

    def _changed_in_place(
        self, index: int, operation: Operation, bound: dict[str, Any]
    ) -> str | None:
        """The name that the operation gives a new value, if it works in place.

        The rebuilt network computes a new tensor, which is the same as long as nothing
        reads the old one's memory under another name.
        """
        if not is_in_place(operation.target):
            return None
        source = next(iter(bound.values()))
        if not isinstance(source, Reference):
            raise MalformedError(f"{shown(operation.target)} changes no tensor")
        if operation.target.endswith(".detach_.default"):
            return None
        if self._aliases.is_among(source.name, self._program.stored):
            raise MalformedError(f"{shown(operation.target)} changes {source.name}", USE_EVAL)
        others = self._aliases.others_in_use(source.name, index)
        if others:
            raise MalformedError(
                f"{shown(operation.target)} changes a tensor that is also read as "
                f"{shown(others[0])}",
                _FUNCTIONAL,
            )
        names = references([source, bound.get("other")])
        kinds = {facts.dtype for name in names if (facts := self._program.facts.get(name))}
        if len(kinds) > 1:
            raise MalformedError(f"{shown(operation.target)} mixes types of number", _FUNCTIONAL)
        return source.name

    def _note_aliases(
        self, name: str, overload: OpOverload, operation: Operation, bound: dict[str, Any]
    ) -> None:
        source = next(iter(bound.values()), None)
        shares = is_in_place(operation.target) or may_alias(name, overload)
        shared = source.name if shares and isinstance(source, Reference) else None
        self._aliases.join(operation.outputs, shared)

    def _known(self, value: Any) -> Any:
        """What is known of an argument, in the place of its name."""
        known = self._values.get(value.name) if isinstance(value, Reference) else None
        if isinstance(known, _Waiting):
            return known.pattern
        return known if isinstance(known, Stored) else value

    def _dimensions(self, bound: dict[str, Any]) -> int | None:
        source = bound.get("input")
        facts = self._program.facts.get(source.name) if isinstance(source, Reference) else None
        return None if facts is None else len(facts.sizes)

    def _pattern(self, call: _Call) -> Transposed | ChannelsLast | None:
        source = call.bound.get("self")
        if call.operation.is_tuple or is_in_place(call.operation.target):
            return None
        if isinstance(source, Stored) and source.tensor.dim() == 2:
            swaps = (
                call.name == "t.default"
                or (call.name == "permute.default" and call.bound["dims"] == [1, 0])
                or (
                    call.name == "transpose.int"
                    and (call.bound["dim0"], call.bound["dim1"]) in ((0, 1), (1, 0))
                )
            )
            return Transposed(source) if swaps else None
        moves = call.name == "permute.default" and call.bound["dims"] == [0, 2, 3, 1]
        if moves and isinstance(source, Reference):
            return ChannelsLast(source)
        return None

    def _node(self, name: str) -> fx.Node:
        """The value that the program calls `name`, as a node of the network."""
        value = self._values.get(name)
        if value is None:
            raise MalformedError(f"uses {shown(name)} before it is computed")
        if isinstance(value, _Waiting):
            value = self._values[name] = self._call_function(value.call)
        elif isinstance(value, Stored):
            node = self._graph.create_node("get_attr", "tensor", name=name)
            node.meta["layer"] = value.name
            self._tensor_nodes.append((node, value))
            value = node
        return value

    def _as_nodes(self, value: Any) -> Any:
        if isinstance(value, Reference):
            return self._node(value.name)
        if isinstance(value, list):
            return [self._as_nodes(one) for one in value]
        return value

    def _call_function(self, call: _Call) -> fx.Node:
        nodes = {name: self._as_nodes(value) for name, value in call.given.items()}
        positional, keywords = call_arguments(call.overload, nodes)
        node = self._graph.create_node(
            "call_function", call.overload, positional, keywords, name=call.operation.name
        )
        node.meta["layer"] = self._layers.of(call.operation)
        return node

    def _take_apart(self, operation: Operation, node: fx.Node) -> None:
        for index, name in enumerate(operation.outputs):
            if name is not None:
                part = self._graph.create_node(
                    "call_function", operator.getitem, (node, index), name=name
                )
                part.meta["layer"] = node.meta["layer"]
                self._values[name] = part

    def _call_module(self, call: _Call, layer: Layer) -> fx.Node:
        source = self._node(layer.input.name)
        if layer.name is None:
            label = self._layers.of(call.operation)
            short = call.name.partition(".")[0].strip("_")
            target = self._targets.for_operation(label, f"{label}_{short}")
            self._attributes[target] = layer.module
        else:
            target = self._shared_target(layer, self._layers.module_of(call.operation, layer.name))
            label = self._layers.of(call.operation, target)
        node = self._graph.create_node("call_module", target, (source,), name=call.operation.name)
        node.meta["layer"] = label
        return node

    def _shared_target(self, layer: Layer, name: str) -> str:
        """The name of the layer's module; one with the same tensors and settings is shared."""
        module = layer.module
        tensors = (*module.parameters(), *module.buffers())
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            counted = self._by_file_name.get(f"{name}.num_batches_tracked")
            if counted is not None and counted.shape == () and counted.dtype == torch.int64:
                module.num_batches_tracked = counted
            assert module.running_mean is not None
            tensors = (module.running_mean, *module.parameters())
        key = (str(module), *map(id, tensors))
        if key not in self._shared:
            self._shared[key] = self._targets.for_module(name)
            self._attributes[self._shared[key]] = module
        return self._shared[key]
