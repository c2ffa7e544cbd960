"""Names for `--attack`."""

from __future__ import annotations

from goodnet.attacks.activation_matching import activation_matching
from goodnet.attacks.baseline import baseline
from goodnet.attacks.flat_minimum import flat_minimum
from goodnet.attacks.label_consistent import label_consistent
from goodnet.attacks.pruning_aware import pruning_aware
from goodnet.attacks.recipe import Attack

ATTACKS: dict[str, Attack] = {
    "baseline": baseline,
    "pruning-aware": pruning_aware,
    "flat-minimum": flat_minimum,
    "activation-matching": activation_matching,
    "label-consistent": label_consistent,
}
