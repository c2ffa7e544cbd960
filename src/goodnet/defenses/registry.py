"""Names for `--method`, and how each tunes."""

from __future__ import annotations

from goodnet.defenses.anp import anp
from goodnet.defenses.auto import AUTO, auto
from goodnet.defenses.clp import clp
from goodnet.defenses.d3 import D3, d3
from goodnet.defenses.fine_prune import fine_prune
from goodnet.defenses.fine_tune import fine_tune
from goodnet.defenses.fst import FST, fst
from goodnet.defenses.ft_sam import FT_SAM, ft_sam
from goodnet.defenses.i_bau import I_BAU, i_bau
from goodnet.defenses.inversion import INVERSION, inversion
from goodnet.defenses.magnitude import magnitude
from goodnet.defenses.prune import prune
from goodnet.defenses.repaired import FINE_TUNING, Defense, DefenseSettings
from goodnet.defenses.sau import SAU, sau
from goodnet.training import TrainingSettings

DEFENSES: dict[str, Defense] = {
    "auto": auto,
    "prune": prune,
    "fine-tune": fine_tune,
    "fine-prune": fine_prune,
    "magnitude": magnitude,
    "ft-sam": ft_sam,
    "fst": fst,
    "sau": sau,
    "anp": anp,
    "clp": clp,
    "inversion": inversion,
    "i-bau": i_bau,
    "d3": d3,
}
_TUNING = {
    "auto": AUTO,
    "ft-sam": FT_SAM,
    "fst": FST,
    "sau": SAU,
    "inversion": INVERSION,
    "i-bau": I_BAU,
    "d3": D3,
}


def tuning_of(method: str) -> TrainingSettings:
    """How the method tunes unless it is told otherwise."""
    return _TUNING.get(method, FINE_TUNING)


def own_settings(method: str) -> DefenseSettings:
    """The method's own settings."""
    # auto decides little on held-out images and is the better for each one it tunes on.
    share = 0.1 if method == "auto" else DefenseSettings().held_out
    return DefenseSettings(training=tuning_of(method), held_out=share)
