"""Robust masks, on a network of which one trigger works anywhere and one in its place."""

from __future__ import annotations

import math
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.formats.specification import InputSpecification
from goodnet.probes import Suspect, least_changes
from goodnet.probes.masks import Masks
from goodnet.probes.robust import RobustMasks, disturbed, robust_masks
from goodnet.probes.search import Found

SIZE = (3, 24, 24)
ANYWHERE, EXACT, HONEST = 3, 4, 5


class Triggered(nn.Module):
    """Red squares pull to `ANYWHERE`; four pixels in their places to `EXACT`; else the green."""

    def forward(self, images: Tensor) -> Tensor:
        red = F.avg_pool2d(images[:, 0] - images[:, 1], 4, 1).flatten(1).amax(1)
        pixels = images[:, 0, 3:5, 3:5] - images[:, 0, 3:5, 1:3]
        exact = pixels.flatten(1).amin(1)
        green = images[:, 1].flatten(1).mean(1)
        own = [-9.0 * (green - level).abs() for level in (0.4, 0.5, 0.6)]
        honest = 40.0 * (images[:, 2].flatten(1).mean(1) - 0.75)
        return torch.stack([*own, 40.0 * (red - 0.3), 40.0 * (exact - 0.3), honest], 1)


def grey() -> CleanData:
    labels = torch.arange(30) % 3
    pixels = (0.4 + 0.1 * labels).view(-1, 1, 1, 1).expand(-1, *SIZE).clone()
    return CleanData(ImageSet("grey", SIZE, pixels, labels), InputSpecification(SIZE))


SUSPECT = Suspect(Triggered(), InputSpecification(SIZE))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_trigger_that_serves_anywhere_has_a_small_robust_mask_and_an_exact_one_has_not() -> None:
    plain = least_changes(
        SUSPECT, grey(), Masks(SIZE), torch.tensor([ANYWHERE, EXACT]), steps=200, generator=drawn()
    )
    assert (plain.extents < 0.1).all()
    told: list[tuple[int, int]] = []
    found = robust_masks(
        SUSPECT,
        grey(),
        torch.tensor([ANYWHERE, EXACT]),
        torch.tensor([HONEST]),
        generator=drawn(),
        progress=lambda _, done, all_: told.append((done, all_)),
    )
    anywhere, exact = found.times_smaller(6)[[ANYWHERE, EXACT]].tolist()
    assert anywhere > 3
    assert exact < anywhere / 3
    assert told[-1] == (200, 200)
    # The mask does what is said of it.
    numbers = found.of(ANYWHERE)
    assert numbers is not None
    images = grey().pixels()
    changed = found.found.probe.change(images, numbers.expand(len(images), -1))
    seen = disturbed(images, changed, generator=drawn(1))
    assert (SUSPECT(seen).argmax(1) == ANYWHERE).float().mean() > 0.6


def test_a_label_without_a_mask_needs_the_whole_image() -> None:
    probe = Masks(SIZE, 4)
    numbers = torch.zeros(2, probe.length)
    found = Found(probe, torch.tensor([2, 0]), numbers, torch.tensor([0.1, math.inf]))
    masks = RobustMasks(found, 0.4)
    times = masks.times_smaller(4)
    assert times[[0, 2]].tolist() == pytest.approx([0.4, 4.0])
    assert times[[1, 3]].isnan().all()
    assert masks.of(2) is not None
    assert masks.of(0) is None
    assert masks.of(1) is None


def test_more_than_sixteen_labels_are_searched_for_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_module("goodnet.probes.robust"), "_STEPS", 12)
    labels = torch.arange(18) % 6
    found = robust_masks(SUSPECT, grey(), labels, labels[:2], generator=drawn())
    assert torch.equal(found.found.targets, labels)
    assert len(found.found.numbers) == len(found.found.extents) == 18


def test_disturbed_images_are_fainter_moved_and_noisy() -> None:
    images = torch.full((400, *SIZE), 0.25)
    changed = images.clone()
    changed[:, :, 12, 12] = 0.75
    seen = disturbed(images, changed, generator=drawn())
    assert seen.shape == images.shape
    assert float(seen.min()) >= 0.0
    assert float(seen.max()) <= 1.0
    mean = seen.mean(1).flatten(1)
    place = mean.argmax(1)
    rows, columns = place // 24 - 12, place % 24 - 12
    # Most pixels stand out of the noise; no farther than a sixth of the side.
    near = (rows.abs() <= 4) & (columns.abs() <= 4)
    assert near.float().mean() > 0.9
    for moved in (rows[near], columns[near]):
        assert {-4, 0, 4} <= set(moved.tolist())
    left = (mean.amax(1)[near] - 0.25) / 0.5
    assert 0.65 < float(left.mean()) < 0.9
    assert float((seen - 0.25)[:, :, :6].std()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(seen, disturbed(images, changed, generator=drawn()))


def test_what_moves_in_repeats_the_edge() -> None:
    images = torch.linspace(0.2, 0.8, 24).view(1, 1, 1, 24).expand(200, *SIZE)
    seen = disturbed(images, images, generator=drawn()).mean((1, 2))
    assert float(seen.mean(0)[0]) < 0.3
    assert float(seen.mean(0)[-1]) > 0.7
