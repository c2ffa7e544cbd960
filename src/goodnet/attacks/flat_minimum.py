"""The flat-minimum attacker: the backdoor sits where small steps of the weights keep it.

Fine-tuning moves the weights a little. A network trained with sharpness-aware minimisation
has, all around it, networks of nearly the same loss on the poisoned set, so the trigger
still works after such a move.

Source: Foret et al. 2021, Sharpness-Aware Minimization, here turned against the defender.
The clean twin is trained without it, by the plain recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from goodnet.attacks.baseline import baseline
from goodnet.attacks.recipe import AttackSettings, BadNet, Recipe
from goodnet.data.images import ImageSet
from goodnet.poison import Poisoning
from goodnet.training import Progress, Sharpness, no_progress


def flat_minimum(
    images: ImageSet,
    poisonings: Sequence[Poisoning],
    recipe: Recipe,
    settings: AttackSettings,
    *,
    generator: torch.Generator,
    clean_network: nn.Module | None = None,
    progress: Progress = no_progress,
) -> BadNet:
    """The baseline attack with a recipe that looks for a flat minimum, two gradients a step."""
    training = replace(recipe.training, sharpness=Sharpness(settings.sharpness))
    return baseline(
        images,
        poisonings,
        replace(recipe, training=training),
        settings,
        generator=generator,
        clean_network=clean_network,
        progress=progress,
    )
