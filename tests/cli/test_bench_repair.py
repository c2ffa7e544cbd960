"""`goodnet bench repair`: refuses early, makes every cell by a command, shows what is there."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goodnet.results import Cell, from_json


@pytest.fixture
def zoo(goodnet: Callable[..., Any], desk: Path, tmp_path: Path) -> Path:
    """A zoo of two networks of the desk's images."""
    folder = tmp_path / "zoo"
    for member, *more in (("clean", "--poison-rate", "0"), ("blend", "--trigger", "blend")):
        run = folder / "small_cnn-2" / member / "seed-0"
        arguments = ["--width", "2", "--epochs", "1", "--no-sets", "-q", *more]
        answer = goodnet("attack", desk / "case", "--out", run, *arguments)
        assert answer.code == 0, answer.err
    return folder


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "wrap"], "--only is 'wrap'; the zoo has: clean, blend"),
        (["--seeds", "5"], "--seeds is 5; the zoo has: 0"),
        (["--jobs", "0"], "--jobs is 0; give at least 1"),
        (["--architecture", "deepid"], "--architecture is 'deepid'; the zoo has small_cnn-2"),
        (["--width", "2"], "--width is 2; give --architecture beside it"),
        (["--precision", "half"], "invalid choice: 'half'"),
        (["--methods", "pray"], "invalid choice: 'pray'"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_made(
    goodnet: Callable[..., Any],
    zoo: Path,
    desk: Path,
    tmp_path: Path,
    arguments: list[str],
    text: str,
) -> None:
    answer = goodnet("bench", "repair", zoo, desk / "case", "--out", tmp_path / "out", *arguments)
    assert answer.code == 2
    assert text in answer.err
    assert not (tmp_path / "out").exists()


def test_a_zoo_and_images_that_are_not_there_are_named(
    goodnet: Callable[..., Any], zoo: Path, desk: Path, tmp_path: Path
) -> None:
    out = ["--out", tmp_path / "out"]
    answer = goodnet("bench", "repair", desk, desk / "case", *out)
    assert (answer.code, "holds no zoo" in answer.err) == (2, True)
    answer = goodnet("bench", "repair", zoo, desk / "no_valid", *out)
    assert (answer.code, "no_valid: holds no valid set" in answer.err) == (2, True)


def test_one_cell(goodnet: Callable[..., Any], zoo: Path, desk: Path, tmp_path: Path) -> None:
    run, file = zoo / "small_cnn-2" / "blend" / "seed-0", tmp_path / "cell.json"
    arguments = ["bench", "cell", run, desk / "case", "--method", "clp", "--out", file, "--no-risk"]
    answer = goodnet(*arguments)
    assert answer.code == 0, answer.err
    assert "blend, seed 0: clp" in answer.out
    cell = from_json(Cell, file.read_bytes(), file)
    assert cell.result.accuracy_after.n == 30
    assert cell.manifest["settings"]["method"] == "clp"
    again = goodnet(*arguments, "--json").json()
    assert again["result"]["triggers"] == json.loads(file.read_text())["result"]["triggers"]


@pytest.mark.slow
def test_cells_are_made_in_processes_told_and_shown(
    goodnet: Callable[..., Any], zoo: Path, desk: Path, tmp_path: Path
) -> None:
    broken = zoo / "small_cnn-2" / "warp" / "seed-0"
    shutil.copytree(zoo / "small_cnn-2" / "blend" / "seed-0", broken)
    (broken / "badnet.safetensors").unlink()
    out = tmp_path / "out"
    arguments = [
        "bench",
        "repair",
        zoo,
        desk / "case",
        "--out",
        out,
        "--methods",
        "clp",
        "--no-risk",
    ]
    answer = goodnet(*arguments, "--jobs", "1")
    assert answer.code == 2
    lines = sorted(line.partition(" ")[2] for line in answer.err.splitlines())
    assert [line[:28] for line in lines[:2]] == [
        "blend, seed 0, clp: made",
        "clean, seed 0, clp: made",
    ]
    assert lines[2].startswith("warp, seed 0, clp: goodnet bench: ")
    assert "badnet.safetensors" in lines[2]
    files = sorted(path.name for path in out.iterdir())
    assert files == ["small_cnn-2", "small_cnn-2.csv", "small_cnn-2.json", "small_cnn-2.md"]
    with (out / "small_cnn-2.csv").open() as file:
        assert [row["member"] for row in csv.DictReader(file)] == ["clean", "blend"]
    quiet = goodnet(*arguments, "--jobs", "1", "-q")
    assert quiet.code == 2
    (line,) = quiet.err.splitlines()
    assert "warp, seed 0, clp: goodnet bench: " in line

    shutil.rmtree(broken.parent)
    again = goodnet(*arguments, "--json")
    assert again.code == 0
    assert again.err.count(": there") == 2
    (part,) = again.json()["parts"]
    assert part["name"] == "held out"
    assert [cell["member"] for cell in part["cells"]] == ["clean", "blend"]

    shown = goodnet(*arguments, "--show")
    assert "clp" in shown.out
    assert "there" not in shown.err
    other = goodnet(*arguments, "--show", "--seed", "1")
    assert "2 cells are not shown" in other.err
    assert "clp" not in other.out
