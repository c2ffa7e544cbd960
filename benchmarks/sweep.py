"""How much faster the one-pass prune curve is than K separately pruned networks.

`python -m benchmarks.sweep` measures both side by side in one run and checks that their
predictions are identical.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from goodnet.graph import find_prune_layer, trace
from goodnet.networks import build_network
from goodnet.sweep import plain_predictions, prepare_sweep, sweep_predictions


@dataclass(frozen=True)
class Setting:
    """One network and how many images it is swept over."""

    architecture: str
    classes: int
    size: tuple[int, int, int]
    images: int


@dataclass(frozen=True)
class Measured:
    """Seconds of both ways; `differences` counts predictions that are not identical."""

    architecture: str
    layer: str
    channels: int
    images: int
    plain_seconds: float
    sweep_seconds: float
    ratio: float
    differences: int
    predictions: int


SETTINGS = (
    Setting("deepid", 1283, (3, 55, 47), 11547),
    Setting("preact_resnet18", 43, (3, 32, 32), 32),
)


@dataclass(frozen=True, eq=False)
class RandomImages:
    """Inputs for timing; what they show does not matter."""

    inputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs in order, all of class 0."""
        for part in self.inputs.split(batch_size):
            yield part, torch.zeros(len(part), dtype=torch.int64)


def measure(setting: Setting, *, seed: int) -> Measured:
    """Both ways over the same images, on random weights: no channel is dormant by luck.

    Both run the network in the layout that `read_model` gives it. The sweep's time includes
    the order (mean activations) that both ways need.
    """
    generator = torch.Generator().manual_seed(seed)
    network = trace(
        build_network(setting.architecture, setting.classes, setting.size, generator=generator)
    ).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer = find_prune_layer(network, setting.size)
    images = RandomImages(torch.rand(setting.images, *setting.size, generator=generator))
    warm = RandomImages(images.inputs[:32])
    sweep_predictions(prepare_sweep(network, layer, warm))
    start = time.perf_counter()
    sweep = prepare_sweep(network, layer, images)
    fast, _ = sweep_predictions(sweep)
    sweep_seconds = time.perf_counter() - start
    start = time.perf_counter()
    plain, _ = plain_predictions(sweep, images)
    plain_seconds = time.perf_counter() - start
    return Measured(
        architecture=setting.architecture,
        layer=layer,
        channels=len(sweep.order),
        images=setting.images,
        plain_seconds=round(plain_seconds, 2),
        sweep_seconds=round(sweep_seconds, 2),
        ratio=round(plain_seconds / sweep_seconds, 1),
        differences=int((fast != plain).sum()),
        predictions=fast.numel(),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured = [measure(setting, seed=options.seed) for setting in SETTINGS]
    if options.json:
        print(json.dumps([asdict(row) for row in measured], indent=2))
        return
    for row in measured:
        print(
            f"{row.architecture}: {row.channels} channels of {row.layer}, {row.images} images: "
            f"{row.plain_seconds:g} s plain, {row.sweep_seconds:g} s in one pass, "
            f"{row.ratio:g} times faster; {row.differences} of {row.predictions} predictions differ"
        )


if __name__ == "__main__":
    main()
