"""How much faster the native network is than the Keras model of the same file.

`python -m benchmarks.keras_speed MODEL.h5` runs both over the same random images in turn,
each at the batch size it likes best of those tried, and compares their outputs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from goodnet import read_model

BATCHES = (32, 64, 256)
ROUNDS = 7


def seconds(work: Callable[[int], object], batch: int) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    with torch.inference_mode():
        work(batch)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=2048)
    options = parser.parse_args()
    model = read_model(options.model)
    import keras  # noqa: PLC0415 - the reader has chosen the torch backend

    original = keras.models.load_model(options.model, compile=False)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.images, *model.specification.size, generator=generator)
    last = images.permute(0, 2, 3, 1).contiguous()
    array = last.numpy()
    work: dict[str, Callable[[int], object]] = {
        "native": lambda batch: [model.network(part) for part in images.split(batch)],
        "Keras, called": lambda batch: [original(part) for part in last.split(batch)],
        "Keras, predict": lambda batch: original.predict(array, batch_size=batch, verbose=0),
    }
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for name, run in work.items():
            for batch in BATCHES:
                taken.setdefault((name, batch), []).append(seconds(run, batch))
    best = {name: min(statistics.median(taken[name, batch]) for batch in BATCHES) for name in work}
    for name, median in best.items():
        print(f"{name}: {median:.3f} s for {options.images} images, median of {ROUNDS}", end="; ")
        print(f"{median / best['native']:.1f} times native")
    with torch.inference_mode():
        difference = (model.network(images[:256]) - original(last[:256])).abs().max()
    print(f"largest difference of outputs: {float(difference):.1e}")


if __name__ == "__main__":
    main()
