"""The defenses, one file each; all take clean data only."""

from goodnet.defenses.fine_prune import fine_prune
from goodnet.defenses.fine_tune import fine_tune
from goodnet.defenses.magnitude import magnitude
from goodnet.defenses.prune import channels_for_drop, prune
from goodnet.defenses.registry import DEFENSES, own_settings, tuning_of
from goodnet.defenses.repaired import FINE_TUNING, Defense, DefenseSettings, Repaired

__all__ = [
    "DEFENSES",
    "FINE_TUNING",
    "Defense",
    "DefenseSettings",
    "Repaired",
    "channels_for_drop",
    "fine_prune",
    "fine_tune",
    "magnitude",
    "own_settings",
    "prune",
    "tuning_of",
]
