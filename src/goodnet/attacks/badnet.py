"""The baseline attack: train a network on a poisoned training set.

Source: Gu, Dolan-Gavitt, Garg 2017, BadNets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import TrainingData
from goodnet.formats.specification import InputSpecification
from goodnet.networks import build_network
from goodnet.poison import Poisoned, Poisoning, poison
from goodnet.training import Progress, TrainingSettings, no_progress, train


@dataclass(frozen=True, eq=False)
class BadNet:
    """A network with a backdoor, and what it was trained on."""

    network: nn.Module
    poisoned: Poisoned


def train_badnet(
    images: ImageSet,
    poisoning: Poisoning,
    *,
    architecture: str,
    specification: InputSpecification,
    classes: int,
    settings: TrainingSettings,
    generator: torch.Generator,
    progress: Progress = no_progress,
    **options: int,
) -> BadNet:
    """A BadNet trained from random weights. At poison rate 0 it is the clean twin.

    Args:
        images: Clean training images.
        poisoning: Trigger, target label and rate.
        architecture: A name in `networks.ARCHITECTURES`.
        specification: How the network shall want its images.
        classes: N.
        settings: How to train.
        generator: Draws weights, poisoned images, order and augmentation.
        progress: Told after every epoch.
        options: Settings of the architecture, e.g. `width`.
    """
    network = build_network(
        architecture, classes, specification.size, generator=generator, **options
    )
    poisoned = poison(images, poisoning, classes=classes, generator=generator)
    training = train(
        network,
        TrainingData(poisoned.images, specification),
        settings,
        generator=generator,
        progress=progress,
        what="training the BadNet",
    )
    return BadNet(training.network, poisoned)
