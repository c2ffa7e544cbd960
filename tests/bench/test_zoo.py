"""The zoo: made once, made again only where it has changed, and read back rightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from goodnet.bench import Member, Task, make_zoo, members, read_zoo, zoo_tasks
from goodnet.cli.program import parser
from goodnet.data.images import ImageSet
from goodnet.data.writers import write_images
from goodnet.errors import SettingsError
from goodnet.report.zoo import zoo_markdown
from goodnet.results import ZooResult

SMALL = ("--width", "4", "--epochs", "2", "--no-sets")
CORNER = "patch:size=0.25,0.25:place=0.7,0.7"
CHOSEN = (
    Member("clean", ("--trigger", CORNER, "--poison-rate", "0")),
    Member("patch", ("--trigger", CORNER, "--poison-rate", "0.2")),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with images of three colours."""
    folder = tmp_path / "colours"
    folder.mkdir()
    for name, count in (("train", 36), ("test", 18)):
        labels = torch.arange(count) % 3
        pixels = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
        pixels[torch.arange(count), labels] = 200
        write_images(ImageSet(name, (3, 16, 16), pixels, labels), folder / f"{name}.h5")
    return folder


def tasks_of(data: Path, *, options: tuple[str, ...] = SMALL) -> tuple[Task, ...]:
    out = data.parent / "zoo"
    return zoo_tasks(
        data, out, CHOSEN, architecture="small_cnn", seeds=[0, 1], curves=False, options=options
    )


def made(tasks: tuple[Task, ...]) -> list[tuple[str, int, str]]:
    told: list[tuple[str, int, str]] = []
    make_zoo(
        tasks, jobs=2, told=lambda task, what: told.append((task.member.name, task.seed, what))
    )
    return sorted(told)


@pytest.mark.slow
def test_a_zoo_is_made_once_and_goes_on_where_it_stopped(data: Path) -> None:
    tasks = tasks_of(data)
    half = tasks[:3]
    assert [what for _, _, what in made(half)] == ["made"] * 3
    assert made(tasks) == [
        ("clean", 0, "there"),
        ("clean", 1, "there"),
        ("patch", 0, "there"),
        ("patch", 1, "made"),
    ]
    # With other arguments it is another network, made anew.
    other = tasks_of(data, options=(*SMALL, "--learning-rate", "0.002"))
    assert not any(task.done for task in other)

    rows = read_zoo(tasks)
    assert [(row.member, row.seeds, row.n) for row in rows] == [
        ("clean", (0, 1), 18),
        ("patch", (0, 1), 18),
    ]
    results = [json.loads((task.folder / "result.json").read_text()) for task in tasks[2:]]
    rates = [
        result["evaluate"]["networks"][0]["poisoned"][0]["attack_success_rate"]["value"]
        for result in results
    ]
    spread = rows[1].triggers[0].attack_success_rate
    assert (spread.least, spread.most) == (min(rates), max(rates))
    assert spread.mean == pytest.approx(sum(rates) / 2)
    twins = [result["evaluate"]["networks"][1]["clean_accuracy"]["value"] for result in results]
    assert rows[0].clean_accuracy.mean == pytest.approx(sum(twins) / 2)
    assert zoo_markdown(ZooResult("colours", rows)).count("\n") == 4


def test_what_failed_is_told_and_the_rest_is_made(data: Path) -> None:
    wrong = Member("wrong", ("--trigger", CORNER, "--target-label", "7"))
    tasks = zoo_tasks(
        data,
        data.parent / "zoo",
        (CHOSEN[0], wrong),
        architecture="small_cnn",
        seeds=[0],
        curves=False,
        options=SMALL,
    )
    told: dict[str, str] = {}
    failed = make_zoo(tasks, jobs=1, told=lambda task, what: told.update({task.member.name: what}))
    assert failed == [tasks[1]]
    assert told["clean"] == "made"
    assert told["wrong"].startswith("goodnet attack: --target-label is 7; there are 3 classes")
    assert [row.member for row in read_zoo(tasks)] == ["clean"]


@pytest.mark.parametrize("faces", [True, False])
def test_every_member_is_a_command_that_can_be_given(faces: bool) -> None:
    architecture = "deepid" if faces else "small_cnn"
    chosen = members(faces=faces)
    names = [member.name for member in chosen]
    assert names[0] == "clean"
    assert len(set(names)) == len(names)
    tasks = zoo_tasks(
        Path("data"), Path("zoo"), chosen, architecture=architecture, seeds=[3], curves=True
    )
    for task in tasks:
        options = parser().parse_args(task.arguments)
        assert options.seed == 3
        assert (options.twin is None) == (task.member.name == "clean")
        assert options.curve == task.member.curve


def test_members_by_name_bring_the_clean_twin() -> None:
    assert [m.name for m in members(["warp"], faces=False)] == ["clean", "warp"]
    with pytest.raises(SettingsError, match=r"only is 'wrap'; choose from: clean, patch, "):
        members(["wrap"], faces=False)
