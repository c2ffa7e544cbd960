"""Teaching a network the answers of another.

Sources: Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network; Furlanello et
al. 2018, Born-Again Neural Networks (a student of the teacher's own structure); Zhang et al. 2018,
mixup, and Beyer et al. 2022, Knowledge Distillation: A Good Teacher Is Patient and Consistent
(both see the same images, many of them mixtures).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import device_of
from goodnet.data.roles import CleanData
from goodnet.formats.specification import InputSpecification
from goodnet.modes import drawing_by
from goodnet.probes import Suspect
from goodnet.training import (
    Augmentation,
    Precision,
    Progress,
    Training,
    TrainingSettings,
    layout_of,
    logits_of_images,
    train,
)

AUGMENTATION = Augmentation(shift=0.06, rotation=10.0, scale=0.12, brightness=0.3)
_MIXED = 0.75
_EPOCHS, _BATCH, _RATE = 60, 64, 3e-3
_LEAST_STEPS = 2000
"""Few images are passed over more often."""


def distilled(logits: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
    """How far answers are from those taught, softened alike, float32 (batch,)."""
    said, right = (F.log_softmax(each / temperature, 1) for each in (logits, taught))
    return temperature**2 * F.kl_div(said, right, log_target=True, reduction="none").sum(1)


def between(images: Tensor, shares: Tensor, *, generator: torch.Generator) -> Tensor:
    """The images, the first of them mixed with others.

    Args:
        images: float32 (batch, channel, height, width).
        shares: What is kept of each image that is mixed, float32 (mixed,), in [0, 1].
        generator: Draws the others.
    """
    mixed = len(shares)
    other = torch.randperm(len(images), generator=generator)[:mixed].to(images.device)
    kept = shares.view(-1, 1, 1, 1).to(images.device)
    return torch.cat([images[:mixed] * kept + images[other] * (1 - kept), images[mixed:]])


def student(
    teacher: nn.Module,
    tuning: CleanData,
    held_out: CleanData | None,
    *,
    augmentation: Augmentation | None,
    precision: Precision,
    generator: torch.Generator,
    progress: Progress,
) -> Training:
    """A network of the teacher's structure and of new weights, taught on clean images.

    What needs a trigger to be seen is hardly passed on, but for what the answers on clean images
    tell of it; of a backdoor to one label that is most (see docs/results.md).

    Args:
        teacher: Left bit-identical.
        tuning: The images, changed at random and mixed; their labels are not used.
        held_out: Reported on, if given.
        augmentation: The changes.
        precision: Of the numbers while training.
        generator: Draws weights, order, changes and mixtures.
        progress: Told after every epoch.
    """
    settings = TrainingSettings(
        epochs=_EPOCHS,
        batch_size=_BATCH,
        learning_rate=_RATE,
        weight_decay=0.01,
        warm_up=0.1,
        augmentation=augmentation,
        precision=precision,
        least_steps=_LEAST_STEPS,
    )
    return train(
        _drawn_anew(teacher, generator=generator),
        tuning,
        settings,
        loss=_Taught(teacher, tuning.specification, generator),
        held_out=held_out,
        generator=generator,
        keep_last=True,
        progress=progress,
        what="learning anew",
    )


class _Taught:
    """The loss: answers as the teacher's, on images and mixtures of them."""

    def __init__(
        self, teacher: nn.Module, specification: InputSpecification, generator: torch.Generator
    ) -> None:
        # Called within `train`, which decides the precision.
        self._teacher = Suspect(teacher, specification)
        self._specification = specification
        self._layout = layout_of(teacher)
        self._generator = generator

    def __call__(
        self, network: nn.Module, inputs: Tensor, _labels: Tensor, _chosen: Tensor
    ) -> Tensor:
        images = self._specification.restore(inputs)
        shares = torch.rand(round(_MIXED * len(images)), generator=self._generator)
        images = between(images, shares, generator=self._generator)
        with torch.no_grad():
            taught = self._teacher(images)
        logits = logits_of_images(network, images, self._specification, self._layout)
        return distilled(logits, taught, temperature=1.0).mean()


def _drawn_anew(network: nn.Module, *, generator: torch.Generator) -> nn.Module:
    """A copy with new weights; layers that cannot draw their own keep the old ones."""
    # On the processor, whose generator is seeded: the same weights whatever the device.
    drawn = copy.deepcopy(network).cpu()
    with drawing_by(generator):
        for module in drawn.modules():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw):
                draw()
    return drawn.to(device_of(network))
