"""What an HDF5 file may hold before anything in it is read.

The library that reads HDF5 is not made for files nobody vouches for: on some damaged
ones it crashes, on others it runs for ever. What leads there is looked for first.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import h5py

from goodnet.errors import ModelFileError, UnsafeFileError

# Weights hardly compress; what unpacks to far more than the file is there to fill memory.
LARGEST_RATIO = 100
ALWAYS_ALLOWED = 64 * 2**20
_SIGNATURE = b"GCOL\x01"
_SMALLEST = 4096
_MOST_STEPS = 1_000_000
# Types that h5py reads soundly from any file; on a damaged sequence type it crashes.
_NUMBERS = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID)
# What h5py raises on damaged files.
DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


def check_hdf5(path: Path, *, shown: Path | None = None) -> int:
    """How many bytes the file's arrays hold, once nothing in it points to other files.

    Args:
        path: The file.
        shown: What messages call it, where it was unpacked from another.

    Raises:
        UnsafeFileError: External or soft links, external or virtual storage, or arrays
            that the file cannot hold.
        ModelFileError: Not a readable HDF5 file.
    """
    shown = shown or path
    size = path.stat().st_size
    try:
        with h5py.File(path, "r") as file:
            _, length_bytes = file.id.get_create_plist().get_sizes()
            if damaged_heap(path, length_bytes) is not None:
                raise OSError("damaged heap")
            _check_attributes(file, size)
            declared = _check_group(file, shown, size, set())
    except DAMAGE as error:
        raise ModelFileError(
            shown, "is not a readable HDF5 file", "check that it was copied whole"
        ) from error
    if declared > max(ALWAYS_ALLOWED, LARGEST_RATIO * size):
        raise UnsafeFileError(
            shown,
            f"claims to hold {declared} bytes in a file of {size}",
            "get the file again from its source",
        )
    return declared


def _check_group(group: h5py.Group, path: Path, size: int, seen: set[int]) -> int:
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
                f"{where[:80]!r} is a link to another place",
                "save the model again without links",
            )
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_attributes(item, size)
            declared += _check_group(item, path, size, seen)
        elif isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise UnsafeFileError(
                    path,
                    f"{where[:80]!r} is stored in another file",
                    "save the model again in one file",
                )
            _check_attributes(item, size)
            if not isinstance(item.id.get_type(), _NUMBERS):
                raise TypeError(f"{where} holds no numbers")
            chunk = math.prod(item.chunks) * item.dtype.itemsize if item.chunks else 0
            declared += max(int(item.nbytes or 0), chunk)
    return declared


def _check_attributes(item: h5py.Group | h5py.Dataset, size: int) -> None:
    for index in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=index)
        kind = attribute.get_type()
        if not isinstance(kind, (*_NUMBERS, h5py.h5t.TypeStringID)):
            raise TypeError(f"attribute {attribute.name!r} is neither text nor numbers")
        if math.prod(attribute.shape or ()) * kind.get_size() > size:
            raise ValueError(f"attribute {attribute.name!r} is larger than the file")


def damaged_heap(path: Path, length_bytes: int) -> int | None:
    """Byte at which a heap collection of the file is damaged, or None.

    Args:
        path: An HDF5 file.
        length_bytes: How many bytes the file spends on a length: its "size of lengths".

    Source: HDF5 File Format Specification 3.0, III.E, Global Heap.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        steps = _MOST_STEPS
        start = held.find(_SIGNATURE)
        while start >= 0:
            steps = _walk(held, start, length_bytes, steps)
            if steps <= 0:
                return start
            start = held.find(_SIGNATURE, start + 1)
    return None


def _walk(held: mmap.mmap, start: int, length_bytes: int, steps: int) -> int:
    """Steps left after walking the collection at `start`; 0 where it is damaged."""
    place = start + 8
    length = int.from_bytes(held[place : place + length_bytes], "little")
    end = start + length
    if length < _SMALLEST or end > len(held):
        return steps  # Pixels that look like one: the library would not walk it either.
    header = _aligned(8 + length_bytes)
    place = start + header
    while place + header <= end and steps > 0:
        steps -= 1
        index = int.from_bytes(held[place : place + 2], "little")
        size = int.from_bytes(held[place + 8 : place + 8 + length_bytes], "little")
        # Index 0 is the free space at the end; its size counts its own header.
        need = size if index == 0 else header + _aligned(size)
        if need < header or place + need > end:
            return 0
        place += need
    return steps


def _aligned(length: int) -> int:
    return -(-length // 8) * 8
