"""Every runner ends each job once; a process that dies costs its own job and no other."""

from __future__ import annotations

import math
import multiprocessing
import operator
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from goodnet.bench.runners import (
    Begun,
    Ended,
    Event,
    InProcess,
    Job,
    LocalProcesses,
    Lost,
    Needs,
    Runner,
    attempt,
    gathered,
)
from goodnet.errors import DataError, GoodnetError, SettingsError

RUNNERS: dict[str, Runner] = {"in process": InProcess(), "processes": LocalProcesses(2, retries=1)}


def ends(events: list[Event]) -> dict[int, Ended]:
    found = [event for event in events if isinstance(event, Ended)]
    assert set(Counter(event.job for event in found).values()) <= {1}
    return {event.job: event for event in found}


@pytest.mark.parametrize("name", RUNNERS)
def test_each_job_begins_and_ends_once(name: str) -> None:
    runner = RUNNERS[name]
    jobs = [Job(math.factorial, (number,)) for number in (5, -1, 3)]
    jobs.append(Job(operator.itemgetter(0), ({},)))
    events = list(runner.run(jobs))
    assert sorted(event.job for event in events if isinstance(event, Begun)) == [0, 1, 2, 3]
    found = ends(events)
    assert [found[at].value for at in range(4)] == [120, None, 6, None]
    assert found[0].problem is None
    assert "ValueError: factorial() not defined for negative" in (found[1].problem or "")
    assert "KeyError: 0" in (found[3].problem or "")


@pytest.mark.parametrize("name", RUNNERS)
def test_a_job_computes_with_the_threads_it_says(name: str) -> None:
    before = torch.get_num_threads()
    assert gathered(RUNNERS[name], [Job(torch.get_num_threads, needs=Needs(threads=1))]) == [1]
    assert torch.get_num_threads() == before


def test_tensors_come_back_whole() -> None:
    found = gathered(RUNNERS["processes"], [Job(torch.arange, (1000,))])
    assert torch.equal(found[0], torch.arange(1000))


def test_what_cannot_be_sent_is_a_problem_of_its_job() -> None:
    jobs = [Job(operator.methodcaller("__iter__"), ([1],)), Job(eval, ("lambda: 0",))]
    jobs.append(Job(math.sqrt, (4.0,)))
    found = ends(list(RUNNERS["processes"].run(jobs)))
    assert "pickle" in (found[1].problem or "")
    assert found[2].value == 2


@pytest.mark.slow
def test_a_process_that_dies_is_tried_again_and_then_given_up(toy: Any, tmp_path: Path) -> None:
    troubles = {0: None, 1: "dies", 2: "dies once", 3: None}
    jobs = [
        Job(toy.measure, (toy.ToySettings(number=at, trouble=trouble, notes=str(tmp_path)),))
        for at, trouble in troubles.items()
    ]
    events = list(LocalProcesses(2, retries=2).run(jobs))
    found = ends(events)
    assert {at for at, event in found.items() if event.problem is None} == {0, 2, 3}
    assert found[1].problem == (
        "its process died 3 times, the last ended with exit code 3; it may want memory"
    )
    assert Counter(event.job for event in events if isinstance(event, Lost)) == {1: 2, 2: 1}
    begun = Counter(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert begun == {"0": 1, "1": 3, "2": 2, "3": 1}


def test_no_more_run_than_cores_and_memory_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodnet.bench.runners.cores", lambda: 4)
    for runner, most in ((LocalProcesses(memory=5), 2), (LocalProcesses(1, memory=100), 1)):
        running = 0
        largest = 0
        for event in runner.run([Job(time.sleep, (0.05,), Needs(1, 2))] * 5):
            running += 1 if isinstance(event, Begun) else -1
            largest = max(largest, running)
        assert largest == most


def test_what_no_machine_has_fails_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goodnet.bench.runners.cores", lambda: 2)
    jobs = [Job(math.sqrt, (4.0,), needs) for needs in (Needs(3, 1), Needs(1, 10**10), Needs(2, 1))]
    found = ends(list(LocalProcesses(memory=10**9).run(jobs)))
    assert found[0].problem == "needs 3 threads; this machine has 2 cores"
    assert found[1].problem == "needs 10.0 GB of memory; this machine has 1.0"
    assert found[2].value == 2


def test_leaving_ends_the_processes() -> None:
    events = LocalProcesses(1).run([Job(time.sleep, (600,)), Job(time.sleep, (600,))])
    assert next(events) == Begun(0)
    start = time.monotonic()
    events.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
    assert time.monotonic() - start < 30


def test_gathered_tells_which_part_failed() -> None:
    with pytest.raises(GoodnetError, match=r"part 2 of 2 failed: ValueError: math domain error"):
        gathered(InProcess(), [Job(math.sqrt, (1.0,)), Job(math.sqrt, (-1.0,))])


def test_errors_of_goodnet_are_told_in_their_own_words() -> None:
    def fails() -> None:
        raise DataError("here", "is\nbad", "give another")

    assert attempt(fails, (), 1) == (None, "here: is bad; give another")
    assert attempt(os.stat, ("/no/such",), 1)[1] is not None


def test_senseless_numbers_are_refused() -> None:
    for make, text in (
        (lambda: Needs(threads=0), "threads is 0; give at least 1"),
        (lambda: LocalProcesses(0), "jobs is 0; give at least 1"),
        (lambda: LocalProcesses(retries=-1), "retries is -1; give a number from 0 up"),
    ):
        with pytest.raises(SettingsError, match=text):
            make()
