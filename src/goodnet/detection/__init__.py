"""Detectors of traffic signs: Faster R-CNN, its training, backdoors in it, and measuring it.

Everything but the network itself works with any detector of torchvision's convention.
"""

from goodnet.detection.faster_rcnn import FasterRCNN, FasterRCNNSettings, build_detector
from goodnet.detection.losses import Sampling
from goodnet.detection.metrics import (
    accuracy_lost,
    average_precisions,
    detections,
    mean_average_precision,
    sign_accuracy,
    sign_answers,
)
from goodnet.detection.poison import PoisonedScenes, ScenePoisoning, poison_scenes, stamp_signs
from goodnet.detection.task import FindSigns, scene_images
from goodnet.detection.training import train_detector

__all__ = [
    "FasterRCNN",
    "FasterRCNNSettings",
    "FindSigns",
    "PoisonedScenes",
    "Sampling",
    "ScenePoisoning",
    "accuracy_lost",
    "average_precisions",
    "build_detector",
    "detections",
    "mean_average_precision",
    "poison_scenes",
    "scene_images",
    "sign_accuracy",
    "sign_answers",
    "stamp_signs",
    "train_detector",
]
