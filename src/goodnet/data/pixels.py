"""Arrays of a data file turned into a checked `ImageSet`, a slice at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import DataError, SettingsError

Size = tuple[int, int, int]
ValueRange = tuple[float, float]

IMAGE_NAMES = ("data", "x", "images")
LABEL_NAMES = ("label", "labels", "y")
TRUE_LABEL_NAMES = ("true_label",)
GROUP_NAMES = ("group",)

KNOWN_RANGES: tuple[ValueRange, ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
BYTE_RANGE: ValueRange = (0.0, 255.0)
SCANNED_IMAGES = 256
"""Images read at opening to decide the value range of a float file."""

_SLACK = 1e-4
"""Share of a range by which rounding may carry a value past its ends."""

_DARK = 16.0
"""Fractions between 1 and this are more likely 0..1 gone astray than very dark 0..255."""

_HOW_TO_SAY = "--data-range 0..255, or value_range=(0, 255)"

_BLOCK_BYTES = 2**24
_BLOCK_IMAGES = 256


@dataclass(frozen=True)
class StoredArray:
    """One array of a file: what the file says about it, and how to read a slice.

    Attributes:
        name: What the file calls it.
        shape: Its shape, first axis n.
        dtype: Its type in the file, in any byte order.
        read: Gives the numbers of a slice of the first axis; raises `DataError`
            where the file is damaged there.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[slice], NDArray[Any]]


def unread_array(name: str) -> StoredArray:
    """An array goodnet has no use for; its name is listed in messages."""

    def read(wanted: slice) -> NDArray[Any]:
        raise AssertionError(f"{name!r} is never read, {wanted} was asked for")

    return StoredArray(name, (), np.dtype(np.void), read)


class StreamedPixels:
    """Images of one array, read, checked and converted when they are asked for.

    Whole numbers in 0..255 become uint8 and truth values 0 and 255; with any other
    value range, and for fractions, the result is float32 in [0, 1].
    """

    def __init__(
        self,
        source: str,
        array: StoredArray,
        size: Size,
        *,
        channels_last: bool,
        value_range: ValueRange | None,
    ) -> None:
        if array.dtype.kind not in "buif":
            raise DataError(
                source,
                f"{array.name!r} holds {array.dtype}, not pixels",
                "store images as uint8 or as floats",
            )
        self._source = source
        self._array = array
        self._size = size
        self._channels_last = channels_last
        self._as_byte = array.dtype.kind != "f" and value_range in (None, BYTE_RANGE)
        if array.dtype.kind == "b":
            self._as_byte = value_range in (None, (0.0, 1.0))
        self._explicit = value_range is not None
        if value_range is not None:
            self._range = value_range
        elif array.dtype.kind == "f":
            self._range = self._range_of_first_images()
        else:
            self._range = BYTE_RANGE

    def __len__(self) -> int:
        return self._array.shape[0]

    def __getitem__(self, index: slice, /) -> Tensor:
        start, stop, step = index.indices(len(self))
        if step < 1:
            raise ValueError("images are read forwards: the step of a slice must be at least 1")
        wanted = range(start, stop, step)
        dtype = torch.uint8 if self._as_byte else torch.float32
        pixels = torch.empty((len(wanted), *self._size), dtype=dtype)
        out = pixels.numpy()
        for first, images in self._blocks(wanted):
            self._convert(images, wanted[first:], out[first : first + len(images)])
        return pixels

    def _blocks(self, wanted: range) -> Iterator[tuple[int, NDArray[Any]]]:
        """Pieces of `wanted` in order, each with the place of its first image in `wanted`."""
        image_bytes = math.prod(self._size) * self._array.dtype.itemsize
        length = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // image_bytes))
        for first in range(0, len(wanted), length):
            piece = wanted[first : first + length]
            images = self._array.read(slice(piece.start, piece.stop, piece.step))
            yield first, images.transpose(0, 3, 1, 2) if self._channels_last else images

    def _convert(self, images: NDArray[Any], places: range, out: NDArray[Any]) -> None:
        if images.dtype.kind == "b":
            np.multiply(images, 255 if self._as_byte else 1, out=out, casting="unsafe")
            if self._as_byte:
                return
            images = out
        elif images.dtype == np.uint8 and self._as_byte:
            out[...] = images
            return
        self._check(images, places)
        out[...] = images
        if self._as_byte:
            return
        low, high = self._range
        if low != 0.0:
            out -= low
        if high - low != 1.0:
            out /= high - low
        np.clip(out, 0.0, 1.0, out=out)

    def _check(self, images: NDArray[Any], places: range) -> None:
        low, high = self._range
        slack = 0.0 if self._as_byte else _SLACK * (high - low)
        least, most = _extremes(images)
        if low - slack <= least and most <= high + slack:
            return
        if not (math.isfinite(least) and math.isfinite(most)):
            where = _first(~np.isfinite(images), images, places)
            raise DataError(self._source, where, "replace what is not a number or leave it out")
        where = _first((images < low - slack) | (images > high + slack), images, places)
        if self._explicit:
            raise DataError(
                self._source,
                f"{where}, outside the value range {low:g}..{high:g} that was given",
                f"give the range the file really has: {_HOW_TO_SAY}",
            )
        if images.dtype.kind != "f":
            raise DataError(
                self._source,
                f"{where}, but whole numbers are read as 0..255",
                f"store uint8, or give the file's range: {_HOW_TO_SAY}",
            )
        raise DataError(
            self._source,
            f"{where}, but the first images lie in {low:g}..{high:g}",
            f"give the file's range: {_HOW_TO_SAY}",
        )

    def _range_of_first_images(self) -> ValueRange:
        least, most, whole = math.inf, -math.inf, True
        places = range(min(SCANNED_IMAGES, len(self)))
        for first, images in self._blocks(places):
            low, high = _extremes(images)
            if not (math.isfinite(low) and math.isfinite(high)):
                where = _first(~np.isfinite(images), images, places[first:])
                raise DataError(self._source, where, "replace what is not a number or leave it out")
            least, most = min(least, low), max(most, high)
            whole = whole and bool((images == np.rint(images)).all())
        for low, high in KNOWN_RANGES:
            slack = _SLACK * (high - low)
            if low - slack <= least and most <= high + slack:
                if (low, high) == BYTE_RANGE and most < _DARK and not whole:
                    break
                return low, high
        raise DataError(
            self._source,
            f"the first {len(places)} images hold values from {least:g} to {most:g}, "
            "which is not clearly one of 0..1, -1..1 and 0..255",
            f"store plain pixels (no mean taken off), or give the file's range: {_HOW_TO_SAY}",
        )


