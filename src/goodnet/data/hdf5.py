"""Images in the course's HDF5 layout: `data`, `label`, perhaps `true_label` and `group`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from goodnet.data.hdf5_text import text_attribute
from goodnet.data.images import ImageSet
from goodnet.data.pixels import (
    GROUP_NAMES,
    IMAGE_NAMES,
    LABEL_NAMES,
    TRUE_LABEL_NAMES,
    Size,
    StoredArray,
    ValueRange,
    damage_reported,
    image_set,
    names_from_json,
    unread_array,
)
from goodnet.errors import DataError, UnsafeFileError

# What h5py raises on damaged files, found by corrupting them.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)

_BEST_COMPRESSION = 2000
_SMALL = 2**26


def read_hdf5(path: Path, *, size: Size | None, value_range: ValueRange | None) -> ImageSet:
    """The images of an HDF5 file, read slice by slice as they are asked for.

    The file stays open as long as the set lives. It is not trusted: nothing is read
    from it that lies in another file.

    Raises:
        UnsafeFileError: The file points to another one.
        DataError: It is damaged, or not an image set.
    """
    source = str(path)
    with damage_reported(_DAMAGE, source, "cannot be opened as HDF5"):
        if not h5py.is_hdf5(path):
            raise DataError(
                source, "is not an HDF5 file, or not a whole one", "copy or download it again"
            )
        file = h5py.File(path, "r", locking="best-effort")
    try:
        with damage_reported(_DAMAGE, source, "its list of contents cannot be read"):
            arrays = _arrays(file, path)
            class_names = _class_names(file, path)
        return image_set(
            source, arrays, class_names=class_names, size=size, value_range=value_range
        )
    except BaseException:
        file.close()
        raise


def _arrays(file: h5py.File, path: Path) -> dict[str, StoredArray]:
    """What the file holds at its top; only the names goodnet reads are opened."""
    links = {name: file.get(name, getlink=True) for name in file}
    for name, link in links.items():
        if not isinstance(link, h5py.HardLink):
            kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a link"
            raise UnsafeFileError(
                path,
                f"{name!r} is {kind}, which can lead into another file",
                "store the numbers themselves in this file",
            )
    wanted = (*IMAGE_NAMES, *LABEL_NAMES, *TRUE_LABEL_NAMES, *GROUP_NAMES)
    return {
        name: _array(file, name, path) if name in wanted else unread_array(name) for name in links
    }


def _array(file: h5py.File, name: str, path: Path) -> StoredArray:
    dataset = file[name]
    source = str(path)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(source, f"{name!r} is not an array", f"store {name!r} as one array")
    # Before its shape is asked for: the shape of a virtual dataset is looked up in other files.
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count() > 0:
        raise UnsafeFileError(
            path,
            f"the numbers of {name!r} lie in another file",
            "store the numbers themselves in this file",
        )
    shape = dataset.shape
    if shape is None:
        raise DataError(source, f"{name!r} is empty", "store one entry an image")
    dtype: np.dtype[Any] = dataset.dtype
    room = _BEST_COMPRESSION * path.stat().st_size + _SMALL
    for extent in (shape, dataset.chunks or ()):
        if math.prod(extent) * dtype.itemsize > room:
            raise DataError(
                source,
                f"{name!r} claims to be {'x'.join(map(str, extent))}, far more than the file holds",
                "copy or download it again",
            )

    def read(wanted: slice) -> NDArray[Any]:
        problem = f"{name!r} cannot be read from {wanted.start} to {wanted.stop - 1}"
        with damage_reported(_DAMAGE, source, problem):
            numbers: NDArray[Any] = dataset[wanted]
        return numbers

    return StoredArray(name, tuple(int(extent) for extent in shape), dtype, read)


def _class_names(file: h5py.File, path: Path) -> tuple[str, ...]:
    try:
        names = text_attribute(file, "classes", path)
    except TypeError as error:
        raise DataError(
            path,
            "'classes' is not text",
            "store the class names as a JSON list of strings, in the order of the labels",
        ) from error
    if names is None:
        return ()
    return names_from_json(str(path), names) if isinstance(names, str) else names
