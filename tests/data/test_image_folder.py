"""What is particular to folders of pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from goodnet.data import image_folder
from goodnet.data.readers import read_images, read_picture
from goodnet.errors import DataError, GoodnetError, SettingsError


def draw(path: Path, value: int | NDArray[Any] = 0, size: tuple[int, int] = (5, 4)) -> Path:
    """A picture at `path`, of one value or these; size is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8) if isinstance(value, int) else value
    Image.fromarray(pixels).save(path)
    return path


def huge_png(path: Path, width: int, height: int) -> Path:
    """A PNG that says it is huge, and holds nothing."""

    def part(kind: bytes, held: bytes) -> bytes:
        return (
            struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))
        )

    path.parent.mkdir(parents=True, exist_ok=True)
    header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    empty = part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + empty)
    return path


def test_names_in_order(tmp_path: Path) -> None:
    for index, name in enumerate(["stop/b.png", "stop/a.PNG", "give way/a.bmp", "yield/x.ppm"]):
        draw(tmp_path / name, index)
    (tmp_path / "nothing yet").mkdir()
    images = read_images(tmp_path)
    assert images.class_names == ("give way", "nothing yet", "stop", "yield")
    assert images.labels.tolist() == [0, 2, 2, 3]
    assert images.pixels[0:4][:, 0, 0, 0].tolist() == [2, 1, 0, 3]
    assert images.pixels[1:4:2][:, 0, 0, 0].tolist() == [1, 3]
    assert images.size == (3, 5, 4)


def test_numbers_are_labels(tmp_path: Path) -> None:
    for name in ("00010", "00002", "7"):
        draw(tmp_path / name / "a.png", int(name))
    images = read_images(tmp_path)
    assert images.labels.tolist() == [2, 10, 7]
    assert images.pixels[0:3][:, 0, 0, 0].tolist() == [2, 10, 7]
    assert images.class_names == ()


def test_two_folders_of_one_number(tmp_path: Path) -> None:
    for name in ("1", "01"):
        draw(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="folders '01' and '1' both mean label 1; give each class"):
        read_images(tmp_path)


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    draw(tmp_path / "0" / "a.png")
    for hidden in (".listing", ".cache/x.png", "0/.thumbs"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no picture")
    assert len(read_images(tmp_path)) == 1


def test_pictures_beside_the_class_folders(tmp_path: Path) -> None:
    for index in range(5):
        draw(tmp_path / f"{index}.png")
    message = r"beside the class folders: 0\.png, 1\.png, 2\.png and 2 more; put the pictures"
    with pytest.raises(DataError, match=message):
        read_images(tmp_path)


def test_no_pictures(tmp_path: Path) -> None:
    message = "holds no images; give a folder that holds one folder of pictures for each class"
    with pytest.raises(DataError, match=message):
        read_images(tmp_path)
    (tmp_path / "0").mkdir()
    with pytest.raises(DataError, match=message):
        read_images(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "label.csv", "deeper/a.png"])
def test_what_is_not_a_picture_is_named(tmp_path: Path, name: str) -> None:
    draw(tmp_path / "0" / "a.png")
    (tmp_path / "0" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "0" / name).write_bytes(b"")
    message = rf"0: holds what is not a picture: {Path(name).parts[0]}; take it out; .*\.png"
    with pytest.raises(DataError, match=message):
        read_images(tmp_path)


def test_pictures_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    for index in range(3):
        draw(tmp_path / "0" / f"{index}.png", index)
    (tmp_path / "0" / "2.png").write_bytes(b"no picture")
    images = read_images(tmp_path, size=(3, 5, 4))
    assert images.pixels[0:2].shape == (2, 3, 5, 4)
    with pytest.raises(
        DataError, match=r"2\.png: cannot be read as a picture .*; replace it or le"
    ):
        images.pixels[0:3]


def test_a_truncated_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = draw(tmp_path / "0" / "a.jpg", noise)
    path.write_bytes(path.read_bytes()[:-500])
    images = read_images(tmp_path)
    with pytest.raises(
        DataError, match=r"a\.jpg: cannot be read .*truncated.*; replace it or leav"
    ):
        images.pixels[0:1]


def test_other_formats_are_not_decoded_under_a_pictures_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, format="PCX")
    Image.open(path).close()
    with pytest.raises(DataError, match=r"a\.png: cannot be read as a picture .*goodnet reads PNG"):
        read_picture(path, (3, 4, 4))


