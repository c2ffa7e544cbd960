"""Faster R-CNN on the ZF net, the detector of the traffic sign study."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.detection.anchors import anchor_shapes, grid_anchors
from goodnet.detection.boxes import areas, clip, decode, nms
from goodnet.detection.losses import (
    BACKGROUND,
    BOX_WEIGHTS,
    Sampling,
    Target,
    roi_losses,
    rpn_losses,
    sample_proposals,
)
from goodnet.detection.roi_align import roi_align
from goodnet.errors import SettingsError
from goodnet.modes import drawing_by

STRIDE = 16
"""Pixels of the enlarged image for each cell of the last feature map."""

_RPN_SAMPLING: Final = Sampling(count=64, positive_share=0.5, foreground=0.7, background=0.3)
_ROI_SAMPLING: Final = Sampling(count=32, positive_share=0.25, foreground=0.5, background=0.5)


@dataclass(frozen=True)
class FasterRCNNSettings:
    """What a Faster R-CNN looks like, and which boxes it keeps.

    The defaults are those for small scenes on one core; what the paper took is in brackets.

    Attributes:
        classes: Number of classes N, without background; labels are 1 to N.
        width: Factor on the channels and features of every hidden layer (1).
        shorter_side: Pixels to which each image's shorter side is scaled (600).
        anchor_sizes: Square roots of the anchors' areas, in scaled pixels (128, 256, 512).
        anchor_ratios: Heights of the anchors by their widths.
        rpn_sampling: Anchors trained on (256 an image, half of them objects).
        roi_sampling: Proposals trained on (64 an image, a quarter of them objects).
        candidates: Boxes of the first stage before suppression, an image (6000).
        proposals: Boxes handed to the second stage, an image, when asked (300).
        training_proposals: The same in training (2000).
        proposal_overlap: Overlap by which a proposal suppresses another.
        detection_overlap: Overlap by which an answer suppresses another of its class.
        least_score: Answers below are dropped.
        detections: Answers an image, at most.
        bins: Parts along each side into which RoI align cuts a box.
    """

    classes: int
    width: float = 0.25
    shorter_side: int = 192
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_sampling: Sampling = _RPN_SAMPLING
    roi_sampling: Sampling = _ROI_SAMPLING
    candidates: int = 300
    proposals: int = 50
    training_proposals: int = 100
    proposal_overlap: float = 0.7
    detection_overlap: float = 0.3
    least_score: float = 0.05
    detections: int = 100
    bins: int = 6

    def __post_init__(self) -> None:
        counts = ("classes", "candidates", "proposals", "training_proposals", "detections", "bins")
        for field in counts:
            if getattr(self, field) < 1:
                raise SettingsError(field, getattr(self, field), "give at least 1")
        if not 0 < self.width <= 4:
            raise SettingsError("width", self.width, "give a factor above 0 and at most 4")
        if self.shorter_side < 2 * STRIDE:
            raise SettingsError("shorter_side", self.shorter_side, f"give at least {2 * STRIDE}")
        for field in ("anchor_sizes", "anchor_ratios"):
            values = getattr(self, field)
            if not values or min(values) <= 0:
                raise SettingsError(field, values, "give at least one number, all above 0")
        for field in ("proposal_overlap", "detection_overlap"):
            if not 0 < getattr(self, field) <= 1:
                raise SettingsError(field, getattr(self, field), "give an overlap in (0, 1]")
        if not 0 <= self.least_score < 1:
            raise SettingsError("least_score", self.least_score, "give a score in [0, 1)")


class FasterRCNN(nn.Module):
    """Two stages on shared features: boxes that may be objects, then what they are.

    Spoken to as torchvision's detectors are: in training mode `network(images, targets)`
    gives a dict of losses, in evaluation mode `network(images)` one dict an image with
    `boxes` float32 (n, 4), `labels` int64 (n,) and `scores` float32 (n,), the highest
    score first. Label 0 is background and is never answered.

    `backbone.relu_5` gives the channels of conv5, which the paper prunes.

    Weights and the boxes trained on are drawn by torch's global generator, as a dropout's
    are.

    Source: Ren et al. 2015, Faster R-CNN; Zeiler and Fergus 2014, Visualizing and
    Understanding Convolutional Networks (the ZF net); used by Gu et al. 2017, BadNets, and
    Liu et al. 2018, Fine-Pruning.
    Departures: trained from random weights and all at once, so there is no ImageNet start;
    no local response normalisation and no dropout; RoI align in place of RoI pooling;
    anchors that cross the image's border are trained on, for small images have few others.
    """

    def __init__(self, settings: FasterRCNNSettings) -> None:
        super().__init__()
        self.settings = settings
        one, two, three, four = (max(1, round(n * settings.width)) for n in (96, 256, 384, 4096))
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv_1=nn.Conv2d(3, one, 7, stride=2, padding=3),
            relu_1=nn.ReLU(),
            pool_1=nn.MaxPool2d(3, stride=2, padding=1),
            conv_2=nn.Conv2d(one, two, 5, stride=2, padding=2),
            relu_2=nn.ReLU(),
            pool_2=nn.MaxPool2d(3, stride=2, padding=1),
            conv_3=nn.Conv2d(two, three, 3, padding=1),
            relu_3=nn.ReLU(),
            conv_4=nn.Conv2d(three, three, 3, padding=1),
            relu_4=nn.ReLU(),
            conv_5=nn.Conv2d(three, two, 3, padding=1),
            relu_5=nn.ReLU(),
        )
        self.backbone = nn.Sequential(layers)
        shapes = anchor_shapes(settings.anchor_sizes, settings.anchor_ratios)
        self.rpn = ProposalNetwork(two, len(shapes))
        self.head = BoxHead(two * settings.bins**2, four, settings.classes + 1)
        # Not a weight: it follows from the settings.
        self.register_buffer("anchor_shapes", shapes, persistent=False)
        self.anchor_shapes: Tensor
        _draw_weights(self)

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, answers in evaluation mode.

        Args:
            images: float32 (3, height, width) in [0, 1] each; their sizes may differ.
            targets: For each image `boxes` float32 (n, 4) and `labels` int64 (n,), 1 to N.
                Needed in training mode, and not looked at otherwise.

        Raises:
            SettingsError: In training mode, targets are missing, or a label is not 1 to N.
        """
        images = list(images)
        batch, scales = self.scaled(images)
        features = self.backbone(batch)
        objectness, offsets = self.rpn(features)
        height, width = features.shape[2:]
        anchors = grid_anchors(self.anchor_shapes, height, width, STRIDE)
        proposals = self._proposals(objectness, offsets, anchors, images, scales)
        if not self.training:
            return self._answers(features, proposals, images, scales)
        scaled = self._scaled_targets(targets, scales)
        generator = torch.default_generator
        objectness_loss, proposal_loss = rpn_losses(
            objectness, offsets, anchors, scaled, self.settings.rpn_sampling, generator=generator
        )
        sampled = [
            sample_proposals(boxes, target, self.settings.roi_sampling, generator=generator)
            for boxes, target in zip(proposals, scaled, strict=True)
        ]
        answers = self._classified(features, [each.boxes for each in sampled])
        class_loss, box_loss = roi_losses(*answers, sampled)
        return {
            "loss_objectness": objectness_loss,
            "loss_rpn_box_reg": proposal_loss,
            "loss_classifier": class_loss,
            "loss_box_reg": box_loss,
        }

    def scaled(self, images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What the backbone is given: one batch, padded below and at the right.

        And for each image its scales, (4,).
        """
        scaled, scales = [], []
        for image in images:
            height, width = image.shape[1:]
            factor = self.settings.shorter_side / min(height, width)
            size = round(height * factor), round(width * factor)
            scaled.append(F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0])
            scales.append(image.new_tensor([size[1] / width, size[0] / height] * 2))
        tall = max(image.shape[1] for image in scaled)
        wide = max(image.shape[2] for image in scaled)
        padded = [
            F.pad(image, (0, wide - image.shape[2], 0, tall - image.shape[1]), value=0.5)
            for image in scaled
        ]
        # Grey becomes 0, and values about as spread as random weights want them.
        return 4.0 * torch.stack(padded) - 2.0, scales

    def _scaled_targets(
        self, targets: Sequence[Target] | None, scales: list[Tensor]
    ) -> list[Target]:
        if targets is None:
            raise SettingsError("targets", None, "give one dict an image in training mode")
        for target in targets:
            labels = target["labels"]
            if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= self.head.classes:
                raise SettingsError(
                    "labels", labels.tolist(), f"give labels from 1 to {self.head.classes}"
                )
        return [
            {"boxes": target["boxes"] * scale, "labels": target["labels"]}
            for target, scale in zip(targets, scales, strict=True)
        ]

    @torch.no_grad()
    def _proposals(
        self,
        objectness: Tensor,
        offsets: Tensor,
        anchors: Tensor,
        images: list[Tensor],
        scales: list[Tensor],
    ) -> list[Tensor]:
        """Boxes of each image that look most like objects, (n, 4) in scaled pixels."""
        settings = self.settings
        kept = settings.training_proposals if self.training else settings.proposals
        found = []
        for image, scale, logits, moves in zip(images, scales, objectness, offsets, strict=True):
            scores = logits[:, 1] - logits[:, 0]
            best = scores.argsort(descending=True, stable=True)[: settings.candidates]
            boxes = _inside(decode(moves[best], anchors[best]), image, scale)
            stay = nms(boxes, scores[best], settings.proposal_overlap)[:kept]
            found.append(boxes[stay])
        return found

    def _classified(self, features: Tensor, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = roi_align(features, boxes, bins=self.settings.bins, scale=1 / STRIDE)
        logits, offsets = self.head(pooled)
        return logits, offsets

    def _answers(
        self,
        features: Tensor,
        proposals: list[Tensor],
        images: list[Tensor],
        scales: list[Tensor],
    ) -> list[dict[str, Tensor]]:
        logits, offsets = self._classified(features, proposals)
        counts = [len(boxes) for boxes in proposals]
        scores = logits.softmax(1).split(counts)
        return [
            self._answer(boxes, chances, moves, image, scale)
            for boxes, chances, moves, image, scale in zip(
                proposals, scores, offsets.split(counts), images, scales, strict=True
            )
        ]

    def _answer(
        self, proposals: Tensor, scores: Tensor, offsets: Tensor, image: Tensor, scale: Tensor
    ) -> dict[str, Tensor]:
        """An image's boxes after suppression within each class, in the image's own pixels."""
        parts = []
        for label in range(BACKGROUND + 1, self.head.classes + 1):
            boxes = _inside(decode(offsets[:, label], proposals, BOX_WEIGHTS), image, scale)
            chosen = (scores[:, label] >= self.settings.least_score) & (areas(boxes) > 0)
            boxes, score = boxes[chosen] / scale, scores[chosen, label]
            stay = nms(boxes, score, self.settings.detection_overlap)
            parts.append((boxes[stay], torch.full_like(stay, label), score[stay]))
        found, labels, score = (torch.cat(part) for part in zip(*parts, strict=True))
        best = score.argsort(descending=True, stable=True)[: self.settings.detections]
        return {"boxes": found[best], "labels": labels[best], "scores": score[best]}


def _inside(boxes: Tensor, image: Tensor, scale: Tensor) -> Tensor:
    """The parts of boxes, in scaled pixels, that lie on the image and not on the padding."""
    height, width = image.shape[1:]
    return clip(boxes, height * float(scale[1]), width * float(scale[0]))


class ProposalNetwork(nn.Module):
    """The first stage: for each anchor, whether it is an object, and how to move it.

    Args:
        channels: Of the features and of its own hidden layer.
        anchors: At each cell: 9 give 18 and 36 outputs.

    Shape: (batch, channel, height, width) to logits of (background, object)
    (batch, height * width * anchors, 2) and offsets (batch, height * width * anchors, 4).
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()
        self.objectness = nn.Conv2d(channels, 2 * anchors, 1)
        self.offsets = nn.Conv2d(channels, 4 * anchors, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        hidden = self.relu(self.conv(features))
        return _by_anchor(self.objectness(hidden), 2), _by_anchor(self.offsets(hidden), 4)


def _by_anchor(outputs: Tensor, each: int) -> Tensor:
    """(batch, anchors * each, height, width) to (batch, height * width * anchors, each)."""
    return outputs.permute(0, 2, 3, 1).reshape(len(outputs), -1, each)


class BoxHead(nn.Module):
    """The second stage: what a box holds, and how to move it for each class.

    Args:
        features_in: Of a pooled box, all bins together.
        features: Of its two hidden layers.
        labels: Number of classes and one for background.

    Shape: (box, channel, bins, bins) to logits (box, labels) and offsets (box, labels, 4).
    """

    def __init__(self, features_in: int, features: int, labels: int) -> None:
        super().__init__()
        self.classes = labels - 1
        self.fc_6 = nn.Linear(features_in, features)
        self.relu_6 = nn.ReLU()
        self.fc_7 = nn.Linear(features, features)
        self.relu_7 = nn.ReLU()
        self.output = nn.Linear(features, labels)
        self.offsets = nn.Linear(features, 4 * labels)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        hidden = self.relu_7(self.fc_7(self.relu_6(self.fc_6(pooled.flatten(1)))))
        return self.output(hidden), self.offsets(hidden).unflatten(1, (-1, 4))


def _draw_weights(network: FasterRCNN) -> None:
    """He's weights for hidden layers; small ones for outputs, as Fast R-CNN draws them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    for output in (network.rpn.objectness, network.rpn.offsets, network.head.output):
        nn.init.normal_(output.weight, std=0.01)
    nn.init.normal_(network.head.offsets.weight, std=0.001)


def build_detector(settings: FasterRCNNSettings, *, generator: torch.Generator) -> FasterRCNN:
    """A new Faster R-CNN with random weights, drawn by `generator`.

    Args:
        settings: What it looks like.
        generator: Seeds the weights; the global state is left as it was.
    """
    with drawing_by(generator):
        return FasterRCNN(settings)
