"""Images from a path, whatever kind of data set lies there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from goodnet.data.hdf5 import read_hdf5
from goodnet.data.image_folder import picture, read_image_folder
from goodnet.data.images import ImageSet, as_float
from goodnet.data.npz import read_npz
from goodnet.data.pixels import BYTE_RANGE, Size, ValueRange, checked_range
from goodnet.errors import DataError, SettingsError

HDF5_SUFFIXES = (".h5", ".hdf5")
NPZ_SUFFIXES = (".npz",)

_ACCEPTED = (
    "give an HDF5 file (.h5, .hdf5) or .npz archive with 'data' and 'label', "
    "or a folder with one folder of pictures for each class"
)


def read_images(
    path: Path | str, *, size: Size | None = None, value_range: ValueRange | None = None
) -> ImageSet:
    """The labelled images at `path`, read from there as they are asked for.

    Their pixels are uint8 0..255 or float32 [0, 1], (n, channel, height, width).

    Args:
        path: An HDF5 file or .npz archive with `data`, n x channels x height x width or
            n x height x width x channels, and `label`, perhaps also `true_label`,
            `group` and `classes`; or a folder with one folder of pictures for each class.
        size: (channels, height, width) the network takes. Files must have it; pictures
            are resized to it. None reads it off the data.
        value_range: Values of black and white in a file. None leaves whole numbers as
            0..255 and decides among 0..1, -1..1 and 0..255 for fractions by the first
            images; each later image is checked against that when it is read.

    Raises:
        DataError: Nothing readable is there, or not what a data set should hold.
        UnsafeFileError: The file points to other files, or holds pickled objects.
        SettingsError: `value_range` is not a range, or was given with pictures.
    """
    value_range = checked_range(value_range)
    path = Path(path)
    if path.is_dir():
        if value_range not in (None, BYTE_RANGE):
            raise SettingsError("value_range", value_range, "leave it out: pictures hold 0..255")
        return read_image_folder(path, size=size)
    _check_readable(path)
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return read_hdf5(path, size=size, value_range=value_range)
    if suffix in NPZ_SUFFIXES:
        return read_npz(path, size=size, value_range=value_range)
    kind = f"{suffix} files" if suffix else "files without a suffix"
    raise DataError(path, f"{kind} are not read as image sets", _ACCEPTED)


def read_picture(path: Path | str, size: Size) -> Tensor:
    """One picture file, float32 [0, 1], (1, channel, height, width).

    By the rules of an image folder: upright, RGB or grey, resized to `size` (bilinear).

    Raises:
        DataError: It is not a picture, is damaged or too large.
    """
    path = Path(path)
    _check_readable(path)
    return as_float(torch.from_numpy(picture(path, size).copy()).unsqueeze(0))


def check_labels(images: ImageSet, classes: int, label_offset: int = 0) -> None:
    """Nothing, where every label is one of the network's classes.

    Args:
        images: The set; its true labels are checked too where it has them.
        classes: How many classes the network has.
        label_offset: Label in the data of class 0.

    Raises:
        DataError: A label is not in `label_offset` ... `label_offset + classes - 1`.
    """
    first, last = label_offset, label_offset + classes - 1
    for name, labels in (("label", images.labels), ("true_label", images.true_labels)):
        if labels is None:
            continue
        bad = ((labels < first) | (labels > last)).nonzero()
        if len(bad):
            place = int(bad[0])
            raise DataError(
                images.source,
                f"'{name}' of image {place} is {int(labels[place])}: the labels go from "
                f"{int(labels.min())} to {int(labels.max())}, the network's from {first} to {last}",
                "give the data this network was trained for, or the right label offset",
            )


def _check_readable(path: Path) -> None:
    try:
        if not path.exists():
            raise DataError(path, "no such file or folder", "see how it is spelled")
        if not path.is_file():
            raise DataError(path, "is not an ordinary file", _ACCEPTED)
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(
            path,
            f"cannot be opened ({error.strerror or error})",
            "give yourself the right to read it",
        ) from error
    if empty:
        raise DataError(path, "is empty", "copy or download it again")
