"""Training a detector of torchvision's convention on scenes."""

from __future__ import annotations

import torch
from torch import nn

from goodnet.data.roles import TrainingData
from goodnet.data.scenes import Scenes
from goodnet.detection.task import scene_images
from goodnet.formats.specification import InputSpecification
from goodnet.training import Progress, Training, TrainingSettings, no_progress, train


def train_detector(
    network: nn.Module,
    scenes: Scenes,
    settings: TrainingSettings,
    *,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Training:
    """A copy of `network` trained on all scenes, after its last epoch.

    Args:
        network: Left bit-identical; gives a dict of losses in training mode, all of which
            are made small together.
        scenes: With their boxes and labels.
        settings: How to train; without augmentation, which would move signs out of their
            boxes.
        generator: Draws the order, and what the network draws.
        progress: Told after every epoch.

    Raises:
        SettingsError: There is an augmentation.
        GoodnetError: The loss became NaN or infinite.
    """
    return train(
        network,
        TrainingData(scene_images(scenes), InputSpecification(scenes.size)),
        settings,
        generator=generator,
        progress=progress,
        what="training the detector",
    )
