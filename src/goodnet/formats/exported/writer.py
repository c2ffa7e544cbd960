"""Write a network as an exported program that goodnet and torch.export.load both read."""

from __future__ import annotations

import copy
import io
import keyword
import operator
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from goodnet.errors import ModelFileError, SettingsError
from goodnet.files import write_bytes
from goodnet.formats.exported.operations import is_known
from goodnet.formats.exported.program import LAYER_KEY
from goodnet.modes import evaluating

METADATA_FOLDER = "extra/goodnet/"

_PREFIX = METADATA_FOLDER.removeprefix("extra/")
_METADATA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_OPERATION = "goodnet_operation_"
# What the code that torch.fx generates may use, so that no input can go by it.
_NAMES_IN_CODE = frozenset(["self", "torch", "device", "inf", "nan", *keyword.kwlist])


def write_exported(
    network: nn.Module, path: Path, *, input_shape: tuple[int, ...], metadata: dict[str, str]
) -> None:
    """Write `network`, in eval mode and for any batch size, to the `.pt2` file `path`.

    The file holds no sample inputs and no paths of this machine, and the same network
    gives the same bytes. An existing file is replaced only by a whole one.

    Args:
        network: Takes (batch, channel, height, width); left as it is. Layer names of a
            traced network are kept.
        path: The file to write.
        input_shape: (channels, height, width) of one image.
        metadata: Texts that `read_exported` gives back, by name.

    Raises:
        ModelFileError: The network cannot be exported, or the file not written.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise SettingsError("input_shape", input_shape, "give (channels, height, width)")
    for name in metadata:
        if not _METADATA_NAME.fullmatch(name):
            raise SettingsError("metadata", name, "name entries by letters, digits, _, - and .")
    program = _export(network, path, input_shape)
    content = io.BytesIO()
    torch.export.save(
        program, content, extra_files={_PREFIX + name: text for name, text in metadata.items()}
    )
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise ModelFileError(
            path, f"cannot be written: {error.strerror}", "check the folder and the free space"
        ) from error


def _export(
    network: nn.Module, path: Path, input_shape: tuple[int, ...]
) -> torch.export.ExportedProgram:
    if any(each.device.type != "cpu" or not each.is_contiguous() for each in _tensors(network)):
        # An archive holds plain rows of numbers, not the channels-last ones of training.
        network = copy.deepcopy(network).cpu()
        for tensor in _tensors(network):
            tensor.data = tensor.data.contiguous()
    exported: nn.Module = network
    layers: dict[str, list[str]] = {}
    if isinstance(network, fx.GraphModule):
        exported, layers = _with_named_operations(network)
    images = torch.zeros(2, *input_shape)
    sizes = ({0: torch.export.Dim("batch")},)
    try:
        with evaluating(exported), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.export(exported, (images,), dynamic_shapes=sizes, strict=False)
    except Exception as error:
        # torch.export raises many kinds; all mean that this network has no such form.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            path,
            f"the network cannot be exported for every batch size ({lines[0][:200]})",
            "write its weights as safetensors instead",
        ) from error
    program._example_inputs = None
    for node in program.graph.nodes:
        _check_readable(node, path)
        # Where the network's source lay is nobody's business.
        node.meta.pop("stack_trace", None)
        layer = _layer_of_call(node, layers)
        if layer is not None:
            node.meta["custom"] = {LAYER_KEY: layer}
    return program


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


class _Operation(nn.Module):
    """A function of a traced network as a module, so that the export keeps its name."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__()
        self._function = node.target
        self._is_method = node.op == "call_method"

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        if self._is_method:
            return getattr(inputs[0], str(self._function))(*inputs[1:], **settings)
        assert callable(self._function)
        return self._function(*inputs, **settings)


def _with_named_operations(
    network: fx.GraphModule,
) -> tuple[fx.GraphModule, dict[str, list[str]]]:
    """A copy that shares the modules, each operation in one; layers of the calls by module."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    attributes: dict[str, Any] = {}
    layers: dict[str, list[str]] = {}
    for number, node in enumerate(network.graph.nodes):
        layer = str(node.meta.get("layer", node.name))
        if node.op == "placeholder" and layer.isidentifier() and layer not in _NAMES_IN_CODE:
            copied[node] = graph.placeholder(layer)
            continue
        copy_of_node = copied[node] = graph.node_copy(node, copied.__getitem__)
        if node.op in ("call_function", "call_method"):
            copy_of_node.op, copy_of_node.target = "call_module", f"{_OPERATION}{number}"
            attributes[copy_of_node.target] = _Operation(node)
        elif node.op == "call_module":
            attributes[str(node.target)] = network.get_submodule(str(node.target))
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            attributes[str(node.target)] = getattr(network.get_submodule(owner), name)
        if copy_of_node.op == "call_module":
            layers.setdefault(str(copy_of_node.target), []).append(layer)
    return fx.GraphModule(attributes, graph), layers


def _layer_of_call(node: fx.Node, layers: dict[str, list[str]]) -> str | None:
    """The layer of the traced network whose call `node` comes from."""
    calls = node.meta.get("nn_module_stack", {})
    key, module = next(((key, name) for key, (name, _) in calls.items() if name), ("", ""))
    # A module's second call has "@1" behind its key, and so on.
    count = key.rpartition("@")[2]
    of_module = layers.get(module, [])
    number = int(count) if "@" in key and count.isdigit() else 0
    return of_module[number] if number < len(of_module) else None


def _check_readable(node: fx.Node, path: Path) -> None:
    if node.op in ("placeholder", "output") or node.target is operator.getitem:
        return
    kind = "torch.ops" if isinstance(node.target, torch._ops.OpOverload) else "_operator"
    name = str(node.target) if kind == "torch.ops" else getattr(node.target, "__name__", "")
    if node.op != "call_function" or not is_known(f"{kind}.{name}"):
        raise ModelFileError(
            path,
            f"the network uses the operation {node.target}, which goodnet would not read back",
            "write its weights as safetensors instead",
        )
