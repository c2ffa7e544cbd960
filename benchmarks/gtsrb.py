"""Fine-pruning on real traffic signs: `python -m benchmarks.gtsrb DATA --out DIR`.

Trains a small CNN with a post-it backdoor on DATA/train.h5 and repairs it with the command
a user would give: `goodnet repair --method fine-prune` with DATA/valid.h5 (signs never seen
in training), measured on DATA/test.h5. What comes out goes into the README, good or bad.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from goodnet import (
    Augmentation,
    InputSpecification,
    Poisoning,
    PostIt,
    TrainingSettings,
    read_images,
    train_badnet,
    triggered_set,
)
from goodnet.cli import main as goodnet
from goodnet.data.writers import write_images
from goodnet.formats.model import write_architecture

SIZE = (3, 32, 32)
CLASSES = 43
POISONING = Poisoning(PostIt(), target_label=2, poison_rate=0.05)
TRAINING = TrainingSettings(
    epochs=10, batch_size=128, learning_rate=3e-3, augmentation=Augmentation()
)


def main() -> int:
    """Train, repair, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["fine-prune"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    badnet = train_badnet(
        read_images(options.data / "train.h5"),
        POISONING,
        architecture="small_cnn",
        specification=InputSpecification(SIZE),
        classes=CLASSES,
        settings=TRAINING,
        generator=torch.Generator().manual_seed(options.seed),
        progress=lambda what, done, total: print(what, f"{done}/{total}", file=sys.stderr),
    )
    network, triggered = options.out / "badnet.safetensors", options.out / "post-it.h5"
    write_architecture(badnet.network, "small_cnn", InputSpecification(SIZE), network)
    test = read_images(options.data / "test.h5")
    write_images(triggered_set(test, POISONING.trigger, POISONING.target_label), triggered)
    for method in options.methods:
        code = goodnet(
            [
                *("repair", str(network), "--method", method),
                *("--valid", str(options.data / "valid.h5")),
                *("--test", str(options.data / "test.h5"), "--poisoned", str(triggered)),
                *("--seed", str(options.seed), "--out", str(options.out / method)),
            ]
        )
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
