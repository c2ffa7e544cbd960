"""Cells that were made: one file each, found again by what they were made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from goodnet.bench.grid import GridCell
from goodnet.bench.work import Figures
from goodnet.errors import DataError
from goodnet.files import write_text
from goodnet.runs import file_hash


@dataclass(frozen=True)
class Made:
    """A cell that was made.

    Attributes:
        figures: What was measured.
        seconds: It took.
    """

    figures: tuple[Figures, ...]
    seconds: float


class Cache:
    """The cells in a folder, cells/KEY.json.

    KEY is the SHA-256 of the cell's work, settings and threads and of the files it reads; a cell
    whose settings or files changed is another cell. A file also says its own hash, so that one
    that is damaged or was edited counts as not there.

    Args:
        folder: Of the bench.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "cells"
        self._hashes: dict[Path, str] = {}

    def made_of(self, cell: GridCell) -> dict[str, Any]:
        """Whatever decides the cell, ready for JSON.

        Raises:
            DataError: A file that it reads is not there.
        """
        return {
            "work": cell.work.name,
            "settings": cell.settings.model_dump(mode="json"),
            "decided_by": dict(cell.work.decided_by(cell.settings)),
            "threads": cell.needs.threads,
            "files": self.hashes(cell),
        }

    def hashes(self, cell: GridCell) -> dict[str, str]:
        """SHA-256 of each file that the cell reads, by its path in the grid."""
        return {name: self._hash(path, name) for name, path in cell.files.items()}

    def file(self, cell: GridCell) -> Path:
        """Where the cell is written."""
        return self._folder / f"{_sha256(self.made_of(cell))}.json"

    def read(self, cell: GridCell) -> Made | None:
        """The cell, if it is there and whole."""
        try:
            record = json.loads(self.file(cell).read_text("utf-8"))
            whole = record.pop("sha256") == _sha256(record)
            if not whole or record["made_of"] != self.made_of(cell):
                return None
            figures = tuple(Figures(each["group"], each["values"]) for each in record["figures"])
            return Made(figures, record["seconds"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, cell: GridCell, figures: Sequence[Figures], seconds: float) -> None:
        """Write the cell, whole or not at all."""
        record: dict[str, Any] = {
            "made_of": self.made_of(cell),
            "figures": [asdict(each) for each in figures],
            "seconds": seconds,
        }
        record["sha256"] = _sha256(record)
        write_text(self.file(cell), json.dumps(record, indent=2, allow_nan=False) + "\n")

    def _hash(self, path: Path, name: str) -> str:
        # Read once for all cells: a grid names few files and has many cells.
        if path not in self._hashes:
            if not path.exists():
                raise DataError(name, "no such file or folder", "see how it is spelled")
            self._hashes[path] = file_hash(path)["sha256"]
        return self._hashes[path]


def _sha256(value: Mapping[str, Any]) -> str:
    """SHA-256 of the value as canonical JSON: keys sorted, nothing between."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
