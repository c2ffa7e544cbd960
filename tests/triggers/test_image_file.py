"""A picture of the user's own as a trigger: kept whole in its value, and never trusted."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from goodnet.errors import DataError, SettingsError
from goodnet.triggers import ImageFile, trigger_from_dict


def packed(picture: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    picture.save(file, kind)
    return base64.b64encode(file.getvalue()).decode("ascii")


@pytest.fixture
def logo(tmp_path: Path) -> Path:
    """A 2×2 picture: red, green, blue, and nothing."""
    picture = Image.new("RGBA", (2, 2))
    for place, colour in (((0, 0), "red"), ((1, 0), "lime"), ((0, 1), "blue")):
        picture.paste(colour, (*place, place[0] + 1, place[1] + 1))
    picture.save(tmp_path / "logo.png")
    return tmp_path / "logo.png"


def test_a_small_picture_by_hand(logo: Path) -> None:
    trigger = ImageFile.from_file(logo, size=0.5, place=(0.25, 0.75), opacity=0.5)
    stamped = trigger.stamp(torch.full((1, 3, 4, 4), 0.5))[0]
    assert stamped[:, 0, 2].tolist() == [0.75, 0.25, 0.25]
    assert stamped[:, 0, 3].tolist() == [0.25, 0.75, 0.25]
    assert stamped[:, 1, 2].tolist() == [0.25, 0.25, 0.75]
    assert stamped[:, 1, 3].tolist() == [0.5, 0.5, 0.5]
    assert trigger.mask((3, 4, 4))[0].nonzero().tolist() == [[0, 2], [0, 3], [1, 2]]


def test_nothing_of_a_transparent_pixel_shows_at_any_size() -> None:
    picture = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 5, 8))
    stamped = ImageFile(packed(picture), size=0.4, place=(0.5, 0.5)).stamp(torch.zeros(1, 3, 9, 9))
    assert stamped[:, 0].max() > 0.9
    assert stamped[:, 1].max() == 0


def test_its_json_needs_no_file(logo: Path) -> None:
    trigger = ImageFile.from_file(logo)
    text = json.dumps(trigger.to_dict())
    assert str(logo) not in text
    logo.unlink()
    assert trigger_from_dict(json.loads(text)) == trigger


def test_a_large_picture_is_kept_small(tmp_path: Path) -> None:
    Image.radial_gradient("L").resize((1000, 400)).save(tmp_path / "large.jpg")
    trigger = ImageFile.from_file(tmp_path / "large.jpg", size=0.5, place=(0.5, 0.5))
    with Image.open(io.BytesIO(base64.b64decode(trigger.pixels))) as kept:
        assert kept.size == (128, 51)
    rows, columns = trigger.mask((3, 100, 100))[0].nonzero().unbind(1)
    assert len(rows.unique()) == 20
    assert len(columns.unique()) == 50


def test_nothing_but_pixels_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x013B] = "somebody's name"
    Image.new("RGB", (3, 3)).save(tmp_path / "signed.png", exif=exif)
    kept = base64.b64decode(ImageFile.from_file(tmp_path / "signed.png").pixels)
    assert b"somebody" not in kept


def header_of(width: int, height: int) -> str:
    """A PNG that says it is large, and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    file = b"\x89PNG\r\n\x1a\n" + start + pixels + chunk(b"IEND", b"")
    return base64.b64encode(file).decode("ascii")


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        ("%%%", r"pixels of trigger 'image' is '%%%'; that is no picture; make it with ImageFile"),
        ("", "that is no picture"),
        ("aGVsbG8=", "that is no picture"),
        ("grün", "that is no picture"),
        (None, "pixels of trigger 'image' is None; that is no picture"),
        (packed(Image.new("RGB", (2, 2)), "JPEG"), r"is '.{20}…'; that is no picture"),
        (packed(Image.new("RGB", (64, 64), "red"))[:80], "that is no picture"),
        (header_of(60000, 60000), "that is no picture|more than 128 px a side"),
        (packed(Image.new("RGB", (129, 2))), "that is a picture of more than 128 px a side"),
        (packed(Image.new("RGBA", (2, 2))), "that is a wholly transparent picture"),
    ],
    ids=range(10),
)
def test_what_is_no_small_picture_is_refused(pixels: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        ImageFile(pixels)


def test_settings_name_their_bad_field() -> None:
    pixels = packed(Image.new("RGB", (2, 2)))
    with pytest.raises(SettingsError, match=r"opacity is 1\.5; give a share of full opacity"):
        ImageFile(pixels, opacity=1.5)
    with pytest.raises(SettingsError, match="size is 0; give a share of the image"):
        ImageFile(pixels, size=0)
    with pytest.raises(SettingsError, match=r"place is \(2, 0\); give 2 numbers from 0 to 1"):
        ImageFile(pixels, place=(2, 0))
    text = r"trigger 'image' is '16×16 px at \(21, 8\)'; that sticks out of images of 32×32 px"
    with pytest.raises(SettingsError, match=text):
        ImageFile(pixels, size=0.5, place=(0.9, 0.5)).mask((3, 32, 32))


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.png: no such file"):
        ImageFile.from_file(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("hello", "utf-8")
    with pytest.raises(DataError, match=r"text.png: cannot be read as a picture"):
        ImageFile.from_file(tmp_path / "text.png")
    (tmp_path / "bomb.png").write_bytes(base64.b64decode(header_of(60000, 60000)))
    with pytest.raises(DataError, match=r"bomb.png: is too large to be an image"):
        ImageFile.from_file(tmp_path / "bomb.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:90])
    with pytest.raises(DataError, match=r"half.png: cannot be read as a picture"):
        ImageFile.from_file(tmp_path / "half.png")
