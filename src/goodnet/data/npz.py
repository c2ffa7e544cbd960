"""Images in a NumPy archive: `data` and `label`, perhaps `true_label`, `group`, `classes`."""

from __future__ import annotations

import lzma
import math
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

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

# What zipfile, its decompressors and the array header's parser raise on damaged files.
_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
)

_COPY_BYTES = 2**20
_CLASSES = "classes"


def read_npz(path: Path, *, size: Size | None, value_range: ValueRange | None) -> ImageSet:
    """The images of an .npz archive, read slice by slice as they are asked for.

    Each array is unpacked into a nameless temporary file and mapped from there, so a
    set may be larger than memory. The file is gone with the set, or with the process.
    Temporary files go where `TMPDIR` says.

    Raises:
        UnsafeFileError: An array holds pickled Python objects.
        DataError: The archive is damaged, or not an image set.
    """
    source = str(path)
    with damage_reported(_DAMAGE, source, "cannot be opened as a NumPy archive"):
        archive = zipfile.ZipFile(path)
    with archive:
        names = [entry.removesuffix(".npy") for entry in archive.namelist()]
        wanted = (*IMAGE_NAMES, *LABEL_NAMES, *TRUE_LABEL_NAMES, *GROUP_NAMES)
        arrays = {
            name: _Member(archive, name, path).stored() if name in wanted else unread_array(name)
            for name in names
        }
        class_names = _class_names(archive, path) if _CLASSES in names else ()
        return image_set(
            source, arrays, class_names=class_names, size=size, value_range=value_range
        )


class _Member:
    """One array of an archive; unpacked when its numbers are first asked for.

    Attributes:
        shape: As its header says.
        dtype: As its header says; never Python objects.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str, path: Path) -> None:
        self._archive = archive
        self._source = str(path)
        self._name = name
        self._entry = f"{name}.npy"
        with self._damage_reported("the header of {} cannot be read"):
            with archive.open(self._entry) as packed:
                self.shape, self._fortran_order, self.dtype = _header(packed)
                self._start = packed.tell()
            if self.dtype.hasobject:
                raise UnsafeFileError(
                    path,
                    f"{name!r} holds pickled Python objects, and unpickling runs code",
                    "save plain numbers or strings: array.astype(...) first",
                )
            self._length = math.prod(self.shape) * self.dtype.itemsize
            self._agree(archive.getinfo(self._entry).file_size - self._start)

    def stored(self) -> StoredArray:
        return StoredArray(self._name, self.shape, self.dtype, lambda wanted: self.numbers[wanted])

    @cached_property
    def numbers(self) -> NDArray[Any]:
        """The array, mapped from a temporary file."""
        if self._length == 0:
            return np.empty(self.shape, self.dtype)
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < self._length:
            raise DataError(
                self._source,
                f"unpacking {self._name!r} takes {self._length:,} bytes of temporary space "
                f"and {free:,} are free",
                "set TMPDIR to a folder on a larger disk",
            )
        with (
            self._damage_reported("{} cannot be unpacked"),
            tempfile.TemporaryFile() as file,
            self._archive.open(self._entry) as packed,
        ):
            packed.read(self._start)
            written = 0
            # To the very end, where the archive's checksum is compared.
            while piece := packed.read(_COPY_BYTES):
                written += file.write(piece)
            self._agree(written)
            file.flush()
            order: Literal["C", "F"] = "F" if self._fortran_order else "C"
            return np.memmap(file, dtype=self.dtype, mode="r", shape=self.shape, order=order)

    def _agree(self, held: int) -> None:
        if held != self._length:
            raise ValueError(f"its header asks for {self._length:,} bytes and it has {held:,}")

    @contextmanager
    def _damage_reported(self, problem: str) -> Iterator[None]:
        with damage_reported(_DAMAGE, self._source, problem.format(repr(self._name))):
            yield


def _header(packed: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type; leaves `packed` at the first number."""
    version = np.lib.format.read_magic(packed)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(packed)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(packed)
    else:
        raise ValueError(f"array format {version} is not for plain numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} has a negative length")
    return shape, fortran_order, dtype


def _class_names(archive: zipfile.ZipFile, path: Path) -> tuple[str, ...]:
    """Class names from an array of strings, or from one string that is a JSON list."""
    source = str(path)
    member = _Member(archive, _CLASSES, path)
    if member.dtype.kind != "U" or len(member.shape) > 1:
        raise DataError(
            source,
            f"'classes' is an array of {member.dtype}, shape {member.shape}",
            "save the class names as an array of strings, in the order of the labels",
        )
    with damage_reported(_DAMAGE, source, "'classes' cannot be read"):
        names = member.numbers.tolist()
    return names_from_json(source, names) if isinstance(names, str) else tuple(names)
