"""Changes are pursued: each goes where the network says its label, and is given up for another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from goodnet.defenses.pursuit import _LASTING, Pursuit

SIZE = (1, 8, 8)
GREY = torch.full((18, *SIZE), 0.5)


def by_brightness(images: Tensor) -> Tensor:
    """Logits of three labels: 1 of bright images, 2 of dark ones, 0 of grey ones."""
    light = 20.0 * (images.flatten(1).mean(1) - 0.5)
    return torch.stack([torch.zeros_like(light), light, -light], 1)


def pursuit(*weights: float, seed: int = 0) -> Pursuit:
    return Pursuit(SIZE, torch.tensor(weights), torch.Generator().manual_seed(seed))


def test_changes_go_where_the_network_says_their_label() -> None:
    pursued = pursuit(0.0, 1.0, 1.0)
    every = [pursued.of(by_brightness, GREY) for _ in range(4 * _LASTING)]
    images, targets = map(torch.cat, zip(*every, strict=True))
    light = images.flatten(1).mean(1) - 0.5
    assert set(targets.tolist()) == {1, 2}
    for target, towards in ((1, light), (2, -light)):
        assert (towards[targets == target] > 0).float().mean() > 0.9


def test_a_step_leads_further() -> None:
    pursued = pursuit(0.0, 1.0, 0.0)
    first, *_, last = [pursued.of(by_brightness, GREY)[0].mean() for _ in range(5)]
    assert last > first > 0.5


def test_labels_without_weight_are_not_pursued() -> None:
    pursued = pursuit(0.0, 0.0, 1.0)
    for _ in range(3 * _LASTING):
        _, targets = pursued.of(by_brightness, GREY)
        assert set(targets.tolist()) == {2}


def test_changes_are_given_up_for_new_ones() -> None:
    pursued = pursuit(0.0, 1.0, 1.0)
    shown = [pursued.of(by_brightness, GREY) for _ in range(4 * _LASTING)]
    assert len({tuple(targets.tolist()) for _, targets in shown}) > 3


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_images_stay_images(count: int) -> None:
    pursued = pursuit(0.0, 1.0, 1.0)
    for _ in range(30):
        images, targets = pursued.of(by_brightness, GREY[:count])
        assert images.shape == (count, *SIZE)
        assert targets.shape == (count,)
        assert not images.requires_grad
        assert ((images >= 0) & (images <= 1)).all()


def test_what_is_drawn_is_told_by_the_generator() -> None:
    one, same, other = (pursuit(0.0, 1.0, 1.0, seed=seed) for seed in (0, 0, 1))
    for _ in range(3):
        images = [each.of(by_brightness, GREY)[0] for each in (one, same, other)]
        assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
