"""The course's own two commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from goodnet import read_model
from goodnet.defenses.magnitude import sparsity_of

COURSE = Path(__file__).parents[2] / "examples" / "course"


@pytest.fixture
def course(desk: Path, tmp_path: Path) -> Path:
    """A folder laid out as the course's users have it."""
    for name, source in {
        "models/corner_bd_net.h5": "net.h5",
        "data/clean_valid_data.h5": "valid.h5",
        "data/clean_test_data.h5": "test.h5",
        "data/corner_poisoned_data.h5": "corner.h5",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(desk / source, tmp_path / name)
    return tmp_path


def call(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COURSE / script), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603


def test_prune_and_eval_as_the_course_calls_them(course: Path) -> None:
    import keras  # noqa: PLC0415

    pruned = call(course, "prune.py", "models/corner_bd_net.h5")
    assert pruned.returncode == 0, pruned.stderr
    repaired = course / "models" / "corner_bd_net_rp.h5"
    keras.models.load_model(repaired, compile=False)
    sparsity = sparsity_of(read_model(repaired).network)
    assert all(row.sparsity.value >= 0.7 for row in sparsity)

    told = call(course, "eval.py", "data/corner_poisoned_data.h5", "models/corner_bd_net.h5")
    assert told.returncode == 0, told.stderr
    original, goodnet = told.stdout.splitlines()
    expected = "original network: clean accuracy 100.00%, attack success rate 100.00%"
    assert original == expected
    assert goodnet.startswith("repaired N + 1 network: clean accuracy ")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("prune.py", ["models/none.h5"]), ("eval.py", ["data/corner_poisoned_data.h5", "none.h5"])],
)
def test_a_missing_file_is_one_line(course: Path, script: str, arguments: list[str]) -> None:
    told = call(course, script, *arguments)
    assert told.returncode == 2
    assert len(told.stderr.splitlines()) == 1
    assert "none.h5" in told.stderr
