"""A grid's cells made by a runner: those that are there are left alone, those that fail are told.

Cells come back here and only this process writes them, so machines need share no folder for
results, and a cell that ran twice is written once.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from goodnet.bench.cache import Cache
from goodnet.bench.grid import GridCell
from goodnet.bench.runners import Begun, Ended, Job, Runner
from goodnet.bench.work import Figures, WorkSettings
from goodnet.errors import DataError
from goodnet.runs import file_hash


@dataclass(frozen=True)
class State:
    """How far a grid is.

    Attributes:
        cells: In all.
        there: Made by earlier calls.
        made: By this one.
        running: Handed out.
        failed: Not made.
        seconds: Since this call began.
    """

    cells: int
    there: int = 0
    made: int = 0
    running: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """Cells that are not done with."""
        return self.cells - self.there - self.made - self.failed

    @property
    def seconds_left(self) -> float | None:
        """Until the last cell, if they go on as until now; None before the first."""
        return self.seconds / self.made * self.left if self.made else None


@dataclass(frozen=True)
class Failure:
    """A cell that was not made, and why, on one line."""

    cell: GridCell
    problem: str


Told = Callable[[State, Failure | None], None]
"""Told how far it is, and of a cell that failed."""


def make_grid(
    cells: Sequence[GridCell], cache: Cache, runner: Runner, *, told: Told
) -> tuple[Failure, ...]:
    """Makes the cells that are not there; gives those that failed.

    When this is interrupted, what runs is ended, and what was finished is kept.

    Raises:
        DataError: A file that a cell reads is not there.
    """
    start = time.monotonic()
    missing = [cell for cell in cells if cache.read(cell) is None]
    jobs = [_job(cell, cache) for cell in missing]
    state = State(cells=len(cells), there=len(cells) - len(missing))
    told(state, None)
    failures: list[Failure] = []
    running: set[int] = set()
    for event in runner.run(jobs):
        failure = None
        if isinstance(event, Begun):
            running.add(event.job)
        else:
            running.discard(event.job)
        if isinstance(event, Ended):
            cell = missing[event.job]
            if event.problem is None:
                cache.write(cell, *event.value)
                state = replace(state, made=state.made + 1)
            else:
                failure = Failure(cell, event.problem)
                failures.append(failure)
                state = replace(state, failed=state.failed + 1)
        state = replace(state, running=len(running), seconds=time.monotonic() - start)
        told(state, failure)
    return tuple(failures)


def _job(cell: GridCell, cache: Cache) -> Job:
    hashes = cache.hashes(cell)
    files = {str(path): hashes[name] for name, path in cell.files.items()}
    return Job(measured, (cell.work.measure, cell.located, files), cell.needs)


def measured(
    measure: Callable[[Any], Sequence[Figures]], settings: WorkSettings, files: Mapping[str, str]
) -> tuple[tuple[Figures, ...], float]:
    """The figures of one cell and the seconds they took, where the cell runs.

    Args:
        measure: Makes the cell.
        settings: Of it, with absolute paths.
        files: SHA-256 that each file has on the machine that asks.

    Raises:
        DataError: A file is another one here, so that the cell would not be what it is called.
    """
    start = time.perf_counter()
    for name, sha256 in files.items():
        path = Path(name)
        if not path.exists() or _hash_here(path, _stamp(path)) != sha256:
            raise DataError(
                path,
                f"is not there or holds something else on {platform.node()}",
                "give all machines the same files at the same paths, and leave them alone",
            )
    figures = tuple(measure(settings))
    return figures, time.perf_counter() - start


@functools.lru_cache(maxsize=1024)
def _hash_here(path: Path, _stamp: tuple[int, int]) -> str:
    sha256: str = file_hash(path)["sha256"]
    return sha256


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    # A folder's own time says nothing of its files'.
    return (time.monotonic_ns(), 0) if path.is_dir() else (found.st_size, found.st_mtime_ns)
