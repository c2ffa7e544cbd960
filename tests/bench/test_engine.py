"""Cells are made once, made again where something changed, and give one file whatever the order."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goodnet.bench import engine
from goodnet.bench.cache import Cache
from goodnet.bench.engine import Failure, State, make_grid
from goodnet.bench.grid import Grid, read_grid
from goodnet.bench.runners import Event, InProcess, Job, LocalProcesses
from goodnet.bench.tidy import Tidy, tidy, tidy_csv, tidy_parquet
from goodnet.bench.work import Figures, with_counts
from goodnet.errors import DataError, SettingsError
from goodnet.results import Rate

GRID = """\
work: toy
constants: {text: words.txt}
axes:
  number: [10, 9, 2, -1]
  word: [b, a]
"""


@pytest.fixture
def grid(toy: Any, tmp_path: Path) -> Grid:
    (tmp_path / "words.txt").write_text("hello\n")
    return written(tmp_path, GRID, toy)


def written(folder: Path, text: str, toy: Any) -> Grid:
    (folder / "grid.yaml").write_text(text)
    return read_grid(folder / "grid.yaml", {"toy": toy.TOY})


def make(grid: Grid, out: Path, runner: Any = None) -> tuple[State, tuple[Failure, ...]]:
    states: list[State] = []
    failures = make_grid(
        grid.cells, Cache(out), runner or InProcess(), told=lambda state, _: states.append(state)
    )
    return states[-1], failures


def table(grid: Grid, out: Path) -> Tidy:
    cache = Cache(out)
    return tidy([(cell, made) for cell in grid.cells if (made := cache.read(cell)) is not None])


def results(grid: Grid, out: Path) -> str:
    return tidy_csv(table(grid, out))


class Shuffled:
    """Runs the jobs here in another order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        order = list(range(len(jobs)))
        random.Random(self._seed).shuffle(order)  # noqa: S311 - an order for a test
        for event in InProcess().run([jobs[at] for at in order]):
            yield replace(event, job=order[event.job])


def test_cells_are_made_once(grid: Grid, tmp_path: Path) -> None:
    state, failures = make(grid, tmp_path / "out")
    assert (state.made, state.there, state.failed, state.left, failures) == (8, 0, 0, 0, ())
    state, _ = make(grid, tmp_path / "out")
    assert (state.made, state.there) == (0, 8)


def test_results_do_not_depend_on_the_order(grid: Grid, toy: Any, tmp_path: Path) -> None:
    make(grid, tmp_path / "here")
    expected = results(grid, tmp_path / "here")
    for seed in range(3):
        make(grid, tmp_path / f"out{seed}", Shuffled(seed))
        assert results(grid, tmp_path / f"out{seed}") == expected
    other = written(tmp_path, GRID.replace("[10, 9, 2, -1]", "[2, -1, 10, 9]"), toy)
    assert results(other, tmp_path / "here") == expected
    make(grid, tmp_path / "processes", LocalProcesses(2))
    assert results(grid, tmp_path / "processes") == expected


def test_rows_are_sorted_by_settings_and_numbers_as_numbers(grid: Grid, tmp_path: Path) -> None:
    make(grid, tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO(results(grid, tmp_path / "out"))))
    numbers, words = ("-1", "2", "9", "10"), ("a", "b")
    expected = list(itertools.product(numbers, words, ("square", "text")))
    assert [(row["number"], row["word"], row["group"]) for row in rows] == expected
    assert [row["value"] for row in rows][::4] == ["1", "4", "81", "100"]
    assert {row["content"] for row in rows[1::2]} == {"hello\n"}
    # What was not measured is empty.
    assert {row["content"] for row in rows[::2]} == {""}


@pytest.mark.parametrize("cut", [0, 1, 100, -3])
def test_a_damaged_cell_is_made_again(grid: Grid, tmp_path: Path, cut: int) -> None:
    make(grid, tmp_path / "out")
    expected = results(grid, tmp_path / "out")
    file = Cache(tmp_path / "out").file(grid.cells[0])
    file.write_bytes(file.read_bytes()[:cut])
    assert make(grid, tmp_path / "out")[0].made == 1
    assert results(grid, tmp_path / "out") == expected


