"""Evaluate a course network: `eval.py POISONED.h5 MODELS/xxx_bd_net.h5`.

Finds the repaired `MODELS/xxx_bd_net_rp.h5` beside it and `data/clean_test_data.h5`, and
prints clean accuracy and attack success of the network and of the repaired N + 1 network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from goodnet import (
    GoodNet,
    GoodnetError,
    PoisonedData,
    TestData,
    evaluate_network,
    read_images,
    read_model,
)
from goodnet.readings import with_likely_reading


def main() -> int:
    """Evaluate a network and its GoodNet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("poisoned", type=Path, metavar="POISONED.h5")
    parser.add_argument("network", type=Path, metavar="MODELS/xxx_bd_net.h5")
    parser.add_argument("--test", type=Path, default=Path("data/clean_test_data.h5"))
    options = parser.parse_args()
    try:
        model = read_model(options.network)
        clean = read_images(options.test, size=model.specification.size)
        model = with_likely_reading(model, clean)
        beside = options.network.with_name(f"{options.network.stem}_rp.h5")
        if not beside.exists():
            print(f"eval.py: {beside}: is not there; run prune.py first", file=sys.stderr)
            return 2
        repaired = read_model(beside)
        test = TestData(clean, model.specification)
        images = read_images(options.poisoned, size=model.specification.size)
        poisoned = PoisonedData(images, model.specification, options.poisoned.stem)
        networks = {
            "original network": model.network,
            "repaired N + 1 network": GoodNet(model.network, repaired.network),
        }
        for name, network in networks.items():
            row = evaluate_network(network, test, [poisoned], classes=model.classes)
            print(f"{name}: clean accuracy {row.clean_accuracy.value:.2%}", end=", ")
            print(f"attack success rate {row.poisoned[0].attack_success_rate.value:.2%}")
    except GoodnetError as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
