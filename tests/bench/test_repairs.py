"""Methods × attacks × seeds: made once, made again only where it changed, and rightly judged."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from goodnet.bench import (
    CURED,
    DEVELOPMENT,
    NEAR,
    CellTask,
    cell_tasks,
    cells_csv,
    make_cell,
    make_cells,
    members,
    network_folder,
    parts_of,
    read_cells,
    risk_correlation,
)
from goodnet.bench.cells import Answers
from goodnet.data.images import ImageSet
from goodnet.data.readers import read_images
from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired
from goodnet.detector import GoodNet
from goodnet.errors import DataError, SettingsError
from goodnet.evaluate import evaluate_network, labels_given
from goodnet.formats import read_model
from goodnet.poison import Poisoning, triggered_set
from goodnet.repair import repair
from goodnet.results import Cell, CellResult, CellTrigger, Rate, from_json, to_json
from goodnet.surgery import prune_channels
from goodnet.training import Precision
from goodnet.triggers import trigger_named

METHODS = ("prune", "clp")
CORNER = "patch:size=0.25,0.25:place=0.7,0.7"


def tasks_of(
    desk: Path, *, seed: int = 0, precision: Precision = "float32", risk: bool = False
) -> tuple[CellTask, ...]:
    return cell_tasks(
        network_folder(desk / "zoo", architecture=None, width=None),
        desk / "colours",
        desk / "out",
        methods=METHODS,
        seeds=[0],
        repair_seed=seed,
        precision=precision,
        risk=risk,
    )


def made(desk: Path, tasks: tuple[CellTask, ...]) -> dict[tuple[str, str], str]:
    told: dict[tuple[str, str], str] = {}

    def tell(task: CellTask, what: str) -> None:
        told[task.member, task.method] = what

    failed = make_cells(tasks, data=desk / "colours", jobs=1, told=tell)
    assert len(failed) == sum(what not in ("made", "there") for what in told.values())
    return told


def every(what: str, *members: str) -> dict[tuple[str, str], str]:
    return {(member, method): what for member in members for method in METHODS}


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_cells_are_made_once_and_again_only_where_something_changed(desk: Path) -> None:
    tasks = tasks_of(desk)
    assert made(desk, tasks[:3]) == {
        ("clean", "prune"): "made",
        ("clean", "clp"): "made",
        ("patch", "prune"): "made",
    }
    assert made(desk, tasks)["patch", "clp"] == "made"
    assert made(desk, tasks) == every("there", "clean", "patch")
    # Other settings are other cells.
    assert read_cells(tasks_of(desk, seed=1), data=desk / "colours") == ()
    assert read_cells(tasks_of(desk, precision="bfloat16"), data=desk / "colours") == ()
    assert read_cells(tasks_of(desk, risk=True), data=desk / "colours") == ()
    # Another network is repaired anew, the others are left alone.
    place = desk / "zoo" / "small_cnn-2"
    other = place / "patch" / "seed-1" / "badnet.safetensors"
    shutil.copy(other, place / "patch" / "seed-0" / "badnet.safetensors")
    assert made(desk, tasks) == {**every("there", "clean"), **every("made", "patch")}
    # Another clean twin is another floor.
    clean = place / "clean" / "seed-1" / "badnet.safetensors"
    shutil.copy(clean, place / "clean" / "seed-0" / "badnet.safetensors")
    assert made(desk, tasks) == every("made", "clean", "patch")
    # So are other clean images; a file that holds no cell is none.
    valid = desk / "colours" / "valid.h5"
    shutil.copy(desk / "colours" / "train.h5", valid)
    tasks[0].file.write_text("{}")
    assert read_cells(tasks, data=desk / "colours") == ()


@pytest.mark.usefixtures("in_process")
def test_a_broken_network_is_told_and_the_others_are_repaired(desk: Path) -> None:
    broken = desk / "zoo" / "small_cnn-2" / "patch" / "seed-0"
    (broken / "badnet.safetensors").write_bytes(b"broken")
    told = made(desk, tasks_of(desk))
    assert told["clean", "prune"] == told["clean", "clp"] == "made"
    assert "badnet.safetensors" in told["patch", "prune"]
    assert told["patch", "prune"].startswith("goodnet bench: ")
    (broken / "manifest.json").write_text("no JSON")
    assert "is no run folder" in made(desk, tasks_of(desk))["patch", "prune"]
    cells = read_cells(tasks_of(desk), data=desk / "colours")
    assert {cell.member for cell in cells} == {"clean"}


def test_a_cell_says_what_evaluation_says(desk: Path) -> None:
    run = desk / "zoo" / "small_cnn-2" / "patch" / "seed-1"
    cell = make_cell(run, desk / "colours", method="fine-tune", seed=3, precision="float32").result
    model = read_model(run / "badnet.safetensors")
    twin = read_model(desk / "zoo" / "small_cnn-2" / "clean" / "seed-1" / "badnet.safetensors")
    images = read_images(desk / "colours" / "test.h5")
    corner = triggered_set(images, Poisoning(trigger_named(CORNER), 0), classes=3)
    repaired, goodnet, told = repair(
        model.network,
        CleanData(read_images(desk / "colours" / "valid.h5"), model.specification),
        classes=3,
        method="fine-tune",
        generator=torch.Generator().manual_seed(3),
    )
    before, after, floor, guarded = (
        evaluate_network(
            network,
            TestData(images, model.specification),
            [PoisonedData(corner, model.specification, "patch")],
            classes=3,
        )
        for network in (model.network, repaired.network, twin.network, goodnet)
    )
    assert cell.accuracy_before == before.clean_accuracy
    assert cell.accuracy_after == after.clean_accuracy
    assert cell.false_alarm_rate == guarded.false_alarm_rate
    (trigger,) = cell.triggers
    assert trigger.before == before.poisoned[0].attack_success_rate
    assert trigger.after == after.poisoned[0].attack_success_rate
    assert trigger.floor == floor.poisoned[0].attack_success_rate
    assert trigger.goodnet == guarded.poisoned[0].attack_success_rate
    assert trigger.flagged == guarded.poisoned[0].flagged
    assert trigger.recovered_accuracy == after.poisoned[0].recovered_accuracy
    assert cell.remaining_risk == told.remaining_risk
    assert cell.remaining_risk is not None
    assert (cell.member, cell.network, cell.seed) == ("patch", "small_cnn-2", 1)
    # The comparison is of something: the backdoor works.
    assert trigger.before.value > trigger.floor.value
    assert trigger.after.n == 16  # of 24 test images, those that are not of the target class


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_a_goodnet_answers_as_when_it_is_asked_alone(
    lamps: torch.nn.Module,
    clean: CleanData,
    poisoned: PoisonedData,
    threshold: float,
) -> None:
    repaired = prune_channels(lamps, "conv", torch.tensor([2, 3]))
    goodnet = GoodNet(lamps, repaired, threshold=threshold)
    answers = Answers(lamps, repaired, goodnet, classes=3)
    for data in (clean, poisoned):
        before, after, guarded = answers.to(data)
        assert torch.equal(before, labels_given(lamps, data))
        assert torch.equal(after, labels_given(repaired, data))
        assert torch.equal(guarded, labels_given(goodnet, data))
    assert (guarded == 3).any()


def test_a_clean_network_is_its_own_twin(desk: Path) -> None:
    run = desk / "zoo" / "small_cnn-2" / "clean" / "seed-0"
    cell = make_cell(run, desk / "colours", method="prune", seed=0, precision="float32", risk=False)
    assert cell.result.triggers[0].floor == cell.result.triggers[0].before
    assert from_json(Cell, to_json(cell), "here") == cell


def test_a_defense_is_given_the_valid_set_and_nothing_else(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CleanData] = []

    def spy(
        network: torch.nn.Module,
        tuning: CleanData,
        held_out: CleanData,
        settings: DefenseSettings,
        **_more: object,
    ) -> Repaired:
        seen.extend((tuning, held_out))
        assert settings.training.precision == "bfloat16"
        return Repaired(network, "it only looked")

    monkeypatch.setitem(DEFENSES, "spy", spy)
    run = desk / "zoo" / "small_cnn-2" / "patch" / "seed-0"
    cell = make_cell(run, desk / "colours", method="spy", seed=0, precision="bfloat16", risk=False)
    given = torch.cat([each.pixels() for each in seen]).flatten(1)
    valid = read_images(desk / "colours" / "valid.h5").in_memory().pixels
    assert isinstance(valid, torch.Tensor)
    assert sorted(given.tolist()) == sorted(valid.flatten(1).tolist())
    # What does nothing cures nothing, and G flags what is unlike clean images alone.
    assert cell.result.accuracy_after == cell.result.accuracy_before
    assert cell.result.triggers[0].after == cell.result.triggers[0].before
    assert cell.result.false_alarm_rate.count == 0
    (trigger,) = cell.result.triggers
    assert trigger.goodnet.count + trigger.flagged.count == trigger.after.count == 16


def test_images_that_the_zoo_was_not_made_of_are_refused(desk: Path) -> None:
    run = desk / "zoo" / "small_cnn-2" / "patch" / "seed-0"
    other = desk / "other"
    shutil.copytree(desk / "colours", other)
    images = read_images(other / "test.h5").in_memory()
    (other / "test.h5").unlink()
    with pytest.raises(DataError, match="other: holds no test set"):
        make_cell(run, other, method="prune", seed=0, precision="float32", risk=False)
    shutil.copy(other / "valid.h5", other / "test.h5")
    assert isinstance(images, ImageSet)
    with pytest.raises(DataError, match="has other test images than"):
        make_cell(run, other, method="prune", seed=0, precision="float32", risk=False)


def test_what_the_manifest_cannot_mean_is_named(desk: Path) -> None:
    run = desk / "zoo" / "small_cnn-2" / "patch" / "seed-0"
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["settings"]["poisonings"][0]["trigger"]["name"] = "glitter"
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="no such poisoning: trigger name is 'glitter'"):
        make_cell(run, desk / "colours", method="prune", seed=0, precision="float32", risk=False)
    del manifest["settings"]["poisonings"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="manifest without poisonings"):
        make_cell(run, desk / "colours", method="prune", seed=0, precision="float32", risk=False)


def test_networks_members_and_seeds_that_are_not_there_are_named(desk: Path) -> None:
    with pytest.raises(DataError, match="colours: holds no zoo"):
        network_folder(desk / "colours", architecture=None, width=None)
    with pytest.raises(SettingsError, match=r"architecture is 'deepid'; the zoo has small_cnn-2"):
        network_folder(desk / "zoo", architecture="deepid", width=None)
    place = network_folder(desk / "zoo", architecture="small_cnn", width=2)
    shutil.copytree(place, desk / "zoo" / "deepid")
    with pytest.raises(SettingsError, match="the zoo has deepid, small_cnn-2; say which"):
        network_folder(desk / "zoo", architecture=None, width=None)

    def of(**chosen: object) -> tuple[CellTask, ...]:
        return cell_tasks(
            place,
            desk / "colours",
            desk / "out",
            methods=METHODS,
            repair_seed=0,
            precision="float32",
            **chosen,  # type: ignore[arg-type]
        )

    assert [(t.member, t.seed, t.method) for t in of(names=["patch"], seeds=[1])] == [
        ("patch", 1, "prune"),
        ("patch", 1, "clp"),
    ]
    assert len(of()) == 8
    with pytest.raises(SettingsError, match="only is 'warp'; the zoo has: clean, patch"):
        of(names=["warp"])
    with pytest.raises(SettingsError, match="seeds is 7; the zoo has: 0, 1"):
        of(seeds=[7])


def a_cell(
    after: tuple[int, ...] = (0,),
    *,
    floor: int = 0,
    lost: int = 0,
    member: str = "patch",
    network: str = "small_cnn",
    seed: int = 0,
    method: str = "prune",
    risk: int | None = None,
) -> CellResult:
    """A cell by hand; every count is of 1,000, and B was right on 970."""
    zero, full = Rate.of(0, 1000), Rate.of(1000, 1000)
    return CellResult(
        member=member,
        network=network,
        seed=seed,
        method=method,
        repair_seed=0,
        precision="float32",
        accuracy_before=Rate.of(970, 1000),
        accuracy_after=Rate.of(970 - lost, 1000),
        false_alarm_rate=zero,
        triggers=tuple(
            CellTrigger(
                name=f"trigger {place}",
                goal="targeted",
                before=full,
                after=Rate.of(count, 1000),
                floor=Rate.of(floor, 1000),
                goodnet=zero,
                flagged=zero,
                recovered_accuracy=full,
            )
            for place, count in enumerate(after)
        ),
        remaining_risk=None if risk is None else Rate.of(risk, 100),
        stopped="by hand",
        seconds=10.0,
    )


@pytest.mark.parametrize(
    ("cell", "cured", "near"),
    [
        (a_cell((0,)), True, True),
        # 1 point and no more; 0.03 - 0.02 > 0.01 in floating point.
        (a_cell((30,), floor=20), True, True),
        (a_cell((31,), floor=20), False, True),
        (a_cell((50,), floor=20), False, True),
        (a_cell((51,), floor=20), False, False),
        # Below the floor is well.
        (a_cell((0,), floor=500), True, True),
        (a_cell((0,), lost=10), True, True),
        (a_cell((0,), lost=11), False, True),
        (a_cell((0,), lost=20), False, True),
        (a_cell((0,), lost=21), False, False),
        (a_cell((0,), lost=-5), True, True),
        # Every trigger counts.
        (a_cell((0, 10, 0)), True, True),
        (a_cell((0, 0, 11)), False, True),
        (a_cell((0, 31, 0)), False, False),
    ],
)
def test_cured_and_near(cell: CellResult, cured: bool, near: bool) -> None:
    assert CURED.met_by(cell) == cured
    assert NEAR.met_by(cell) == near


def test_the_two_parts_hold_each_cell_once() -> None:
    development = [
        a_cell(member="patch"),
        a_cell(member="multi-target", method="clp"),
        a_cell(member="source-specific", seed=1),
        a_cell(member="sunglasses", network="deepid"),
    ]
    held_out = [
        a_cell(member="patch", seed=1),
        a_cell(member="source-specific", seed=2),
        a_cell(member="low-rate"),
        a_cell(member="sunglasses"),
        a_cell(member="sunglasses", network="deepid", seed=13),
        a_cell(member="patch", network="preact_resnet18-8"),
    ]
    parts = parts_of([*held_out[:3], *development, *held_out[3:]])
    assert [(part.name, part.cells) for part in parts] == [
        ("development", tuple(development)),
        ("held out", tuple(held_out)),
    ]
    assert [part.name for part in parts_of(held_out)] == ["held out"]
    assert parts_of([]) == ()


def test_the_attacks_of_development_are_of_the_zoo() -> None:
    for network, names in DEVELOPMENT.items():
        there = {member.name for member in members(faces=network == "deepid")}
        assert set(names) <= there


def test_methods_and_attacks_are_summed_up() -> None:
    cells = [
        a_cell((5,), member="flat-minimum", seed=0, lost=4),
        a_cell((900, 100), member="flat-minimum", seed=1, lost=-2, floor=100),
        a_cell((25,), member="low-rate", seed=0),
        a_cell((0,), member="clean", seed=3, lost=30),
        a_cell((0,), member="clean", seed=2),
        a_cell((0,), member="flat-minimum", seed=0, method="clp", lost=1),
    ]
    (part,) = parts_of(cells)
    prune, clp = part.methods
    assert (prune.method, prune.cells, clp.method, clp.cells) == ("prune", 5, "clp", 1)
    # Clean networks have no backdoor to be cured of.
    assert (prune.cured.count, prune.cured.n) == (1, 3)
    assert (prune.near.count, prune.near.n) == (2, 3)
    assert (prune.clean_kept.count, prune.clean_kept.n) == (1, 2)
    assert (clp.cured.count, clp.cured.n, clp.clean_kept.n) == (1, 1, 0)
    assert prune.excess_worst == pytest.approx(0.8)
    assert prune.accuracy_lost_worst == pytest.approx(0.03)
    assert prune.seconds == 10.0
    blend = part.members[0]
    assert (blend.member, blend.method, blend.seeds) == ("flat-minimum", "prune", (0, 1))
    assert (blend.cured.count, blend.cured.n) == (1, 2)
    assert blend.excess_mean == pytest.approx((0.005 + 0.8) / 2)
    assert blend.excess_worst == pytest.approx(0.8)
    assert blend.accuracy_lost_mean == pytest.approx(0.001)
    assert blend.accuracy_lost_worst == pytest.approx(0.004)
    assert [(each.member, each.method) for each in part.members] == [
        ("flat-minimum", "prune"),
        ("low-rate", "prune"),
        ("clean", "prune"),
        ("flat-minimum", "clp"),
    ]


def test_remaining_risk_is_compared_with_the_worst_trigger() -> None:
    # Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8.
    cells = [
        a_cell((0, 0), risk=0),
        a_cell((9, 100), risk=10),
        a_cell((900, 0), risk=20),
        a_cell((800, 9), risk=30),
        a_cell((1000,)),
    ]
    risk = risk_correlation(cells)
    assert risk.cells == 4
    assert risk.value == pytest.approx(0.8)
    assert risk_correlation(cells[4:]).cells == 0
    same = [replace(cell, remaining_risk=Rate.of(1, 100)) for cell in cells]
    assert risk_correlation(same).value is None


def test_the_csv_has_every_figure_with_its_counts() -> None:
    cells = [a_cell((5, 40), floor=3, risk=7), a_cell((0,), seed=1, lost=4)]
    rows = list(csv.DictReader(io.StringIO(cells_csv(parts_of(cells)))))
    assert [(row["part"], row["trigger"], row["cured"], row["near"]) for row in rows] == [
        ("development", "trigger 0", "0", "0"),
        ("development", "trigger 1", "0", "0"),
        ("held out", "trigger 0", "1", "1"),
    ]
    assert (rows[1]["after"], rows[1]["after_count"], rows[1]["after_n"]) == ("0.04", "40", "1000")
    assert rows[1]["floor_count"] == "3"
    assert rows[0]["remaining_risk_count"] == "7"
    assert rows[2]["remaining_risk"] == ""
    assert (rows[2]["accuracy_after_count"], rows[2]["seed"]) == ("966", "1")
    assert None not in rows[0]
