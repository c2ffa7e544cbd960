"""What is particular to HDF5: streaming, and files that lead elsewhere or are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goodnet.data.readers import read_images
from goodnet.errors import DataError, GoodnetError, UnsafeFileError
from goodnet.hdf5_safety import damaged_heap


def pictures(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 5, 6), dtype=np.uint8)


def saved(path: Path, count: int = 12, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=pictures(count), **options)
        file["label"] = np.arange(count)
        file.attrs["classes"] = json.dumps(["stop", "give way"])
    return path


def damage(path: Path, chunk: int) -> None:
    """Overwrites one compressed chunk of `data`."""
    with h5py.File(path, "r") as file:
        info = file["data"].id.get_chunk_info(chunk)
    raw = bytearray(path.read_bytes())
    raw[info.byte_offset : info.byte_offset + info.size] = b"\xff" * info.size
    path.write_bytes(raw)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "set.h5", 40, chunks=(10, 3, 5, 6), compression="gzip")
    damage(path, 2)
    images = read_images(path)
    assert torch.equal(images.pixels[0:20], torch.from_numpy(pictures(20)))
    batches = images.batches(10)
    next(batches)
    next(batches)
    with pytest.raises(DataError, match=r"set\.h5: 'data' cannot be read from 20 to 29 .*; copy"):
        next(batches)


def test_how_much_is_read_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(-1, 1, 5, 1)
        file["label"] = np.zeros(2000)
    read: list[tuple[str, int]] = []
    plain = h5py.Dataset.__getitem__

    def spy(dataset: h5py.Dataset, wanted: slice, **options: Any) -> Any:
        read.append((dataset.name, wanted.stop - wanted.start))
        return plain(dataset, wanted, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    images = read_images(path, size=(1, 5, 1))
    assert sum(count for name, count in read if name == "/data") == 256 + 1
    read.clear()
    next(images.batches(32))
    assert read == [("/data", 32)]


@pytest.mark.parametrize("name", ["data", "label", "other"])
def test_links_are_refused(tmp_path: Path, name: str) -> None:
    elsewhere = saved(tmp_path / "elsewhere.h5")
    for link, kind in (
        (h5py.ExternalLink(str(elsewhere), "data"), "an external link"),
        (h5py.SoftLink("/inside"), "a link"),
    ):
        path = tmp_path / f"{len(kind)}.h5"
        with h5py.File(path, "w") as file:
            file["inside"] = pictures(12)
            for other in {"data", "label"} - {name}:
                file[other] = pictures(12) if other == "data" else np.arange(12)
            file[name] = link
        with pytest.raises(UnsafeFileError, match=f"{path.name}: '{name}' is {kind}, .*; store"):
            read_images(path)


@pytest.mark.parametrize("name", ["data", "label", "true_label", "group"])
@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_numbers_in_other_files_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    arrays = {"data": pictures(12)} | {n: np.arange(12) for n in ("label", "true_label", "group")}
    elsewhere = saved(tmp_path / "elsewhere.h5")
    raw = tmp_path / "elsewhere.raw"
    raw.write_bytes(arrays[name].tobytes())
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        for other in arrays.keys() - {name}:
            file[other] = arrays[other]
        shape, dtype = arrays[name].shape, arrays[name].dtype
        if kind == "external":
            file.create_dataset(
                name, shape=shape, dtype=dtype, external=[(str(raw), 0, arrays[name].nbytes)]
            )
        else:
            layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
            layout[...] = h5py.VirtualSource(str(elsewhere), name, shape=shape)
            file.create_virtual_dataset(name, layout)
    with pytest.raises(UnsafeFileError, match=rf"set\.h5: the numbers of '{name}' lie in another"):
        read_images(path)


def test_an_array_must_be_an_array(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file.create_group("data")
        file["label"] = np.arange(12)
    with pytest.raises(DataError, match="'data' is not an array; store 'data' as one array"):
        read_images(path)
    with h5py.File(path, "w") as file:
        file["data"] = h5py.Empty("u1")
    with pytest.raises(DataError, match="'data' is empty; store one entry an image"):
        read_images(path)


@pytest.mark.parametrize("count", [10, 2**40])
def test_claims_beyond_the_files_size(tmp_path: Path, count: int) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        chunks = (1, 3, 100, 100) if count > 10 else (10_000, 3, 100, 100)
        file.create_dataset(
            "data", shape=(count, 3, 100, 100), maxshape=(None, 3, 100, 100), dtype="u1",
            chunks=chunks,
        )  # fmt: skip
        file["label"] = np.arange(10)
    with pytest.raises(DataError, match=r"claims to be \d+x3x100x100, far more .*; copy or down"):
        read_images(path)


@pytest.mark.parametrize(
    "classes",
    [
        '["a", "b"]',
        np.bytes_('["a", "b"]'),
        ["a", "b"],
        np.array([b"a", b"b"]),
    ],
    ids=["text", "bytes", "list of text", "list of bytes"],
)
def test_class_names(tmp_path: Path, classes: object) -> None:
    path = saved(tmp_path / "set.h5")
    with h5py.File(path, "a") as file:
        file.attrs["classes"] = classes
    assert read_images(path).class_names == ("a", "b")


@pytest.mark.parametrize("classes", ["a, b", '{"a": 1}', "[[" * 50_000, "[1.5]", 3, [1, 2]])
def test_class_names_that_are_none(tmp_path: Path, classes: object) -> None:
    path = saved(tmp_path / "set.h5")
    with h5py.File(path, "a", libver="latest") as file:
        file.attrs["classes"] = classes
    with pytest.raises(
        DataError, match=r"set\.h5: 'classes' is .*; store the class names as a JSON list"
    ):
        read_images(path)


def test_a_damaged_text_store_does_not_hang(tmp_path: Path) -> None:
    """https://github.com/HDFGroup/hdf5/issues/1707: the library would never return."""
    path = saved(tmp_path / "set.h5")
    assert damaged_heap(path, 8) is None
    raw = bytearray(path.read_bytes())
    start = raw.find(b"GCOL")
    first_object_size = start + 16 + 8
    raw[first_object_size] = 0xFF
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(raw)
    assert damaged_heap(damaged, 8) == start
    with pytest.raises(DataError, match=r"damaged\.h5: .*damaged heap at byte \d+.; copy or down"):
        read_images(damaged)


