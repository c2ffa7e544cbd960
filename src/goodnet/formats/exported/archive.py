"""The zip archive around an exported program, opened without trusting it.

A `.pt2` archive is a zip file with one folder: JSON that says what the program is and
where its tensors lie, and the tensors' raw bytes. `torch.export.load` also unpickles
parts of it and loads libraries from it; here every other part stays closed.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

SAVE_AGAIN = "save the network again with torch.export.save of torch 2.11 or later"
ASK_AGAIN = "the file is damaged or was tampered with; get it again from its source"
USE_EVAL = "call network.eval() before exporting"
NOT_PICKLED = "ask for an archive of torch.export.save, or for safetensors weights"

_FORMAT, _VERSION = "pt2", "0"
_JSON_LIMIT = 64 * 2**20
_TEXT_LIMIT = 16 * 2**20
_MEMBER_LIMIT = 50_000
_RATIO_LIMIT = 200
_CHUNK = 2**22
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


class MalformedError(Exception):
    """The file is not what it should be; `read_exported` adds its path."""

    def __init__(self, problem: str, remedy: str = ASK_AGAIN) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}; {remedy}")


class UnsafeError(MalformedError):
    """The file asks for something that could run code or touch other files."""


def shown(text: object) -> str:
    """`text` out of a file, fit for a message: escaped, in quotes, not long."""
    whole = repr(text)
    return whole if len(whole) <= 80 else whole[:77] + "..."


def mapping(value: Any, what: str) -> dict[str, Any]:
    """`value` if it is a JSON object."""
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is no JSON object")
    return value


def listing(value: Any, what: str) -> list[Any]:
    """`value` if it is a JSON array."""
    if not isinstance(value, list):
        raise MalformedError(f"{what} is no JSON array")
    return value


def text(value: Any, what: str) -> str:
    """`value` if it is a JSON string."""
    if not isinstance(value, str):
        raise MalformedError(f"{what} is no JSON string")
    return value


def whole_number(value: Any, what: str) -> int:
    """`value` if it is a whole number that fits in 64 bits."""
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise MalformedError(f"{what} is no whole number of 64 bits")
    return value


def tagged(value: Any, what: str) -> tuple[str, Any]:
    """The tag and the value of a JSON object of the form {tag: value}."""
    pairs = list(mapping(value, what).items())
    if len(pairs) != 1:
        raise MalformedError(f"{what} has {len(pairs)} values where it should have one")
    return pairs[0]


def dtype_of(number: Any, what: str) -> torch.dtype:
    """The tensor type that a file calls `number`."""
    if type(number) is not int or number not in _DTYPES:
        raise MalformedError(
            f"{what} has number type {shown(number)}, which goodnet does not read",
            "export the network with float32 weights",
        )
    return _DTYPES[number]


def concrete_sizes(value: Any, what: str) -> tuple[int, ...]:
    """Sizes or strides of a stored tensor: whole numbers from 0."""
    sizes = []
    for item in listing(value, what):
        tag, size = tagged(item, what)
        if tag != "as_int" or whole_number(size, what) < 0:
            raise MalformedError(f"{what} holds {shown(size)} where a number from 0 belongs")
        sizes.append(size)
    return tuple(sizes)


class Archive:
    """An open `.pt2` archive whose table of contents has been checked.

    Attributes:
        model: Name of the one program in it.
    """

    def __init__(self, opened: zipfile.ZipFile, byte_count: int) -> None:
        self._zip = opened
        self._members = _checked_members(opened.infolist(), byte_count)
        self._used: set[str] = set()
        self._storages: dict[str, Tensor] = {}
        self._tensors: dict[tuple[Any, ...], Tensor] = {}
        _refuse_other_formats(self._members)
        for name, expected in (
            ("archive_format", _FORMAT),
            ("archive_version", _VERSION),
            ("byteorder", "little"),
        ):
            if name in self._members:
                found = self.read_text(name).strip()
                if found != expected:
                    raise MalformedError(
                        f"{name} is {shown(found)}, goodnet reads {expected!r}", SAVE_AGAIN
                    )
        self.model = self._one_model()

    def _one_model(self) -> str:
        models = [name for name in self._members if re.fullmatch(r"models/[^/]+\.json", name)]
        if len(models) != 1:
            raise MalformedError(
                f"it holds {len(models)} programs where it should hold one",
                "save one network a file",
            )
        return models[0].removeprefix("models/").removesuffix(".json")

    def read_bytes(self, name: str, limit: int) -> bytes:
        """The content of one member of at most `limit` bytes."""
        if name not in self._members:
            raise MalformedError(f"member {shown(name)} is missing")
        if self._members[name].file_size > limit:
            raise MalformedError(f"member {shown(name)} is larger than {limit} bytes")
        self._used.add(name)
        return self._zip.read(self._members[name])

    def read_text(self, name: str) -> str:
        """The content of one member, which must be UTF-8."""
        try:
            return self.read_bytes(name, _TEXT_LIMIT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"member {shown(name)} is not UTF-8") from error

    def read_json(self, name: str) -> Any:
        """The content of one member, which must be JSON."""
        try:
            return json.loads(
                self.read_bytes(name, _JSON_LIMIT).decode("utf-8"), parse_constant=_no_constant
            )
        except RecursionError as error:
            raise MalformedError(f"member {shown(name)} is nested too deeply") from error
        except ValueError as error:
            raise MalformedError(f"member {shown(name)} is not JSON in UTF-8") from error

    def metadata(self, folder: str) -> dict[str, str]:
        """The texts under `folder`, by their name below it."""
        names = [name for name in self._members if name.startswith(folder)]
        return {name.removeprefix(folder): self.read_text(name) for name in names}

    def unread(self) -> tuple[str, ...]:
        """Members with content that have not been read, in the archive's order."""
        ignored = re.compile(r"\.data/(version|serialization_id)|byteorder")
        return tuple(
            name
            for name, member in self._members.items()
            if name not in self._used and member.file_size and not ignored.fullmatch(name)
        )

    def payload(self, kind: str) -> dict[str, Any]:
        """Where the tensors of a kind ("weights" or "constants") lie, by their name."""
        if f"data/{kind}/{self.model}.pt" in self._members:
            raise UnsafeError(f"its {kind} are a pickle, which can run code", SAVE_AGAIN)
        name = f"data/{kind}/{self.model}_{kind}_config.json"
        if name not in self._members:
            raise MalformedError(f"member {name!r} is missing", SAVE_AGAIN)
        document = mapping(self.read_json(name), name)
        return mapping(document.get("config"), f"config of {name}")

    def tensor(self, kind: str, name: str, entry: Any) -> Tensor:
        """The tensor that a payload calls `name`; tied tensors are the same object.

        Args:
            kind: "weights" or "constants", the folder its bytes lie in.
            name: For messages.
            entry: Its record in the payload. None of its numbers is trusted.
        """
        what = f"tensor {shown(name)}"
        record = mapping(entry, what)
        member = text(record.get("path_name"), f"path of {what}")
        if record.get("use_pickle") is not False or record.get("tensor_meta") is None:
            raise UnsafeError(f"{what} is a pickle, which can run code", NOT_PICKLED)
        if not re.fullmatch(r"(weight|tensor)_[0-9]{1,9}", member):
            raise UnsafeError(f"{what} lies in {shown(member)}, which is no tensor", NOT_PICKLED)
        meta = mapping(record["tensor_meta"], what)
        if meta.get("layout") != 7:
            raise MalformedError(f"{what} is not dense", "export the network with dense weights")
        dtype = dtype_of(meta.get("dtype"), what)
        sizes = concrete_sizes(meta.get("sizes"), f"size of {what}")
        strides = concrete_sizes(meta.get("strides"), f"stride of {what}")
        (offset,) = concrete_sizes([meta.get("storage_offset")], f"offset of {what}")
        is_parameter = record.get("is_param") is True
        key = (kind, member, dtype, sizes, strides, offset, is_parameter)
        if key not in self._tensors:
            storage = self._storage(f"data/{kind}/{member}", dtype, sizes)
            _check_inside(what, sizes, strides, offset, len(storage))
            tensor = storage.as_strided(sizes, strides, offset)
            if is_parameter:
                trained = meta.get("requires_grad") is True and dtype.is_floating_point
                tensor = nn.Parameter(tensor, requires_grad=trained)
            self._tensors[key] = tensor
        return self._tensors[key]

    def _storage(self, member: str, dtype: torch.dtype, sizes: tuple[int, ...]) -> Tensor:
        if member not in self._members:
            raise MalformedError(f"member {shown(member)} is missing")
        byte_count = self._members[member].file_size
        if byte_count == 0 and 0 not in sizes:
            raise MalformedError(f"member {shown(member)} is empty")
        if byte_count % dtype.itemsize:
            raise MalformedError(f"member {shown(member)} ends within a number")
        if member not in self._storages:
            self._storages[member] = self._read_storage(member, byte_count).view(dtype)
        storage = self._storages[member]
        if storage.dtype != dtype:
            raise MalformedError(f"member {shown(member)} is read as two types of number")
        return storage

    def _read_storage(self, member: str, byte_count: int) -> Tensor:
        self._used.add(member)
        # Read into memory of torch's own: aligned for its kernels, and no second copy.
        storage = torch.empty(byte_count, dtype=torch.uint8)
        room, filled = storage.numpy(), 0
        with self._zip.open(self._members[member]) as stream:
            while piece := stream.read(_CHUNK):
                room[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
                filled += len(piece)
        if filled != byte_count:
            raise MalformedError(f"member {shown(member)} is shorter than it says")
        return storage


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The checked archive at `path`."""
    try:
        byte_count = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(2)
        if byte_count == 0:
            raise MalformedError("is empty", ASK_AGAIN)
        if start[:1] == b"\x80":
            raise UnsafeError("is a pickle, which can run code", NOT_PICKLED)
        with zipfile.ZipFile(path) as opened:
            yield Archive(opened, byte_count)
    except FileNotFoundError as error:
        raise MalformedError("does not exist", "check the path") from error
    except OSError as error:
        raise MalformedError(f"cannot be read: {error.strerror}", "check the path") from error
    except _BROKEN_ZIP as error:
        raise MalformedError(f"is no whole zip archive ({shown(str(error))})") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _checked_members(infos: list[zipfile.ZipInfo], byte_count: int) -> dict[str, zipfile.ZipInfo]:
    if not infos or len(infos) > _MEMBER_LIMIT:
        raise MalformedError(f"holds {len(infos)} members")
    roots = set()
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        parts = name.removesuffix("/").split("/")
        if "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
            raise UnsafeError(f"member {shown(name)} points outside the archive")
        if info.orig_filename != name:
            raise UnsafeError(f"member {shown(info.orig_filename)} has a name with a hidden part")
        if info.flag_bits & 0x1:
            raise UnsafeError(f"member {shown(name)} is encrypted", SAVE_AGAIN)
        if not 0 <= info.header_offset < byte_count:
            raise MalformedError(f"member {shown(name)} lies outside the file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MalformedError(f"member {shown(name)} is compressed in an unknown way")
        if info.file_size > max(info.compress_size, 1) * _RATIO_LIMIT:
            raise UnsafeError(f"member {shown(name)} unpacks to {info.file_size} bytes")
        if info.is_dir():
            continue
        root, _, below = name.partition("/")
        roots.add(root if below else "")
        below = below or name
        if below in members:
            raise UnsafeError(f"member {shown(name)} is there twice")
        members[below] = info
    if sum(info.compress_size for info in members.values()) > byte_count:
        raise UnsafeError("members overlap, so it would unpack to more than it holds")
    if len(roots) > 1:
        raise MalformedError(f"has {len(roots)} folders where an archive has one", SAVE_AGAIN)
    return members


def _refuse_other_formats(members: dict[str, zipfile.ZipInfo]) -> None:
    if any(name.startswith(("data/aotinductor/", "data/executorch/")) for name in members):
        raise UnsafeError(
            "holds compiled code, which goodnet does not run",
            "save the network with torch.export.save, without compiling it",
        )
    if "archive_format" in members:
        return
    if any(name.startswith("code/") for name in members):
        raise UnsafeError("is TorchScript, which holds code", SAVE_AGAIN)
    if "data.pkl" in members:
        raise UnsafeError("is a file of torch.save: a pickle, which can run code", NOT_PICKLED)
    if "serialized_exported_program.json" in members:
        raise MalformedError("is an exported program of an old torch", SAVE_AGAIN)
    raise MalformedError("is a zip archive without an exported program", SAVE_AGAIN)


def _check_inside(
    what: str, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int, stored: int
) -> None:
    if len(sizes) != len(strides) or len(sizes) > 8:
        raise MalformedError(f"{what} has {len(sizes)} sizes and {len(strides)} strides")
    if 0 in sizes:
        reach = 0
    else:
        steps = zip(sizes, strides, strict=True)
        reach = offset + sum((size - 1) * stride for size, stride in steps) + 1
    if reach > stored or math.prod(sizes) > stored:
        raise MalformedError(
            f"{what} of size {list(sizes)} reaches past the {stored} numbers stored for it"
        )
