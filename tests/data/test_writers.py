"""Writing an image set, and finding it again."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch

from goodnet.data.images import ImageSet
from goodnet.data.readers import read_images
from goodnet.data.writers import write_images
from goodnet.errors import DataError


class Failing:
    """Pixels whose second slice cannot be read; remembers how much was asked for at once."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.most = 0

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: slice, /) -> torch.Tensor:
        if self.error is not None and index.start > 0:
            raise self.error
        count = len(range(*index.indices(200)))
        self.most = max(self.most, count)
        return torch.zeros(count, 3, 5, 6, dtype=torch.uint8)


def image_set(**changed: object) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    fields: dict[str, object] = {
        "source": "made",
        "size": (3, 5, 6),
        "pixels": torch.randint(0, 256, (150, 3, 5, 6), dtype=torch.uint8, generator=generator),
        "labels": torch.arange(150),
        "true_labels": torch.arange(150).flip(0),
        "groups": torch.arange(150) // 10,
        "class_names": ("Straße", "b"),
    }
    return ImageSet(**(fields | changed))  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    written = image_set()
    write_images(written, tmp_path / "set.h5")
    found = read_images(tmp_path / "set.h5")
    assert torch.equal(found.pixels[0:150], written.pixels[0:150])
    assert torch.equal(found.labels, written.labels)
    for name in ("true_labels", "groups"):
        assert torch.equal(getattr(found, name), getattr(written, name))
    assert found.class_names == written.class_names
    assert found.size == written.size
    with h5py.File(tmp_path / "set.h5") as file:
        assert file["data"].dtype == "uint8"
        assert file["data"].compression == "gzip"
        assert file["data"].chunks == (64, 3, 5, 6)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.h5"]


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    write_images(image_set(true_labels=None, groups=None, class_names=()), tmp_path / "set.hdf5")
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert sorted(file) == ["data", "label"]
        assert list(file.attrs) == []


def test_fractions_are_rounded(tmp_path: Path) -> None:
    levels = torch.arange(256, dtype=torch.float32)
    near = torch.stack([levels, levels + 0.4, levels - 0.4]).clamp(0, 255)
    pixels = near.view(3, 1, 16, 16) / 255
    images = ImageSet("made", (1, 16, 16), pixels, torch.zeros(3).long())
    write_images(images, tmp_path / "set.h5")
    for image in read_images(tmp_path / "set.h5").pixels[0:3]:
        assert torch.equal(image.flatten(), levels.to(torch.uint8))


def test_the_same_set_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_images(image_set(), tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_set_may_be_written_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_images(image_set(), path)
    write_images(read_images(path), path)
    assert torch.equal(read_images(path).pixels[0:150], image_set().pixels[0:150])


def test_images_are_written_a_chunk_at_a_time(tmp_path: Path) -> None:
    pixels = Failing()
    numbers = torch.zeros(200, dtype=torch.int64)
    write_images(
        image_set(pixels=pixels, labels=numbers, true_labels=None, groups=None), tmp_path / "a.h5"
    )
    assert pixels.most == 64


@pytest.mark.parametrize("error", [DataError("made", "broke", "mend it"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_failure(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "set.h5"
    write_images(image_set(), path)
    before = path.read_bytes()
    numbers = torch.zeros(200, dtype=torch.int64)
    broken = image_set(pixels=Failing(error), labels=numbers, true_labels=None, groups=None)
    with pytest.raises(type(error)):
        write_images(broken, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.h5"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan")])
def test_pixels_outside_the_range(tmp_path: Path, bad: float) -> None:
    pixels = torch.full((150, 3, 5, 6), 0.5)
    pixels[70, 1, 2, 3] = bad
    with pytest.raises(
        DataError, match=r"made: image 70 holds a pixel outside 0\.\.1; scale the im"
    ):
        write_images(image_set(pixels=pixels), tmp_path / "set.h5")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.npz: an image set is written as HDF5; name it set"):
        write_images(image_set(), tmp_path / "set.npz")
    with pytest.raises(
        DataError, match=r"set\.h5: cannot be written .*; give a path in a folder th"
    ):
        write_images(image_set(), tmp_path / "missing" / "set.h5")
    (tmp_path / "set.h5").mkdir()
    with pytest.raises(
        DataError, match=r"set\.h5: cannot be written .*; give a path in a folder th"
    ):
        write_images(image_set(), tmp_path / "set.h5")
