"""Names of the modules and layers of a network that is rebuilt from an exported program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from torch import fx, nn

from goodnet.formats.exported.program import ExportedProgram, Operation

# Names that attributes of a traced network have already.
_TAKEN_ATTRIBUTES = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def parents(names: Iterable[str]) -> set[str]:
    """The modules that those of the given dotted names lie in."""
    found = set()
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[:depth]) for depth in range(1, len(parts))}
    return found


def modules_with_tensors(program: ExportedProgram) -> set[str]:
    """Names of the modules that the program's tensors belong to."""
    return {name.rpartition(".")[0] or name for name in program.stored.values()}


class _Numbering:
    """Numbers behind names that are taken."""

    def __init__(self) -> None:
        self._tried: Counter[str] = Counter()

    def first_free(self, name: str, is_free: Callable[[str], bool]) -> str:
        """`name`, or with the lowest number behind it that makes it free."""
        while True:
            number = self._tried[name]
            candidate = f"{name}_{number}" if number else name
            if is_free(candidate):
                return candidate
            self._tried[name] += 1


class ModuleNames:
    """Names for modules and tensors, each given out once, none inside a module's own.

    Args:
        reserved: Names for modules with tensors alone.
    """

    def __init__(self, reserved: set[str]) -> None:
        self._reserved = reserved | parents(reserved)
        self._numbering = _Numbering()
        self._taken: set[str] = set()
        self._containers: set[str] = set()

    def for_module(self, name: str) -> str:
        """A name for a module with tensors: `name`, or with a number behind it."""
        return self._claim(name, self._is_free)

    def for_operation(self, name: str, other: str) -> str:
        """A name for a module without tensors: `name`, or else `other` with a number."""
        return self._claim(name if self._is_unreserved(name) else other, self._is_unreserved)

    def for_tensor(self, name: str) -> str:
        """A name for a tensor outside modules; flat where a module has its place."""
        return self._claim(name if self._is_free(name) else name.replace(".", "_"), self._is_free)

    def _claim(self, name: str, is_free: Callable[[str], bool]) -> str:
        if self._lies_wrong(name):
            name = name.replace(".", "_")
        claimed = self._numbering.first_free(name, is_free)
        self._taken.add(claimed)
        self._containers |= parents([claimed])
        return claimed

    def _is_free(self, name: str) -> bool:
        if name in self._taken or name in self._containers or self._lies_wrong(name):
            return False
        return name.rpartition(".")[2] not in _TAKEN_ATTRIBUTES

    def _lies_wrong(self, name: str) -> bool:
        """Whether no number behind the name helps, as what it lies in is no container."""
        around = parents([name])
        return any(
            one in self._taken or one.rpartition(".")[2] in _TAKEN_ATTRIBUTES for one in around
        )

    def _is_unreserved(self, name: str) -> bool:
        return name not in self._reserved and self._is_free(name)


class LayerNames:
    """Names for layers. Operations of one call of one module are one layer.

    A module that holds other modules is not one layer, so what it computes itself goes
    by the operations' own names.
    """

    def __init__(self, program: ExportedProgram) -> None:
        called = {one.module.name for one in program.operations if one.module}
        stored = modules_with_tensors(program)
        self._modules_with_parts = parents(stored | called)
        written = {one.layer for one in program.operations if one.layer}
        self._reserved = called | stored | written
        self._written = written
        self._numbering = _Numbering()
        self._taken: set[str] = set()
        self._by_call: dict[str, str] = {}

    def of(self, operation: Operation, module: str | None = None) -> str:
        """Name of the layer that `operation` belongs to.

        Args:
            operation: The operation.
            module: Name of the module with tensors that it became, if it did.
        """
        if operation.layer is not None:
            return operation.layer
        call = operation.module
        if call is None or call.name in self._modules_with_parts:
            return self._claim(module) if module else self.fresh(operation.name.strip("_"))
        if call.key not in self._by_call:
            self._by_call[call.key] = self._claim(call.name)
        return self._by_call[call.key]

    def module_of(self, operation: Operation, name: str) -> str:
        """Name of the module that `operation` is, where its tensors are named `name`.

        A tensor that several modules share has the name of one of them.
        """
        call = operation.module
        if call is None or call.name in self._modules_with_parts:
            return name
        return name if name.startswith(f"{call.name}.") else call.name

    def fresh(self, name: str) -> str:
        """A name for a layer that is no module of the file."""
        return self._first_free(name, self._reserved)

    def _claim(self, name: str) -> str:
        return self._first_free(name, self._written)

    def _first_free(self, name: str, others: set[str]) -> str:
        free = self._numbering.first_free(
            name, lambda candidate: candidate not in self._taken and candidate not in others
        )
        self._taken.add(free)
        return free
