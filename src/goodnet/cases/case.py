"""What a study supplies: images, network, how to train it."""

from __future__ import annotations

from dataclasses import dataclass

from goodnet.attack import Material
from goodnet.attacks import Recipe


@dataclass(frozen=True, eq=False)
class Case:
    """Images with the network that is trained on them.

    Attributes:
        name: What results call it.
        material: Images to train on, to measure on, and a defender's.
        recipe: The network and its training.
    """

    name: str
    material: Material
    recipe: Recipe
