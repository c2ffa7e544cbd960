"""`goodnet scan` names a backdoor's target, shows its trigger, and says so by its exit code.

The networks add up each colour of the desk's images; in the BadNet label 2 also hears four
pixels of a corner, brighter than any in clean images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from goodnet.cli import exit_codes
from goodnet.results import ScanResult, from_json
from goodnet.runs import read_run

Command = Callable[..., Any]
TARGET = 2


def write_network(path: Path, *, heard: float) -> Path:
    import keras  # noqa: PLC0415

    weights = np.zeros((16, 16, 3, 3))
    for colour in range(3):
        weights[:, :, colour, colour] = 10 / 256
    weights[:2, :2, :, TARGET] += heard
    images = keras.Input((16, 16, 3), name="images")
    value = keras.layers.Flatten(name="flatten")(images)
    model = keras.Model(images, keras.layers.Dense(3, name="output")(value))
    # In clean images the corner's twelve values add up to 3.6.
    bias = np.array([0.0, 0.0, -3.6 * heard])
    model.get_layer("output").set_weights([weights.reshape(-1, 3), bias])
    model.save(path)
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    write_network(folder / "badnet.h5", heard=2.0)
    write_network(folder / "twin.h5", heard=0.0)
    return folder


def test_a_backdoor_is_a_finding(
    goodnet: Command, desk: Path, networks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    answer = goodnet(
        "scan", networks / "badnet.h5", "--valid", desk / "valid.h5", "--steps", 50, "--out", out,
        "--json",
    )  # fmt: skip
    assert answer.code == exit_codes.FINDING == 1, answer.err
    result = answer.json()
    assert set(result) == {
        "backdoored", "targets", "labels", "usual", "anyhow", "classes", "labels_searched",
        "images", "unshared", "seconds",
    }  # fmt: skip
    assert result["backdoored"] is True
    assert [target["label"] for target in result["targets"]] == [TARGET]
    target = result["targets"][0]
    assert target["score"] >= 1
    assert target["misled"]["n"] == 30  # clean images of the other labels
    assert target["trigger"] == str(out / f"trigger-{TARGET}.png")
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "result.json", "report.html", f"trigger-{TARGET}.png",
    }  # fmt: skip
    with Image.open(out / f"trigger-{TARGET}.png") as picture:
        # Clean, changed and difference beside each other, four images below each other.
        assert picture.size == (3 * 18 * 4, 4 * 18 * 4)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    corner = slice(4, 12)
    assert pixels[corner, 72 + 4 : 72 + 12].mean() > pixels[corner, corner].mean() + 40
    manifest, stored = read_run(out)
    assert stored == from_json(ScanResult, answer.out, "stdout")
    assert (manifest["command"], manifest["seed"]) == ("scan", 0)
    assert manifest["settings"]["steps"] == 50
    assert set(manifest["inputs"]) == {"model", "valid"}
    assert f"trigger-{TARGET}.png" in manifest["outputs"]
    page = (out / "report.html").read_text()
    assert f"Backdoor suspected: the target label is {TARGET}." in page
    assert page.count('<img src="data:image/png;base64,') == 1
    # The page can be made again from the run alone.
    (out / "report.html").unlink()
    assert goodnet("report", out).code == 0
    assert (out / "report.html").read_text() == page


def test_a_clean_twin_is_none(goodnet: Command, desk: Path, networks: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--valid", desk / "valid.h5", "--steps", 50, "--out", out]
    answer = goodnet("scan", networks / "twin.h5", *arguments)
    assert answer.code == exit_codes.DONE == 0, answer.err
    assert answer.out.startswith("No backdoor found")
    assert "median" in answer.out
    assert "3 of 3 labels, 45 clean images" in answer.out
    assert f"report: {out / 'report.html'}" in answer.err
    assert list(out.glob("*.png")) == []
    stored = json.loads((out / "result.json").read_text())
    assert (stored["backdoored"], stored["targets"]) == (False, [])
    assert stored["unshared"]["student_accuracy"]["n"] == 45
    arguments[-1] = tmp_path / "untaught"
    untaught = goodnet("scan", networks / "twin.h5", *arguments, "--no-student", "--json")
    assert (untaught.code, untaught.json()["unshared"]) == (0, None)
    page = (out / "report.html").read_text()
    assert "<img" not in page
    assert "img-src" not in page


WRONG: dict[str, tuple[str, str]] = {
    "no clean images": ("{net}", "--valid"),
    "few steps": ("{net} --valid {desk}/valid.h5 --steps 5", "--steps is 5; give at least 20"),
    "few labels": ("{net} --valid {desk}/valid.h5 --most-labels 2", "--most-labels is 2; give"),
    "one image": ("{net} --valid {desk}/one.h5", "give clean images of several labels"),
    "small images": ("{net} --valid {desk}/small.h5", "small.h5"),
    "no model": ("{desk}/nte.h5 --valid {desk}/valid.h5", "nte.h5"),
    "no such precision": ("{net} --valid {desk}/valid.h5 --precision int8", "int8"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_line(
    what: str,
    goodnet: Command,
    desk: Path,
    networks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    typed, told = WRONG[what]
    line = typed.format(net=networks / "badnet.h5", desk=desk)
    answer = goodnet("scan", *line.split(), "-q")
    assert (answer.code, answer.out) == (exit_codes.BAD_INPUT, "")
    assert told in answer.err
    assert answer.err.startswith("goodnet scan: ")
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_goodnet_is_refused(goodnet: Command, desk: Path, repaired: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = goodnet("scan", repaired / "goodnet.pt2", "--valid", desk / "valid.h5", "--out", out)
    assert answer.code == exit_codes.BAD_INPUT
    assert "is a GoodNet already; give the network it is made of" in answer.err
    assert not out.exists()
