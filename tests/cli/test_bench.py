"""`goodnet bench`: refuses early, shows what it made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from goodnet.bench import Task


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


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_what_failed_is_told_without_progress_too(
    goodnet: Callable[..., Any],
    desk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quiet: list[str],
) -> None:
    def half(tasks: Sequence[Task], *, told: Callable[[Task, str], None], **_: Any) -> list[Task]:
        first, second = tasks
        told(first, "made")
        told(second, "goodnet attack: it broke")
        return [second]

    monkeypatch.setattr(import_module("goodnet.cli.bench"), "make_zoo", half)
    arguments = ["bench", "zoo", desk / "case", "--out", tmp_path / "zoo", "--width", "2", *quiet]
    answer = goodnet(*arguments, "--only", "clean", "patch")
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert lines[-1].endswith("patch, seed 0: goodnet attack: it broke")
    assert [line for line in lines[:-1] if line.endswith(": made")] == (
        [] if quiet else ["1/2 clean, seed 0: made"]
    )


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
