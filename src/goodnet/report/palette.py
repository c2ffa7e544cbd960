"""The report's colours, safe for colour-blind readers, each with its dark-scheme counterpart.

Figures are drawn in the light colours, so that they stand alone. The page turns each into a
style variable and gives it both values.

Source: Okabe and Ito 2008, Color Universal Design; the dark values are the same hues, lighter.
"""

from __future__ import annotations

from typing import NamedTuple


class Colour(NamedTuple):
    """One role: its variable on the page, and its value in the light and the dark scheme."""

    variable: str
    light: str
    dark: str


PAPER = Colour("--paper", "#ffffff", "#14181d")
INK = Colour("--ink", "#1d2329", "#e4e8ec")
MUTED = Colour("--muted", "#59636e", "#a0abb6")
RULE = Colour("--rule", "#d3d9df", "#343c45")
SHADE = Colour("--shade", "#f3f5f7", "#1d232a")

VALID = Colour("--valid", "#0072b2", "#4fa8e0")
BAR = Colour("--bar", "#8cbcdc", "#35719b")
CLEAN = Colour("--clean", "#008f68", "#2fc193")
HIGHLIGHT = Colour("--highlight", "#fdf0d5", "#3d3115")
HIGHLIGHT_EDGE = Colour("--highlight-edge", "#b86e00", "#e8a33d")

# Poisoned sets, in order; with more of them the colours come round again, the markers later.
ATTACKS = (
    Colour("--attack-1", "#d55e00", "#f2823a"),
    Colour("--attack-2", "#b0478f", "#e08cc4"),
    Colour("--attack-3", "#9a7d00", "#d9bd3c"),
    Colour("--attack-4", "#6a4fb3", "#a892e6"),
)
ATTACK_MARKERS = ("o", "s", "^", "D", "v")

ALL = (PAPER, INK, MUTED, RULE, SHADE, VALID, BAR, CLEAN, HIGHLIGHT, HIGHLIGHT_EDGE, *ATTACKS)
