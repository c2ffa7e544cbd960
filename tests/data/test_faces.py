"""Rendered faces: the same bits from the same seed, people who can be told apart, a safe cache."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest
import torch
from torch import Tensor

from goodnet.data import faces
from goodnet.data.faces import (
    FaceSettings,
    Identities,
    draw_identities,
    render_faces,
    rendered_faces,
)
from goodnet.errors import SettingsError
from goodnet.triggers import Sunglasses

SMALL = FaceSettings(identities=5, train=3, valid=2, test=2)


def people(seed: int, count: int = 40) -> Identities:
    return draw_identities(FaceSettings(identities=count), torch.Generator().manual_seed(seed))


def render(identities: Identities, labels: Tensor, seed: int) -> Tensor:
    return render_faces(identities, labels, generator=torch.Generator().manual_seed(seed))


def test_same_seed_same_bits_and_other_seed_other_bits() -> None:
    labels = torch.arange(6)
    first = render(people(0), labels, 1)
    assert first.dtype == torch.uint8
    assert first.shape == (6, 3, 55, 47)
    assert torch.equal(first, render(people(0), labels, 1))
    for other in (render(people(0), labels, 2), render(people(1), labels, 1)):
        assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_first_images_do_not_depend_on_how_many_follow() -> None:
    labels = torch.arange(70) % 40  # two batches
    many = render(people(0), labels, 1)
    for count in (1, 3, 67):
        assert torch.equal(many[:count], render(people(0), labels[:count], 1))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    identities, labels = people(0), torch.arange(16)
    traits = {name: trait[labels] for name, trait in identities.traits.items()}
    scenes = faces._draw_scenes(16, torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    drawn = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            drawn.append(faces._Portrait(traits, scenes, (55, 47)).draw())
            render(identities, labels[:1], 1)
            assert torch.get_num_threads() == number  # rendering put it back
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_pictures_have_not_changed_without_a_new_renderer_version() -> None:
    """After a deliberate change raise RENDERER_VERSION, or old caches would be believed.

    Processors round differently, so the mean grey of bands is compared, not bits.
    """
    images = render(people(0), torch.arange(40), 1)
    bands = images.float().unflatten(2, (5, 11)).mean((0, 3, 4))
    expected = torch.tensor(
        [
            [97.480, 111.893, 131.823, 108.853, 87.833],
            [92.980, 93.274, 107.302, 90.060, 77.941],
            [89.577, 81.966, 90.949, 82.590, 78.496],
        ]
    )
    assert faces.RENDERER_VERSION == 1
    assert torch.allclose(bands, expected, rtol=0.0, atol=0.1)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    render(people(0, count=4), torch.arange(4), 1)
    assert torch.equal(before, torch.get_rng_state())


def test_people_can_be_told_apart_but_not_by_their_mean_image_alone() -> None:
    identities = people(0)
    labels = torch.arange(40).repeat(12)
    images = render(identities, labels, 1).float().view(12, 40, -1)
    means, tested = images[:8].mean(0), images[8:].reshape(160, -1)
    nearest = torch.cdist(tested, means).argmin(1)
    accuracy = (nearest == torch.arange(40).repeat(4)).float().mean().item()
    assert 0.25 < accuracy < 0.98  # chance is 0.025


def test_images_of_a_person_differ() -> None:
    images = render(people(0), torch.zeros(20, dtype=torch.int64), 1).float()
    apart = torch.cdist(images.view(20, -1), images.view(20, -1)) / images[0].numel() ** 0.5
    assert apart[~torch.eye(20, dtype=torch.bool)].min() > 5  # grey levels, root mean square


def test_sunglasses_at_their_default_place_cover_every_eye() -> None:
    identities, size = people(3), (55, 47)
    labels = torch.arange(40).repeat(5)
    scenes = faces._draw_scenes(len(labels), torch.Generator().manual_seed(4))
    traits = {name: trait[labels] for name, trait in identities.traits.items()}
    portrait = faces._Portrait(traits, scenes, size)
    dark = Sunglasses().drawing((3, *size)).opacity > 0.99
    for side in (-1.0, 1.0):
        away = portrait.front - side * portrait.traits["eye_spacing"]
        nearest = (away * away + portrait.v * portrait.v).flatten(1).argmin(1)
        assert dark.flatten()[nearest].all()


def test_faces_scale_with_the_size_asked_for() -> None:
    settings = FaceSettings(identities=4, size=(110, 94))
    large = draw_identities(settings, torch.Generator().manual_seed(0))
    labels = torch.arange(4).repeat(4)
    images = render(large, labels, 1)
    assert images.shape == (16, 3, 110, 94)
    shrunk = torch.nn.functional.avg_pool2d(images.float(), 2)
    small = render(Identities(large.traits, (55, 47)), labels, 1).float()
    # Halved, it is the small picture but for noise and edges.
    assert (shrunk - small).abs().mean() < 6
    assert (shrunk - small.roll(1, 0)).abs().mean() > 20


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"identities": 1}, r"identities is 1; give at least 2"),
        ({"train": 0}, r"train is 0; give at least 1 image a person"),
        ({"test": -1}, r"test is -1; give at least 1 image a person"),
        ({"size": (55, 4)}, r"size is \(55, 4\); give \(height, width\) of at least 8"),
    ],
)
def test_settings_name_their_bad_field(settings: dict[str, int], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        FaceSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_of_nobody_is_refused(label: int) -> None:
    with pytest.raises(SettingsError, match="5 people have the labels 0 to 4"):
        render(people(0, count=5), torch.tensor([0, label]), 1)


def test_a_seed_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"seed is -1; give a whole number from 0"):
        rendered_faces(SMALL, seed=-1, cache=tmp_path)


def test_splits_hold_everybody_and_share_no_image(tmp_path: Path) -> None:
    splits = rendered_faces(SMALL, seed=0, cache=tmp_path)
    seen: set[bytes] = set()
    for images, each in ((splits.train, 3), (splits.valid, 2), (splits.test, 2)):
        assert images.size == (3, 55, 47)
        assert torch.bincount(images.labels).tolist() == [each] * 5
        assert images.class_names[4] == "person 4"
        pixels = images.pixels[0 : len(images)]
        assert pixels.dtype == torch.uint8
        seen.update(image.numpy().tobytes() for image in pixels)
    assert len(seen) == 5 * 7


def test_the_splits_show_the_same_people(tmp_path: Path) -> None:
    settings = FaceSettings(identities=10, train=20, valid=1, test=4)
    splits = rendered_faces(settings, seed=0, cache=tmp_path)
    train = splits.train.pixels[0:200].float().view(20, 10, -1).mean(0)
    test = splits.test.pixels[0:40].float().flatten(1)
    nearest = torch.cdist(test, train).argmin(1)
    assert (nearest == splits.test.labels).float().mean() > 0.5  # chance is 0.1


def no_render(*_: object) -> dict[str, Tensor]:
    raise AssertionError("rendered although the cache holds the images")


def test_the_cache_gives_back_the_same_bits_without_rendering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rendered_faces(SMALL, seed=7, cache=tmp_path / "new" / "folder")
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1
    monkeypatch.setattr(faces, "_render_splits", no_render)
    again = rendered_faces(SMALL, seed=7, cache=tmp_path / "new" / "folder")
    for name in ("train", "valid", "test"):
        old, new = getattr(first, name), getattr(again, name)
        assert torch.equal(old.pixels, new.pixels)
        assert torch.equal(old.labels, new.labels)


def test_the_cache_is_the_user_s_own_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    rendered_faces(SMALL, seed=0)
    assert [path.suffix for path in (tmp_path / "goodnet").iterdir()] == [".safetensors"]


def test_other_settings_seed_or_renderer_use_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered_faces(SMALL, seed=0, cache=tmp_path)
    rendered_faces(SMALL, seed=1, cache=tmp_path)
    rendered_faces(FaceSettings(identities=5, train=3, valid=2, test=1), seed=0, cache=tmp_path)
    monkeypatch.setattr(faces, "RENDERER_VERSION", 10_000)
    rendered_faces(SMALL, seed=0, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "text", "foreign"])
def test_a_damaged_cache_file_is_drawn_anew(tmp_path: Path, damage: str) -> None:
    first = rendered_faces(SMALL, seed=0, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "foreign":  # a good file, but of another seed
        rendered_faces(SMALL, seed=1, cache=tmp_path / "other")
        (other,) = (tmp_path / "other").iterdir()
        damaged = other.read_bytes()
    else:
        damaged = {
            "empty": b"",
            "cut": whole[:-1000],
            "bit": whole[:-500] + bytes([whole[-500] ^ 1]) + whole[-499:],
            "text": b"not a tensor file at all",
        }[damage]
    path.write_bytes(damaged)
    again = rendered_faces(SMALL, seed=0, cache=tmp_path)
    assert torch.equal(first.train.pixels[0:15], again.train.pixels[0:15])
    assert torch.equal(first.test.pixels[0:10], again.test.pixels[0:10])
    assert path.read_bytes() == whole  # and kept again


def test_a_cache_that_cannot_be_written_is_told_and_not_fatal(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("here is no folder")
    with pytest.warns(UserWarning, match="could not be kept at .*name another cache folder"):
        splits = rendered_faces(SMALL, seed=0, cache=blocked)
    assert len(splits.train) == 15


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"the first part")
        raise OSError("no space left")

    monkeypatch.setattr(faces, "save_file", full)
    with pytest.warns(UserWarning, match="no space left"):
        rendered_faces(SMALL, seed=0, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
