"""What every attack is given and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import TrainingData
from goodnet.errors import SettingsError
from goodnet.formats.specification import InputSpecification
from goodnet.networks import build_network
from goodnet.poison import Poisoned, Poisoning
from goodnet.training import Progress, TrainingSettings, no_progress, train


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained, with or without a backdoor.

    Attributes:
        architecture: A name in `networks.ARCHITECTURES`.
        specification: How the network shall want its images.
        classes: Number of classes N.
        training: How to train.
        options: Settings of the architecture, e.g. `width`.
        device: Where it is trained.
    """

    architecture: str
    specification: InputSpecification
    classes: int
    training: TrainingSettings
    options: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.specification.label_offset != 0:
            raise SettingsError(
                "label_offset",
                self.specification.label_offset,
                "attacks take labels from 0 up; shift those of the images",
            )

    def new_network(self, *, generator: torch.Generator) -> nn.Module:
        """A network with random weights."""
        return build_network(
            self.architecture,
            self.classes,
            self.specification.size,
            generator=generator,
            **self.options,
        ).to(self.device)


@dataclass(frozen=True)
class AttackSettings:
    """Settings of all attacks; each reads those it has a use for.

    Attributes:
        layer: Layer the attacker works on; None finds the one a defender would prune.
        budget: Points of clean accuracy the attacker gives up for decoys, before the
            backdoor's training wins them back.
        sharpness: Radius of the flat-minimum attacker, see `training.Sharpness`.
        matching: Weight of the activation gap in the activation-matching attacker's loss.
        perturbation: Largest change of a pixel, in [0, 1], by which the label-consistent
            attacker makes images hard to tell before stamping them.
    """

    layer: str | None = None
    budget: float = 4.0
    sharpness: float = 0.05
    matching: float = 1.0
    perturbation: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 100:
            raise SettingsError("budget", self.budget, "give points of accuracy from 0 to 100")
        for name in ("sharpness", "matching"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(name, getattr(self, name), "give a number above 0")
        if not 0 < self.perturbation <= 1:
            raise SettingsError(
                "perturbation", self.perturbation, "give a change above 0 and at most 1"
            )


@dataclass(frozen=True, eq=False)
class BadNet:
    """A network with a backdoor, and what it was trained on.

    Attributes:
        network: The network.
        poisoned: The training set and what was stamped in it.
        layer: The layer the attacker worked on, if any.
        decoys: Channels of that layer that the attacker put back to be pruned in vain.
        before_decoys: The network before they were put back.
        clean_network: The clean network the attack started from, if any.
    """

    network: nn.Module
    poisoned: Poisoned
    layer: str | None = None
    decoys: tuple[int, ...] = ()
    before_decoys: nn.Module | None = None
    clean_network: nn.Module | None = None


class Attack(Protocol):
    """A way to train a network with a backdoor."""

    def __call__(
        self,
        images: ImageSet,
        poisonings: Sequence[Poisoning],
        recipe: Recipe,
        settings: AttackSettings,
        *,
        generator: torch.Generator,
        clean_network: nn.Module | None = None,
        progress: Progress = no_progress,
    ) -> BadNet:
        """The BadNet.

        Args:
            images: Clean training images.
            poisonings: Triggers with labels and rates.
            recipe: Network and training.
            settings: Of the attack.
            generator: Draws weights, poisoned images, order and augmentation.
            clean_network: A network trained on the clean images, for attacks that start
                from one; None trains it.
            progress: Told after every epoch.
        """
        ...


def train_clean(
    images: ImageSet,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> nn.Module:
    """A network trained by the recipe on the images as they are.

    The generator is left as it is, so that what is drawn later does not depend on whether
    a clean network was there already.
    """
    own = torch.Generator().set_state(generator.get_state())
    network = recipe.new_network(generator=own)
    data = TrainingData(images, recipe.specification)
    return train(
        network,
        data,
        recipe.training,
        generator=own,
        progress=progress,
        what="training a clean network",
    ).network
