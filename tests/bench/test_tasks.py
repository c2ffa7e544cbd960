"""Many runs at a time: one that fails stops no other, and none begins after the end."""

from __future__ import annotations

import subprocess
import threading
from typing import Any

import pytest

from goodnet.bench import tasks
from goodnet.bench.tasks import Processes, make_all


def test_what_fails_is_given_back_and_told() -> None:
    told: dict[int, str] = {}

    def make(task: int, _processes: Processes) -> str:
        return ("made", "there", "it broke")[task % 3]

    failed = make_all(range(6), make, jobs=2, told=told.__setitem__)
    assert sorted(failed) == [2, 5]
    assert told == {0: "made", 1: "there", 2: "it broke", 3: "made", 4: "there", 5: "it broke"}


def test_no_more_are_made_at_a_time_than_asked_for() -> None:
    lock, now, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=30)

    def make(_task: int, _processes: Processes) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        both.wait()
        with lock:
            now -= 1
        return "made"

    assert make_all(range(6), make, jobs=2, told=lambda _task, _what: None) == []
    assert most == 2


def test_an_interrupt_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    ended = threading.Event()
    monkeypatch.setattr(Processes, "end", lambda _self: ended.set())

    def make(task: int, _processes: Processes) -> str:
        begun.append(task)
        # As a process does, all but the first run until they are ended.
        assert task == 0 or ended.wait(timeout=30)
        return "made"

    def told(_task: int, _what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_all(range(6), make, jobs=1, told=told)
    assert begun in ([0], [0, 1])


@pytest.mark.parametrize(("wanted", "given"), [(None, "2"), ("1", "1")])
def test_a_run_computes_with_its_share_of_the_cores_or_what_the_user_says(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, given: str
) -> None:
    seen: list[str] = []

    def refuse(_command: list[str], **options: Any) -> None:
        seen.append(options["env"]["OMP_NUM_THREADS"])
        raise OSError("started nothing")

    monkeypatch.setattr(tasks, "cores", lambda: 4)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wanted is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    with pytest.raises(OSError, match="started nothing"):
        Processes(jobs=2).run(["--version"])
    assert seen == [given]


def test_after_the_end_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(1)
    processes.end()
    monkeypatch.setattr("subprocess.Popen", lambda *_arguments, **_more: pytest.fail("started"))
    assert processes.run(["--version"]) == "interrupted"
