"""Grids read as written; what is wrong in one is told with its line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from goodnet.bench.grid import Grid, read_grid
from goodnet.bench.runners import Needs
from goodnet.errors import DataError

WHOLE = """\
work: toy
constants:
  text: words/a.txt
axes:
  number: [1, 2, 3]
  word: [a, no]
exclude:
  - {number: 2, word: a}
include:
  - number: 9
    share: 1e-3
needs:
  threads: 2
  memory: 500 MB
"""


def read(folder: Path, text: str, toy: Any) -> Grid:
    file = folder / "grid.yaml"
    file.write_text(text, "utf-8")
    return read_grid(file, {"toy": toy.TOY})


def test_axes_are_multiplied_cells_left_out_and_added(toy: Any, tmp_path: Path) -> None:
    grid = read(tmp_path, WHOLE, toy)
    found: list[Any] = [cell.settings for cell in grid.cells]
    pairs = [(1, "a"), (1, "no"), (2, "no"), (3, "a"), (3, "no"), (9, "x")]
    assert [(each.number, each.word) for each in found] == pairs
    assert [each.share for each in found] == [None] * 5 + [0.001]
    assert {cell.needs for cell in grid.cells} == {Needs(2, 500_000_000)}
    # Paths start from the file's folder; results have them as they are written.
    assert found[0].text == Path("words/a.txt")
    located: Any = grid.cells[0].located
    assert located.text == tmp_path / "words" / "a.txt"
    assert grid.cells[0].files == {"words/a.txt": tmp_path / "words" / "a.txt"}


def test_cells_may_be_included_without_axes(toy: Any, tmp_path: Path) -> None:
    grid = read(tmp_path, "work: toy\ninclude:\n  - {number: 1}\n  - {number: 2}\n", toy)
    assert len(grid.cells) == 2
    grid = read(tmp_path, "work: toy\nconstants: {number: 1}\n", toy)
    assert len(grid.cells) == 1


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("work: toy", "work: tow", 1, "work is 'tow'; choose from: toy"),
        ("work: toy", "", 1, "work: Field required"),
        ("work: toy", "job: toy", 1, "job is 'toy': Extra inputs are not permitted"),
        ("[1, 2, 3]", "[1, 2, x]", 5, "number is 'x': Input should be a valid integer"),
        ("[1, 2, 3]", "\n  - 1\n  - 2\n  - y", 8, "number is 'y': Input should be a valid"),
        ("[1, 2, 3]", "[1, 2, 2]", 5, "number has 2 twice"),
        ("[1, 2, 3]", "[]", 5, "number has no values"),
        ("[1, 2, 3]", "7", 5, "axes.number is 7: Input should be a valid list"),
        ("number: [", "numbr: [", 5, "toy has no setting 'numbr'; choose from: number, word"),
        ("  text:", "  word:", 6, "word is a constant too"),
        ("{number: 2, word: a}", "{number: 2, word: b}", 8, "leaves out no cell"),
        ("{number: 2, word: a}", "{share: 2}", 8, "share is no axis; choose from: number, word"),
        ("number: 9\n    share: 1e-3", "number: 3\n    word: a", 10, "from line 5"),
        ("share: 1e-3", "share: much", 11, "share is 'much': Input should be a valid number"),
        ("    share: 1e-3", "    number: 2", 11, "number is there twice"),
        ("number: 9\n    share: 1e-3", "word: c", 10, "number: Field required"),
        ("threads: 2", "threads: 0", 13, "needs.threads is 0: Input should be greater"),
        ("500 MB", "lots", 14, "needs.memory is 'lots'"),
        ("[a, no]", "[a, 2026-01-01]", 6, "is read as a date; put it in quotes"),
        ("[a, no]", "[a, no", 7, "is no YAML: expected ',' or ']'"),
        ("[a, no]", "!!python/name:os.system x", 6, "could not determine a constructor"),
        ("[a, no]", "&a [*a]", 6, "too deep or too long"),
        ("word: [a, no]", "1: [a, no]", 6, "'1' is no name"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    toy: Any, tmp_path: Path, old: str, new: str, line: int, text: str
) -> None:
    assert WHOLE.count(old) == 1
    with pytest.raises(DataError) as caught:
        read(tmp_path, WHOLE.replace(old, new), toy)
    assert text in str(caught.value)
    assert caught.value.source.endswith(f"grid.yaml, line {line}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "work: Field required"),
        ("[1]", "is no mapping"),
        ("work: toy", "number: Field required"),
        ("a: 1\n---\nb: 2", "is no YAML"),
        ("a: \x00", "is no YAML"),
    ],
)
def test_files_that_are_no_grids(toy: Any, tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read(tmp_path, text, toy)


def test_a_bomb_of_aliases_is_refused(toy: Any, tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    names = "abcdefgh"
    for old, new in itertools.pairwise(names):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]")
    with pytest.raises(DataError, match="too deep or too long"):
        read(tmp_path, "\n".join(lines), toy)


def test_a_file_that_is_not_there(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.yaml: cannot be opened"):
        read_grid(tmp_path / "none.yaml", {})
