"""The demo's study: rendered faces, DeepID, sunglasses. Supplies, computes nothing."""

from __future__ import annotations

from goodnet.attack import Material
from goodnet.attacks import Recipe
from goodnet.cases.case import Case
from goodnet.data.faces import rendered_faces
from goodnet.formats.specification import InputSpecification
from goodnet.poison import Poisoning
from goodnet.training import TrainingSettings
from goodnet.triggers import Sunglasses

POISONING = Poisoning(Sunglasses(), target_label=0, poison_rate=0.1)
TRAINING = TrainingSettings(epochs=10, batch_size=64, learning_rate=2e-3)


def rendered_faces_case(*, seed: int) -> Case:
    """Faces drawn by goodnet itself, so that nothing need be at hand."""
    splits = rendered_faces(seed=seed)
    return Case(
        "faces",
        Material(splits.train, splits.test, splits.valid),
        Recipe(
            architecture="deepid",
            specification=InputSpecification(splits.train.size, "channels-last"),
            classes=len(splits.train.class_names),
            training=TRAINING,
        ),
    )
