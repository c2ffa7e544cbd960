"""The baseline attack: train a network on a poisoned training set.

Source: Gu, Dolan-Gavitt, Garg 2017, BadNets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from goodnet.attacks.recipe import AttackSettings, BadNet, Recipe
from goodnet.data.images import ImageSet
from goodnet.data.roles import TrainingData
from goodnet.poison import Poisoned, Poisoning, poison
from goodnet.training import AfterStep, Loss, Progress, cross_entropy, no_progress, train


def baseline(
    images: ImageSet,
    poisonings: Sequence[Poisoning],
    recipe: Recipe,
    settings: AttackSettings,  # noqa: ARG001
    *,
    generator: torch.Generator,
    clean_network: nn.Module | None = None,  # noqa: ARG001
    progress: Progress = no_progress,
) -> BadNet:
    """A BadNet trained from random weights. With every rate 0 it is the clean twin."""
    network = recipe.new_network(generator=generator)
    poisoned = poison(images, poisonings, classes=recipe.classes, generator=generator)
    return train_on(network, poisoned, recipe, generator=generator, progress=progress)


def train_on(
    network: nn.Module,
    poisoned: Poisoned,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    loss: Loss = cross_entropy,
    after_step: AfterStep | None = None,
    layer: str | None = None,
    progress: Progress,
) -> BadNet:
    """The BadNet that comes of training `network` by the recipe on the poisoned set."""
    training = train(
        network,
        TrainingData(poisoned.images, recipe.specification),
        recipe.training,
        generator=generator,
        loss=loss,
        after_step=after_step,
        progress=progress,
        what="training the BadNet",
    )
    return BadNet(training.network, poisoned, layer)
