"""A rebuilt network tried out: first on shapes alone, which costs no memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from goodnet.formats.exported.archive import MalformedError, shown

FREE_BATCH = (
    "export it again with a free batch size: torch.export.export(network, (images,), "
    'dynamic_shapes=({0: torch.export.Dim("batch")},))'
)
_BYTES_LIMIT = 2**30
_VIEWS = (
    torch.ops.aten.view.default,
    torch.ops.aten.reshape.default,
)


class _ShapeRunner(fx.Interpreter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.extra_traceback = False
        self.current = "its input"
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.current = str(n.meta.get("layer", n.name))
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        for value in result if isinstance(result, list | tuple) else [result]:
            if isinstance(value, Tensor) and value.numel() * value.itemsize > _BYTES_LIMIT:
                raise MalformedError(
                    f"layer {shown(self.current)} gives {list(value.shape)} numbers"
                )
            if isinstance(value, int) and abs(value) >= 2**63:
                raise MalformedError(f"layer {shown(self.current)} gives a size beyond 64 bits")
        return result


Shapes = dict[fx.Node, list[tuple[int, ...]]]


def check_runs(network: fx.GraphModule, input_shape: tuple[int, ...], remedy: str) -> Shapes:
    """Shape of each node's tensor for one, two and three images.

    Raises:
        MalformedError: The network does not run on them, does not answer for each, or
            would need absurd amounts of memory.
    """
    shapes: Shapes = {}
    for batch in (1, 2, 3):
        with _without_log(), FakeTensorMode(allow_non_fake_inputs=True):
            runner = _run(network, torch.zeros(batch, *input_shape), remedy)
        for node, shape in runner.shapes.items():
            shapes.setdefault(node, []).append(shape)
    # In earnest, for what shapes do not show, such as an index out of range.
    _run(network, torch.zeros(1, *input_shape), remedy)
    return shapes


@contextmanager
def _without_log() -> Iterator[None]:
    """Keep torch from logging a traceback of each layer that does not fit."""
    log = logging.getLogger(FakeTensorMode.__module__)
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled


@torch.no_grad()
def _run(network: fx.GraphModule, images: Tensor, remedy: str) -> _ShapeRunner:
    runner = _ShapeRunner(network)
    batch = len(images)
    try:
        answers = _answers(runner.run(images))
    except MalformedError:
        raise
    except Exception as error:
        # Whatever torch raises for arguments that fit nothing.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MalformedError(
            f"layer {shown(runner.current)} does not run on {batch} image(s): {shown(lines[0])}",
            remedy,
        ) from error
    if not all(isinstance(one, Tensor) and one.shape[:1] == (batch,) for one in answers):
        raise MalformedError(f"does not give {batch} answer(s) to {batch} image(s)", remedy)
    return runner


def flatten_views(network: fx.GraphModule, shapes: Shapes) -> None:
    """Turn views that keep the batch and join all the rest into `nn.Flatten` layers.

    That is what `x.view(x.size(0), -1)` becomes. `shapes` are those of `check_runs`.
    """
    for node in list(network.graph.nodes):
        source = node.args[0] if node.args else None
        if node.target not in _VIEWS or not isinstance(source, fx.Node):
            continue
        before, after = shapes.get(source, []), shapes.get(node, [])
        joins = (
            bool(before)
            and all(len(shape) > 2 for shape in before)
            and after == [(shape[0], math.prod(shape[1:])) for shape in before]
        )
        layer = node.meta["layer"]
        is_free = "." not in layer and not hasattr(network, layer)
        name = layer if is_free else f"{node.name}_flatten"
        if joins and not hasattr(network, name):
            network.add_submodule(name, nn.Flatten())
            with network.graph.inserting_after(node):
                flat = network.graph.call_module(name, (source,))
            flat.meta["layer"] = layer
            node.replace_all_uses_with(flat)
    network.graph.eliminate_dead_code()
    network.recompile()


@torch.no_grad()
def check_images_apart(network: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
    """Check that a network answers for three images together as for each alone.

    Raises:
        MalformedError: It does not, so it is made for one batch size.
    """
    images = torch.rand(3, *input_shape, generator=torch.Generator().manual_seed(0))
    together = _answers(network(images))
    alone = [_answers(network(image[None])) for image in images]
    for index, answer in enumerate(together):
        single = torch.cat([answers[index] for answers in alone])
        if not torch.allclose(answer.double(), single.double(), 1e-3, 1e-4, equal_nan=True):
            raise MalformedError("is made for one batch size", FREE_BATCH)


def _answers(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
