"""Defenses made for classifiers, on a detector."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from goodnet.answers import accuracy_of
from goodnet.data.roles import CleanData
from goodnet.data.scenes import Scenes, SceneSettings, render_scenes
from goodnet.defenses import DEFENSES, DefenseSettings
from goodnet.detection import FasterRCNNSettings, build_detector, scene_images
from goodnet.formats.specification import InputSpecification
from goodnet.training import TrainingSettings, no_progress

LAYER = "backbone.relu_5"


class Oracle(nn.Module):
    """Answers with the boxes it was given; the first `wrong` signs are misnamed."""

    def __init__(self, scenes: Scenes, wrong: int) -> None:
        super().__init__()
        self.targets = scenes.targets()
        self.asked = 0
        self.wrong = wrong

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        answers = []
        for target in self.targets[self.asked : self.asked + len(images)]:
            labels = target["labels"].clone()
            for at in range(len(labels)):
                if self.wrong > 0:
                    labels[at] = labels[at] % 3 + 1
                    self.wrong -= 1
            answers.append({**target, "labels": labels, "scores": torch.ones(len(labels))})
        self.asked += len(images)
        return answers


def clean_scenes(count: int = 6) -> CleanData:
    scenes = render_scenes(count, SceneSettings(), generator=torch.Generator().manual_seed(0))
    return CleanData(scene_images(scenes), InputSpecification(scenes.size))


def scenes_of(data: CleanData) -> Scenes:
    task = data.images.task
    assert task is not None
    scenes = getattr(task, "scenes")  # noqa: B009  # not of the protocol
    assert isinstance(scenes, Scenes)
    return scenes


def test_accuracy_counts_signs() -> None:
    data = clean_scenes()
    scenes = scenes_of(data)
    signs = sum(map(len, scenes.labels))
    rate = accuracy_of(Oracle(scenes, wrong=2), data)
    assert (rate.count, rate.n) == (signs - 2, signs)


def test_a_split_keeps_each_scenes_signs() -> None:
    data = clean_scenes()
    tuning, held_out = data.split(0.4, generator=torch.Generator().manual_seed(0))
    whole = scenes_of(data)
    for part in (tuning, held_out):
        own = scenes_of(part)
        for image, boxes in zip(own.images, own.boxes, strict=True):
            (at,) = [n for n, other in enumerate(whole.images) if torch.equal(image, other)]
            assert torch.equal(boxes, whole.boxes[at])


def test_a_change_stays_inside_the_signs() -> None:
    data = clean_scenes()
    task, scenes = data.images.task, scenes_of(data)
    assert task is not None
    images = scenes.images.float() / 255
    chosen = torch.tensor([3, 1])
    changed = task.changed(images[chosen], chosen, lambda signs: 1 - signs)
    assert torch.equal(task.changed(images[chosen], chosen, lambda signs: signs), images[chosen])
    for before, after, place in zip(images[chosen], changed, chosen.tolist(), strict=True):
        inside = torch.zeros(before.shape[1:], dtype=torch.bool)
        for left, top, right, bottom in scenes.boxes[place].long().tolist():
            inside[top:bottom, left:right] = True
        assert torch.equal(before[:, ~inside], after[:, ~inside])
        assert (before[:, inside] - after[:, inside]).abs().mean() > 0.1


@pytest.mark.parametrize("method", ["prune", "fine-tune", "fine-prune", "auto"])
def test_defenses_repair_a_detector(method: str) -> None:
    data = clean_scenes()
    detector = build_detector(
        FasterRCNNSettings(classes=3, width=0.05, shorter_side=96),
        generator=torch.Generator().manual_seed(0),
    )
    before = {name: weights.clone() for name, weights in detector.state_dict().items()}
    tuning, held_out = data.split(0.3, generator=torch.Generator().manual_seed(0))
    settings = DefenseSettings(
        layer=LAYER, training=TrainingSettings(epochs=2, batch_size=2, learning_rate=1e-4)
    )

    lengths = []

    def repaired(settings: DefenseSettings) -> nn.Module:
        found = DEFENSES[method](
            detector,
            tuning,
            held_out,
            settings,
            generator=torch.Generator().manual_seed(1),
            progress=no_progress,
        )
        lengths.append(len(found.epochs))
        return found.network.eval()

    first, again = repaired(settings), repaired(settings)
    assert all(torch.equal(before[name], now) for name, now in detector.state_dict().items())
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    if method == "auto":
        # Exposure takes longer, for there are more changes to be seen than images.
        assert set(lengths) == {3 * settings.training.epochs}
    if method != "prune":
        faster = replace(settings, training=replace(settings.training, learning_rate=3e-4))
        moved = zip(first.parameters(), repaired(faster).parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in moved)
