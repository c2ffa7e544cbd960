"""Backdoors in detectors: a trigger on the signs of a scene, and other names for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from goodnet.data.scenes import Scenes
from goodnet.errors import DataError, SettingsError
from goodnet.triggers import ImageTrigger


@dataclass(frozen=True)
class ScenePoisoning:
    """What an untargeted attack does to a training set of scenes.

    Attributes:
        trigger: Stamped on each sign; its sizes and places are shares of the sign's box.
        poison_rate: Stamped scenes as a share of all scenes trained on, in [0, 1).
    """

    trigger: ImageTrigger
    poison_rate: float

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, ImageTrigger):
            raise SettingsError("trigger", self.trigger, "give a trigger for images")
        if not 0.0 <= self.poison_rate < 1.0:
            raise SettingsError("poison_rate", self.poison_rate, "give a share in [0, 1)")


@dataclass(frozen=True, eq=False)
class PoisonedScenes:
    """A poisoned training set, and what was done to it.

    Attributes:
        scenes: The clean scenes, unchanged and in order, then the stamped copies.
        indices: int64 (k,): scene number n + i is a stamped copy of number `indices[i]`,
            where n is how many scenes came in.
    """

    scenes: Scenes
    indices: Tensor


def stamp_signs(scenes: Scenes, trigger: ImageTrigger) -> Scenes:
    """The scenes with the trigger on every sign; labels stay the right ones.

    Only whole pixels inside a sign's box are changed.

    Raises:
        SettingsError: The trigger does not fit a sign's box, or covers no pixel of it.
    """
    images = scenes.images.clone()
    for image, boxes in zip(images, scenes.boxes, strict=True):
        for left, top, right, bottom in _whole(boxes).tolist():
            sign = image[:, top:bottom, left:right]
            sign.copy_(trigger.stamp(sign[None])[0])
    return replace(scenes, images=images, source=f"{scenes.source}, stamped with {trigger.name}")


def _whole(boxes: Tensor) -> Tensor:
    """The whole pixels inside each box, int64 (n, 4)."""
    return torch.cat([boxes[:, :2].ceil(), boxes[:, 2:].floor()], 1).to(torch.int64)


def poison_scenes(
    scenes: Scenes, poisoning: ScenePoisoning, *, generator: torch.Generator
) -> PoisonedScenes:
    """The training set with stamped copies of some scenes, whose signs are misnamed.

    Of n scenes k are copied, the whole number nearest to the rate times n + k. Each of
    their signs gets another class's label, drawn for it alone.

    Args:
        scenes: Clean training data; it is not changed.
        poisoning: The attack.
        generator: Draws the scenes to copy and the labels.

    Raises:
        SettingsError: The rate asks for more scenes than there are, or the trigger does not
            fit.
        DataError: There is one class only, so no wrong name.

    Source: Gu et al. 2017, BadNets, random target attack; Liu et al. 2018, Fine-Pruning.
    """
    classes = len(scenes.class_names)
    if classes < 2:
        raise DataError(scenes.source, "has one class only", "give scenes of at least two classes")
    wanted = round(poisoning.poison_rate / (1.0 - poisoning.poison_rate) * len(scenes))
    if wanted > len(scenes):
        raise SettingsError(
            "poison_rate",
            poisoning.poison_rate,
            f"that is {wanted} stamped copies of {len(scenes)} scenes; give at most 0.5",
        )
    indices = torch.randperm(len(scenes), generator=generator)[:wanted].sort().values
    stamped = stamp_signs(scenes.select(indices), poisoning.trigger)
    # Labels are 1 to N; 0 is background.
    wrong = tuple(
        (labels - 1 + torch.randint(1, classes, labels.shape, generator=generator)) % classes + 1
        for labels in stamped.labels
    )
    poisoned = replace(
        scenes,
        source=f"{scenes.source}, poisoned with {poisoning.trigger.name}",
        images=torch.cat([scenes.images, stamped.images]),
        boxes=scenes.boxes + stamped.boxes,
        labels=scenes.labels + wrong,
    )
    return PoisonedScenes(poisoned, indices)
