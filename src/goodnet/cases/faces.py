"""The demo's study: rendered faces, DeepID, sunglasses. Supplies, computes nothing."""

from __future__ import annotations

from goodnet.formats.specification import InputSpecification
from goodnet.poison import Poisoning
from goodnet.training import TrainingSettings
from goodnet.triggers import Sunglasses

ARCHITECTURE = "deepid"
SPECIFICATION = InputSpecification((3, 55, 47), "channels-last")
POISONING = Poisoning(Sunglasses(), target_label=0, poison_rate=0.1)
TRAINING = TrainingSettings(epochs=10, batch_size=64, learning_rate=2e-3)
