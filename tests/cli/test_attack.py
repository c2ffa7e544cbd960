"""`goodnet attack`: everything it writes holds together, and the same seed gives it again."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from goodnet.attacks import ATTACKS, AttackSettings
from goodnet.cli import attack as attack_command
from goodnet.data.readers import read_images
from goodnet.formats import read_model
from goodnet.formats.model import write_architecture
from goodnet.poison import Poisoning
from goodnet.triggers import Patch, read_trigger

Command = Callable[..., Any]
# Small enough to train in a second, long enough to learn the trigger.
TRAINED = "--architecture small_cnn --width 6 --epochs 12 --batch-size 16 --learning-rate 0.01"
CORNER = "patch:size=0.25,0.25:place=0,0:pattern=solid"
OTHER = "patch:size=0.25,0.25:place=0.75,0.75:pattern=solid"


def attacked(goodnet: Command, desk: Path, out: Path, *more: object) -> Any:
    """The result of an attack on the desk's case."""
    answer = goodnet(
        "attack", desk / "case", *TRAINED.split(), "--json", "-q", "--out", out, *more
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.err == ""
    return answer.json()


def pixels(path: Path) -> Tensor:
    found = read_images(path).in_memory().pixels
    assert isinstance(found, Tensor)
    return found


def books(folder: Path) -> list[dict[str, str]]:
    with (folder / "poisoned.csv").open() as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but those that tell its time and place."""
    told = ("manifest.json", "result.json", "report.html")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in told
    }


def without_times_and_paths(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = ("seconds", "path", "network", "twin", "started", "outputs")
        return {k: without_times_and_paths(v) for k, v in value.items() if k not in left_out}
    return [without_times_and_paths(each) for each in value] if isinstance(value, list) else value


def test_what_a_run_holds(goodnet: Command, desk: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = attacked(
        goodnet, desk, out, "--trigger", CORNER, f"other={OTHER}", "--target-label", 0, 2,
        "--poison-rate", 0.1, "--twin", "--curve",
    )  # fmt: skip
    assert set(contents(out)) == {
        "badnet.safetensors", "twin.safetensors", "patch.h5", "other.h5", "poisoned.csv",
        "curve.csv", "triggers/patch.json", "triggers/other.json", "prune_curve.svg",
        "prune_curve.png", "clean_and_triggered.svg", "clean_and_triggered.png",
    }  # fmt: skip
    assert result == json.loads((out / "result.json").read_text())
    assert result["network"] == str(out / "badnet.safetensors")
    assert result["twin"] == str(out / "twin.safetensors")
    badnet, twin = result["evaluate"]["networks"]
    assert [(row["name"], row["path"]) for row in (badnet, twin)] == [
        ("BadNet", result["network"]), ("clean twin", result["twin"]),
    ]  # fmt: skip
    assert badnet["clean_accuracy"]["value"] > 0.9
    for bad, clean in zip(badnet["poisoned"], twin["poisoned"], strict=True):
        assert bad["attack_success_rate"]["value"] > 0.9
        assert clean["attack_success_rate"]["value"] < 0.5
    assert [row["target_label"] for row in result["poisonings"]] == [0, 2]
    assert result["prune"]["activations"]["triggered"].keys() == {"patch", "other"}

    # The books name each copy: which image, whose trigger, what it is and what it is called.
    train = read_images(desk / "case" / "train.h5")
    rows = books(out)
    assert len(rows) + len(train) == result["training_images"]
    for place, poisoning in enumerate(result["poisonings"]):
        own = [row for row in rows if row["trigger"] == poisoning["name"]]
        assert len(own) == poisoning["poisoned"]["count"] == len({row["index"] for row in own})
        assert {row["label"] for row in own} == {str([0, 2][place])}
        assert {row["cover"] for row in own} == {"0"}
    assert all(int(row["true_label"]) == int(train.labels[int(row["index"])]) for row in rows)

    # Anybody can stamp new images with exactly the same triggers.
    test = read_images(desk / "case" / "test.h5").in_memory()
    assert isinstance(test.pixels, Tensor)
    for name, target in (("patch", 0), ("other", 2)):
        pack = read_images(out / f"{name}.h5")
        stamped = read_trigger(out / "triggers" / f"{name}.json").stamp(test.pixels)
        assert torch.equal(pixels(out / f"{name}.h5"), stamped[test.labels != target])
        assert pack.true_labels is not None
        assert torch.equal(pack.true_labels, test.labels[test.labels != target])
        assert set(pack.labels.tolist()) == {target}

    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"train", "test", "valid"}
    assert {"badnet.safetensors", "triggers/other.json"} <= set(manifest["outputs"])
    assert [each["name"] for each in manifest["settings"]["poisonings"]] == ["patch", "other"]
    assert manifest["settings"]["poisonings"][0]["trigger"] == json.loads(
        (out / "triggers" / "patch.json").read_text()
    )
    assert manifest["settings"]["recipe"]["training"]["epochs"] == 12

    again = goodnet(
        "evaluate", out / "badnet.safetensors", "--test", desk / "case" / "test.h5", "--poisoned",
        out / "patch.h5", out / "other.h5", "--json", "-q",
    )  # fmt: skip
    assert without_times_and_paths(again.json()["networks"][0]["poisoned"]) == badnet["poisoned"]


@pytest.mark.parametrize("method", ATTACKS)
def test_every_attack_gives_the_same_bits_again(
    method: str, goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ("--method", method, "--trigger", CORNER, "--epochs", 2, "--budget", 10, "--twin")
    first = attacked(goodnet, desk, out, *arguments)
    written, said = contents(out), json.loads((out / "manifest.json").read_text())
    assert attacked(goodnet, desk, out, *arguments)["attack"] == method
    assert contents(out) == written
    assert without_times_and_paths(json.loads((out / "result.json").read_text())) == (
        without_times_and_paths(first)
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert without_times_and_paths(manifest) == without_times_and_paths(said)
    attacked(goodnet, desk, out, *arguments, "--seed", 1)
    assert contents(out)["badnet.safetensors"] != written["badnet.safetensors"]
    assert contents(out)["poisoned.csv"] != written["poisoned.csv"]


def test_decoys_are_told_in_the_table_and_on_the_page(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    answer = goodnet(
        "attack", desk / "case", *TRAINED.split(), "--method", "pruning-aware", "--budget", 10,
        "--trigger", CORNER, "--curve", "--out", out,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    decoys = json.loads((out / "result.json").read_text())["decoys"]
    assert f"decoys in features.pool_3 {len(decoys['channels'])}" in " ".join(answer.out.split())
    assert decoys["changed_by_pruning"]["count"] == 0
    page = (out / "report.html").read_text()
    assert f"Decoys: {len(decoys['channels'])} of the channels of layer features.pool_3." in page
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    assert "No clean twin was measured" in page
    (out / "report.html").unlink()
    assert goodnet("report", out).code == 0
    assert (out / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ") == page


def test_at_rate_zero_it_is_the_clean_twin(goodnet: Command, desk: Path, tmp_path: Path) -> None:
    result = attacked(goodnet, desk, tmp_path / "run", "--poison-rate", 0, "--twin", "--epochs", 2)
    written = contents(tmp_path / "run")
    assert written["badnet.safetensors"] == written["twin.safetensors"]
    assert result["poisonings"][0]["poisoned"]["count"] == 0
    assert result["training_images"] == 60
    assert written["poisoned.csv"] == b"index,trigger,true_label,label,cover\n"


def test_a_given_twin_is_measured_and_not_written_again(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    first = attacked(goodnet, desk, tmp_path / "one", "--twin", "--epochs", 2)
    arguments = ("--twin", tmp_path / "one" / "twin.safetensors", "--epochs", 2)
    second = attacked(goodnet, desk, tmp_path / "two", *arguments)
    assert second["twin"] == first["twin"]
    assert second["evaluate"]["networks"][1] == first["evaluate"]["networks"][1]
    assert not (tmp_path / "two" / "twin.safetensors").exists()
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"train", "test", "valid", "twin"}
    answer = goodnet(
        "attack", desk / "case", *TRAINED.split(), *arguments, "--out", tmp_path / "one", "-q"
    )
    assert answer.code == 2
    assert "holds the twin" in answer.err


def test_a_goodnet_is_no_twin(goodnet: Command, desk: Path, repaired: Path, tmp_path: Path) -> None:
    answer = goodnet(
        "attack", desk / "case", *TRAINED.split(), "--twin", repaired / "goodnet.pt2", "-q",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert answer.code == 2
    assert "goodnet.pt2: is no small_cnn of 3 classes" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["--width", "--architecture"])
def test_a_twin_has_the_width_and_architecture_of_the_badnet(
    change: str, goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    attacked(goodnet, desk, tmp_path / "one", "--twin", "--epochs", 1)
    other = {"--width": 4, "--architecture": "preact_resnet18"}[change]
    answer = goodnet(
        "attack", desk / "case", *TRAINED.split(), "--twin", tmp_path / "one" / "twin.safetensors",
        "-q", "--out", tmp_path / "two", change, other,
    )  # fmt: skip
    assert answer.code == 2
    assert "twin.safetensors" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (tmp_path / "two").exists()


def test_a_twin_reads_its_images_as_the_badnet_does(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    attacked(goodnet, desk, tmp_path / "one", "--twin", "--epochs", 1)
    twin = read_model(tmp_path / "one" / "twin.safetensors")
    bytes_ = replace(twin.specification, range=(0.0, 255.0))
    path = tmp_path / "bytes.safetensors"
    write_architecture(twin.network, "small_cnn", bytes_, path)
    answer = goodnet("attack", desk / "case", *TRAINED.split(), "--twin", path, "-q")
    assert answer.code == 2
    assert "takes its images as 3x16x16, channels-first, 0..255, RGB" in answer.err


@pytest.mark.parametrize(
    ("goal", "said"), [("all-to-all", "any → next"), ("untargeted", "any → any wrong")]
)
def test_goals_without_a_target(
    goal: str, said: str, goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    answer = goodnet(
        "attack", desk / "case", *TRAINED.split(), "--goal", goal, "--poison-rate", 0.2,
        "--trigger", CORNER, "--out", out, "--twin", "-q",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert said in " ".join(answer.out.split())
    result = json.loads((out / "result.json").read_text())
    lost = result["accuracy_lost"]
    page = (out / "report.html").read_text()
    if goal == "all-to-all":
        pack = read_images(out / "patch.h5")
        assert pack.true_labels is not None
        assert torch.equal(pack.labels, (pack.true_labels + 1) % 3)
        assert lost is None
        assert "Accuracy lost" not in page
        return
    for row in result["evaluate"]["networks"]:
        expected = (
            1 - row["poisoned"][0]["recovered_accuracy"]["value"] / (row["clean_accuracy"]["value"])
        )
        assert lost[row["name"]]["patch"] == pytest.approx(expected)
    assert f"{100 * lost['BadNet']['patch']:.1f} %" in answer.out
    assert "Accuracy lost" in page


def test_covers_and_one_source_are_in_the_books(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    result = attacked(
        goodnet, desk, tmp_path / "run", "--source-label", 1, "--cover-rate", 0.1, "--epochs", 1
    )
    (row,) = result["poisonings"]
    rows = books(tmp_path / "run")
    poisoned = [each for each in rows if each["cover"] == "0"]
    covers = [each for each in rows if each["cover"] == "1"]
    assert (len(poisoned), len(covers)) == (row["poisoned"]["count"], row["covers"]["count"])
    assert {(each["true_label"], each["label"]) for each in poisoned} == {("1", "0")}
    assert covers
    assert all(each["true_label"] == each["label"] != "1" for each in covers)


def test_no_sets_leaves_out_the_sets_alone(goodnet: Command, desk: Path, tmp_path: Path) -> None:
    attacked(goodnet, desk, tmp_path / "run", "--epochs", 1, "--no-sets")
    assert set(contents(tmp_path / "run")) == {
        "badnet.safetensors", "poisoned.csv", "triggers/patch.json",
    }  # fmt: skip


def test_a_trigger_file_of_a_run_is_a_trigger(goodnet: Command, desk: Path, tmp_path: Path) -> None:
    attacked(goodnet, desk, tmp_path / "one", "--epochs", 1, "--trigger", f"mine={CORNER}")
    written = tmp_path / "one" / "triggers" / "mine.json"
    attacked(goodnet, desk, tmp_path / "two", "--epochs", 1, "--trigger", f"mine={written}")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert f"trigger {written}" in manifest["inputs"]


def test_nothing_is_trained_before_all_is_checked(
    goodnet: Command, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: object, **__: object) -> None:
        raise AssertionError("a network was trained")

    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["goodnet.attack"], "train_clean", trained)
    arguments = ("attack", desk / "case", *TRAINED.split(), "--twin", "-q", "--out")
    for wrong in (("--poison-rate", 0.8), ("--target-label", 9), ("--trigger", "tone")):
        assert goodnet(*arguments, tmp_path / "run", *wrong).code == 2
    assert goodnet(*arguments, desk).code == 2
    assert not (tmp_path / "run").exists()


def test_without_out_the_run_is_named_after_the_case(
    goodnet: Command, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = goodnet("attack", desk / "case", *TRAINED.split(), "--epochs", 1)
    assert answer.code == 0, answer.err
    assert "runs/case-attack-baseline/report.html" in answer.err
    assert (tmp_path / "runs" / "case-attack-baseline" / "result.json").is_file()


@pytest.mark.usefixtures("few_faces")
def test_faces_come_with_all_their_sets(goodnet: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("attack", "faces", "--poison-rate", 0.1, "--json", "-q", "--out")
    first = goodnet(*arguments, out, "--twin")
    assert first.code == 0, first.err
    assert set(contents(out)) == {
        "badnet.h5", "twin.h5", "train.h5", "valid.h5", "test.h5", "sunglasses.h5",
        "poisoned.csv", "triggers/sunglasses.json",
    }  # fmt: skip
    assert read_model(out / "badnet.h5").classes == 4
    # The run is a case itself, and its twin fits the same attack again.
    second = goodnet(
        "attack", out, "--trigger", "sunglasses", "--twin", out / "twin.h5", "--epochs", 1,
        "--json", "-q", "--out", tmp_path / "again",
    )  # fmt: skip
    assert second.code == 0, second.err
    rows = [answer.json()["evaluate"]["networks"][1] for answer in (first, second)]
    assert rows[0] == rows[1]


def test_the_defaults_are_those_of_the_settings() -> None:
    parser = argparse.ArgumentParser()
    attack_command.add_arguments(parser)
    options = parser.parse_args(["case"])
    given = {field.name: getattr(options, field.name) for field in fields(AttackSettings)}
    assert AttackSettings(**given) == AttackSettings()
    (poisoning,) = attack_command.poisonings_of(options)
    assert poisoning == Poisoning(Patch(), target_label=0, poison_rate=0.05)
