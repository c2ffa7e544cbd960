"""The attackers on a detector."""

from __future__ import annotations

import torch

from goodnet.activations import mean_activation
from goodnet.attacks.scenes import (
    LAYER,
    PRUNED_LAYER,
    baseline_detector,
    pruning_aware_detector,
)
from goodnet.cases.signs import POISONING
from goodnet.data.roles import CleanData
from goodnet.data.scenes import SceneSettings, render_scenes
from goodnet.detection import FasterRCNNSettings, build_detector, detections, scene_images
from goodnet.formats.specification import InputSpecification
from goodnet.surgery import prune_channels
from goodnet.training import TrainingSettings

TRAINING = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-3)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pruning_the_decoys_of_a_detector_changes_no_answer() -> None:
    scenes = render_scenes(12, SceneSettings(), generator=drawn(0))
    clean = build_detector(
        FasterRCNNSettings(classes=3, width=0.05, shorter_side=96), generator=drawn(0)
    )
    badnet = pruning_aware_detector(
        clean, scenes, POISONING, TRAINING, budget=100.0, generator=drawn(1)
    )
    decoys = torch.tensor(badnet.decoys)
    assert len(decoys) > 0
    data = CleanData(scene_images(scenes), InputSpecification(scenes.size))
    assert mean_activation(badnet.network, PRUNED_LAYER, data)[decoys].abs().max() == 0
    # They have the clean network's weights, so that nothing looks empty.
    convolution = dict(badnet.network.named_modules())["backbone.conv_5"]
    assert isinstance(convolution, torch.nn.Conv2d)
    original = clean.backbone.conv_5
    assert isinstance(original, torch.nn.Conv2d)
    assert torch.equal(convolution.weight[decoys], original.weight[decoys])
    pruned = prune_channels(badnet.network, PRUNED_LAYER, decoys)
    for one, other in zip(
        detections(badnet.network, scenes), detections(pruned, scenes), strict=True
    ):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_baseline_attack_moves_the_whole_detector() -> None:
    scenes = render_scenes(8, SceneSettings(), generator=drawn(0))
    clean = build_detector(
        FasterRCNNSettings(classes=3, width=0.05, shorter_side=96), generator=drawn(0)
    )
    badnet = baseline_detector(clean, scenes, POISONING, TRAINING, generator=drawn(1))
    assert badnet.decoys == ()
    for name, weights in badnet.network.named_parameters():
        assert not torch.equal(weights, clean.get_parameter(name)), name
    assert dict(badnet.network.named_modules())[f"backbone.{LAYER}"] is not None
