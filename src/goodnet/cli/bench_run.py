"""`goodnet bench run`: the cells of a grid file, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from goodnet.bench.cache import Cache, Made
from goodnet.bench.engine import Failure, State, Told, make_grid
from goodnet.bench.grid import GridCell, read_grid
from goodnet.bench.ray_runner import RayRunner
from goodnet.bench.runners import LocalProcesses, Runner, extra
from goodnet.bench.tidy import Tidy, tidy, tidy_csv, tidy_parquet
from goodnet.bench.works import WORKS
from goodnet.cli.exit_codes import BAD_INPUT, DONE
from goodnet.cli.options import console_of, problems_of
from goodnet.cli.signals import as_interrupt
from goodnet.errors import SettingsError
from goodnet.files import write_bytes, write_text

HELP = "the cells of a grid file, on this machine or on a Ray cluster"
_ROWS = 40
"""Rows shown at most; the results file has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bench run`."""
    parser.add_argument("grid", type=Path, metavar="GRID", help="a YAML file; see docs/bench.md")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of cells and results"
    )
    add_machine_arguments(parser)
    parser.add_argument(
        "--parquet", action="store_true", help="write results.parquet too; needs goodnet[parquet]"
    )
    parser.add_argument(
        "--show", action="store_true", help="make nothing, show the results that are there"
    )
    parser.add_argument("--json", action="store_true", help="the rows as JSON on stdout")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the cells are made."""
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="J",
        help="cells at a time at most; default: as many as cores and memory take",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="run on this Ray cluster; auto finds the one it is part of"
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="how often a cell begins again whose process or machine died; default: %(default)s",
    )


def run(options: argparse.Namespace) -> int:
    """Make the cells that are not there, then write and show the results of all that are."""
    console = console_of(options)
    grid = read_grid(options.grid, WORKS)
    cache = Cache(options.out)
    if options.parquet:
        extra("pyarrow", "parquet", field="parquet", value=True)
    failures: Sequence[Failure] = ()
    if not options.show:
        runner = runner_of(options)
        with as_interrupt(), progress_table(console) as told:
            failures = make_grid(grid.cells, cache, runner, told=told)
    made = [(cell, found) for cell in grid.cells if (found := cache.read(cell)) is not None]
    table = tidy(made)
    if made:
        write_text(options.out / "results.csv", tidy_csv(table))
        if options.parquet:
            write_bytes(options.out / "results.parquet", tidy_parquet(table))
    if options.json:
        sys.stdout.write(json.dumps(table.rows, indent=2) + "\n")
    else:
        _show(table, made, len(grid.cells))
    return BAD_INPUT if failures else DONE


def runner_of(options: argparse.Namespace) -> Runner:
    """What `add_machine_arguments` asks for."""
    if options.ray is None:
        return LocalProcesses(options.jobs, retries=options.retries)
    if options.jobs is not None:
        raise SettingsError("jobs", options.jobs, "leave it out with --ray, which plans by needs")
    return RayRunner(options.ray, retries=options.retries)


@contextmanager
def progress_table(console: Console) -> Iterator[Told]:
    """A table that follows the cells; those that failed are told above it."""
    begun = False
    with Live(console=console, auto_refresh=False) as live:

        def told(state: State, failure: Failure | None) -> None:
            nonlocal begun
            begun = True
            if failure is not None:
                problems_of(live.console).print(f"{_named(failure.cell)}: {failure.problem}")
            live.update(_state_table(state), refresh=console.is_terminal)

        try:
            yield told
        finally:
            if begun and not console.is_terminal:
                # Where it cannot be drawn over it is printed once, with no end of line.
                live.stop()
                console.print()


def _state_table(state: State) -> Table:
    left = state.seconds_left
    values = {
        "made": state.made,
        "there": state.there,
        "running": state.running,
        "failed": state.failed,
        "left": state.left,
        "time left": "" if left is None else timedelta(seconds=round(left)),
    }
    table = Table(*values)
    table.add_row(*map(str, values.values()))
    return table


def _named(cell: GridCell) -> str:
    settings = cell.settings.model_dump(mode="json", exclude_defaults=True)
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _show(table: Tidy, made: Sequence[tuple[GridCell, Made]], cells: int) -> None:
    """For each group of figures a table: the settings that differ, the numbers without counts."""
    console = Console(highlight=False, markup=False)
    console.print(f"{len(made)} of {cells} cells")
    settings = {name for cell, _ in made for name in type(cell.settings).model_fields}
    differing = [
        name
        for name in table.columns
        if name in settings and len({row[name] for row in table.rows}) > 1
    ]
    for group in dict.fromkeys(str(row["group"]) for row in table.rows):
        rows = [row for row in table.rows if row["group"] == group]
        figures = [
            name
            for name in table.columns
            if name not in {*settings, "work", "group"}
            and not name.endswith(("_count", "_n"))
            and any(isinstance(row[name], int | float) for row in rows)
        ]
        shown = Table(title=group)
        for name in (*differing, *figures):
            shown.add_column(name.replace("_", " "), overflow="fold")
        for row in rows[:_ROWS]:
            shown.add_row(*(_short(row[name]) for name in (*differing, *figures)))
        console.print(shown)
        if len(rows) > _ROWS:
            console.print(f"{len(rows) - _ROWS} rows more are in results.csv")


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