def test_a_type_that_is_no_type_does_not_crash(tmp_path: Path) -> None:
    """A byte of the text's type changed: the library would write through a null pointer."""
    path = saved(tmp_path / "set.h5")
    raw = bytearray(path.read_bytes())
    type_flags = raw.find(b"classes\0") + 8 + 1
    assert raw[type_flags] == 0x01  # text of no fixed length
    raw[type_flags] = 0xFF
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(raw)
    with pytest.raises(DataError, match=r"damaged\.h5: 'classes' is not text; store the class na"):
        read_images(damaged)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_is_a_goodnet_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole.h5"
    if not whole.exists():
        saved(whole, chunks=(4, 3, 5, 6), compression="gzip")
    raw = bytearray(whole.read_bytes())
    # Most of a small file is unused room: strike where something is written.
    used = [place for place, byte in enumerate(raw) if byte]
    if data.draw(st.booleans(), label="truncate"):
        del raw[data.draw(st.integers(1, len(raw) - 1), label="length") :]
    else:
        for place in data.draw(st.lists(st.sampled_from(used), min_size=1, max_size=8)):
            raw[place] = data.draw(st.integers(0, 255))
    # A new file each time: HDF5 takes a file it has open for the same file.
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
    path.write_bytes(raw)
    refusal = path.name
    try:
        images = read_images(path)
        assert images.in_memory().pixels[0:1].shape == (1, *images.size)
    except GoodnetError as error:
        refusal = str(error)
    assert path.name in refusal
