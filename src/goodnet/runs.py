"""Run folders: everything a command found, with what is needed to make it again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from goodnet.errors import DataError, GoodnetError
from goodnet.files import folder_beside, write_text
from goodnet.results import (
    AttackResult,
    EvaluateResult,
    PruneResult,
    RepairResult,
    ScanResult,
    curve_csv,
    from_json,
    to_json,
)

MANIFEST = "manifest.json"
RESULT = "result.json"
Result = PruneResult | RepairResult | EvaluateResult | AttackResult | ScanResult
_KINDS: dict[str, type[Result]] = {
    "attack": AttackResult,
    "prune": PruneResult,
    "repair": RepairResult,
    "evaluate": EvaluateResult,
    "demo": RepairResult,
    "scan": ScanResult,
}


@dataclass
class RunFolder:
    """A run folder being written.

    Attributes:
        folder: Where files go now; it takes its final place when all are written.
        final: That place.
    """

    folder: Path
    final: Path
    manifest: dict[str, Any] = field(default_factory=dict)

    def final_path(self, name: str) -> str:
        """Where the file `name` of this run will be, for results."""
        return str(self.final / name)


@contextmanager
def run_folder(folder: Path, manifest: Mapping[str, Any]) -> Iterator[RunFolder]:
    """A run folder that appears whole or not at all; an earlier run there is replaced.

    Raises:
        GoodnetError: Something else than a run is at that place, or it holds an input.
    """
    place = folder.resolve()
    if place.exists() and not place.is_dir():
        raise GoodnetError(f"{folder}: is a file, not a folder for a run; give another --out")
    if place == Path.cwd():
        raise GoodnetError(f"{folder}: is where you are; give --out a folder of its own")
    if place.exists() and any(place.iterdir()) and not _is_run(place):
        raise GoodnetError(
            f"{folder}: holds something else than an earlier run; give another --out"
        )
    for role, entry in manifest.get("inputs", {}).items():
        if Path(entry["path"]).resolve().is_relative_to(place):
            raise GoodnetError(
                f"{folder}: holds the {role} {entry['path']}, which the run would replace; "
                "give another --out"
            )
    with folder_beside(folder) as temporary:
        run = RunFolder(temporary, folder, dict(manifest))
        yield run
        write_text(temporary / MANIFEST, json.dumps(run.manifest, indent=2) + "\n")


def _is_run(folder: Path) -> bool:
    # Other programs call files manifest.json too, and their folders are not ours to replace.
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        return manifest["command"] in _KINDS and "goodnet" in manifest["versions"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def write_result(run: RunFolder, result: Result) -> None:
    """Write `result` as result.json, and its curve as curve.csv where it has one.

    What is in the run by then, the networks above all, is hashed into the manifest.
    """
    write_text(run.folder / RESULT, to_json(result) + "\n")
    prune = result if isinstance(result, PruneResult) else getattr(result, "prune", None)
    if prune is not None:
        write_text(run.folder / "curve.csv", curve_csv(prune))
    run.manifest["outputs"] = {
        path.relative_to(run.folder).as_posix(): file_hash(path)
        for path in sorted(run.folder.rglob("*"))
        if path.is_file()
    }


def read_run(folder: Path) -> tuple[dict[str, Any], Result]:
    """The manifest and the result of a run.

    Raises:
        DataError: It is no run folder, or is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        text = (folder / RESULT).read_text("utf-8")
        kind = _KINDS[manifest["command"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            folder, "is no run folder, or its manifest is damaged", "give the --out of a run"
        ) from error
    return manifest, from_json(kind, text, folder / RESULT)


def make_manifest(
    command: str, *, title: str, seed: int, settings: Mapping[str, Any], inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """What is needed to make a run again: versions, hashes, seed, settings.

    Args:
        command: Name of the command.
        title: What the page is called.
        seed: Of all its randomness.
        settings: Its other settings, ready for JSON.
        inputs: Files and folders it reads, by role.
    """
    return {
        "command": command,
        "title": title,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "settings": dict(settings),
        "inputs": {
            role: {"path": str(path.resolve()), **file_hash(path)} for role, path in inputs.items()
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("goodnet", "torch", "keras", "numpy", "h5py")},
        },
        "machine": {
            "processor": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
        },
    }


def file_hash(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file; of a folder, over its files' names and hashes in order."""
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        listing = "".join(
            f"{item.relative_to(path).as_posix()}\n{file_hash(item)['sha256']}\n" for item in files
        )
        return {"sha256": hashlib.sha256(listing.encode()).hexdigest(), "files": len(files)}
    with path.open("rb") as file:
        return {
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            "bytes": path.stat().st_size,
        }
