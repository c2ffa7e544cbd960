"""What the processor does a GPU does too: making BadNets, every method, scanning."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from goodnet.cli import main
from goodnet.defenses import DEFENSES
from goodnet.results import Cell, from_json

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(scope="module")
def data(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With images enough for every way of `auto`."""
    folder = tmp_path_factory.mktemp("cuda") / "data"
    shutil.copytree(desk / "case", folder)
    shutil.copy(desk / "many.h5", folder / "valid.h5")
    return folder


@pytest.fixture(scope="module")
def badnet(data: Path) -> Path:
    """Run folder of a small BadNet in a zoo."""
    folder = data.parent / "zoo"
    arguments = ("--width", "4", "--architecture", "small_cnn", "--only", "patch")
    made = ["bench", "zoo", str(data), "--out", str(folder), *arguments, "--device", "cuda", "-q"]
    assert main(made) == 0
    return folder / "small_cnn-4" / "patch" / "seed-0"


@pytest.mark.parametrize("method", DEFENSES)
def test_every_method(
    goodnet: Callable[..., Any], badnet: Path, data: Path, tmp_path: Path, method: str
) -> None:
    file = tmp_path / "cell.json"
    arguments = ("--method", method, "--out", file, "--device", "cuda")
    answer = goodnet("bench", "cell", badnet, data, *arguments)
    assert answer.code == 0, answer.err
    assert from_json(Cell, file.read_bytes(), file).manifest["machine"]["device"] == "cuda"


def test_a_scan(goodnet: Callable[..., Any], badnet: Path, data: Path) -> None:
    # Hardly trained, it is as likely read otherwise.
    read = ("--input-range", "0..255", "--channel-order", "RGB", "--label-offset", "0")
    valid = ("--valid", data / "valid.h5")
    answer = goodnet(
        "scan", badnet / "badnet.safetensors", *valid, *read, "--device", "cuda", "--json"
    )
    assert answer.code in (0, 1), answer.err
    assert answer.json()["seconds"] > 0
