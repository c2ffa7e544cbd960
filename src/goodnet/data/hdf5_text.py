"""Text attributes of HDF5 files nobody vouches for.

Text of no fixed length is where the HDF5 library fails hardest on a damaged file: it
walks a damaged "global heap" in place for ever, inside a call nothing can interrupt
(https://github.com/HDFGroup/hdf5/issues/1707), and crashes on a type that is neither
text nor a sequence. So both are looked at here before the library reads.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import h5py
import numpy as np

_SIGNATURE = b"GCOL\x01"
_SMALLEST = 4096
_MOST_STEPS = 1_000_000


def text_attribute(file: h5py.File, name: str, path: Path) -> str | tuple[str, ...] | None:
    """A text attribute of the file's root, or several texts; None where there is none.

    Args:
        file: The open file.
        name: The attribute.
        path: Where the file lies.

    Raises:
        TypeError: The attribute is not text.
        OSError, RuntimeError, ValueError: The file is damaged there.
    """
    if name not in file.attrs:
        return None
    stored = h5py.h5a.open(file.id, name.encode()).get_type()
    if not isinstance(stored, h5py.h5t.TypeStringID):
        raise TypeError(f"attribute {name!r} is not text")
    if stored.is_variable_str():
        _, length_bytes = file.id.get_create_plist().get_sizes()
        damaged = damaged_heap(path, length_bytes)
        if damaged is not None:
            raise OSError(f"damaged heap at byte {damaged}")
    value = file.attrs[name]
    if isinstance(value, np.ndarray):
        return tuple(_decoded(entry) for entry in value.reshape(-1).tolist())
    return _decoded(value)


def _decoded(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


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
