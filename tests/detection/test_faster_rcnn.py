"""Faster R-CNN: the paper's layers, torchvision's convention, same seed same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goodnet.activations import mean_activation
from goodnet.data.images import ImageSet
from goodnet.data.roles import TestData
from goodnet.detection import FasterRCNN, FasterRCNNSettings, build_detector
from goodnet.detection.anchors import anchor_shapes, grid_anchors
from goodnet.errors import SettingsError
from goodnet.formats.specification import InputSpecification
from goodnet.surgery import prune_channels

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
SMALL = FasterRCNNSettings(classes=3, width=0.03, shorter_side=64, anchor_sizes=(16.0, 32.0, 48.0))


def network(seed: int = 0) -> FasterRCNN:
    return build_detector(SMALL, generator=torch.Generator().manual_seed(seed)).eval()


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def target(*boxes: tuple[float, ...], label: int = 1) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.full((len(boxes),), label),
    }


def test_the_layers_are_the_papers() -> None:
    with torch.device("meta"):  # shapes alone
        detector = FasterRCNN(FasterRCNNSettings(classes=3, width=1.0))
    convolutions = [m for m in detector.backbone if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        (96, 7, 2),
        (256, 5, 2),
        (384, 3, 1),
        (384, 3, 1),
        (256, 3, 1),
    ]
    assert detector.rpn.conv.out_channels == 256
    assert detector.rpn.objectness.out_channels == 18
    assert detector.rpn.offsets.out_channels == 36
    assert (detector.head.fc_6.in_features, detector.head.fc_6.out_features) == (256 * 36, 4096)
    assert detector.head.fc_7.out_features == 4096
    assert (detector.head.output.out_features, detector.head.offsets.out_features) == (4, 16)
    assert detector.backbone(torch.zeros(1, 3, 128, 160, device="meta")).shape == (1, 256, 8, 10)


def test_anchors_have_their_areas_ratios_and_places() -> None:
    shapes = anchor_shapes((32.0, 64.0, 128.0), (0.5, 1.0, 2.0))
    wide, tall = (shapes[:, 2:] - shapes[:, :2]).unbind(1)
    assert (wide * tall).sqrt().tolist() == pytest.approx([32] * 3 + [64] * 3 + [128] * 3)
    assert (tall / wide).tolist() == pytest.approx([0.5, 1.0, 2.0] * 3)
    anchors = grid_anchors(shapes, 2, 3, 16)
    assert anchors.shape == (2 * 3 * 9, 4)
    # The eighth shape of the second cell in the first row.
    assert torch.allclose(anchors[9 + 7], shapes[7] + torch.tensor([24.0, 8, 24, 8]))
    assert torch.allclose(anchors[-1], shapes[8] + torch.tensor([40.0, 24, 40, 24]))


def test_an_anchors_outputs_are_those_of_its_cell() -> None:
    detector = network()
    features = torch.randn(1, detector.rpn.conv.in_channels, 3, 4)
    objectness, offsets = detector.rpn(features)
    hidden = detector.rpn.relu(detector.rpn.conv(features))
    maps = detector.rpn.offsets(hidden)
    assert objectness.shape == (1, 3 * 4 * 9, 2)
    cell = 2 * 4 + 1  # third row, second column
    assert torch.equal(offsets[0, cell * 9 + 5], maps[0, 5 * 4 : 6 * 4, 2, 1])


def test_answers_follow_torchvisions_convention() -> None:
    given = images((40, 60), (64, 48))
    answers: Any = network()(given)
    assert len(answers) == 2
    for image, answer in zip(given, answers, strict=True):
        boxes, labels, scores = answer["boxes"], answer["labels"], answer["scores"]
        assert len(scores) > 0
        assert boxes.shape == (len(scores), 4)
        assert (boxes.dtype, labels.dtype, scores.dtype) == (
            torch.float32,
            torch.int64,
            torch.float32,
        )
        assert set(labels.tolist()) <= {1, 2, 3}
        assert (scores.diff() <= 0).all()
        assert ((scores > 0) & (scores <= 1)).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= image.shape[2] + 1e-4).all()
        assert (boxes[:, 3] <= image.shape[1] + 1e-4).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_training_mode_gives_losses_and_needs_targets() -> None:
    detector = network().train()
    losses: Any = detector(images((40, 60), (40, 60)), [target((5, 5, 25, 25)), target()])
    assert set(losses) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
    }
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    with pytest.raises(SettingsError, match="targets is None; give one dict an image"):
        detector(images((40, 60)))
    with pytest.raises(SettingsError, match=r"labels is \[4\]; give labels from 1 to 3"):
        detector(images((40, 60)), [target((5, 5, 25, 25), label=4)])


def test_the_global_generator_decides_all() -> None:
    def losses(seed: int) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector = network().train()
            given: Any = detector(images((40, 60)), [target((5, 5, 25, 25))])
        return list(given.values())

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_the_generator_alone_draws_the_weights() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (network(seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


def test_copies_and_states_give_the_same_answers(untouched: Untouched) -> None:
    detector, given = network(), images((40, 60))
    loaded = network(seed=1)
    loaded.load_state_dict(detector.state_dict())
    with untouched(detector):
        answers: list[Any] = [n(given)[0] for n in (detector, copy.deepcopy(detector), loaded)]
    for other in answers[1:]:
        assert all(torch.equal(value, other[key]) for key, value in answers[0].items())


def test_an_image_is_answered_alike_alone_and_beside_others() -> None:
    detector = network()
    one, other = images((40, 60), (40, 60))
    alone: Any = detector([one])
    beside: Any = detector([other, one])
    assert torch.allclose(alone[0]["boxes"], beside[1]["boxes"], atol=1e-3)
    assert torch.equal(alone[0]["labels"], beside[1]["labels"])


def test_channels_of_conv5_are_ranked_and_pruned_by_name() -> None:
    detector = network()
    pixels = torch.stack(images((40, 60), (40, 60)))
    data = TestData(
        ImageSet("noise", (3, 40, 60), pixels, torch.zeros(2, dtype=torch.int64)),
        InputSpecification((3, 40, 60)),
    )
    means = mean_activation(detector, "backbone.relu_5", data)
    assert len(means) == 8
    assert (means > 0).any()
    loudest = means.argmax().view(1)
    pruned = prune_channels(detector, "backbone.relu_5", loudest)
    after = mean_activation(pruned, "backbone.relu_5", data)
    assert after[loudest] == 0
    assert torch.allclose(after, means.index_fill(0, loudest, 0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", 0),
        ("width", 0.0),
        ("shorter_side", 16),
        ("anchor_sizes", ()),
        ("anchor_ratios", (1.0, -1.0)),
        ("proposals", 0),
        ("detection_overlap", 0.0),
        ("least_score", 1.0),
    ],
)
def test_settings_name_their_bad_field(field: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"^{field} is "):
        FasterRCNNSettings(**{"classes": 3, field: value})
