"""Imports go one way through the rooms, as CONTRIBUTING's table says."""

from __future__ import annotations

import ast
from pathlib import Path

import goodnet

PACKAGE = Path(goodnet.__file__).parent
# From the first to the last; a room may import those of earlier lines and of its own.
ROOMS = (
    ("errors", "results", "files", "modes"),
    ("networks",),
    ("graph",),
    ("hdf5_safety",),
    ("formats",),
    ("data",),
    ("triggers",),
    ("poison",),
    ("answers",),
    ("readings",),
    ("surgery",),
    ("activations",),
    ("sweep",),
    ("training",),
    ("last_layer",),
    ("familiarity",),
    ("detection",),
    ("probes",),
    ("distillation",),
    ("witness",),
    ("risk",),
    ("scan",),
    ("defenses",),
    ("attacks",),
    ("detector",),
    ("evaluate",),
    ("curve",),
    ("game",),
    ("repair", "attack"),
    ("cases",),
    ("report",),
    ("runs",),
    ("bench",),
    ("cli",),
)
PLACE = {room: place for place, rooms in enumerate(ROOMS) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    """The rooms of goodnet that a module imports anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "goodnet" and len(part) > 1} & PLACE.keys()


def modules() -> list[tuple[str, Path]]:
    """Every module of the package with the room it is in."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            found.append((room, path))
    return found


def test_every_room_has_its_place() -> None:
    assert {room for room, _ in modules()} == PLACE.keys()


def test_imports_go_one_way() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for room, path in modules()
        for other in imported_rooms(path)
        if PLACE[other] > PLACE[room]
    ]
    assert wrong == []


def test_the_report_reads_results_only() -> None:
    allowed = {"errors", "results", "game", "files", "report"}
    for room, path in modules():
        if room == "report":
            assert imported_rooms(path) <= allowed, path.name
