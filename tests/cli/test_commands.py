"""Every command does what it says, and `--json` gives the result object alone."""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from goodnet.data.readers import read_images
from goodnet.data.writers import write_images
from goodnet.formats import read_model

Command = Callable[..., Any]
METHODS = ("prune", "fine-tune", "fine-prune", "magnitude")


def value(rate: dict[str, Any]) -> float:
    """A rate's value, once its fields agree with each other."""
    assert set(rate) == {"value", "count", "n", "interval"}
    assert rate["value"] == pytest.approx(rate["count"] / rate["n"])
    low, high = rate["interval"]
    assert 0 <= low <= rate["value"] <= high <= 1
    return float(rate["value"])


def pictures(desk: Path, name: str) -> list[Path]:
    return sorted(desk.glob(f"{name}_*.png"))


def test_inspect(goodnet: Command, desk: Path, tmp_path: Path) -> None:
    answer = goodnet(
        "inspect", desk / "net.h5", "--json", "--diagram", tmp_path / "a" / "net.svg", "--valid",
        desk / "valid.h5",
    )  # fmt: skip
    assert answer.code == 0
    result = answer.json()
    assert set(result) == {
        "path", "format", "input", "classes", "layers", "prune_layer", "refused",
        "accuracy_by_reading", "input_stated",
    }  # fmt: skip
    assert (result["format"], result["classes"], result["prune_layer"]) == ("keras-h5", 3, "pool_3")
    assert result["input"]["size"] == [3, 16, 16]
    assert result["input_stated"] is False
    assert [layer["name"] for layer in result["layers"]] == [
        "images", "conv_3", "pool_3", "mean", "output",
    ]  # fmt: skip
    assert value(result["accuracy_by_reading"]["0..1, RGB"]) == 1.0
    assert value(result["accuracy_by_reading"]["0..1, BGR"]) < 0.5
    assert ET.parse(tmp_path / "a" / "net.svg").getroot().tag.endswith("svg")  # noqa: S314
    assert str(tmp_path / "a" / "net.svg") in answer.err


