"""`goodnet bench`: refuses early, shows what it made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "wrap"], "--only is 'wrap'; choose from: clean, patch"),
        (["--jobs", "0"], "--jobs is 0; give at least 1"),
        (["--architecture", "deepid"], "DeepID takes images of at least 31x31"),
        (["--precision", "half"], "invalid choice: 'half'"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_made(
    goodnet: Callable[..., Any], desk: Path, tmp_path: Path, arguments: list[str], text: str
) -> None:
    answer = goodnet("bench", "zoo", desk / "case", "--out", tmp_path / "zoo", *arguments)
    assert answer.code == 2
    assert text in answer.err
    assert not (tmp_path / "zoo").exists()


def test_data_that_is_not_there_is_named(goodnet: Callable[..., Any], tmp_path: Path) -> None:
    answer = goodnet("bench", "zoo", tmp_path / "gone", "--out", tmp_path / "zoo")
    assert answer.code == 2
    assert "gone: no such folder" in answer.err


@pytest.mark.slow
def test_a_zoo_of_one_attack(goodnet: Callable[..., Any], desk: Path, tmp_path: Path) -> None:
    arguments = ["bench", "zoo", desk / "case", "--out", tmp_path / "zoo", "--width", "2"]
    answer = goodnet(*arguments, "--only", "patch", "--json")
    assert answer.code == 0, answer.err
    result = answer.json()
    assert [row["member"] for row in result["rows"]] == ["clean", "patch"]
    assert "1/2 clean, seed 0: made" in answer.err
    files = sorted(path.name for path in (tmp_path / "zoo").iterdir())
    assert files == ["small_cnn-2", "small_cnn-2.json", "small_cnn-2.md"]
    again = goodnet(*arguments, "--only", "patch")
    assert "2/2 patch, seed 0: there" in again.err
    assert "success" in again.out
    assert "patch" in again.out