def test_an_edited_figure_does_not_count(grid: Grid, tmp_path: Path) -> None:
    make(grid, tmp_path / "out")
    file = Cache(tmp_path / "out").file(grid.cells[0])
    record = json.loads(file.read_text())
    record["figures"][0]["values"]["value"] = 7
    file.write_text(json.dumps(record))
    assert make(grid, tmp_path / "out")[0].made == 1
    file.write_text("[" * 100_000)
    assert make(grid, tmp_path / "out")[0].made == 1


def test_what_decides_a_cell_is_in_its_name(grid: Grid, toy: Any, tmp_path: Path) -> None:
    def names(of: Grid) -> set[Path]:
        return {Cache(tmp_path).file(cell) for cell in of.cells}

    before = names(grid)
    assert names(written(tmp_path, GRID, toy)) == before
    more = written(tmp_path, GRID.replace("[b, a]", "[b, a, c]"), toy)
    assert before < names(more)
    assert not before & names(written(tmp_path, f"{GRID}needs: {{threads: 2}}\n", toy))
    # Memory decides where a cell runs, not what it gives.
    assert names(written(tmp_path, f"{GRID}needs: {{memory: 1 GB}}\n", toy)) == before
    (tmp_path / "words.txt").write_text("goodbye\n")
    assert not before & names(grid)


def test_a_failure_is_told_and_stops_no_other(toy: Any, tmp_path: Path) -> None:
    grid = written(
        tmp_path, "work: toy\naxes: {number: [1, 2], trouble: [null, raises, breaks]}\n", toy
    )
    state, failures = make(grid, tmp_path / "out")
    assert (state.made, state.failed, state.running) == (2, 4, 0)
    problems = [failure.problem for failure in failures]
    assert problems[0] == "1 is no number for me; give another"
    assert problems[1].startswith("KeyError: 1 (toy_cells.py:")
    # Those that failed are tried again.
    assert make(grid, tmp_path / "out")[0].failed == 4


def test_an_interrupt_leaves_nothing_half_written(grid: Grid, tmp_path: Path) -> None:
    def told(state: State, _failure: Failure | None) -> None:
        if state.made == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_grid(grid.cells, Cache(tmp_path / "out"), InProcess(), told=told)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json"}
    assert not [path for path in files if path.name.startswith(".")]
    state, _ = make(grid, tmp_path / "out")
    assert (state.there, state.made) == (3, 5)


def test_a_file_that_is_not_there_is_told_before_anything_is_made(toy: Any, tmp_path: Path) -> None:
    grid = written(tmp_path, GRID, toy)
    with pytest.raises(DataError, match=r"words.txt: no such file or folder"):
        make(grid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_machine_with_another_file_makes_no_cell(toy: Any, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("hello\n")
    settings = toy.ToySettings(number=1, text=file)
    with pytest.raises(DataError, match=r"words.txt: is not there or holds something else on"):
        engine.measured(toy.measure, settings, {str(file): "0" * 64})
    with pytest.raises(DataError, match="is not there"):
        engine.measured(toy.measure, settings, {str(tmp_path / "none"): "0" * 64})


def test_time_left_is_that_of_cells_like_those_made() -> None:
    state = State(cells=10, there=2, made=2, failed=1, seconds=8.0)
    assert (state.left, state.seconds_left) == (5, 20.0)
    assert State(cells=10).seconds_left is None


def test_rates_are_rows_with_their_counts_and_figures_are_finite() -> None:
    assert with_counts(right=Rate.of(3, 4), wrong=None) == {
        **{"right": 0.75, "right_count": 3, "right_n": 4},
        **{"wrong": None, "wrong_count": None, "wrong_n": None},
    }
    with pytest.raises(ValueError, match="all: loss is nan; give None"):
        Figures("all", {"loss": float("nan")})


def test_parquet_has_the_rows_of_the_csv(grid: Grid, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    make(grid, tmp_path / "out")
    found = table(grid, tmp_path / "out")
    written = tidy_parquet(found)
    assert parquet.read_table(io.BytesIO(written)).to_pylist() == list(found.rows)
    assert tidy_parquet(found) == written
    mixed = Tidy(("a", "b"), ({"a": 1, "b": 1}, {"a": 0.5, "b": "x"}, {"a": None, "b": None}))
    rows = parquet.read_table(io.BytesIO(tidy_parquet(mixed))).to_pylist()
    assert rows == [{"a": 1.0, "b": "1"}, {"a": 0.5, "b": "x"}, {"a": None, "b": None}]


def test_without_pyarrow_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SettingsError, match=r"pip install 'goodnet\[parquet\]'"):
        tidy_parquet(Tidy((), ()))
