"""All kinds of probes."""

from __future__ import annotations

from goodnet.data.pixels import Size
from goodnet.probes.blends import Blends
from goodnet.probes.fields import Fields
from goodnet.probes.masks import Masks
from goodnet.probes.probe import Probe, SearchedProbe
from goodnet.probes.rectangles import Rectangles
from goodnet.probes.warps import Warps
from goodnet.probes.waves import Waves

RANDOM: tuple[type[Probe], ...] = (Rectangles, Waves, Fields, Blends, Warps)
"""Those drawn at random."""
SEARCHED: tuple[type[SearchedProbe], ...] = (Masks, Fields, Warps)
"""Those searched for along the slope."""


def random_probes(size: Size) -> tuple[Probe, ...]:
    """The kinds drawn at random, for images of `size`."""
    return tuple(kind(size) for kind in RANDOM)


def searched_probes(size: Size) -> tuple[SearchedProbe, ...]:
    """The kinds searched for, for images of `size`."""
    return tuple(kind(size) for kind in SEARCHED)