def test_inspect_prints_the_accuracy_of_each_reading(goodnet: Command, desk: Path) -> None:
    answer = goodnet("inspect", desk / "net.h5", "--valid", desk / "valid.h5")
    assert "pool_3 ← prune" in answer.out
    line = next(line for line in answer.out.splitlines() if line.startswith("0..1, RGB"))
    assert "100.0" in line
    assert "45/45" in line
    assert any(line.startswith("0..255, BGR") for line in answer.out.splitlines())
    assert "clean accuracy" not in goodnet("inspect", desk / "net.h5").out


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("remove", [False, True])
def test_prune(suffix: str, remove: bool, goodnet: Command, desk: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = goodnet(
        "prune", desk / f"net.{suffix}", "--valid", desk / "valid.h5", "--test", desk / "test.h5",
        "--poisoned", f"white={desk / 'corner.h5'}", "--drop", 2, 50, "--json", "--out", out,
        *(["--remove"] if remove else []),
    )  # fmt: skip
    assert answer.code == 0
    result = answer.json()
    assert (result["layer"], result["channels"], len(result["curve"])) == ("pool_3", 4, 5)
    assert result["order"][0] == 3
    first = [row for row in result["curve"] if row["channels_pruned"] < 2]
    assert [value(row["valid_accuracy"]) for row in first] == [1.0, 1.0]
    assert [value(row["clean_accuracy"]) for row in first] == [1.0, 1.0]
    assert [value(row["attack_success_rate"]["white"]) for row in first] == [1.0, 0.0]
    assert [(row["drop"], row["rule"], row["channels_pruned"]) for row in result["thresholds"]] == [
        (2.0, "at-least", 2), (2.0, "within", 1), (50.0, "at-least", 3), (50.0, "within", 2),
    ]  # fmt: skip
    paths = {row["channels_pruned"]: Path(row["network"]) for row in result["thresholds"]}
    for count, path in paths.items():
        assert path == out / f"pruned_{count}.{suffix}"
        network = read_model(path)
        kernel = network.network.get_parameter("conv_3.weight")
        channels = kernel.flatten(1).abs().sum(1)
        assert len(channels) == (4 - count if remove else 4)
        assert int((channels == 0).sum()) == (0 if remove else count)
    with (out / "curve.csv").open() as file:
        assert len(list(csv.reader(file))) == 6
    expected = {"manifest.json", "result.json", "curve.csv", "report.html"}
    assert expected <= {item.name for item in out.iterdir()}
    assert json.loads((out / "result.json").read_text()) == result
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"model", "valid", "test", "poisoned white"}
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("method", METHODS)
def test_repair(method: str, goodnet: Command, desk: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    risk = [] if method == "prune" else ["--no-risk"]
    answer = goodnet(
        "repair", desk / "net.h5", "--valid", desk / "valid.h5", "--method", method, "--epochs", 1,
        "--json", "--out", out, "--false-alarms", 0.1, *risk,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    result = answer.json()
    assert {
        "method", "network", "goodnet", "valid_accuracy_before", "valid_accuracy_after",
        "false_alarm_rate", "seconds",
    } <= set(result)  # fmt: skip
    assert result["method"] == method
    assert value(result["valid_accuracy_before"]) == 1.0
    assert value(result["false_alarm_rate"]) <= 0.1
    assert (result["remaining_risk"] is not None) == (method == "prune")
    assert {"goodnet_curve.png", "goodnet_curve.svg"} <= {file.name for file in out.iterdir()}
    assert (result["layer"] is not None) == (method in ("prune", "fine-prune"))
    assert len(result["epochs"]) == (0 if method == "prune" else 1)
    assert result["evaluate"] is None
    assert read_model(Path(result["network"])).kind == "network"
    assert read_model(Path(result["goodnet"])).kind == "goodnet"
    assert {Path(result["network"]).parent, Path(result["goodnet"]).parent} == {out}
    # The report can be made again from every kind of result, also where fields are left out.
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    again = goodnet("report", out)
    assert again.code == 0, again.err
    assert str(out / "report.html") in again.out.replace("\n", "")
    assert len((out / "report.html").read_bytes()) > 0.9 * len(page)
    assert goodnet("report", out, "--json").json() == result


def test_anp_masks_relus_inside_the_layers_of_a_keras_file(
    goodnet: Command, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_is_zero(_: object, sites: list[Any], *__: object, **___: object) -> list[torch.Tensor]:
        return [(torch.arange(site.channels) < site.channels - 1).float() for site in sites]

    monkeypatch.setattr(import_module("goodnet.defenses.anp"), "_learn_masks", last_is_zero)
    given = ["--valid", desk / "valid.h5", "--out", tmp_path / "run"]
    arguments = ["repair", desk / "net.h5", *given, "--method", "anp", "--no-risk", "--json"]
    answer = goodnet(*arguments)
    assert answer.code == 0, answer.err
    result = answer.json()
    assert (result["layer"], result["channels_pruned"]) == ("conv_3", 1)


def test_repair_measures_what_it_is_given(repaired: Path) -> None:
    result = json.loads((repaired / "result.json").read_text())
    networks = {row["name"]: row for row in result["evaluate"]["networks"]}
    assert list(networks) == ["B", "B′ fine-prune", "G"]
    bad, good = networks["B"], networks["G"]
    assert [row["name"] for row in bad["poisoned"]] == ["corner"]
    assert value(bad["clean_accuracy"]) == 1.0
    assert value(bad["poisoned"][0]["attack_success_rate"]) == 1.0
    assert value(networks["B′ fine-prune"]["poisoned"][0]["attack_success_rate"]) == 0.0
    assert value(networks["B′ fine-prune"]["poisoned"][0]["recovered_accuracy"]) == 1.0
    assert value(good["poisoned"][0]["flagged"]) == 1.0
    assert value(good["false_alarm_rate"]) == 0.0
    # No slope leads to a corner that must be all white, so no search finds it.
    assert result["remaining_risk"]["n"] == 0
    curve = result["goodnet_curve"]
    assert curve["budget"] == 0.01
    assert {row["flagged"]["corner"]["n"] for row in curve["rows"]} == {
        bad["poisoned"][0]["flagged"]["n"]
    }
    page = (repaired / "report.html").read_text()
    assert "Remaining risk: not known." in page
    assert "which is less than one: none of them may be flagged" in page.replace("\n", " ")
    assert (bad["kind"], good["kind"]) == ("network", "goodnet")
    manifest = json.loads((repaired / "manifest.json").read_text())
    assert manifest["split"]["held_out"] + manifest["split"]["tuned_on"] == 45


@pytest.mark.parametrize(("given", "budget"), [((), 0.01), (("--false-alarms", "plain"), None)])
def test_the_goodnet_has_a_budget_or_the_plain_rule(
    given: tuple[str, ...], budget: float | None, goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    answer = goodnet(
        "repair", desk / "net.h5", "--valid", desk / "valid.h5", "--method", "prune", "--no-risk",
        "--json", "--out", tmp_path / "run", *given,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    result = answer.json()
    assert result["goodnet_curve"]["budget"] == budget
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["settings"]["false_alarms"], manifest["settings"]["risk"]) == (budget, False)


def test_evaluate_networks_and_goodnets(
    goodnet: Command, desk: Path, repaired: Path, tmp_path: Path
) -> None:
    answer = goodnet(
        "evaluate", desk / "net.h5", repaired / "repaired.h5", repaired / "goodnet.pt2",
        "--test", desk / "test.h5", "--poisoned", desk / "corner.h5", "--json",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    result = answer.json()
    assert set(result) == {"networks"}
    stored = json.loads((repaired / "result.json").read_text())["evaluate"]["networks"]
    measured = [
        {key: row[key] for key in ("kind", "clean_accuracy", "false_alarm_rate", "poisoned")}
        for row in result["networks"]
    ]
    # Read back from their files the three answer as they did before they were written.
    assert measured == [{key: row[key] for key in measured[0]} for row in stored]
    assert [row["name"] for row in result["networks"]] == ["net", "repaired", "goodnet"]
    assert (tmp_path / "run" / "report.html").is_file()


def test_evaluate_names_networks_of_one_name_by_their_paths(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    shutil.copyfile(desk / "net.h5", tmp_path / "net.h5")
    answer = goodnet(
        "evaluate", desk / "net.h5", tmp_path / "net.h5", "--test", desk / "test.h5", "--json"
    )
    names = [row["name"] for row in answer.json()["networks"]]
    assert names == [str(desk / "net.h5"), str(tmp_path / "net.h5")]


def test_evaluate_without_true_labels_can_be_reported(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    shutil.copyfile(desk / "corner.h5", tmp_path / "corner.h5")
    with h5py.File(tmp_path / "corner.h5", "r+") as file:
        del file["true_label"]
    out = tmp_path / "run"
    answer = goodnet(
        "evaluate", desk / "net.h5", "--test", desk / "test.h5", "--poisoned",
        tmp_path / "corner.h5", "--out", out, "--json",
    )  # fmt: skip
    assert answer.json()["networks"][0]["poisoned"][0]["recovered_accuracy"] is None
    assert goodnet("report", out).code == 0


def test_predict(goodnet: Command, desk: Path, repaired: Path) -> None:
    clean, corner = pictures(desk, "clean"), pictures(desk, "corner")

    def labels(model: Path) -> list[dict[str, Any]]:
        answer = goodnet("predict", model, *clean, *corner, "--json")
        assert answer.code == 0, answer.err
        result = answer.json()
        assert set(result) == {"network", "input", "input_stated", "predictions"}
        predictions: list[dict[str, Any]] = result["predictions"]
        assert [row["path"] for row in predictions] == [str(path) for path in clean + corner]
        assert all(0 <= row["score"] <= 1 for row in predictions)
        return predictions

    assert [row["label"] for row in labels(desk / "net.h5")] == [0, 1, 2, 0, 0, 0]
    assert [row["label"] for row in labels(repaired / "repaired.h5")] == [0, 1, 2, 1, 2, 1]
    flagged = labels(repaired / "goodnet.pt2")
    assert [row["backdoored"] for row in flagged] == [False] * 3 + [True] * 3
    assert [row["class_index"] for row in flagged] == [0, 1, 2, 3, 3, 3]
    assert all(row["label"] is None for row in flagged[3:])
    table = goodnet("predict", repaired / "goodnet.pt2", clean[0], corner[0]).out
    assert "label 0" in table
    assert "backdoored" in table


def test_predict_says_how_it_reads_where_nothing_was_settled(goodnet: Command, desk: Path) -> None:
    answer = goodnet("predict", desk / "net.h5", pictures(desk, "clean")[0])
    assert "the file does not say how it wants its input" in answer.err
    answer = goodnet(
        "predict", desk / "net.h5", pictures(desk, "clean")[0], "--label-offset", 1, "--json"
    )
    assert answer.json()["predictions"][0]["label"] == 1
    assert answer.json()["predictions"][0]["class_index"] == 0
    assert "does not say" not in answer.err


def test_quiet_says_nothing_beside_the_result(goodnet: Command, desk: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "run", "-q"]
    valid, test = ["--valid", desk / "valid.h5"], ["--test", desk / "test.h5"]
    for arguments in (
        ["inspect", desk / "net.h5", "-q", "--diagram", tmp_path / "net.svg"],
        ["prune", desk / "net.h5", *valid, *out],
        ["repair", desk / "net.h5", *valid, "--method", "fine-tune", "--epochs", 1, *out],
        ["evaluate", desk / "net.h5", *test, *out],
        ["predict", desk / "net.h5", *pictures(desk, "clean"), "-q"],
    ):
        answer = goodnet(*arguments)
        assert (answer.code, answer.err) == (0, ""), arguments[0]
        assert answer.out


def test_tables_go_to_stdout_and_the_rest_to_stderr(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    answer = goodnet(
        "prune", desk / "net.h5", "--valid", desk / "valid.h5", "--out", tmp_path / "run[/x] [b]y"
    )
    assert answer.code == 0
    assert "input read as 0..1, RGB: 45/45 of clean images right" in answer.err
    # Brackets in a path are no markup.
    assert f"report: {tmp_path / 'run[/x] [b]y' / 'report.html'}" in answer.err
    assert "4 channels" in answer.out
    assert "report:" not in answer.out


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key != "seconds"}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("method", ["fine-prune", "magnitude"])
def test_the_same_seed_gives_the_same_result(
    method: str, goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    def once(name: str, seed: int) -> tuple[str, list[torch.Tensor], Any]:
        torch.rand(seed + len(name))  # Whatever else draws does not matter.
        out = tmp_path / name
        answer = goodnet(
            "repair", desk / "net.h5", "--valid", desk / "valid.h5", "--method", method,
            "--epochs", 1, "--seed", seed, "--out", out, "-q", "--json",
        )  # fmt: skip
        text = json.dumps(_without_times(answer.json())).replace(str(out), "")
        state = read_model(out / "repaired.h5").network.state_dict()
        return text, list(state.values()), json.loads((out / "manifest.json").read_text())

    first, again, other = once("a", 5), once("bb", 5), once("c", 6)
    assert first[0] == again[0]
    assert all(map(torch.equal, first[1], again[1]))
    assert not all(map(torch.equal, first[1], other[1]))
    for manifest in (first[2], again[2]):
        manifest.pop("started")
        # It holds seconds and paths.
        manifest["outputs"].pop("result.json")
    assert first[2] == again[2]


def stored(file: h5py.File, layer: str) -> list[Any]:
    """The arrays of a layer of a whole model."""
    group = file["model_weights"][layer]
    return [group[name] for name in group.attrs["weight_names"]]


def test_a_network_of_another_range_is_read_rightly(
    goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    """As one of the course's networks: it takes 0…255 and says so nowhere."""
    path = tmp_path / "net.h5"
    shutil.copyfile(desk / "net.h5", path)
    with h5py.File(path, "r+") as file:
        kernel, _ = stored(file, "conv_3")
        kernel[...] = np.asarray(kernel) / 255
        # Fed with 0…1 it would see next to nothing and answer what its bias says.
        stored(file, "output")[1][0] = 2.0
    answer = goodnet(
        "evaluate", path, "--test", desk / "test.h5", "--poisoned", desk / "corner.h5", "--json"
    )
    row = answer.json()["networks"][0]
    assert value(row["clean_accuracy"]) == 1.0
    assert value(row["poisoned"][0]["attack_success_rate"]) == 1.0
    assert "input read as 0..255, RGB: 30/30" in answer.err
    stated = goodnet("evaluate", path, "--test", desk / "test.h5", "--input-range", "0..1")
    assert stated.code == 2
    assert "give --input-range 0..255 --channel-order RGB --label-offset 0" in stated.err


def test_the_version_is_told(goodnet: Command) -> None:
    answer = goodnet("--version")
    assert answer.code == 0
    assert answer.out.strip()


def test_every_command_explains_itself(goodnet: Command) -> None:
    for command in ("demo", "inspect", "scan", "prune", "repair", "evaluate", "predict", "report"):
        answer = goodnet(command, "--help")
        assert answer.code == 0
        assert "usage: goodnet" in answer.out


@pytest.mark.parametrize("method", ["auto", "fine-prune"])
def test_no_decision_reads_what_is_poisoned(
    method: str, goodnet: Command, desk: Path, tmp_path: Path
) -> None:
    """With the labels of the poisoned set shuffled the repaired network is the same, bit by bit."""
    poisoned = read_images(desk / "corner.h5").in_memory()
    shuffled = replace(poisoned, labels=(poisoned.labels + 1) % 3)
    write_images(shuffled, tmp_path / "shuffled.h5")
    networks, successes = [], []
    for name, pack in (("right", desk / "corner.h5"), ("shuffled", tmp_path / "shuffled.h5")):
        answer = goodnet(
            "repair", desk / "net.h5", "--valid", desk / "valid.h5", "--method", method,
            "--epochs", 1, "--test", desk / "test.h5", "--poisoned", pack, "--no-risk",
            "--out", tmp_path / name, "--json", "-q",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        networks.append(read_model(tmp_path / name / "repaired.h5").network.state_dict())
        rows = answer.json()["evaluate"]["networks"]
        successes.append([row["poisoned"][0]["attack_success_rate"]["count"] for row in rows])
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())
    assert successes[0] != successes[1]
