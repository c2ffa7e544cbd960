"""What a layer does on clean data: its output, each channel's mean, the prune order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from goodnet.answers import INFERENCE_BATCH, device_of
from goodnet.data.roles import Batches
from goodnet.errors import LayerNotFoundError, SettingsError, SurgeryError
from goodnet.graph import near_names
from goodnet.modes import evaluating

PruneOrder = Literal["increasing", "decreasing"]
MEMORY_BUDGET = 2 * 2**30
BLOCK = 1024
"""Images whose activations are added up at a time: sums of floats depend on their grouping."""


@dataclass(frozen=True, eq=False)
class LayerOutputs:
    """A layer's output for every image of a set, in memory or on disk.

    Attributes:
        values: float32 (n, channel, ...).
        labels: Class indices, int64 (n,).
    """

    values: Tensor
    labels: Tensor
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def channel_means(self) -> Tensor:
        """Mean activation of each channel, float64 (channel,)."""
        return mean_of_blocks(self.block_sums(), len(self))

    def block_sums(self) -> Tensor:
        """Activation of each channel added up over `BLOCK` images at a time.

        An image counts with the mean over its places; float64 (block, channel).
        """
        blocks = self.values.split(BLOCK)
        return torch.stack([rows.flatten(2).mean(2, dtype=torch.float64).sum(0) for rows in blocks])


def mean_of_blocks(sums: Tensor, count: int) -> Tensor:
    """Mean activation of each channel, float64 (channel,).

    Args:
        sums: Of each block of images, float64 (block, channel); added in their order.
        count: Images in all.
    """
    total = torch.zeros(sums.shape[1], dtype=torch.float64)
    for block in sums:
        total += block
    return total / count


@torch.no_grad()
def layer_outputs(
    trunk: nn.Module,
    data: Batches,
    *,
    batch_size: int = INFERENCE_BATCH,
    memory_budget: int = MEMORY_BUDGET,
) -> LayerOutputs:
    """The trunk's output over `data`, computed once.

    Args:
        trunk: Network up to the layer.
        data: Batches of network inputs.
        batch_size: Images a step.
        memory_budget: Bytes; a larger output goes to a temporary file that vanishes
            with the result.
    """
    device = device_of(trunk)
    values: Tensor | None = None
    folder: tempfile.TemporaryDirectory[str] | None = None
    labels = []
    start = 0
    for inputs, classes in data.batches(batch_size):
        with evaluating(trunk):
            output = trunk(inputs.to(device)).to("cpu", torch.float32)
        if values is None:
            shape = (len(data), *output.shape[1:])
            if 4 * int(np.prod(shape)) > memory_budget:
                folder = tempfile.TemporaryDirectory(prefix="goodnet-")
                path = Path(folder.name) / "outputs"
                values = torch.from_numpy(np.memmap(path, np.float32, "w+", shape=shape))
            else:
                values = torch.empty(shape)
        values[start : start + len(output)] = output
        start += len(output)
        labels.append(classes)
    assert values is not None
    return LayerOutputs(values, torch.cat(labels), folder)


def mean_activation(network: nn.Module, layer: str, data: Batches) -> Tensor:
    """Mean activation of each channel of `layer`, float64 (channel,).

    For networks that cannot be traced; a forward hook reads the layer and is removed
    even on failure. A traced network is cut and `LayerOutputs.channel_means` asked.

    Args:
        network: Any module; left as it was.
        layer: Dotted module name; its output is (batch, channel, ...).
        data: Batches of network inputs.

    Raises:
        LayerNotFoundError: `layer` is not in `network`; lists near names.
        SurgeryError: The layer does not run once for each image.

    Source: Liu et al. 2018, Fine-Pruning, pruning defense.
    Departure: the paper ranks single neurons; here a channel counts as one.
    """
    return mean_of_blocks(activation_sums(network, layer, data), len(data))


def activation_sums(network: nn.Module, layer: str, data: Batches) -> Tensor:
    """What `mean_activation` adds up, batch by batch; float64 (batch, channel)."""
    totals: list[Tensor] = []
    with evaluating(network), _watching(network, layer, totals), torch.no_grad():
        for done, (inputs, _) in enumerate(data.batches(256)):
            network(inputs.to(device_of(network)))
            if len(totals) != done + 1:
                raise SurgeryError(
                    f"layer {layer!r} runs {len(totals) - done} times for an image; "
                    "choose one that runs once"
                )
    return torch.stack(totals)


@contextmanager
def _watching(network: nn.Module, layer: str, totals: list[Tensor]) -> Iterator[None]:
    modules = dict(network.named_modules())
    if layer not in modules or not layer:
        raise LayerNotFoundError(layer, near_names(layer, tuple(name for name in modules if name)))

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        totals.append(output.flatten(2).mean(2, dtype=torch.float64).sum(0).cpu())

    hook = modules[layer].register_forward_hook(record)
    try:
        yield
    finally:
        hook.remove()


def prune_order(means: Tensor, order: PruneOrder = "increasing") -> Tensor:
    """Channel indices in the order they are pruned, int64 (channel,).

    Ties keep the channels' own order, so that the answer does not depend on the sort.

    Args:
        means: Mean activation of each channel.
        order: `increasing` prunes dormant channels first, as the paper does.
    """
    check_order(order)
    return torch.argsort(means, stable=True, descending=order == "decreasing")


def check_order(order: str) -> None:
    """Refuse an order of another name."""
    if order not in get_args(PruneOrder):
        raise SettingsError("order", order, f"choose one of: {', '.join(get_args(PruneOrder))}")
