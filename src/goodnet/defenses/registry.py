"""Names for `--method`."""

from __future__ import annotations

from goodnet.defenses.fine_prune import fine_prune
from goodnet.defenses.fine_tune import fine_tune
from goodnet.defenses.magnitude import magnitude
from goodnet.defenses.prune import prune
from goodnet.defenses.repaired import Defense

DEFENSES: dict[str, Defense] = {
    "prune": prune,
    "fine-tune": fine_tune,
    "fine-prune": fine_prune,
    "magnitude": magnitude,
}
