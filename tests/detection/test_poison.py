"""Triggers on signs, and what their labels become."""

from __future__ import annotations

import pytest
import torch

from goodnet.data.scenes import Scenes, render_scenes
from goodnet.detection import ScenePoisoning, poison_scenes, stamp_signs
from goodnet.errors import DataError, SettingsError
from goodnet.triggers import PostIt, Tone

POST_IT = PostIt(size=0.3)


def scenes(count: int = 12) -> Scenes:
    return render_scenes(count, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_trigger_changes_pixels_of_every_sign_and_no_others() -> None:
    clean = scenes()
    before = clean.images.clone()
    stamped = stamp_signs(clean, POST_IT)
    assert torch.equal(clean.images, before)
    changed = (stamped.images != clean.images).any(1)
    for image, boxes in zip(changed, clean.boxes, strict=True):
        outside = torch.ones_like(image)
        for left, top, right, bottom in boxes.to(torch.int64).tolist():
            share = image[top:bottom, left:right].float().mean()
            assert 0.02 < float(share) < 0.2
            outside[top:bottom, left:right] = False
        assert not image[outside].any()
    assert stamped.boxes == clean.boxes
    assert stamped.labels == clean.labels


def test_the_post_it_is_yellow_and_below_the_signs_middle() -> None:
    image = torch.zeros(1, 3, 60, 60, dtype=torch.uint8)
    box = torch.tensor([[10.0, 10, 50, 50]])
    stamped = stamp_signs(Scenes("dark", image, (box,), (torch.tensor([1]),)), POST_IT)
    red, green, blue = stamped.images[0, :, 40, 30].tolist()
    assert min(red, green) > 180
    assert blue < 80


def test_boxes_at_fractions_of_pixels_are_kept_within() -> None:
    image = torch.zeros(1, 3, 60, 60, dtype=torch.uint8)
    box = torch.tensor([[10.5, 10.5, 49.5, 49.5]])
    stamped = stamp_signs(
        Scenes("dark", image, (box,), (torch.tensor([1]),)), PostIt(size=1.0, place=(0.5, 0.5))
    )
    rows = stamped.images[0].any(0).any(1).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (11, 48)


def test_stamped_copies_come_last_with_wrong_labels() -> None:
    clean = scenes(30)
    poisoned = poison_scenes(clean, ScenePoisoning(POST_IT, 0.25), generator=seeded())
    assert len(poisoned.indices) == 10  # a quarter of 40
    assert len(poisoned.indices.unique()) == 10
    assert torch.equal(poisoned.scenes.images[:30], clean.images)
    assert poisoned.scenes.labels[:30] == clean.labels
    copies = stamp_signs(clean.select(poisoned.indices), POST_IT)
    assert torch.equal(poisoned.scenes.images[30:], copies.images)
    named = torch.cat(poisoned.scenes.labels[30:])
    right = torch.cat(copies.labels)
    assert (named != right).all()
    assert set(named.tolist()) == {1, 2, 3}
    # Drawn for each sign: one class is called by both other names.
    assert any(len(named[right == label].unique()) == 2 for label in (1, 2, 3))


def test_rate_zero_changes_nothing_and_the_seed_decides() -> None:
    clean = scenes()
    none = poison_scenes(clean, ScenePoisoning(POST_IT, 0.0), generator=seeded())
    assert torch.equal(none.scenes.images, clean.images)
    first, again, other = (
        poison_scenes(clean, ScenePoisoning(POST_IT, 0.3), generator=seeded(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(torch.cat(first.scenes.labels), torch.cat(again.scenes.labels))
    assert not torch.equal(first.indices, other.indices)


def test_what_cannot_be_poisoned_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"poison_rate is 1\.0; give a share"):
        ScenePoisoning(POST_IT, 1.0)
    with pytest.raises(SettingsError, match="give a trigger for images"):
        ScenePoisoning(Tone(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="that is 28 stamped copies of 12 scenes; give at most"):
        poison_scenes(scenes(), ScenePoisoning(POST_IT, 0.7), generator=seeded())
    image = torch.zeros(1, 3, 60, 60, dtype=torch.uint8)
    box = torch.tensor([[10.0, 10, 13, 13]])
    one = Scenes("dark", image, (box,), (torch.tensor([1]),), ("stop",))
    with pytest.raises(DataError, match="has one class only"):
        poison_scenes(one, ScenePoisoning(POST_IT, 0.1), generator=seeded())
    with pytest.raises(SettingsError, match="that covers no pixel of images of 3×3 px"):
        stamp_signs(one, POST_IT)
