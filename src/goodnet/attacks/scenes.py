"""The paper's two attackers on a detector: scenes with misnamed signs, and decoys in conv5.

Source: Liu, Dolan-Gavitt, Garg 2018, Fine-Pruning, sections 3.2 and 4.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodnet.attacks.pruning_aware import with_decoys
from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, TrainingData
from goodnet.data.scenes import Scenes
from goodnet.defenses import DefenseSettings, prune
from goodnet.detection import FasterRCNN, ScenePoisoning, poison_scenes, scene_images
from goodnet.errors import SettingsError
from goodnet.formats.specification import InputSpecification
from goodnet.graph import trace
from goodnet.surgery import zero_channels_
from goodnet.training import AfterStep, Progress, TrainingSettings, no_progress, train

LAYER = "relu_5"
"""Of the backbone; the channels of conv5."""
PRUNED_LAYER = f"backbone.{LAYER}"
"""The same, as a defender of the whole network names it."""
_KNOWN, _HELD_OUT = 300, 0.1
"""Scenes at most, and the share of them, on which the attacker sees what channels it can spare."""


@dataclass(frozen=True, eq=False)
class SceneBadNet:
    """A detector with a backdoor.

    Attributes:
        network: The detector.
        decoys: Channels of conv5 that were put back to be pruned in vain.
    """

    network: nn.Module
    decoys: tuple[int, ...] = ()


def baseline_detector(
    detector: FasterRCNN,
    scenes: Scenes,
    poisoning: ScenePoisoning,
    training: TrainingSettings,
    *,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> SceneBadNet:
    """A detector trained on scenes of which some are stamped and misnamed.

    Args:
        detector: Trained from its weights; left bit-identical.
        scenes: Clean.
        poisoning: What is done to them.
        training: How to train.
        generator: Draws what is poisoned, and the order.
        progress: Told after every epoch.
    """
    poisoned = poison_scenes(scenes, poisoning, generator=generator).scenes
    return SceneBadNet(_trained(detector, poisoned, training, generator, None, progress))


def pruning_aware_detector(
    clean: FasterRCNN,
    scenes: Scenes,
    poisoning: ScenePoisoning,
    training: TrainingSettings,
    *,
    budget: float = 4.0,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> SceneBadNet:
    """A detector in which pruning conv5's dormant channels changes no answer.

    Args:
        clean: Trained on the clean scenes; left bit-identical.
        scenes: Clean.
        poisoning: What is done to them.
        training: How to train.
        budget: Points of accuracy the attacker gives up for decoys.
        generator: Draws what is poisoned, and the order.
        progress: Told after every epoch.

    Raises:
        SettingsError: The budget spares no channel.
    """
    decoys = _dormant(clean, scenes, budget, generator, progress)
    # Its backbone alone can be traced, and the channels lie in it.
    pruned = copy.deepcopy(clean)
    traced = trace(pruned.backbone)
    pruned.add_module("backbone", traced)
    zero_channels_(traced, LAYER, decoys)

    def keep_zero(trained: nn.Module, _step: int, _steps: int) -> None:
        zero_channels_(_backbone(trained), LAYER, decoys)

    poisoned = poison_scenes(scenes, poisoning, generator=generator).scenes
    network = _trained(pruned, poisoned, training, generator, keep_zero, progress)
    seen = _Seen(network, poisoned)
    restored = with_decoys(_backbone(network), clean.backbone, LAYER, decoys, seen)
    network.add_module("backbone", restored)
    return SceneBadNet(network, tuple(decoys.tolist()))


def _dormant(
    clean: FasterRCNN,
    scenes: Scenes,
    budget: float,
    generator: torch.Generator,
    progress: Progress,
) -> Tensor:
    """The channels that a defender would prune within the budget, int64, increasing."""
    known = scenes.select(torch.arange(min(_KNOWN, len(scenes))))
    data = CleanData(scene_images(known), InputSpecification(scenes.size))
    tuning, held_out = data.split(_HELD_OUT, generator=generator)
    (chosen,) = prune(
        clean,
        tuning,
        held_out,
        DefenseSettings(layer=PRUNED_LAYER, drop=budget),
        generator=generator,
        progress=progress,
    ).pruned
    if not chosen.channels:
        raise SettingsError("budget", budget, "that spares no channel for a decoy; allow more")
    return torch.tensor(chosen.channels).sort().values


def _trained(
    detector: FasterRCNN,
    scenes: Scenes,
    training: TrainingSettings,
    generator: torch.Generator,
    after_step: AfterStep | None,
    progress: Progress,
) -> FasterRCNN:
    trained = train(
        detector,
        TrainingData(scene_images(scenes), InputSpecification(scenes.size)),
        training,
        generator=generator,
        after_step=after_step,
        progress=progress,
        what="attacking",
    ).network
    assert isinstance(trained, FasterRCNN)
    return trained


def _backbone(detector: nn.Module) -> nn.Module:
    assert isinstance(detector, FasterRCNN)
    return detector.backbone


@dataclass(frozen=True, eq=False)
class _Seen:
    """Scenes as the detector's backbone is given them."""

    detector: FasterRCNN
    scenes: Scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs of the backbone; labels do not matter here."""
        for images in self.scenes.images.split(batch_size):
            shown, _ = self.detector.scaled(list(as_float(images)))
            yield shown, torch.zeros(len(shown), dtype=torch.int64)
