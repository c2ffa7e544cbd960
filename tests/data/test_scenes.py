"""Rendered scenes: signs are where the boxes say, same seed same bits, real crops by pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from goodnet.data import scenes as renderer
from goodnet.data.scenes import (
    SIGN_CLASSES,
    Scenes,
    SceneSettings,
    SignCrops,
    read_sign_crops,
    render_scenes,
)
from goodnet.errors import DataError, SettingsError

PACKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "gtsrb"
IMAGE = torch.zeros(1, 3, 50, 60, dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(count: int = 9) -> SignCrops:
    """Pure green pictures, which nothing else in a scene is like."""
    pixels = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
    pixels[:, 1] = 250
    return SignCrops("green", pixels, torch.arange(count) % 3 + 1)


def test_scenes_hold_signs_inside_the_image_and_apart() -> None:
    drawn = render_scenes(40, SceneSettings((96, 128)), generator=seeded())
    assert drawn.images.shape == (40, 3, 96, 128)
    assert drawn.size == (3, 96, 128)
    most = torch.tensor([128.0, 96, 128, 96])
    for boxes, labels in zip(drawn.boxes, drawn.labels, strict=True):
        assert 1 <= len(labels) <= 3
        assert ((boxes >= 0) & (boxes <= most)).all()
        sides = boxes[:, 2:] - boxes[:, :2]
        # Between 0.2 and 0.5 of 96 pixels; a squeezed and turned one is off by some.
        assert (sides >= 14).all()
        assert (sides <= 60).all()
        for at, one in enumerate(boxes.tolist()):
            for other in boxes.tolist()[:at]:
                assert (
                    one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
                )
    assert set(torch.cat(drawn.labels).tolist()) == {1, 2, 3}


def test_the_sign_is_where_the_box_says() -> None:
    drawn = render_scenes(20, generator=seeded(1), crops=crops())
    for image, boxes in zip(drawn.images.to(torch.int64), drawn.boxes, strict=True):
        green = (image[1] > 2.5 * image[0]) & (image[1] > 2.5 * image[2]) & (image[1] > 60)
        for left, top, right, bottom in boxes.to(torch.int64).tolist():
            inside = green[top:bottom, left:right]
            # A triangle fills half of its box.
            assert float(inside.float().mean()) > 0.35
            rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
            assert int(rows.min()) <= 3
            assert int(columns.min()) <= 3
            assert bottom - top - 1 - int(rows.max()) <= 3
            assert right - left - 1 - int(columns.max()) <= 3


@pytest.mark.parametrize("label", [1, 2, 3])
def test_a_drawn_sign_is_red_and_white(label: int) -> None:
    pixels = np.asarray(renderer._drawn_sign(label, np.random.default_rng(0))).astype(int)
    covered = pixels[..., 3] > 127
    red, green = pixels[..., 0][covered], pixels[..., 1][covered]
    assert 0.2 < ((red > 120) & (green < 90)).mean() < 0.95
    assert (green > 180).mean() > 0.05


def test_same_seed_same_bits_and_the_first_do_not_depend_on_how_many_follow() -> None:
    many, few, other = (
        render_scenes(count, generator=seeded(seed)) for count, seed in ((5, 0), (3, 0), (3, 1))
    )
    assert torch.equal(many.images[:3], few.images)
    assert all(torch.equal(a, b) for a, b in zip(many.boxes, few.boxes, strict=False))
    assert not torch.equal(few.images, other.images)


def test_targets_and_selection_keep_what_belongs_together() -> None:
    drawn = render_scenes(5, generator=seeded())
    chosen = drawn.select(torch.tensor([4, 1]))
    assert torch.equal(chosen.images[0], drawn.images[4])
    assert chosen.targets()[1]["boxes"] is drawn.boxes[1]
    assert chosen.targets()[1]["labels"] is drawn.labels[1]


@pytest.mark.parametrize(
    ("box", "labels", "problem"),
    [
        ([[0.0, 0, 61, 20]], [1], "image 0 has a box that leaves the image or is empty"),
        ([[0.0, -1, 20, 20]], [1], "leaves the image"),
        ([[5.0, 5, 5, 20]], [1], "or is empty"),
        ([[0.0, 0, 20, 20]], [0], "a label that is no class; give labels from 1 to 3"),
        ([[0.0, 0, 20, 20]], [1, 2], "beside 2 labels"),
    ],
)
def test_scenes_refuse_what_does_not_fit(
    box: list[list[float]], labels: list[int], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        Scenes("mine", IMAGE, (torch.tensor(box),), (torch.tensor(labels),))


def test_scenes_refuse_other_images_and_counts() -> None:
    with pytest.raises(DataError, match=r"images are torch\.float32 of shape"):
        Scenes("mine", IMAGE.float(), (), ())
    with pytest.raises(DataError, match="1 images, 0 sets of boxes and 0 of labels"):
        Scenes("mine", IMAGE, (), ())


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", (96, 20)), ("most_signs", 0), ("sign_size", (0.5, 0.2)), ("rotation", 90.0)],
)
def test_settings_name_their_bad_field(field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"^{field} is "):
        SceneSettings(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="count is 0"):
        render_scenes(0, generator=seeded())


def test_crops_without_a_class_are_refused() -> None:
    with pytest.raises(DataError, match="green: holds no warning sign"):
        SignCrops("green", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 2]))


@pytest.mark.realdata
@pytest.mark.skipif(not PACKS.is_dir(), reason=f"the GTSRB packs are not at {PACKS}")
def test_real_signs_are_sorted_into_the_three_classes() -> None:
    # Counted in the pack's labels: class 14; classes 0 to 8; classes 11 and 18 to 31.
    read = read_sign_crops(PACKS / "test.h5")
    assert read.labels.bincount().tolist() == [0, 140, 2158, 1366]
    assert len(SIGN_CLASSES) == 3
    drawn = render_scenes(3, generator=seeded(), crops=read)
    assert "test.h5" in drawn.source
