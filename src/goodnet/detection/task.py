"""What a detector is to learn of scenes, so that defenses made for classifiers can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.images import ImageSet
from goodnet.data.pixels import Size
from goodnet.data.scenes import Scenes
from goodnet.detection.metrics import sign_answers

_SIDE = 32


@dataclass(frozen=True, eq=False)
class FindSigns:
    """Find and name every sign; the network follows torchvision's convention.

    Attributes:
        scenes: The scenes with their boxes and labels.
    """

    scenes: Scenes

    @property
    def thing_size(self) -> Size:
        """(channels, height, width) of a sign, as `changed` shows it."""
        return self.scenes.size[0], _SIDE, _SIDE

    def select(self, indices: Tensor) -> FindSigns:
        """That of the scenes at `indices` (int64)."""
        return replace(self, scenes=self.scenes.select(indices))

    def loss(self, network: nn.Module, inputs: Tensor, chosen: Tensor) -> Tensor:
        """All losses of the detector together, a scalar."""
        targets = [
            {key: value.to(inputs.device) for key, value in target.items()}
            for target in self.scenes.select(chosen).targets()
        ]
        losses: dict[str, Tensor] = network(list(inputs), targets)
        return torch.stack(list(losses.values())).sum()

    def right(self, network: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
        """Of all signs whether each is found and rightly named, bool (signs,)."""
        found = []
        for images in inputs:
            answers = network(list(images))
            found += [{key: value.cpu() for key, value in answer.items()} for answer in answers]
        given, right = sign_answers(found, self.scenes.targets())
        return given == right

    def changed(self, images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The scenes with each sign changed by itself; nothing outside the boxes is."""
        scenes = images.clone()
        boxes = [self.scenes.boxes[place].round().long() for place in chosen.tolist()]
        places = [(scene, *box) for scene, own in enumerate(boxes) for box in own.tolist()]
        signs = [
            scenes[scene, :, top:bottom, left:right] for scene, left, top, right, bottom in places
        ]
        side = (_SIDE, _SIDE)
        shown = [F.interpolate(sign[None], side, mode="bilinear", antialias=True) for sign in signs]
        before = torch.cat(shown)
        # What the change adds is added, so that an unchanged sign keeps its sharpness.
        added = change(before) - before
        for sign, own in zip(signs, added, strict=True):
            size = (sign.shape[1], sign.shape[2])
            sign.add_(F.interpolate(own[None], size, mode="bilinear", antialias=True)[0])
        return scenes.clamp_(0.0, 1.0)


def scene_images(scenes: Scenes) -> ImageSet:
    """The scenes as a set of images, whose task is to find the signs."""
    return ImageSet(
        scenes.source,
        scenes.size,
        scenes.images,
        torch.zeros(len(scenes), dtype=torch.int64),
        task=FindSigns(scenes),
    )
