"""What an HDF5 file may hold before anything in it is read."""

from __future__ import annotations

from pathlib import Path

import h5py

from goodnet.errors import ModelFileError, UnsafeFileError

# Deflate packs at most about 1032 to 1; a file that claims more lies about its size.
_LARGEST_RATIO = 1100
_ALWAYS_ALLOWED = 64 * 2**20


def check_hdf5(path: Path) -> None:
    """Refuse a file that points to other files or claims absurd sizes.

    Raises:
        UnsafeFileError: External or soft links, external or virtual storage, or arrays
            that the file cannot hold.
        ModelFileError: Not a readable HDF5 file.
    """
    try:
        size = path.stat().st_size
        with h5py.File(path, "r") as file:
            declared = _check_group(file, path, set())
    except OSError as error:
        raise ModelFileError(
            path, "is not a readable HDF5 file", "check that it was copied whole"
        ) from error
    if declared > max(_ALWAYS_ALLOWED, _LARGEST_RATIO * size):
        raise UnsafeFileError(
            path,
            f"claims to hold {declared} bytes in a file of {size}",
            "get the file again from its source",
        )


def _check_group(group: h5py.Group, path: Path, seen: set[int]) -> int:
    # A hard link may lead back to a group on the way to it.
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        return 0
    seen.add(address)
    declared = 0
    for name in group:
        link = group.get(name, getlink=True)
        where = f"{group.name.rstrip('/')}/{name}"
        if not isinstance(link, h5py.HardLink):
            raise UnsafeFileError(
                path,
                f"{where} is a link to another place",
                "save the model again without links",
            )
        item = group[name]
        if isinstance(item, h5py.Group):
            declared += _check_group(item, path, seen)
        elif isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise UnsafeFileError(
                    path,
                    f"{where} is stored in another file",
                    "save the model again in one file",
                )
            declared += int(item.nbytes or 0)
    return declared
