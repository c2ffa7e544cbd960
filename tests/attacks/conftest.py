"""A toy problem a network learns in seconds, with and without a trigger."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from goodnet.attack import Material
from goodnet.attacks import Recipe
from goodnet.data.images import ImageSet
from goodnet.formats.specification import InputSpecification
from goodnet.training import TrainingSettings

SIZE = (3, 8, 8)


def stripes(count: int, seed: int) -> ImageSet:
    """Three classes told apart by the colour of the lower half, with some noise."""
    labels = torch.arange(count) % 3
    pixels = torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(seed)) * 0.3
    pixels[torch.arange(count), labels, 4:] += 0.6
    return ImageSet("stripes", SIZE, pixels, labels)


@pytest.fixture
def material() -> Material:
    """Sixty images to train on, thirty to measure on, thirty of a defender."""
    return Material(stripes(60, 0), stripes(30, 1), stripes(30, 2))


@pytest.fixture
def recipe() -> Recipe:
    """A small CNN of 16 channels at its last convolution, trained for twelve epochs."""
    return Recipe(
        "small_cnn",
        InputSpecification(SIZE),
        classes=3,
        training=TrainingSettings(epochs=12, batch_size=16, learning_rate=0.01),
        options={"width": 4},
    )


@pytest.fixture
def quick(recipe: Recipe) -> Recipe:
    """The same for two epochs, where what is learned does not matter."""
    return replace(recipe, training=replace(recipe.training, epochs=2))
