"""Images as picture files, one folder a class; and single pictures."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.data.pixels import Size, size_mismatch
from goodnet.errors import DataError

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip

LARGEST_PICTURE = 2**26
"""Pixels above which a picture is taken for a decompression bomb."""

# The decoders a picture may use, whatever its name: none of them starts another program.
_DECODERS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

# What Pillow raises on damaged pictures.
PICTURE_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations under which width and height change places."""


class PictureFiles:
    """Pictures decoded when they are asked for, uint8 (batch, channel, height, width)."""

    def __init__(self, paths: tuple[Path, ...], size: Size) -> None:
        self._paths = paths
        self._size = size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: slice, /) -> Tensor:
        start, stop, step = index.indices(len(self))
        if step < 1:
            raise ValueError("images are read forwards: the step of a slice must be at least 1")
        wanted = range(start, stop, step)
        pixels = torch.empty((len(wanted), *self._size), dtype=torch.uint8)
        out = pixels.numpy()
        for place, image in enumerate(wanted):
            out[place] = picture(self._paths[image], self._size)
        return pixels


def read_image_folder(path: Path, *, size: Size | None) -> ImageSet:
    """The images of a folder that holds one folder of pictures for each class.

    Class folders are taken in the order of their names. Where every name is a whole
    number, that is the label; otherwise labels count from 0 and the names are kept.
    Hidden files are passed over. Pictures are turned to RGB, to grey where
    `size` has one channel, upright as their EXIF data says, without transparency, the
    first one of an animation, and resized to `size` (bilinear).

    Args:
        path: The folder.
        size: (channels, height, width) the network takes; None takes the pictures'
            own, which must then all be one.

    Raises:
        DataError: The folder is laid out otherwise or holds something else, or a
            picture is damaged or too large.
    """
    source = str(path)
    classes = [entry for entry in _entries(path) if entry.is_dir()]
    loose = [entry.name for entry in _entries(path) if not entry.is_dir()]
    if loose:
        raise DataError(
            source,
            f"holds files beside the class folders: {_listed(loose)}",
            "put the pictures of each class into a folder of its own, and nothing else here",
        )
    labels = _labels_of(source, [entry.name for entry in classes])
    pictures = [(picture, label) for entry, label in zip(classes, labels, strict=True)
                for picture in _pictures_in(entry)]  # fmt: skip
    if not pictures:
        raise DataError(
            source,
            "holds no images",
            "give a folder that holds one folder of pictures for each class",
        )
    paths = tuple(picture for picture, _ in pictures)
    size = _shared_size(paths) if size is None else _drawable(source, size)
    numbered = all(_is_number(entry.name) for entry in classes)
    return ImageSet(
        source=source,
        size=size,
        pixels=PictureFiles(paths, size),
        labels=torch.tensor([label for _, label in pictures], dtype=torch.int64),
        class_names=() if numbered else tuple(entry.name for entry in classes),
    )


def picture(path: Path, size: Size | None) -> NDArray[np.uint8]:
    """One picture, uint8 (channel, height, width), by the rules of `read_image_folder`.

    Raises:
        DataError: It cannot be read, or is too large.
    """
    if size is not None:
        _drawable(str(path), size)
    with opened_picture(path) as image:
        upright = eight_bit(ImageOps.exif_transpose(image), path)
        upright = upright.convert("L" if size is not None and size[0] == 1 else "RGB")
        if size is not None:
            upright = upright.resize((size[2], size[1]), Image.Resampling.BILINEAR)
        pixels: NDArray[np.uint8] = np.asarray(upright, dtype=np.uint8)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def eight_bit(image: Image.Image, path: Path) -> Image.Image:
    """The image with at most 8 bits a channel; Pillow's own conversion would clip."""
    if image.mode.startswith("I;16"):
        deep: NDArray[Any] = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(deep / 257.0).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            path, f"holds {image.mode!r} pixels of 32 bits", "save it with 8 bits a channel"
        )
    return image


def _shared_size(paths: tuple[Path, ...]) -> Size:
    """The size all pictures have, read off their headers."""
    sizes = (_size_of(path) for path in paths)
    size = next(sizes)
    for path, other in zip(paths[1:], sizes, strict=True):
        if other != size:
            raise DataError(
                path,
                f"is {other[1]}x{other[2]} but {paths[0].name} is {size[1]}x{size[2]} "
                "(height x width)",
                "give the network, or size=(channels, height, width), to have them resized",
            )
    return size


def _size_of(path: Path) -> Size:
    with opened_picture(path) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
            width, height = height, width
    return 3, height, width


def _drawable(source: str, size: Size) -> Size:
    if size[0] not in (1, 3):
        raise size_mismatch(source, (3, *size[1:]), size)
    return size


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """The picture, not yet decoded; damage met inside the block becomes a `DataError`."""
    try:
        with Image.open(path, formats=_DECODERS) as image:
            if image.width * image.height > LARGEST_PICTURE:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            yield image
    except FileNotFoundError as error:
        raise DataError(path, "no such file", "see how it is spelled") from error
    except PermissionError as error:
        raise DataError(path, "may not be read", "give yourself the right to read it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            path,
            f"is too large to be an image for a network ({error})",
            f"leave it out, or save it with fewer than {LARGEST_PICTURE:,} pixels",
        ) from error
    except PICTURE_DAMAGE as error:
        raise DataError(
            path,
            f"cannot be read as a picture ({error or type(error).__name__})",
            f"replace it or leave it out; goodnet reads {', '.join(_DECODERS)}",
        ) from error


def _pictures_in(folder: Path) -> list[Path]:
    entries = _entries(folder)
    others = [
        entry.name
        for entry in entries
        if entry.suffix.lower() not in PICTURE_SUFFIXES or not entry.is_file()
    ]
    if others:
        raise DataError(
            folder,
            f"holds what is not a picture: {_listed(others)}",
            f"take it out; pictures end in {', '.join(PICTURE_SUFFIXES)}",
        )
    return entries


def _labels_of(source: str, names: list[str]) -> list[int]:
    if not all(map(_is_number, names)):
        return list(range(len(names)))
    labels = [int(name) for name in names]
    for place, label in enumerate(labels):
        if label in labels[:place]:
            twin = names[labels.index(label)]
            raise DataError(
                source,
                f"folders {twin!r} and {names[place]!r} both mean label {label}",
                "give each class one folder",
            )
    return labels


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= 18


def _entries(folder: Path) -> list[Path]:
    """What is not hidden in the folder, in the order of the names."""
    try:
        found = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            folder, f"cannot be listed ({error.strerror})", "give yourself the right to read it"
        ) from error
    return sorted(found, key=lambda entry: entry.name)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
