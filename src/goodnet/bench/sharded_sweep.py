"""The prune sweep over more images than one machine holds, with the very same answers.

Two rounds over the shards of D_valid. In the first each shard adds up its activations, and the
means of all give the prune order; in the second each shard counts its right answers for every
prefix of that order.

Counts add up exactly. Sums of floats depend on their grouping, and a network's answers, by a last
bit, on the batch an image is in: so a shard begins where the whole set would begin a block of
`BLOCK` images, and the blocks' sums are added in their order. Then each step is what one machine
would have done, with the same number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from goodnet.activations import BLOCK, PruneOrder, check_order, mean_of_blocks, prune_order
from goodnet.bench.runners import Job, Needs, Runner, gathered
from goodnet.data.readers import read_images
from goodnet.data.roles import Batches, CleanData
from goodnet.errors import DataError, SettingsError
from goodnet.formats import InputSpecification, read_model
from goodnet.sweep import Sweep, channel_sums, plain_predictions, sweep_predictions

OpenNetwork = Callable[[], nn.Module]
"""Opens the network where a shard is; picklable."""
OpenShard = Callable[[], Batches]
"""Opens a shard where it is; picklable."""


@dataclass(frozen=True, eq=False)
class ShardedSweep:
    """The prune curve of one layer over all shards.

    Attributes:
        layer: Name of the layer.
        order: Channel indices, first pruned first, int64 (channel,).
        means: Mean activation of each channel on D_valid, float64 (channel,).
        right: Images answered rightly with 0, 1, ... channels pruned, int64 (channel + 1,).
        count: Images in all.
    """

    layer: str
    order: Tensor
    means: Tensor
    right: Tensor
    count: int


@dataclass(frozen=True)
class NetworkFile:
    """A network in a file that every machine has at the same path."""

    path: Path

    def __call__(self) -> nn.Module:
        """The network."""
        return read_model(self.path).network


@dataclass(frozen=True)
class ImagesPart:
    """Images `start` to `stop` of a file or folder, read where the shard is.

    Attributes:
        path: Of the images.
        specification: How the network wants them.
        start: The first.
        stop: Behind the last; None for all that follow.
    """

    path: Path
    specification: InputSpecification
    start: int = 0
    stop: int | None = None

    def __call__(self) -> CleanData:
        """The images."""
        images = read_images(self.path, size=self.specification.size)
        own = slice(self.start, len(images) if self.stop is None else self.stop)
        part = replace(
            images,
            pixels=images.pixels[own],
            labels=images.labels[own],
            true_labels=None if images.true_labels is None else images.true_labels[own],
            groups=None if images.groups is None else images.groups[own],
        )
        return CleanData(part, self.specification)


def image_parts(
    path: Path, specification: InputSpecification, shards: int
) -> tuple[ImagesPart, ...]:
    """The images at `path` in shards of nearly one size, fewer where there are fewer blocks.

    Raises:
        SettingsError: Not at least one shard.
    """
    if shards < 1:
        raise SettingsError("shards", shards, "give at least 1")
    count = len(read_images(path, size=specification.size))
    blocks = -(-count // BLOCK)
    shards = min(shards, blocks)
    bounds = [min(count, BLOCK * (blocks * at // shards)) for at in range(shards + 1)]
    return tuple(
        ImagesPart(path, specification, start, stop) for start, stop in itertools.pairwise(bounds)
    )


def sharded_sweep(
    network: OpenNetwork,
    layer: str,
    shards: Sequence[OpenShard],
    runner: Runner,
    *,
    order: PruneOrder = "increasing",
    needs: Needs | None = None,
) -> ShardedSweep:
    """What `prepare_sweep` and `sweep_predictions` find on all shards together, exactly.

    Args:
        network: Opens the network.
        layer: Name of the layer.
        shards: Open the shards, in the order of D_valid. All but the last hold a multiple of
            `BLOCK` images.
        runner: Where the shards are worked on.
        order: In which channels are pruned.
        needs: Of each shard.

    Raises:
        DataError: A shard but the last ends within a block.
        GoodnetError: A shard failed: no such layer, or its images cannot be read.
    """
    check_order(order)
    needs = needs or Needs()
    found = gathered(runner, [Job(shard_sums, (network, layer, each), needs) for each in shards])
    for place, (_, count) in enumerate(found[:-1]):
        if count % BLOCK:
            raise DataError(
                f"shard {place + 1} of {len(shards)}",
                f"holds {count} images",
                f"give shards of a multiple of {BLOCK} images, all but the last",
            )
    total = sum(count for _, count in found)
    means = mean_of_blocks(torch.cat([sums for sums, _ in found]), total)
    chosen = prune_order(means, order)
    arguments = [(network, layer, chosen, means, each) for each in shards]
    right = gathered(runner, [Job(shard_right, each, needs) for each in arguments])
    return ShardedSweep(layer, chosen, means, torch.stack(right).sum(0), total)


def shard_sums(network: OpenNetwork, layer: str, shard: OpenShard) -> tuple[Tensor, int]:
    """Sums of activations over the shard's blocks, float64 (block, channel), and its images."""
    data = shard()
    return channel_sums(network(), layer, data)[0], len(data)


def shard_right(
    network: OpenNetwork, layer: str, order: Tensor, means: Tensor, shard: OpenShard
) -> Tensor:
    """How many of the shard's images each prefix of the order gets right, int64 (channel + 1,)."""
    data, opened = shard(), network()
    outputs = channel_sums(opened, layer, data)[1]
    sweep = Sweep(opened, layer, order, means, outputs)
    if outputs is None:
        given, right = plain_predictions(sweep, data)
    else:
        given, right = sweep_predictions(sweep)
    return (given == right).sum(1)
