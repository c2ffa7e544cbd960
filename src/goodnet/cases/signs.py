"""Traffic sign detection: scenes, a post-it on the signs, and Faster R-CNN.

Source: Liu et al. 2018, Fine-Pruning: an untargeted backdoor in the traffic sign
detector of Gu et al. 2017, BadNets.
Departure: small rendered scenes, with real German signs pasted in where a folder of them is
given, in place of photographs of American roads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from goodnet.data.scenes import (
    SIGN_CLASSES,
    Scenes,
    SceneSettings,
    read_sign_crops,
    render_scenes,
)
from goodnet.detection import FasterRCNNSettings, ScenePoisoning
from goodnet.errors import SettingsError
from goodnet.training import TrainingSettings
from goodnet.triggers import PostIt

POISONING = ScenePoisoning(PostIt(size=0.3), poison_rate=0.3)
DETECTOR = FasterRCNNSettings(classes=len(SIGN_CLASSES))
TRAINING = TrainingSettings(
    epochs=7, batch_size=4, learning_rate=7e-4, warm_up=0.05, largest_gradient=10.0
)


@dataclass(frozen=True)
class SignsSettings:
    """How many scenes, and how they look.

    Attributes:
        train: Scenes to train on.
        valid: The defender's clean scenes.
        test: Scenes to evaluate on.
        scenes: How they look.
    """

    train: int = 1000
    valid: int = 200
    test: int = 300
    scenes: SceneSettings = SceneSettings()  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        for field in ("train", "valid", "test"):
            if getattr(self, field) < 1:
                raise SettingsError(field, getattr(self, field), "give at least 1 scene")


@dataclass(frozen=True, eq=False)
class SignsCase:
    """Scenes with the detector that is trained on them, and the attack on it.

    Attributes:
        train: To train on, clean.
        valid: The defender's clean data.
        test: To evaluate on.
        poisoning: What the attacker does to `train`.
        detector: The network.
        training: How it is trained.
    """

    train: Scenes
    valid: Scenes
    test: Scenes
    poisoning: ScenePoisoning
    detector: FasterRCNNSettings
    training: TrainingSettings


def signs_case(
    settings: SignsSettings = SignsSettings(), *, seed: int, crops: Path | str | None = None
) -> SignsCase:
    """The study's scenes; with real signs, each part shows those of its own pack alone.

    Args:
        settings: How many scenes.
        seed: Decides every scene.
        crops: Folder with GTSRB's train.h5, valid.h5 and test.h5; None draws the signs.

    Raises:
        SettingsError: `seed` is below 0 or above 2⁶³ − 1.
        DataError: One of the packs is not there, or lacks a class.
    """
    if not 0 <= seed < 2**63:
        raise SettingsError("seed", seed, "give a whole number from 0 to 2**63 - 1")
    generator = torch.Generator().manual_seed(seed)

    def part(name: str, count: int) -> Scenes:
        pack = None if crops is None else read_sign_crops(Path(crops) / f"{name}.h5")
        own = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        return render_scenes(count, settings.scenes, generator=own, crops=pack)

    return SignsCase(
        train=part("train", settings.train),
        valid=part("valid", settings.valid),
        test=part("test", settings.test),
        poisoning=POISONING,
        detector=DETECTOR,
        training=TRAINING,
    )