def image_set(
    source: str,
    arrays: Mapping[str, StoredArray],
    *,
    class_names: tuple[str, ...] = (),
    size: Size | None = None,
    value_range: ValueRange | None = None,
) -> ImageSet:
    """The image set that the arrays of a file make up, its first image already read.

    Args:
        source: The file, for messages.
        arrays: Its arrays by name; others than images, labels, true labels and
            groups are left alone.
        class_names: Name of each label.
        size: (channels, height, width) the network takes; None reads it off the file.
        value_range: Values of black and white in the file; None decides from the data.

    Raises:
        DataError: An array is missing or is not what its name says.
    """
    images = _array_named(source, arrays, IMAGE_NAMES, "images")
    labels = _array_named(source, arrays, LABEL_NAMES, "labels")
    size, channels_last = channel_layout(source, images, size)
    count = images.shape[0]
    if count == 0:
        raise DataError(source, "holds no images", "give a set with at least one image")
    true_labels = _optional_array(source, arrays, TRUE_LABEL_NAMES)
    groups = _optional_array(source, arrays, GROUP_NAMES)
    # Shapes first: numbers are only read from arrays whose count is known to be right.
    for array in (labels, true_labels, groups):
        if array is not None and array.shape not in ((count,), (count, 1)):
            raise DataError(
                source,
                f"{array.name!r} has shape {array.shape} beside {count} images",
                "store one whole number an image, shape (n,)",
            )
    pixels = StreamedPixels(
        source, images, size, channels_last=channels_last, value_range=value_range
    )
    read = ImageSet(
        source=source,
        size=size,
        pixels=pixels,
        labels=_whole_numbers(source, labels),
        true_labels=None if true_labels is None else _whole_numbers(source, true_labels),
        groups=None if groups is None else _whole_numbers(source, groups, least=None),
        class_names=class_names,
    )
    # A file that cannot be decoded at all says so now, not after an hour's work.
    _ = pixels[0:1]
    return read


@contextmanager
def damage_reported(
    kinds: tuple[type[Exception], ...], source: str, problem: str
) -> Iterator[None]:
    """Turns what a library raises on a damaged file, one of `kinds`, into a `DataError`."""
    try:
        yield
    except kinds as error:
        said = str(error).strip("'\"") or type(error).__name__
        raise DataError(
            source,
            f"{problem} ({said})",
            "copy or download it again, and see that no program is still writing it",
        ) from error


