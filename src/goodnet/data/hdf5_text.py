"""Text attributes of HDF5 files nobody vouches for.

Text of no fixed length is where the HDF5 library fails hardest on a damaged file: it
walks a damaged "global heap" in place for ever, inside a call nothing can interrupt
(https://github.com/HDFGroup/hdf5/issues/1707), and crashes on a type that is neither
text nor a sequence. So both are looked at here before the library reads.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from goodnet.hdf5_safety import damaged_heap


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
