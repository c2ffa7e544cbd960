"""The zoo: made once, made again only where it has changed, and read back rightly."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from goodnet.bench import Member, Task, make_zoo, members, read_zoo, zoo_tasks
from goodnet.bench.zoo import data_hashes
from goodnet.cli.program import parser
from goodnet.data.images import ImageSet
from goodnet.data.writers import write_images
from goodnet.errors import SettingsError
from goodnet.report.zoo import zoo_markdown
from goodnet.results import ZooResult

SMALL = ("--epochs", "2")
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


def tasks_of(
    data: Path,
    chosen: tuple[Member, ...] = CHOSEN,
    *,
    out: Path | None = None,
    seeds: tuple[int, ...] = (0, 1),
    width: int = 4,
    options: tuple[str, ...] = SMALL,
) -> tuple[Task, ...]:
    return zoo_tasks(
        data,
        out or data.parent / "zoo",
        chosen,
        architecture="small_cnn",
        width=width,
        seeds=seeds,
        curves=False,
        options=options,
    )


def made(data: Path, tasks: tuple[Task, ...], *, jobs: int = 2) -> list[tuple[str, int, str]]:
    told: list[tuple[str, int, str]] = []

    def tell(task: Task, what: str) -> None:
        told.append((task.member.name, task.seed, what))

    failed = make_zoo(tasks, data=data, jobs=jobs, told=tell)
    assert len(failed) == sum(what not in ("made", "there") for _, _, what in told)
    return sorted(told)


@pytest.mark.slow
def test_a_zoo_is_made_once_and_goes_on_where_it_stopped(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(data)
    half = tasks[:3]
    assert [what for _, _, what in made(data, half)] == ["made"] * 3
    assert made(data, tasks) == [
        ("clean", 0, "there"),
        ("clean", 1, "there"),
        ("patch", 0, "there"),
        ("patch", 1, "made"),
    ]
    # With other arguments it is another network, made anew.
    other = tasks_of(data, options=(*SMALL, "--learning-rate", "0.002"))
    hashes = data_hashes(data)
    assert all(task.done(hashes) for task in tasks)
    assert not any(task.done(hashes) for task in other)
    # So it is of other images, or when something of it is gone.
    assert not any(task.done({**hashes, "train": "0" * 64}) for task in tasks)
    (tasks[3].folder / "badnet.safetensors").unlink()
    assert [task.done(hashes) for task in tasks] == [True, True, True, False]
    assert made(data, tasks)[-1] == ("patch", 1, "made")
    # Where the paths are written otherwise, it is the same zoo.
    monkeypatch.chdir(data.parent)
    there = tasks_of(Path("colours"), out=Path("zoo"))
    assert all(task.done(hashes) for task in there)

    rows = read_zoo(tasks, data=data)
    assert [(row.member, row.seeds, row.clean_accuracy[0].n) for row in rows] == [
        ("clean", (0, 1), 18),
        ("patch", (0, 1), 18),
    ]
    results = [json.loads((task.folder / "result.json").read_text()) for task in tasks[2:]]
    networks = [result["evaluate"]["networks"] for result in results]
    rates = [each[0]["poisoned"][0]["attack_success_rate"]["count"] for each in networks]
    assert [rate.count for rate in rows[1].triggers[0].attack_success_rate] == rates
    twins = [each[1]["clean_accuracy"]["count"] for each in networks]
    assert [rate.count for rate in rows[0].clean_accuracy] == twins
    assert rows[1].twin_accuracy == rows[0].clean_accuracy
    assert zoo_markdown(ZooResult("colours", rows)).count("\n") == 4


def test_what_failed_is_told_and_the_rest_is_made(data: Path) -> None:
    wrong = Member("wrong", ("--trigger", CORNER, "--target-label", "7"))
    tasks = tasks_of(data, (CHOSEN[0], wrong), seeds=(0,))
    clean, failed = made(data, tasks, jobs=1)
    assert clean == ("clean", 0, "made")
    assert failed[2].startswith("goodnet attack: --target-label is 7; there are 3 classes")
    assert [row.member for row in read_zoo(tasks, data=data)] == ["clean"]


def test_without_its_clean_twin_nothing_is_made(data: Path) -> None:
    unclean = Member("clean", ("--trigger", CORNER, "--target-label", "7"))
    tasks = tasks_of(data, (unclean, CHOSEN[1]), seeds=(0,))
    clean, patch = made(data, tasks, jobs=1)
    assert clean[2].startswith("goodnet attack: --target-label is 7")
    assert patch == ("patch", 0, "not made, for want of its clean twin")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_what_is_being_made_and_leaves_nothing_half_written(data: Path) -> None:
    tasks = tasks_of(data, width=64, options=("--epochs", "100000"))
    # To the main thread, as from a keyboard.
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(8.0, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        make_zoo(tasks, data=data, jobs=2, told=lambda _task, _what: None)
    assert time.monotonic() - start < 60
    assert not [path for path in (data.parent / "zoo").rglob("*") if path.is_file()]


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
