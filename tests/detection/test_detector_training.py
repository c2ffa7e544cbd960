"""A detector learns, its loss falls, and the network handed in stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from goodnet.data.scenes import SceneSettings, render_scenes
from goodnet.detection import FasterRCNNSettings, build_detector, train_detector
from goodnet.errors import SettingsError
from goodnet.training import Augmentation, TrainingSettings

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
SETTINGS = FasterRCNNSettings(3, width=0.05, shorter_side=64, anchor_sizes=(16.0, 24.0, 32.0))
SCENES = render_scenes(8, SceneSettings((48, 64)), generator=torch.Generator().manual_seed(0))
NETWORK = build_detector(SETTINGS, generator=torch.Generator().manual_seed(1))


def test_the_loss_falls(untouched: Untouched) -> None:
    settings = TrainingSettings(epochs=15, batch_size=4, learning_rate=3e-3)
    with untouched(NETWORK):
        training = train_detector(
            NETWORK, SCENES, settings, generator=torch.Generator().manual_seed(2)
        )
    assert training.epochs[-1].loss < 0.6 * training.epochs[0].loss
    assert not training.network.training


def test_same_seed_same_bits() -> None:
    settings = TrainingSettings(epochs=1, batch_size=4)
    states = [
        train_detector(
            NETWORK, SCENES, settings, generator=torch.Generator().manual_seed(seed)
        ).network.state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not all(torch.equal(value, states[2][key]) for key, value in states[0].items())


def test_an_augmentation_is_refused() -> None:
    settings = TrainingSettings(augmentation=Augmentation())
    with pytest.raises(SettingsError, match="what is said of an image would move"):
        train_detector(NETWORK, SCENES, settings, generator=torch.Generator())
