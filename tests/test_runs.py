"""Run folders appear whole or not at all, and never in place of something else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from goodnet.errors import DataError, GoodnetError
from goodnet.results import (
    AttackResult,
    ChannelActivations,
    CurveRow,
    DecoyRow,
    EvaluateResult,
    NetworkRow,
    PoisonedRow,
    PoisoningRow,
    PruneResult,
    Rate,
    ThresholdRow,
)
from goodnet.runs import Result, file_hash, make_manifest, read_run, run_folder, write_result

EVALUATED = EvaluateResult(
    (
        NetworkRow(
            name="B′ “odd”",
            path="net.h5",
            kind="goodnet",
            clean_accuracy=Rate.of(95, 100),
            false_alarm_rate=Rate.of(0, 100),
            poisoned=(PoisonedRow("sunglasses", Rate.of(3, 99), Rate.of(97, 100), None),),
        ),
    )
)
PRUNED = PruneResult(
    layer="pool_3",
    channels=1,
    prune_order="increasing",
    order=(0,),
    curve=(CurveRow(0, Rate.of(9, 10)), CurveRow(1, Rate.of(1, 10))),
    thresholds=(ThresholdRow(2.0, "within", 0), ThresholdRow(2.0, "at-least", 1, "p.h5")),
    activations=ChannelActivations((0.125,), {}),
    seconds=0.5,
)
ATTACKED = AttackResult(
    attack="pruning-aware",
    architecture="small_cnn",
    network="badnet.safetensors",
    training_images=10,
    poisonings=(
        PoisoningRow(
            "patch",
            {"name": "patch", "size": [0.25, 0.25]},
            "untargeted",
            None,
            None,
            False,
            Rate.of(1, 10),
            Rate.of(0, 10),
        ),
    ),
    evaluate=EVALUATED,
    accuracy_lost={"BadNet": {"patch": 0.75}},
    decoys=DecoyRow("pool_3", (1, 2), Rate.of(5, 5), 0.0, Rate.of(0, 9), Rate.of(0, 9)),
    prune=PRUNED,
    seconds=1.0,
)


def manifest(command: str = "evaluate", **inputs: Path) -> dict[str, Any]:
    return make_manifest(
        command, title="Evaluation of net.h5", seed=3, settings={"drop": [2.0]}, inputs=inputs
    )


def written(folder: Path, result: Result = EVALUATED, command: str = "evaluate") -> Path:
    with run_folder(folder, manifest(command)) as run:
        assert run.folder != folder
        write_result(run, result)
        (run.folder / "page.txt").write_text("page")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        item.relative_to(folder).as_posix(): item.read_bytes() if item.is_file() else b"folder"
        for item in folder.rglob("*")
    }


@pytest.mark.parametrize(
    ("command", "result"),
    [("evaluate", EVALUATED), ("prune", PRUNED), ("attack", ATTACKED)],
)
def test_results_come_back_as_they_went(command: str, result: Result, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", result, command)
    read, back = read_run(folder)
    assert back == result
    assert (read["command"], read["seed"], read["settings"]) == (command, 3, {"drop": [2.0]})
    assert (folder / "curve.csv").exists() == (command != "evaluate")
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_every_file_written_is_hashed_also_in_folders(tmp_path: Path) -> None:
    with run_folder(tmp_path / "run", manifest("attack")) as run:
        (run.folder / "triggers").mkdir()
        (run.folder / "triggers" / "patch.json").write_text("{}")
        write_result(run, ATTACKED)
    outputs = read_run(tmp_path / "run")[0]["outputs"]
    assert list(outputs) == ["curve.csv", "result.json", "triggers/patch.json"]
    assert outputs["triggers/patch.json"]["sha256"] == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failing_run_leaves_nothing(failure: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with run_folder(tmp_path / "a" / "b" / "run", manifest()) as run:
            write_result(run, EVALUATED)
            raise failure

    with pytest.raises(failure):
        fail()
    assert contents(tmp_path) == {}


def test_a_failing_run_keeps_the_earlier_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    before = contents(tmp_path)

    def fail() -> None:
        with run_folder(folder, manifest()) as run:
            (run.folder / "page.txt").write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert contents(tmp_path) == before


def test_a_run_that_cannot_take_its_place_keeps_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "run")
    before = contents(tmp_path)
    rename = Path.rename

    def fail_for(name: str) -> None:
        def renamed(self: Path, target: Path) -> Path:
            if self.name == name:
                raise OSError("no room")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", renamed)

    with pytest.raises(OSError, match="no room"), run_folder(folder, manifest()) as run:
        fail_for(run.folder.name)
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_an_earlier_run_is_replaced_whole(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", PRUNED, "prune")
    written(folder)
    assert sorted(contents(folder)) == ["manifest.json", "page.txt", "result.json"]
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_a_link_to_an_earlier_run_stays_a_link(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", PRUNED, "prune")
    link = tmp_path / "latest"
    link.symlink_to(folder)
    written(link)
    assert link.is_symlink()
    assert read_run(folder)[1] == EVALUATED
    assert sorted(item.name for item in tmp_path.iterdir()) == ["latest", "run"]


FOREIGN = {
    "files": {"notes.txt": "mine"},
    "another program's manifest": {"manifest.json": '{"name": "a web page", "version": "1"}'},
    "a manifest that is no JSON": {"manifest.json": "{"},
    "a manifest that is a list": {"manifest.json": "[]"},
    "a manifest with another command": {
        "manifest.json": '{"command": "build", "versions": {"goodnet": "1"}}'
    },
    "a manifest with an odd command": {
        "manifest.json": '{"command": ["prune"], "versions": {"goodnet": "1"}}'
    },
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_run_is_not_replaced(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for file, text in FOREIGN[name].items():
        (folder / file).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(
        GoodnetError, match="something else than an earlier run; give another --out"
    ):
        written(folder)
    assert contents(tmp_path) == before


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_text("mine")
    with pytest.raises(GoodnetError, match="is a file, not a folder for a run"):
        written(tmp_path / "net.h5")
    assert (tmp_path / "net.h5").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert read_run(written(tmp_path / "run"))[1] == EVALUATED


def test_the_folder_one_is_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", str(tmp_path)):
        with pytest.raises(GoodnetError, match="is where you are"):
            written(Path(name))


def test_a_run_that_holds_an_input_is_not_replaced(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    model = folder / "repaired.h5"
    model.write_text("weights")
    before = contents(tmp_path)
    with (
        pytest.raises(GoodnetError, match=r"holds the model .*repaired.h5, which the run would"),
        run_folder(folder, manifest(model=model)),
    ):
        pass
    assert contents(tmp_path) == before


DAMAGED = {
    "no manifest": ("manifest.json", None),
    "no result": ("result.json", None),
    "a manifest of nothing": ("manifest.json", ""),
    "a manifest that is a number": ("manifest.json", "7"),
    "a manifest without a command": ("manifest.json", "{}"),
    "an unknown command": ("manifest.json", '{"command": "x"}'),
    "an odd command": ("manifest.json", '{"command": {}}'),
    "a result of nothing": ("result.json", ""),
    "a result of another kind": ("result.json", '{"layer": "pool_3"}'),
    "a result that is text": ("result.json", '"x"'),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_runs_are_told(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    file, text = DAMAGED[name]
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(DataError, match="run"):
        read_run(folder)


def test_manifests_say_what_was_read(tmp_path: Path) -> None:
    model = tmp_path / "net.h5"
    model.write_bytes(b"weights")
    pictures = tmp_path / "pictures"
    (pictures / "0").mkdir(parents=True)
    (pictures / "0" / "a.png").write_bytes(b"a")
    said = manifest(model=model, valid=pictures)
    assert said["inputs"]["model"] == {
        "path": str(model),
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "bytes": 7,
    }
    assert said["inputs"]["valid"]["files"] == 1
    assert set(said["versions"]) >= {"python", "goodnet", "torch", "keras"}
    assert json.loads(json.dumps(said)) == said


def test_a_folders_hash_is_that_of_its_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> str:
        for file, text in files.items():
            place = tmp_path / name / file.replace("_", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return str(file_hash(tmp_path / name)["sha256"])

    first = folder("one", b="2", a="1")
    assert folder("two", a="1", b="2") == first
    assert folder("renamed", a="1", c="2") != first
    assert folder("changed", a="1", b="3") != first
    assert folder("swapped", a="2", b="1") != first
    assert folder("moved", a="1", d_b="2") != first
