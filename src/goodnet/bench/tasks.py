"""Many runs of goodnet at a time: a process for each, ended together when interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

Task = TypeVar("Task")
MADE = "made"
THERE = "there"
_PATIENCE = 20.0
"""Seconds a process is given to end by itself."""


class Processes:
    """Runs of goodnet, each with its share of the cores, or the threads of OMP_NUM_THREADS.

    Another number of threads may round otherwise and so change bits. Where other work takes a
    core, threads that wait for each other are several times slower than one alone.

    Args:
        jobs: How many run at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._threads = max(1, cores() // jobs)
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str]) -> str:
        """`made`, or what `goodnet ARGUMENTS` said went wrong, on one line."""
        with self._lock:
            if self._ended:
                return "interrupted"
            process = subprocess.Popen(  # noqa: S603 - this very program, with its own arguments
                [sys.executable, "-m", "goodnet", *arguments, "-q"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                # Ctrl-C reaches this process alone, which passes it on once.
                start_new_session=True,
                env={"OMP_NUM_THREADS": str(self._threads), **os.environ},
            )
            self._running.add(process)
        try:
            lines = process.communicate()[1].strip().splitlines()
        finally:
            self._running.discard(process)
        if process.returncode != 0:
            return lines[-1] if lines else f"exit code {process.returncode}"
        return MADE

    def end(self) -> None:
        """Ends the processes: asked first, so that they tidy up; then made to."""
        with self._lock:
            self._ended = True
            processes = list(self._running)
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                # One that was still starting may have lost the signal.
                process.kill()


def went_wrong(what: str) -> bool:
    """Whether `what` became of a task is neither `made` nor `there`."""
    return what not in (MADE, THERE)


def make_all(
    tasks: Sequence[Task],
    make: Callable[[Task, Processes], str],
    *,
    jobs: int,
    told: Callable[[Task, str], None],
) -> list[Task]:
    """Makes each task, several at a time; gives those that failed.

    Args:
        tasks: What to make.
        make: Makes one: `made`, `there`, or what went wrong.
        jobs: How many at a time.
        told: Told of a task and what became of it.
    """
    failed: list[Task] = []
    processes = Processes(jobs)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures: dict[Future[str], Task] = {}
        try:
            for task in tasks:
                futures[pool.submit(make, task, processes)] = task
            for finished in as_completed(futures):
                what = finished.result()
                told(futures[finished], what)
                if went_wrong(what):
                    failed.append(futures[finished])
        except BaseException:
            for future in futures:
                future.cancel()
            processes.end()
            raise
    return failed


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
