"""Public data sets fetched from where their authors keep them, and checked.

What is checked is every recording, not the archive: GitHub packs the archive of a tag when it
is asked for one, so its bytes may change while what is in it stays. `LC_ALL=C sha256sum *.wav
| sha256sum` in the folder of recordings gives the digest that is compared. The one given here
was computed from a copy of the recordings that came by another way; this project has never seen
the archive itself.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import struct
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from goodnet.data.speech import RECORDING
from goodnet.errors import DataError, SettingsError
from goodnet.files import folder_beside

Told = Callable[[str, int, int], None]
"""Told (what is done, bytes done, bytes in all or 0)."""

_PIECE: Final = 2**16
_SECONDS: Final = 30.0
_LARGEST_ARCHIVE: Final = 2**28
_LARGEST_CONTENT: Final = 2**28
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class DataSet:
    """A data set that can be fetched.

    Attributes:
        url: Its archive, a .zip with one folder that holds everything.
        recordings: How many there are, in that folder's `recordings/`.
        digest: SHA-256, in hex, of the lines `sha256  name` of all recordings, by name.
        licence: What its authors ask of those who use it.
    """

    url: str
    recordings: int
    digest: str
    licence: str


DATA_SETS: Final[Mapping[str, DataSet]] = {
    "fsdd": DataSet(
        url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",
        recordings=3000,
        digest="1801eae019c063377d98f831d3f93574f259475df7332bb0e3d1b080fb5e6959",
        licence="Free Spoken Digit Dataset, Zohar Jackson and others, CC BY-SA 4.0",
    )
}
"""What `fetch` knows by name."""


def fetch(
    name: str, folder: Path | str, *, url: str | None = None, told: Told | None = None
) -> Path:
    """The folder with the data set, fetched unless it is there already, and checked.

    Only the recordings, README and licence are unpacked, each under its bare name, whatever
    path the archive gives it. After a failure nothing is left.

    Args:
        name: A name in `DATA_SETS`.
        folder: Where to; must be empty, not there, or hold the data set.
        url: Another address of the same archive.
        told: Told of the bytes that have come.

    Raises:
        SettingsError: No such data set, or an address that is not http.
        DataError: The folder holds something else; nothing comes from the address; what comes
            is no archive, or its recordings are not those of the data set.
    """
    if name not in DATA_SETS:
        raise SettingsError("name", name, f"choose one of: {', '.join(DATA_SETS)}")
    wanted, folder = DATA_SETS[name], Path(folder)
    address = wanted.url if url is None else url
    if not address.lower().startswith(("https://", "http://")):
        raise SettingsError("url", address, "give an address that starts with https://")
    if folder.is_dir() and any(folder.iterdir()):
        if digest_of(folder / "recordings") == wanted.digest:
            return folder
        raise DataError(
            folder,
            f"holds something that is not {name} as it is published",
            "name another folder, or move this one away",
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(folder, "is a file", "name a folder")
    with tempfile.TemporaryFile() as archive:
        _download(address, archive, told)
        with folder_beside(folder) as made:
            _unpack(archive, made, address)
            found = len(list((made / "recordings").iterdir()))
            if digest_of(made / "recordings") != wanted.digest:
                raise DataError(
                    address,
                    f"holds {found} recordings that are not the {wanted.recordings} of {name}",
                    "try again later, or give another address of the same archive",
                )
    return folder


def digest_of(recordings: Path) -> str:
    """SHA-256, in hex, of the lines `sha256  name` of all .wav files of a folder, by name."""
    digest = hashlib.sha256()
    for path in sorted(recordings.glob("*.wav"), key=lambda path: path.name):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {path.name}\n".encode())
    return digest.hexdigest()


def _download(url: str, file: IO[bytes], told: Told | None) -> None:
    """Write what is at `url` into `file`."""
    remedy = "see that this machine is online, or download it elsewhere and unpack it by hand"
    try:
        # Only http and https get here.
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:  # noqa: S310
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            while piece := response.read(_PIECE):
                done += len(piece)
                if done > _LARGEST_ARCHIVE:
                    raise DataError(
                        url, f"sends more than {_LARGEST_ARCHIVE:,} bytes", "check the address"
                    )
                file.write(piece)
                if told is not None:
                    told("fetching", done, total)
    except urllib.error.HTTPError as error:
        problem = f"answers {error.code} ({error.reason})"
        raise DataError(url, problem, "check the address") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise DataError(url, f"cannot be fetched ({why})", remedy) from error
    if done < total:
        raise DataError(url, f"broke off after {done:,} of {total:,} bytes", "try again")


_WANTED: Final = re.compile(
    rf"[^/]+/(?:recordings/(?P<recording>{RECORDING.pattern})|(?P<told>README\.md|LICEN[CS]E[\w.]*))"
)


def _unpack(file: IO[bytes], folder: Path, source: str) -> None:
    """Write recordings, README and licence of an archive into `folder`."""
    (folder / "recordings").mkdir()
    try:
        with zipfile.ZipFile(file) as archive:
            wanted = [
                (entry, found)
                for entry in archive.infolist()
                if (found := _WANTED.fullmatch(entry.filename)) is not None
            ]
            size = sum(entry.file_size for entry, _ in wanted)
            if size > _LARGEST_CONTENT:
                raise DataError(source, f"unpacks to {size:,} bytes", "check the address")
            for entry, found in wanted:
                # Either name is bare, so it stays in the folder.
                inside = "recordings" if found["recording"] else "."
                path = folder / inside / (found["recording"] or found["told"])
                with path.open("xb") as out:
                    out.write(archive.read(entry))
    except FileExistsError as error:
        raise DataError(source, "holds two files of one name", "check the address") from error
    except _DAMAGE as error:
        raise DataError(source, f"sends no readable .zip ({error})", "try again") from error
