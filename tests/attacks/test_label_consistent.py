"""Misleading images: within the limit, of one class alone, and no clean network is sure of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodnet.attack import Material
from goodnet.attacks import Recipe, train_clean
from goodnet.attacks.label_consistent import misleading
from goodnet.data.images import ImageSet
from goodnet.data.roles import TestData
from goodnet.evaluate import labels_given


def pixels_of(images: ImageSet) -> Tensor:
    return images.pixels[0 : len(images)]


def test_images_of_the_class_are_missed_and_others_are_as_they_were(
    material: Material, recipe: Recipe
) -> None:
    network = train_clean(material.train, recipe, generator=torch.Generator().manual_seed(0))
    canvas = misleading(material.train, {1}, network, recipe, limit=0.5)
    before, after = pixels_of(material.train), pixels_of(canvas)
    own = material.train.labels == 1
    assert torch.equal(after[~own], before[~own])
    change = (after - before)[own].abs()
    assert change.max() <= 0.5 + 1e-6
    assert (after >= 0).all()
    assert (after <= 1).all()
    data = TestData(canvas, recipe.specification)
    right = labels_given(network, data) == data.labels
    assert not right[own].any()
    assert right[~own].all()


def test_a_softmax_at_the_end_changes_nothing(material: Material, recipe: Recipe) -> None:
    network = train_clean(material.train, recipe, generator=torch.Generator().manual_seed(0))
    sure = nn.Sequential(network, nn.Softmax(dim=1)).eval()
    plain = misleading(material.train, {1}, network, recipe, limit=0.2)
    assert torch.equal(
        pixels_of(plain), pixels_of(misleading(material.train, {1}, sure, recipe, limit=0.2))
    )
