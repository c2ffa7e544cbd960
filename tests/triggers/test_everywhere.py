"""Triggers that touch the whole image: blend, sine and warp, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from goodnet.errors import SettingsError
from goodnet.triggers import Blend, Sine, Trigger, Warp


def test_a_blend_is_a_share_of_one_pattern() -> None:
    """From black and white the pattern itself can be told: α·k and α·k + 1 − α."""
    blend = Blend(opacity=0.25, cells=3, seed=1)
    black, white = blend.stamp(torch.stack([torch.zeros(3, 5, 5), torch.ones(3, 5, 5)]))
    assert torch.allclose(white - black, torch.full((3, 5, 5), 0.75))
    pattern = black / 0.25
    points = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(1))[0]
    assert torch.allclose(pattern[:, ::2, ::2], points)
    # Halfway between two points lies their mean.
    assert torch.allclose(pattern[:, 0, 1], (points[:, 0, 0] + points[:, 0, 1]) / 2)


def test_a_blend_is_the_same_pattern_at_every_size() -> None:
    small = Blend(cells=4).stamp(torch.zeros(1, 3, 10, 13))
    large = Blend(cells=4).stamp(torch.zeros(1, 3, 28, 37))
    assert torch.allclose(small, large[:, :, ::3, ::3], atol=1e-6)


def test_another_seed_is_another_pattern() -> None:
    black = torch.zeros(1, 3, 16, 16)
    assert not torch.equal(Blend(seed=1).stamp(black), Blend(seed=2).stamp(black))


def test_a_sine_by_hand() -> None:
    grey = torch.full((1, 1, 2, 8), 0.5)
    stamped = Sine(amplitude=0.2, frequency=1.0).stamp(grey)[0, 0]
    root = 0.2 / math.sqrt(2)
    wave = [0, root, 0.2, root, 0, -root, -0.2, -root]
    for row in stamped:
        assert row.tolist() == pytest.approx([0.5 + v for v in wave])
    # Zero crossings are no part of it.
    assert Sine(frequency=1.0).mask((1, 2, 8))[0, 0].tolist() == [
        False, True, True, True, False, True, True, True,
    ]  # fmt: skip


def test_a_sine_is_cut_off_at_black_and_white() -> None:
    ends = torch.stack([torch.zeros(1, 1, 8), torch.ones(1, 1, 8)])
    stamped = Sine(amplitude=0.2, frequency=1.0).stamp(ends)
    assert stamped[0, 0, 0, 4:].tolist() == [0, 0, 0, 0]
    assert stamped[1, 0, 0, :5].tolist() == [1, 1, 1, 1, 1]


def test_a_warp_pulls_a_ramp_by_its_shifts() -> None:
    """In a ramp each pixel's value is its column, so what is stamped is where it came from."""
    warp = Warp(strength=0.05, control=3, seed=2)
    columns = (torch.arange(21.0) / 20).expand(1, 1, 21, 21)
    came_from = warp.stamp(columns)[0, 0] * 20
    rows_from = warp.stamp(columns.transpose(2, 3).contiguous())[0, 0] * 20
    shifts = torch.stack(
        [rows_from - torch.arange(21.0).view(-1, 1), came_from - torch.arange(21.0)]
    )
    drawn = torch.rand(1, 2, 3, 3, generator=torch.Generator().manual_seed(2))[0] * 2 - 1
    points = drawn / drawn.abs().mean() * 0.05 * 21
    # At the middle control point nothing is kept inside a border.
    assert torch.allclose(shifts[:, 10, 10], points[:, 1, 1], atol=1e-4)
    # On a border the pull along it is free, the pull outwards is not.
    assert shifts[1, 0, 10].item() == pytest.approx(points[1, 0, 1].item(), abs=1e-4)
    assert shifts[0, 0, 10].item() == pytest.approx(max(points[0, 0, 1].item(), 0), abs=1e-4)


def test_a_warp_leaves_one_colour_alone() -> None:
    plain = torch.full((2, 3, 32, 32), 0.3)
    assert torch.allclose(Warp().stamp(plain), plain)


def test_the_cover_of_a_warp_is_a_new_warp_for_each_image() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = image.repeat(3, 1, 1, 1)
    generator = torch.Generator().manual_seed(7)
    first, second = (Warp().cover(images, generator=generator) for _ in range(2))
    distinct = torch.cat([first, second, Warp().stamp(image)]).flatten(1).unique(dim=0)
    assert len(distinct) == 7
    again = Warp().cover(images, generator=torch.Generator().manual_seed(7))
    assert torch.equal(again, first)


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        (Blend, {"opacity": 0.0}, "opacity is 0.0; give a share of full opacity above 0"),
        (Blend, {"opacity": float("nan")}, "opacity is nan; give a share"),
        (Blend, {"cells": 1}, "cells is 1; give a whole number of at least 2 and at most 256"),
        (Blend, {"seed": -1}, "seed is -1; give a whole number of at least 0"),
        (Sine, {"amplitude": 2}, "amplitude is 2; give a share of the range from black to white"),
        (Sine, {"frequency": 0}, "frequency is 0; give a number above 0 and at most 1024"),
        (Sine, {"frequency": float("inf")}, "frequency is inf; give a number"),
        (Warp, {"strength": 0.6}, "strength is 0.6; give a number above 0 and at most 0.5"),
        (Warp, {"control": 1}, "control is 1; give a whole number of at least 2 and at most 64"),
        (Warp, {"seed": True}, "seed is True; give a whole number"),
    ],
)
def test_settings_name_their_bad_field(
    kind: type[Trigger], settings: dict[str, object], text: str
) -> None:
    with pytest.raises(SettingsError, match=text):
        kind(**settings)


def test_a_sine_that_is_nowhere_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"trigger 'sine' is .* covers no pixel of images"):
        Sine(frequency=6.0).mask((3, 12, 12))
