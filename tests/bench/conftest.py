"""A tiny zoo: a clean network and a backdoored one, made by the command in this process."""

from __future__ import annotations

import importlib
import io
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from goodnet.bench import Member, zoo_tasks
from goodnet.bench.tasks import Processes
from goodnet.cli import main
from goodnet.data.images import ImageSet
from goodnet.data.writers import write_images

CORNER = "patch:size=0.25,0.25:place=0.7,0.7"
CHOSEN = (
    Member("clean", ("--trigger", CORNER, "--poison-rate", "0")),
    Member("patch", ("--trigger", CORNER, "--poison-rate", "0.2")),
)


def run_here(arguments: Sequence[str]) -> str:
    """`made`, or the last line of what `goodnet ARGUMENTS` said, in this process."""
    told = io.StringIO()
    with redirect_stderr(told), redirect_stdout(io.StringIO()):
        code = main([*arguments, "-q"])
    return "made" if code == 0 else told.getvalue().strip().splitlines()[-1]


def write_colours(folder: Path) -> None:
    """Images of three colours, a little noisy: train, valid and test."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 60), ("valid", 30), ("test", 24)):
        labels = torch.arange(count) % 3
        pixels = torch.randint(0, 60, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
        pixels[torch.arange(count), labels] += 140
        write_images(ImageSet(name, (3, 16, 16), pixels, labels), folder / f"{name}.h5")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_colours(folder / "colours")
    tasks = zoo_tasks(
        folder / "colours",
        folder / "zoo",
        CHOSEN,
        architecture="small_cnn",
        width=2,
        seeds=(0, 1),
        curves=False,
        options=("--epochs", "20", "--batch-size", "16"),
    )
    for task in tasks:
        assert run_here(task.arguments) == "made"
    return folder


@pytest.fixture
def desk(made_once: Path, tmp_path: Path) -> Path:
    """A folder with `colours`, the images, and `zoo`, to do with as one likes."""
    shutil.copytree(made_once, tmp_path / "desk")
    return tmp_path / "desk"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `toy_cells`, where other processes find it too."""
    folder = str(Path(__file__).parent / "toys")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", folder)
    return importlib.import_module("toy_cells")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are made by the same command lines, but without starting Python for each."""
    monkeypatch.setattr(Processes, "run", lambda _self, arguments: run_here(arguments))
