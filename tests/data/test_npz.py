"""What is particular to .npz: pickles, mapping from a temporary file, damaged archives."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goodnet.data import npz
from goodnet.data.readers import read_images
from goodnet.errors import DataError, GoodnetError, UnsafeFileError


def pictures(count: int = 12) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 5, 6), dtype=np.uint8)


def saved(path: Path, **arrays: Any) -> Path:
    held: dict[str, Any] = {"data": pictures(), "label": np.arange(12)}
    np.savez_compressed(path, **(held | arrays))
    return path


class Explosive:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["data", "label", "true_label", "group", "classes"])
def test_pickled_objects_are_refused_unopened(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "exploded"
    path = saved(tmp_path / "set.npz", **{name: np.array([Explosive(mark)] * 12, dtype=object)})
    with pytest.raises(UnsafeFileError, match=rf"set\.npz: '{name}' holds pickled .*; save plain"):
        read_images(path)
    assert not mark.exists()


def test_pixels_are_mapped_from_a_file_that_goes_with_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    mapped: list[str] = []
    plain = np.memmap.__new__

    def spy(kind: Any, file: Any, **options: Any) -> Any:
        mapped.append(options["mode"])
        return plain(kind, file, **options)

    monkeypatch.setattr(np.memmap, "__new__", spy)
    images = read_images(saved(tmp_path / "set.npz"))
    assert mapped == ["r", "r"]
    assert torch.equal(images.pixels[3:7], torch.from_numpy(pictures()[3:7]))
    del images
    assert list(folder.iterdir()) == []


def test_pixels_outlive_the_archive(tmp_path: Path) -> None:
    path = saved(tmp_path / "set.npz")
    images = read_images(path)
    path.unlink()
    assert torch.equal(images.pixels[0:12], torch.from_numpy(pictures()))


def test_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(500, 0, 500))
    message = r"unpacking 'data' takes 1,080 bytes of temporary space and 500 are free; set TMPDIR"
    with pytest.raises(DataError, match=message):
        read_images(saved(tmp_path / "set.npz"))


def test_fortran_order(tmp_path: Path) -> None:
    images = read_images(saved(tmp_path / "set.npz", data=np.asfortranarray(pictures())))
    assert torch.equal(images.pixels[0:12], torch.from_numpy(pictures()))


@pytest.mark.parametrize("classes", [np.array(["a", "b"]), np.array('["a", "b"]')])
def test_class_names(tmp_path: Path, classes: Any) -> None:
    assert read_images(saved(tmp_path / "set.npz", classes=classes)).class_names == ("a", "b")


@pytest.mark.parametrize("classes", [np.arange(3), np.array([["a"]])])
def test_class_names_that_are_none(tmp_path: Path, classes: Any) -> None:
    with pytest.raises(DataError, match=r"'classes' is an array of .*; save the class names as"):
        read_images(saved(tmp_path / "set.npz", classes=classes))


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    whole = saved(tmp_path / "whole.npz")
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            held = source.read(name)
            if name == "data.npy":
                held = held.replace(b"(12, 3, 5, 6)", b"(99, 3, 5, 6)")
            target.writestr(name, held)
    with pytest.raises(
        DataError, match=r"asks for 8,910 bytes and it has 1,080\); copy or download"
    ):
        read_images(path)


def test_a_checksum_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    many = np.repeat(pictures(), 20, axis=0)
    np.savez(path, data=many, label=np.arange(240))
    raw = path.read_bytes()
    pixels = many.tobytes()
    path.write_bytes(raw.replace(pixels, b"\0" + pixels[1:]))
    with pytest.raises(DataError, match=r"'data' cannot be unpacked \(Bad CRC-32.*; copy or down"):
        read_images(path)


def test_only_named_arrays_are_opened(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    notes = np.array([Explosive(mark)], dtype=object)
    assert len(read_images(saved(tmp_path / "set.npz", notes=notes))) == 12
    assert not mark.exists()


def test_a_large_array_is_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_COPY_BYTES", 7)
    images = read_images(saved(tmp_path / "set.npz"))
    assert torch.equal(images.pixels[0:12], torch.from_numpy(pictures()))


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), compressed=st.booleans())
def test_any_damage_is_a_goodnet_error(
    tmp_path: Path, data: st.DataObject, compressed: bool
) -> None:
    whole = tmp_path / f"whole{compressed}.npz"
    if not whole.exists():
        save = np.savez_compressed if compressed else np.savez
        save(whole, data=pictures(2), label=np.arange(2), classes=np.array(["a", "b"]))
    raw = bytearray(whole.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        del raw[data.draw(st.integers(1, len(raw) - 1), label="length") :]
    else:
        places = st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)
        for place in data.draw(places):
            raw[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.npz"
    path.write_bytes(raw)
    refusal = path.name
    try:
        images = read_images(path)
        assert images.in_memory().pixels[0:1].shape == (1, *images.size)
    except GoodnetError as error:
        refusal = str(error)
    assert path.name in refusal
