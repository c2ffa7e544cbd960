"""Repair a course network: `prune.py MODELS/xxx_bd_net.h5`.

Reads `data/clean_valid_data.h5`, prunes single weights of the whole network from 50 to
70 % while it is fine-tuned, and writes `MODELS/xxx_bd_net_rp.h5`, a plain Keras model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from goodnet import CleanData, DefenseSettings, GoodnetError, read_images, read_model, repair
from goodnet.formats import write_model
from goodnet.readings import with_likely_reading


def main() -> int:
    """Repair one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", type=Path, metavar="MODELS/xxx_bd_net.h5")
    parser.add_argument("--valid", type=Path, default=Path("data/clean_valid_data.h5"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        model = read_model(options.network)
        images = read_images(options.valid, size=model.specification.size)
        model = with_likely_reading(model, images)
        repaired, _, result = repair(
            model.network,
            CleanData(images, model.specification),
            classes=model.classes,
            method="magnitude",
            settings=DefenseSettings(),
            generator=torch.Generator().manual_seed(options.seed),
            with_risk=False,
        )
        path = options.network.with_name(f"{options.network.stem}_rp.h5")
        write_model(model, repaired.network, path)
    except GoodnetError as error:
        print(f"prune.py: {error}", file=sys.stderr)
        return error.exit_code
    zeros = sum(row.sparsity.count for row in result.sparsity)
    weights = sum(row.sparsity.n for row in result.sparsity)
    print(f"clean accuracy on held-out images: {result.valid_accuracy_before.value:.1%} before")
    print(f"clean accuracy on held-out images: {result.valid_accuracy_after.value:.1%} after")
    print(f"{zeros / weights:.1%} of the weights are zero; written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
