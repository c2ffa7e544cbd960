"""What the README says a user can type works as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from goodnet import read_model
from goodnet.cli import main
from goodnet.cli.program import parser
from goodnet.defenses import registry
from goodnet.defenses.auto import AUTO

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


@pytest.fixture
def folder(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names."""
    for name, source in {
        "bd_net.h5": "net.h5",
        "valid.h5": "valid.h5",
        "test.h5": "test.h5",
        "poisoned.h5": "corner.h5",
        "face.png": "clean_0.png",
    }.items():
        shutil.copy(desk / source, tmp_path / name)
    shutil.copytree(desk / "case", tmp_path / "signs")
    monkeypatch.chdir(tmp_path)
    # That it works does not take as long as that it helps.
    monkeypatch.setitem(registry._TUNING, "auto", replace(AUTO, epochs=1, least_steps=0))
    return tmp_path


def test_its_python_repairs_a_network_and_makes_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    assert read_model(folder / "repaired.h5").classes == 3
    assert "attack_success_rate" in capsys.readouterr().out


def commands() -> list[str]:
    return re.findall(r"^    (goodnet [a-z]+ .*)$", README, re.MULTILINE)


def test_it_shows_every_command_that_needs_files() -> None:
    assert [command.split()[1] for command in commands()] == [
        "attack",
        "attack",
        "bench",
        "data",
        "bench",
        "inspect",
        "scan",
        "prune",
        "repair",
        "evaluate",
        "predict",
    ]


@pytest.mark.usefixtures("folder")
def test_its_commands_run_one_after_the_other() -> None:
    for command in commands():
        words = shlex.split(command)[1:]
        if words[0] in ("bench", "data"):
            # Those take an hour, or the network.
            assert parser().parse_args(words).run
            continue
        # A scan that finds the backdoor says so by its exit code.
        assert main(words) in ((0, 1) if words[0] == "scan" else (0,)), command
