"""On a Ray cluster of two machines: the same file, and a machine that dies loses nothing."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from goodnet.bench import ray_runner
from goodnet.bench.cache import Cache
from goodnet.bench.engine import Failure, State, make_grid
from goodnet.bench.grid import Grid, read_grid
from goodnet.bench.ray_runner import RayRunner
from goodnet.bench.runners import Ended, Event, InProcess, Job, Lost, Needs, Runner
from goodnet.bench.sharded_sweep import NetworkFile, image_parts, sharded_sweep
from goodnet.bench.tidy import tidy, tidy_csv
from goodnet.data.images import ImageSet
from goodnet.data.writers import write_images
from goodnet.errors import GoodnetError, SettingsError
from goodnet.formats import InputSpecification

SMALL = Needs(memory=10**6)
GRID = """\
work: toy
constants: {text: words.txt, notes: NOTES, seconds: SECONDS}
axes: {number: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}
needs: {memory: 1 MB}
"""


@pytest.fixture
def cluster(toy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that runs nothing, and two machines of one processor, as processes here."""
    cluster_utils: Any = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = {"object_store_memory": 80 * 2**20}
    made = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **store},
    )
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **store)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def written(folder: Path, toy: Any, *, seconds: float) -> Grid:
    (folder / "notes").mkdir()
    (folder / "words.txt").write_text("hello\n")
    text = GRID.replace("SECONDS", str(seconds)).replace("NOTES", str(folder / "notes"))
    (folder / "grid.yaml").write_text(text)
    return read_grid(folder / "grid.yaml", {"toy": toy.TOY})


def results(grid: Grid, out: Path, runner: Runner, told: Any = None) -> str:
    cache = Cache(out)
    assert make_grid(grid.cells, cache, runner, told=told or (lambda _state, _failure: None)) == ()
    found = [(cell, cache.read(cell)) for cell in grid.cells]
    return tidy_csv(tidy([(cell, made) for cell, made in found if made is not None]))


def begun(folder: Path) -> Counter[int]:
    return Counter(int(path.name.partition("-")[0]) for path in (folder / "notes").iterdir())


def end_machine_of(cluster: Any, folder: Path, number: int) -> None:
    """Ends all processes of the machine that the cell runs on, at once, as a power cut does."""
    note = next((folder / "notes").glob(f"{number}-*"))
    raylet, worker = (int(part) for part in note.name.split("-")[2:])
    machines = {
        machine.all_processes["raylet"][0].process.pid: machine
        for machine in cluster.list_all_nodes()
    }
    os.kill(worker, signal.SIGKILL)
    cluster.remove_node(machines[raylet], allow_graceful=False)


class Watched:
    """A runner that notes what it tells."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.events: list[Event] = []

    def run(self, jobs: Any) -> Iterator[Event]:
        for event in self.runner.run(jobs):
            self.events.append(event)
            yield event


@pytest.mark.slow
def test_a_machine_that_dies_loses_nothing_and_counts_nothing_twice(
    cluster: Any, toy: Any, tmp_path: Path
) -> None:
    grid = written(tmp_path, toy, seconds=0.7)
    runner = Watched(RayRunner(cluster.address))
    killed: list[int] = []

    def told(state: State, _failure: Failure | None) -> None:
        over = {event.job for event in runner.events if isinstance(event, Ended)}
        running = set(begun(tmp_path)) - over
        if state.made >= 2 and running and not killed:
            killed.append(min(running))
            end_machine_of(cluster, tmp_path, killed[0])

    there = results(grid, tmp_path / "there", runner, told)
    ended = Counter(event.job for event in runner.events if isinstance(event, Ended))
    assert ended == dict.fromkeys(range(10), 1)
    lost = {event.job for event in runner.events if isinstance(event, Lost)}
    assert set(killed) <= lost
    # Only what ran on that machine ran again.
    again = {number for number, times in begun(tmp_path).items() if times > 1}
    assert set(killed) <= again <= lost
    assert len(list((tmp_path / "there" / "cells").iterdir())) == 10
    assert there == results(grid, tmp_path / "here", InProcess())


@pytest.mark.slow
def test_a_cluster_gives_the_same(cluster: Any, toy: Any, desk: Path, tmp_path: Path) -> None:
    grid = written(tmp_path, toy, seconds=0.0)
    there = results(grid, tmp_path / "there", RayRunner(cluster.address))
    assert there == results(grid, tmp_path / "here", InProcess())

    jobs = [
        Job(math.sqrt, (-1.0,), SMALL),
        Job(math.sqrt, (4.0,), SMALL),
        Job(math.sqrt, (4.0,), Needs(threads=2, memory=1)),
        Job(toy.measure, (toy.ToySettings(number=1, trouble="dies"),), SMALL),
    ]
    ends = {e.job: e for e in RayRunner(cluster.address, retries=1).run(jobs) if type(e) is Ended}
    assert "ValueError: math domain error" in (ends[0].problem or "")
    assert ends[1].value == 2
    assert ends[2].problem == (
        "needs 2 threads and 0.0 GB of memory; none of the 3 machines has both"
    )
    assert "died 2 times, the last by WorkerCrashedError" in (ends[3].problem or "")

    size = (3, 16, 16)
    pixels = torch.rand(1030, *size, generator=torch.Generator().manual_seed(1))
    write_images(ImageSet("noise", size, pixels, torch.arange(1030) % 3), tmp_path / "a.h5")
    network = NetworkFile(desk / "zoo" / "small_cnn-2" / "patch" / "seed-0" / "badnet.safetensors")
    parts = image_parts(tmp_path / "a.h5", InputSpecification(size), 2)
    sweeps = [
        sharded_sweep(network, "features.pool_3", parts, runner, needs=SMALL)
        for runner in (InProcess(), RayRunner(cluster.address))
    ]
    for name in ("means", "order", "right"):
        assert torch.equal(getattr(sweeps[0], name), getattr(sweeps[1], name))


def test_no_cluster_is_told() -> None:
    # Nothing listens at this port.
    pytest.importorskip("ray")
    runner = RayRunner("127.0.0.1:9")
    with pytest.raises(GoodnetError, match=r"no Ray cluster answers at '127.0.0.1:9'.*ray start"):
        list(runner.run([Job(math.sqrt, (1.0,))]))
    # With nothing to run it need not be there.
    assert list(runner.run([])) == []


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SettingsError, match=r"ray is 'auto'; .*pip install 'goodnet\[ray\]'"):
        ray_runner.RayRunner()
