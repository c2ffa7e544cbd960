"""What `read_images` promises whatever kind of data set lies at the path."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from goodnet.data.images import ImageSet, as_float
from goodnet.data.readers import check_labels, read_images, read_picture
from goodnet.errors import DataError, SettingsError

Arrays = dict[str, NDArray[Any]]
Save = Callable[[Path, Arrays], Path]

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def save_hdf5(folder: Path, arrays: Arrays) -> Path:
    path = folder / "set.h5"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def save_npz(folder: Path, arrays: Arrays) -> Path:
    path = folder / "set.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(params=[save_hdf5, save_npz], ids=["hdf5", "npz"])
def save(request: pytest.FixtureRequest) -> Save:
    chosen: Save = request.param
    return chosen


def pictures(count: int = 6, size: tuple[int, int, int] = (3, 5, 6)) -> NDArray[np.uint8]:
    """Random pixels in which black and white occur in every image."""
    drawn = np.random.default_rng(0).integers(0, 256, (count, *size), dtype=np.uint8)
    drawn[:, 0, 0, 0], drawn[:, 0, 0, 1] = 0, 255
    return drawn


def held(images: ImageSet) -> torch.Tensor:
    pixels = images.in_memory().pixels
    assert isinstance(pixels, torch.Tensor)
    return pixels


def labels_for(data: NDArray[Any]) -> NDArray[np.int64]:
    return np.arange(len(data), dtype=np.int64)


# What is read


def test_the_same_set_from_every_kind_of_file(tmp_path: Path) -> None:
    data = pictures(6)
    label = np.array([0, 0, 0, 1, 1, 1])
    for index, image in enumerate(data):
        folder = tmp_path / "folder" / ("cat", "dog")[label[index]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index}.png")
    hdf5 = save_hdf5(tmp_path, {"data": data, "label": label})
    with h5py.File(hdf5, "a") as file:
        file.attrs["classes"] = json.dumps(["cat", "dog"])
    npz = save_npz(tmp_path, {"data": data, "label": label, "classes": np.array(["cat", "dog"])})
    for path in (hdf5, npz, tmp_path / "folder"):
        images = read_images(path)
        assert images.source == str(path)
        assert images.size == (3, 5, 6)
        assert images.class_names == ("cat", "dog")
        assert torch.equal(images.labels, torch.from_numpy(label))
        assert torch.equal(held(images), torch.from_numpy(data))


@pytest.mark.parametrize("size", [None, (3, 5, 6)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_both_layouts(
    save: Save, tmp_path: Path, size: tuple[int, int, int] | None, channels_last: bool
) -> None:
    data = pictures()
    stored = data.transpose(0, 2, 3, 1) if channels_last else data
    images = read_images(save(tmp_path, {"data": stored, "label": labels_for(data)}), size=size)
    assert images.size == (3, 5, 6)
    assert torch.equal(held(images), torch.from_numpy(data))


def test_the_networks_size_settles_the_layout(save: Save, tmp_path: Path) -> None:
    path = save(tmp_path, {"data": np.zeros((2, 3, 7, 1), np.uint8), "label": np.zeros(2)})
    with pytest.raises(
        DataError, match=r"set\.\w+: cannot tell which axis .* 3x7x1 .*give the net"
    ):
        read_images(path)
    assert read_images(path, size=(3, 7, 1)).size == (3, 7, 1)
    assert read_images(path, size=(1, 3, 7)).size == (1, 3, 7)


def test_two_channels_are_read_where_the_network_says_so(save: Save, tmp_path: Path) -> None:
    path = save(tmp_path, {"data": np.zeros((2, 2, 7, 9), np.uint8), "label": np.zeros(2)})
    with pytest.raises(DataError, match="neither end is 1, 3 or 4 long; give the network"):
        read_images(path)
    assert read_images(path, size=(2, 7, 9)).size == (2, 7, 9)


BYTES = ["u1", "i2", ">i2", "u2", "i4", "i8", "u8"]


@pytest.mark.parametrize("dtype", BYTES)
def test_whole_numbers_become_bytes(save: Save, tmp_path: Path, dtype: str) -> None:
    data = pictures()
    path = save(tmp_path, {"data": data.astype(dtype), "label": labels_for(data)})
    assert torch.equal(held(read_images(path)), torch.from_numpy(data))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("low_high", [(0, 1), (0, 255), (-1, 1)])
def test_fractions_become_zero_to_one(
    save: Save, tmp_path: Path, dtype: str, low_high: tuple[int, int]
) -> None:
    data = pictures()
    low, high = low_high
    stored = (data / 255 * (high - low) + low).astype(dtype)
    pixels = held(read_images(save(tmp_path, {"data": stored, "label": labels_for(data)})))
    assert pixels.dtype == torch.float32
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0
    near = 2e-3 if dtype == "f2" else 1e-6
    torch.testing.assert_close(pixels, torch.from_numpy(data) / 255, rtol=0, atol=near)


def test_fractions_of_bytes_equal_the_bytes_exactly(save: Save, tmp_path: Path) -> None:
    every = np.arange(256, dtype=np.float64).reshape(1, 1, 16, 16)
    pixels = held(read_images(save(tmp_path, {"data": every, "label": np.zeros(1)})))
    assert torch.equal(pixels, as_float(torch.arange(256, dtype=torch.uint8)).view(1, 1, 16, 16))


def test_rounding_past_the_ends_is_cut_off(save: Save, tmp_path: Path) -> None:
    data = np.array([-5e-5, 0.0, 1.0, 1 + 5e-5]).reshape(1, 1, 2, 2)
    pixels = held(read_images(save(tmp_path, {"data": data, "label": np.zeros(1)})))
    assert pixels.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_truth_values_become_black_and_white(save: Save, tmp_path: Path) -> None:
    data = pictures() > 127
    images = read_images(save(tmp_path, {"data": data, "label": labels_for(data)}))
    assert torch.equal(held(images), torch.from_numpy(data).to(torch.uint8) * 255)


def test_a_given_value_range_is_used(save: Save, tmp_path: Path) -> None:
    data = np.array([0, 1, 2, 4], dtype=np.uint8).reshape(1, 1, 2, 2)
    path = save(tmp_path, {"data": data, "label": np.zeros(1)})
    pixels = held(read_images(path, value_range=(0, 4)))
    assert torch.equal(pixels.flatten(), torch.tensor([0.0, 0.25, 0.5, 1.0]))
    assert torch.equal(held(read_images(path, value_range=(0, 255))), torch.from_numpy(data))


@pytest.mark.parametrize("scale", [None, 255.0])
def test_a_slice_a_step_and_nothing(save: Save, tmp_path: Path, scale: float | None) -> None:
    data = pictures(9)
    stored = data if scale is None else data / scale
    pixels = read_images(save(tmp_path, {"data": stored, "label": labels_for(data)})).pixels
    whole = pixels[0:9]
    for wanted in (slice(2, 5), slice(-3, None), slice(1, 8, 3), slice(4, 4), slice(5, 99)):
        start, stop, step = wanted.indices(9)
        assert torch.equal(pixels[wanted], whole[start:stop:step])
    with pytest.raises(ValueError, match="step of a slice must be at least 1"):
        pixels[::-1]


def test_labels_as_column_and_as_fractions(save: Save, tmp_path: Path) -> None:
    data = pictures(3)
    arrays = {
        "data": data,
        "label": np.array([[4.0], [0.0], [2.0]]),
        "true_label": np.array([1, 1, 0], dtype=np.uint8),
        "group": np.array([-1, 7, 7], dtype=">i4"),
        "notes": np.array(["leave", "me", "alone"], dtype="S5"),
    }
    images = read_images(save(tmp_path, arrays))
    assert images.labels.tolist() == [4, 0, 2]
    assert images.labels.dtype == torch.int64
    assert images.true_labels is not None
    assert images.true_labels.tolist() == [1, 1, 0]
    assert images.groups is not None
    assert images.groups.tolist() == [-1, 7, 7]


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels")])
def test_other_usual_names(save: Save, tmp_path: Path, names: tuple[str, str]) -> None:
    data = pictures()
    images = read_images(save(tmp_path, {names[0]: data, names[1]: labels_for(data)}))
    assert torch.equal(held(images), torch.from_numpy(data))


# What is refused


def arrays_with(**changed: NDArray[Any] | None) -> Arrays:
    data = pictures()
    arrays: dict[str, NDArray[Any] | None] = {"data": data, "label": labels_for(data)}
    return {name: array for name, array in (arrays | changed).items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (arrays_with(label=None), r"no 'label' \(labels\); it holds data; name its labels 'label'"),
        (arrays_with(data=None, z=np.ones(1)), r"no 'data' .*; it holds label, z; name its images"),
        (arrays_with(x=pictures()), "holds 'data' and 'x', which mean the same; keep one"),
        (arrays_with(data=np.zeros((6, 28, 28))), r"\(6, 28, 28\), which is 3 axes, not 4; store"),
        (arrays_with(data=np.zeros((0, 3, 5, 6)), label=np.zeros(0)), "no images; give a set with"),
        (arrays_with(data=np.zeros((6, 3, 0, 6))), r"no pixels \(3x0x6\); give images"),
        (arrays_with(data=pictures().astype("S3")), r"holds \|S3, not pixels; store images as uin"),
        (arrays_with(data=pictures().astype("c8")), "holds complex64, not pixels"),
        (arrays_with(label=np.arange(5)), r"'label' has shape \(5,\) beside 6 images; store one"),
        (arrays_with(label=np.eye(6)), r"'label' has shape \(6, 6\) beside 6 images"),
        (arrays_with(group=np.arange(7)), r"'group' has shape \(7,\) beside 6 images"),
        (arrays_with(label=np.array([0, 1, -2, 0, 0, -1])), "'label' of image 2 is -2; store"),
        (arrays_with(label=np.array([0, 0.5, 1, 1, 1, 1])), "'label' of image 1 is 0.5"),
        (arrays_with(label=np.array([0, 0, 0, 0, 0, np.nan])), "'label' of image 5 is nan"),
        (arrays_with(label=np.array([np.inf, 0, 0, 0, 0, 0])), "'label' of image 0 is inf"),
        (arrays_with(label=np.full(6, 2**64 - 1, np.uint64)), "'label' of image 0 is 18446744"),
        (arrays_with(label=np.array(list("abcdef"), "S1")), r"'label' holds \|S1, not numbers"),
        (arrays_with(true_label=np.full(6, -1)), "'true_label' of image 0 is -1; store"),
        (arrays_with(data=pictures().astype("i4") - 1), "holds -1 at channel 0, row 0, col"),
        (arrays_with(data=pictures().astype("i4") + 1), "holds 256 at channel 0, row 0, column 1"),
        (arrays_with(data=pictures() / 100.0 - 1.2), "from -1.2 to 1.35, which is not clear"),
        (arrays_with(data=pictures() / 255 * 1.05), "from 0 to 1.05, which is not clearly one of"),
        (arrays_with(data=pictures() * 2.0), "from 0 to 510, which is not clearly one of 0..1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(save: Save, tmp_path: Path, arrays: Arrays, message: str) -> None:
    path = save(tmp_path, arrays)
    with pytest.raises(DataError, match=message) as raised:
        held(read_images(path))
    assert raised.value.source == str(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("image", [2, 300])
def test_not_a_number(save: Save, tmp_path: Path, bad: float, image: int) -> None:
    data = pictures(310) / 255.0
    data[image, 1, 4, 3] = bad
    data[image + 1 :] = np.nan
    for layout in (data, data.transpose(0, 2, 3, 1)):
        path = save(tmp_path, {"data": layout, "label": labels_for(data)})
        where = f"image {image} holds {bad:g} at channel 1, row 4, column 3; replace"
        with pytest.raises(DataError, match=where):
            held(read_images(path))
        path.unlink()


@pytest.mark.parametrize(("start", "later"), [(1.0, 200.0), (0.5, -0.7), (255.0, 300.0)])
def test_each_slice_is_checked_against_the_first(
    save: Save, tmp_path: Path, start: float, later: float
) -> None:
    data = np.full((400, 1, 2, 2), start)
    data[333, 0, 1, 0] = later
    images = read_images(save(tmp_path, {"data": data, "label": labels_for(data)}))
    assert images.pixels[0:333].max() == min(start, 1.0)
    where = f"image 333 holds {later:g} at channel 0, row 1, column 0, but the first images lie in"
    with pytest.raises(DataError, match=rf"{where} 0\.\.\d+; give the file's range"):
        images.pixels[100:400]
    with pytest.raises(DataError, match="image 333 "):
        images.pixels[1:400:2]


def test_outside_a_given_range(save: Save, tmp_path: Path) -> None:
    path = save(tmp_path, arrays_with())
    with pytest.raises(DataError, match=r"holds 255 .*, outside the value range 0\.\.1 that was"):
        read_images(path, value_range=(0, 1))


def test_a_dark_set_of_whole_numbers_is_not_mistaken(save: Save, tmp_path: Path) -> None:
    data = np.full((3, 1, 2, 2), 7.0)
    pixels = held(read_images(save(tmp_path, {"data": data, "label": labels_for(data)})))
    assert torch.equal(pixels, torch.full((3, 1, 2, 2), 7) / 255)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((3, 5, 5), r"images are 3x5x6 but the network takes 3x5x5 .*; give images of the network"),
        ((1, 5, 6), "images are 3x5x6 but the network takes 1x5x6 .*; turn the images to grey"),
    ],
)
def test_another_size_than_the_network_takes(
    save: Save, tmp_path: Path, size: tuple[int, int, int], message: str
) -> None:
    for data in (pictures(), pictures().transpose(0, 2, 3, 1)):
        path = save(tmp_path, {"data": data, "label": labels_for(data)})
        with pytest.raises(DataError, match=message):
            read_images(path, size=size)


def test_grey_images_for_a_colour_network(save: Save, tmp_path: Path) -> None:
    data = pictures(size=(1, 5, 6))
    path = save(tmp_path, {"data": data, "label": labels_for(data)})
    with pytest.raises(
        DataError, match=r"are 1x5x6 but the network takes 3x5x6 .*; repeat the grey"
    ):
        read_images(path, size=(3, 5, 6))


@pytest.mark.parametrize("name", ["a.npy", "a.mat", "a.csv", "a.pkl", "a.png", "a"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"something")
    with pytest.raises(DataError, match=r"are not read as image sets; give an HDF5 file \(.h5"):
        read_images(path)


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.npz", "a.H5"])
def test_files_that_are_not_there_or_not_what_they_seem(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match=r"a\.\w+: no such file or folder; see how it is spelled"):
        read_images(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.\w+: is empty; copy or download it again"):
        read_images(path)
    path.write_bytes(b"not one of those, but long enough to be looked at" * 100)
    with pytest.raises(DataError, match=r"a\.\w+: .*not (an HDF5|a zip) file.*again"):
        read_images(path)


def test_a_truncated_file(save: Save, tmp_path: Path) -> None:
    path = save(tmp_path, arrays_with())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"set\.\w+: .*cannot be.*; copy or download it again"):
        read_images(path)


def test_a_file_one_may_not_read(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, arrays_with())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"opened \(Permission denied\); give yourself the right"):
        read_images(path)


@pytest.mark.parametrize("bad", [(1, 0), (0, 0), (0, float("nan")), (0, float("inf"))])
def test_a_value_range_that_is_none(tmp_path: Path, bad: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match=r"value_range is .*; give .black, white. with black <"):
        read_images(tmp_path / "a.h5", value_range=bad)


# Labels of a network


def test_check_labels() -> None:
    images = ImageSet(
        source="signs.h5",
        size=(1, 1, 1),
        pixels=torch.zeros(3, 1, 1, 1),
        labels=torch.tensor([1, 43, 7]),
        true_labels=torch.tensor([2, 2, 0]),
    )
    check_labels(images, 44)
    check_labels(replace(images, true_labels=None), 43, 1)
    with pytest.raises(DataError, match=r"'label' of image 1 is 43: .* from 1 to 42; give"):
        check_labels(replace(images, true_labels=None), 42, 1)
    message = (
        r"signs.h5: 'label' of image 1 is 43: the labels go from 1 to 43, "
        r"the network's from 0 to 42; give the data"
    )
    with pytest.raises(DataError, match=message):
        check_labels(images, 43)
    with pytest.raises(DataError, match=r"'true_label' of image 2 is 0: .* from 1 to 43; give"):
        check_labels(images, 43, 1)


# Real data


@pytest.mark.parametrize(
    ("name", "count", "size", "more"),
    [
        ("badnets/samples/clean.h5", 100, (3, 55, 47), "true_labels"),
        ("badnets/samples/sunglasses.h5", 100, (3, 55, 47), "true_labels"),
        ("badnets/samples/multi_lipstick.h5", 100, (3, 55, 47), "true_labels"),
        ("gtsrb/valid.h5", 3260, (3, 32, 32), "groups"),
    ],
)
@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not beside the repository")
def test_real_sets(name: str, count: int, size: tuple[int, int, int], more: str) -> None:
    images = read_images(REAL / name)
    assert len(images) == count
    assert images.size == size
    assert getattr(images, more) is not None
    assert images.pixels[0:2].dtype == torch.uint8
    check_labels(images, 1283 if "badnets" in name else 43)
    if "gtsrb" in name:
        assert images.groups is not None
        assert len(set(images.groups.tolist())) == 326
        assert len(images.class_names) == 43
    if "sunglasses" in name:
        assert set(images.labels.tolist()) == {0}


# One picture


def test_one_picture(tmp_path: Path) -> None:
    drawn = pictures(1)[0]
    path = tmp_path / "face.png"
    Image.fromarray(drawn.transpose(1, 2, 0)).save(path)
    picture = read_picture(path, (3, 5, 6))
    assert picture.dtype == torch.float32
    assert torch.equal(picture, as_float(torch.from_numpy(drawn))[None])
    assert read_picture(path, (1, 10, 8)).shape == (1, 1, 10, 8)
    with pytest.raises(
        DataError, match=r"none\.png: no such file or folder; see how it is spelled"
    ):
        read_picture(tmp_path / "none.png", (3, 5, 6))
    with pytest.raises(DataError, match="is not an ordinary file"):
        read_picture(tmp_path, (3, 5, 6))