def channel_layout(source: str, images: StoredArray, size: Size | None) -> tuple[Size, bool]:
    """(channels, height, width) of the images, and whether the file has the channels last.

    Args:
        source: The file, for messages.
        images: n x channels x height x width or n x height x width x channels.
        size: What the network takes; None goes by which axis is 1, 3 or 4 long.

    Raises:
        DataError: The images have another size, or the axes could be read both ways.
    """
    if len(images.shape) != 4:
        raise DataError(
            source,
            f"{images.name!r} has shape {images.shape}, which is {len(images.shape)} axes, not 4",
            "store n x channels x height x width or n x height x width x channels "
            "(grey images: an axis of length 1)",
        )
    _, first, middle, last = images.shape
    stored = f"{first}x{middle}x{last}"
    if min(first, middle, last) < 1:
        raise DataError(source, f"its images have no pixels ({stored})", "give images with pixels")
    as_first, as_last = (first, middle, last), (last, first, middle)
    if size is not None and size in (as_first, as_last):
        return size, size != as_first
    readings = [reading for reading in (as_first, as_last) if reading[0] in (1, 3, 4)]
    if size is not None:
        raise size_mismatch(source, readings[0] if len(readings) == 1 else as_first, size)
    if len(readings) != 1:
        why = "both ends are" if readings else "neither end is"
        raise DataError(
            source,
            f"cannot tell which axis of its {stored} images is channels: {why} 1, 3 or 4 long",
            "give the network, or size=(channels, height, width)",
        )
    return readings[0], readings[0] is as_last


def size_mismatch(source: str, found: Size, wanted: Size) -> DataError:
    """The error for images of another size than the network takes."""
    remedy = "give images of the network's size, or the network these images belong to"
    if found[1:] == wanted[1:] and {found[0], wanted[0]} == {1, 3}:
        remedy = (
            "repeat the grey channel three times, or give a network for grey images"
            if found[0] == 1
            else "turn the images to grey, or give a network for colour images"
        )
    shown = ("x".join(map(str, size)) for size in (found, wanted))
    return DataError(
        source,
        "images are {} but the network takes {} (channels x height x width)".format(*shown),
        remedy,
    )


def checked_range(value_range: ValueRange | None) -> ValueRange | None:
    """`value_range` as two floats, black below white.

    Raises:
        SettingsError: It is not.
    """
    if value_range is None:
        return None
    low, high = float(value_range[0]), float(value_range[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingsError("value_range", value_range, "give (black, white) with black < white")
    return low, high


def names_from_json(source: str, text: str) -> tuple[str, ...]:
    """Class names out of a JSON list.

    Raises:
        DataError: The text is something else.
    """
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise DataError(
            source,
            f"'classes' is {text[:40]!r}",
            "store the class names as a JSON list of strings, in the order of the labels",
        )
    return tuple(str(name) for name in names)


def _array_named(
    source: str, arrays: Mapping[str, StoredArray], names: Sequence[str], what: str
) -> StoredArray:
    array = _optional_array(source, arrays, names)
    if array is None:
        present = ", ".join(sorted(arrays)[:20]) or "nothing"
        raise DataError(
            source,
            f"has no {names[0]!r} ({what}); it holds {present}",
            f"name its {what} {' or '.join(map(repr, names))}",
        )
    return array


def _optional_array(
    source: str, arrays: Mapping[str, StoredArray], names: Sequence[str]
) -> StoredArray | None:
    found = [arrays[name] for name in names if name in arrays]
    if len(found) > 1:
        both = " and ".join(repr(array.name) for array in found)
        raise DataError(source, f"holds {both}, which mean the same", "keep one of them")
    return found[0] if found else None


def _whole_numbers(source: str, array: StoredArray, *, least: int | None = 0) -> Tensor:
    """The array as int64 (n,), no number below `least`."""
    remedy = f"store whole numbers{'' if least is None else f' from {least}'} up, one an image"
    if array.dtype.kind not in "buif":
        raise DataError(source, f"{array.name!r} holds {array.dtype}, not numbers", remedy)
    values = array.read(slice(0, array.shape[0])).reshape(-1)
    bad = np.zeros(values.shape, dtype=bool)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            bad |= ~np.isfinite(values) | (values != np.rint(values))
    if values.dtype.kind in "uf":
        bad |= np.abs(values) >= 2**62
    if least is not None and values.dtype.kind != "b":
        bad |= values < least
    if bad.any():
        place = int(bad.argmax())
        raise DataError(source, f"{array.name!r} of image {place} is {values[place]}", remedy)
    return torch.from_numpy(values.astype(np.int64))


def _extremes(images: NDArray[Any]) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        return float(images.min()), float(images.max())


def _first(bad: NDArray[np.bool_], images: NDArray[Any], places: range) -> str:
    """Where the first bad value is, in words."""
    image, channel, row, column = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
    value = images[image, channel, row, column]
    return f"image {places[image]} holds {value:g} at channel {channel}, row {row}, column {column}"
