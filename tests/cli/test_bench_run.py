"""`goodnet bench run`: the example of docs/bench.md works; what is wrong is told on one line."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goodnet.bench.runners import InProcess
from goodnet.cli import bench_run

DOCS = (Path(__file__).parents[2] / "docs" / "bench.md").read_text("utf-8")


@pytest.fixture
def grid(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The grid of docs/bench.md beside the files it names."""
    for name, source in {
        "bd_net.h5": "net.h5",
        "valid.h5": "valid.h5",
        "test.h5": "test.h5",
        "poisoned.h5": "corner.h5",
    }.items():
        shutil.copy(desk / source, tmp_path / name)
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "grid.yaml").write_text(blocks[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "grid.yaml"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are made in this process."""
    monkeypatch.setattr(bench_run, "LocalProcesses", lambda *_arguments, **_more: InProcess())


@pytest.mark.usefixtures("here")
def test_the_documented_grid(goodnet: Callable[..., Any], grid: Path) -> None:
    answer = goodnet("bench", "run", grid, "--out", "bench")
    assert answer.code == 0, answer.err
    assert "4 of 4 cells" in answer.out
    with Path("bench/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = [("clp", "0"), ("fine-prune", "0"), ("fine-prune", "1"), ("prune", "0")]
    assert [(row["method"], row["seed"]) for row in rows[::2]] == cells
    assert [row["group"] for row in rows] == ["clean", "triggered"] * 4
    pruned = rows[-1]
    assert (pruned["attack_success_before"], pruned["attack_success_after"]) == ("1.0", "0.0")
    assert pruned["network"] == "bd_net.h5"
    before = Path("bench/results.csv").read_bytes()
    again = goodnet("bench", "run", grid, "--out", "bench", "--show", "--json")
    assert len(json.loads(again.out)) == 8
    assert Path("bench/results.csv").read_bytes() == before
    changed = grid.read_text().replace("seed: [0, 1]", "seed: [0, 1, 2]")
    grid.write_text(changed)
    assert "4 of 6 cells" in goodnet("bench", "run", grid, "--out", "bench", "--show").out


def test_the_documented_python_names_what_there_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == 1
    # What stands under the guard is run in tests/bench/test_sharded_sweep.py.
    exec(compile(blocks[0], "docs/bench.md", "exec"), {"__name__": "docs"})  # noqa: S102


@pytest.mark.slow
def test_in_processes(goodnet: Callable[..., Any], grid: Path) -> None:
    grid.write_text(re.sub(r"axes:.*?needs:", "needs:", grid.read_text(), flags=re.DOTALL))
    grid.write_text(grid.read_text().replace("epochs: 2", "method: prune"))
    answer = goodnet("bench", "run", grid, "--out", "bench", "--jobs", "1", "--json")
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)) == 2
    start = time.monotonic()
    assert goodnet("bench", "run", grid, "--out", "bench", "--json").out == answer.out
    # What is there starts no process.
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("here")
def test_a_cell_that_fails_is_told_and_the_rest_goes_on(
    goodnet: Callable[..., Any], grid: Path, desk: Path
) -> None:
    shutil.copy(desk / "text.h5", grid.parent / "other.h5")
    text = grid.read_text().replace("include:", "include:\n  - {network: other.h5, method: prune}")
    grid.write_text(text)
    answer = goodnet("bench", "run", grid, "--out", "bench")
    assert answer.code == 2
    assert "other.h5: " in answer.err
    assert "4 of 5 cells" in answer.out
    quiet = goodnet("bench", "run", grid, "--out", "bench", "-q")
    assert quiet.code == 2
    (line,) = quiet.err.splitlines()
    assert "other.h5: " in line


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("fine-prune]", "fine-prun]", r"grid.yaml, line 10: method is 'fine-prun': .* auto, prune"),
        ("seed: [0, 1]", "seed: [0, 1, -1]", r"grid.yaml, line 11: seed is -1: "),
        ("  test: test.h5", "", r"line 10: test: Field required"),
        ("valid.h5 ", "valip.h5 ", r"valip.h5: no such file or folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    goodnet: Callable[..., Any], grid: Path, old: str, new: str, text: str
) -> None:
    assert grid.read_text().count(old) == 1
    grid.write_text(grid.read_text().replace(old, new))
    answer = goodnet("bench", "run", grid, "--out", "bench")
    assert answer.code == 2
    assert re.search(text, answer.err), answer.err
    assert len(answer.err.splitlines()) == 1
    assert not Path("bench").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--jobs", "0"], "--jobs is 0; give at least 1"),
        (["--retries", "-1"], "--retries is -1; give a number from 0 up"),
        (["--ray", "auto"], "--ray is 'auto'; it needs ray; install it with: pip install"),
        (["--ray", "auto", "--jobs", "1"], "--jobs is 1; leave it out with --ray"),
        (["--parquet"], "--parquet is True; it needs pyarrow; install it with: pip install"),
    ],
)
def test_options_that_cannot_be(
    goodnet: Callable[..., Any],
    grid: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str,
) -> None:
    monkeypatch.setattr("goodnet.bench.runners.importlib", Nothing())
    answer = goodnet("bench", "run", grid, "--out", "bench", *arguments)
    assert answer.code == 2
    assert text in answer.err


class Nothing:
    """No extra is installed."""

    @staticmethod
    def import_module(name: str) -> None:
        raise ImportError(name)