def test_without_a_size_all_must_have_one(tmp_path: Path) -> None:
    draw(tmp_path / "0" / "a.png", size=(5, 4))
    draw(tmp_path / "1" / "b.png", size=(4, 5))
    message = r"b\.png: is 4x5 but a\.png is 5x4 \(height x width\); give the network, or size="
    with pytest.raises(DataError, match=message):
        read_images(tmp_path)
    assert read_images(tmp_path, size=(3, 8, 8)).pixels[0:2].shape == (2, 3, 8, 8)


def test_resizing_is_bilinear(tmp_path: Path) -> None:
    columns = np.repeat(np.array([[[0], [200]]], np.uint8), 3, axis=2).repeat(2, axis=0)
    draw(tmp_path / "0" / "a.png", columns)
    row = read_images(tmp_path, size=(3, 2, 4)).pixels[0:1][0, 0, 0]
    assert row.tolist() == [0, 50, 150, 200]


def test_grey_for_a_grey_network(tmp_path: Path) -> None:
    draw(tmp_path / "0" / "a.png", np.full((5, 4, 3), (255, 0, 0), np.uint8))
    images = read_images(tmp_path, size=(1, 5, 4))
    assert images.pixels[0:1].flatten().tolist() == [76] * 20
    with pytest.raises(DataError, match="images are 3x5x4 but the network takes 4x5x4"):
        read_images(tmp_path, size=(4, 5, 4))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (4, 5), (255, 255, 255)).convert(mode).save(path)
    picture = read_picture(path, (3, 5, 4))
    assert torch.equal(picture, torch.ones(1, 3, 5, 4))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 257, 25700, 65535]], np.uint16)).save(path)
    picture = read_picture(path, (1, 1, 4)) * 255
    assert picture.flatten().round().tolist() == [0, 1, 100, 255]


def test_thirty_two_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(np.array([[0.5, 3.0]], np.float32)).save(path)
    with pytest.raises(
        DataError, match=r"a\.tiff: holds 'F' pixels of 32 bits; save it with 8 bit"
    ):
        read_picture(path, (1, 1, 2))


def test_upright_as_exif_says(tmp_path: Path) -> None:
    path = tmp_path / "0" / "a.png"
    path.parent.mkdir()
    left_white = np.zeros((2, 4), np.uint8)
    left_white[:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned a quarter clockwise: left becomes top.
    Image.fromarray(left_white).save(path, exif=exif)
    images = read_images(tmp_path)
    assert images.size == (3, 4, 2)
    upright = images.pixels[0:1][0, 0]
    assert upright[0].tolist() == [255, 255]
    assert upright[1:].max() == 0


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_200, 10_000, 20_000])
def test_a_decompression_bomb(tmp_path: Path, side: int) -> None:
    path = huge_png(tmp_path / "0" / "a.png", side, side)
    message = r"a\.png: is too large to be an image for a network .*; leave it out, or save it with"
    with pytest.raises(DataError, match=message):
        read_images(tmp_path)
    with pytest.raises(DataError, match=message):
        read_picture(path, (3, 5, 4))


def test_a_folder_one_may_not_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"listed \(Permission denied\); give yourself the right"):
        read_images(tmp_path)


def test_a_picture_that_went_away(tmp_path: Path) -> None:
    path = draw(tmp_path / "0" / "a.png")
    images = read_images(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file; see how it is spelled"):
        images.pixels[0:1]


def test_a_value_range_is_for_files_of_numbers(tmp_path: Path) -> None:
    draw(tmp_path / "0" / "a.png", 9)
    assert read_images(tmp_path, value_range=(0, 255)).pixels[0:1].max() == 9
    with pytest.raises(
        SettingsError, match=r"value_range is .*; leave it out: pictures hold 0\.\."
    ):
        read_images(tmp_path, value_range=(0, 1))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), suffix=st.sampled_from(image_folder.PICTURE_SUFFIXES))
def test_any_damage_is_a_goodnet_error(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    raw = bytearray(draw(path, noise).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(1, len(raw))) :]
    path.write_bytes(raw)
    refusal = path.name
    try:
        assert read_picture(path, (3, 5, 4)).shape == (1, 3, 5, 4)
    except GoodnetError as error:
        refusal = str(error)
    assert path.name in refusal
