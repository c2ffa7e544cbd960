"""Where jobs run: in this process, in processes of this machine, or past it (see ray_runner.py).

A runner knows nothing of grids and cells: it takes jobs and tells what becomes of each.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from goodnet import modes
from goodnet.bench.tasks import cores
from goodnet.errors import GoodnetError, SettingsError

_PATIENCE = 10.0
"""Seconds a process is given to end by itself."""


@dataclass(frozen=True)
class Needs:
    """What one job needs of a machine.

    Attributes:
        threads: It computes with, wherever it runs: another number may round otherwise.
        memory: Bytes, an estimate to plan by; nothing holds the job to it.
    """

    threads: int = 1
    memory: int = 2 * 2**30

    def __post_init__(self) -> None:
        for name in ("threads", "memory"):
            if getattr(self, name) < 1:
                raise SettingsError(name, getattr(self, name), "give at least 1")


@dataclass(frozen=True)
class Job:
    """A call to make somewhere.

    Attributes:
        call: A function at the top of a module that can be imported where it runs.
        arguments: Of it; they and what comes back have to be picklable.
        needs: Of the machine.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True)
class Begun:
    """Job number `job` was handed out."""

    job: int


@dataclass(frozen=True)
class Lost:
    """What ran job number `job` died; the job waits to begin again."""

    job: int
    problem: str


@dataclass(frozen=True)
class Ended:
    """Job number `job` gave `value`, or failed where there is a `problem`, told on one line."""

    job: int
    value: Any = None
    problem: str | None = None


Event = Begun | Lost | Ended


class Runner(Protocol):
    """Something that runs jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """What becomes of the jobs, as it happens; exactly one `Ended` for each.

        A job whose process or machine dies begins again a stated number of times. One that
        raises fails at once, since it would raise again. Closing the iterator ends what runs.
        """
        ...


def gathered(runner: Runner, jobs: Sequence[Job]) -> list[Any]:
    """What the jobs gave, in their order.

    Raises:
        GoodnetError: One of them failed; the others are ended.
    """
    values: dict[int, Any] = {}
    for event in runner.run(jobs):
        if isinstance(event, Ended):
            if event.problem is not None:
                raise GoodnetError(f"part {event.job + 1} of {len(jobs)} failed: {event.problem}")
            values[event.job] = event.value
    return [values[place] for place in range(len(jobs))]


class InProcess:
    """Runs the jobs here, one after the other."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """What becomes of the jobs; see `Runner`."""
        for place, job in enumerate(jobs):
            yield Begun(place)
            value, problem = attempt(job.call, job.arguments, job.needs.threads)
            yield Ended(place, value, problem)


class LocalProcesses:
    """Runs the jobs in processes of this machine, as many as its cores and memory take.

    A process is used for job after job, so that Python and torch start once.

    Args:
        jobs: At most so many at a time; None leaves it to cores and memory.
        retries: How often a job begins again whose process died.
        memory: Bytes to plan with; None takes what the machine has.
    """

    def __init__(
        self, jobs: int | None = None, *, retries: int = 2, memory: int | None = None
    ) -> None:
        if jobs is not None and jobs < 1:
            raise SettingsError("jobs", jobs, "give at least 1")
        check_retries(retries)
        self._jobs = jobs
        self._retries = retries
        self._cores = cores()
        self._memory = memory or machine_memory()

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """What becomes of the jobs; see `Runner`."""
        waiting = deque(range(len(jobs)))
        deaths = [0] * len(jobs)
        idle: list[_Process] = []
        busy: dict[_Process, int] = {}
        try:
            while waiting or busy:
                while waiting and (
                    not busy or self._fits(jobs[waiting[0]], [jobs[at] for at in busy.values()])
                ):
                    place = waiting.popleft()
                    if (lacking := self._lacking(jobs[place].needs)) is not None:
                        yield Ended(place, problem=lacking)
                        continue
                    process = idle.pop() if idle else _Process()
                    busy[process] = place
                    process.give(jobs[place])
                    yield Begun(place)
                for process in _answered(busy):
                    place = busy.pop(process)
                    try:
                        value, problem = process.take()
                    except (EOFError, OSError):
                        death = process.end()
                        deaths[place] += 1
                        if deaths[place] > self._retries:
                            yield Ended(place, problem=died(deaths[place], death))
                        else:
                            waiting.appendleft(place)
                            yield Lost(place, death)
                    else:
                        idle.append(process)
                        yield Ended(place, value, problem)
        finally:
            _end_all([*idle, *busy])

    def _fits(self, job: Job, running: Sequence[Job]) -> bool:
        together = [job.needs, *(each.needs for each in running)]
        return (
            (self._jobs is None or len(together) <= self._jobs)
            and sum(each.threads for each in together) <= self._cores
            and sum(each.memory for each in together) <= self._memory
        )

    def _lacking(self, needs: Needs) -> str | None:
        if needs.threads > self._cores:
            return f"needs {needs.threads} threads; this machine has {self._cores} cores"
        if needs.memory > self._memory:
            have = self._memory / 1e9
            return f"needs {needs.memory / 1e9:.1f} GB of memory; this machine has {have:.1f}"
        return None


class _Process:
    """A process that answers one job after the other."""

    def __init__(self) -> None:
        # A fresh Python: after a fork, torch's threads are gone and its locks may be held.
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        # Held by the process alone, it closes when that dies.
        theirs.close()

    @property
    def pipe(self) -> Connection:
        """Where its answer comes from."""
        return self._pipe

    def give(self, job: Job) -> None:
        """Hand it a job; that it is dead shows when the answer is taken."""
        # Pickled here: torch would else pass on memory that ends with the process.
        message = pickle.dumps((job.call, job.arguments, job.needs.threads))
        with suppress(OSError):
            self._pipe.send_bytes(message)

    def take(self) -> tuple[Any, str | None]:
        """Its answer.

        Raises:
            EOFError, OSError: It died.
        """
        answer: tuple[Any, str | None] = pickle.loads(self._pipe.recv_bytes())  # noqa: S301
        return answer

    def ask_to_end(self) -> None:
        """Tell it to end."""
        self._process.terminate()

    def end(self) -> str:
        """Make sure that it ends; gives how it did."""
        self._process.join(_PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._pipe.close()
        code = self._process.exitcode or 0
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _answered(busy: dict[_Process, int]) -> list[_Process]:
    """The processes that answered or died, once one did."""
    if not busy:
        return []
    ready = wait([process.pipe for process in busy])
    return [process for process in busy if process.pipe in ready]


def _end_all(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.ask_to_end()
    for process in processes:
        process.end()


def _serve(pipe: Connection) -> None:
    """What a process does: answers jobs until it is told to end or nobody listens."""

    def ended(_signal: int, _frame: object) -> None:
        # Leaves by the way of an exception, so that temporary files vanish.
        raise SystemExit

    # Ctrl-C is for the process that started this one, which then ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ended)
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(pickled_answer(pipe.recv_bytes()))


def pickled_answer(message: bytes) -> bytes:
    """The pickled answer to a pickled job; what cannot be read or sent is a problem of the job."""
    try:
        call, arguments, threads = pickle.loads(message)  # noqa: S301 - from our own process
        return pickle.dumps(attempt(call, arguments, threads))
    except Exception as error:  # told as the job's problem
        return pickle.dumps((None, told(error)))


def attempt(
    call: Callable[..., Any], arguments: Sequence[Any], threads: int
) -> tuple[Any, str | None]:
    """What the call gives, or what went wrong on one line."""
    try:
        with modes.threads(threads):
            return call(*arguments), None
    except Exception as error:  # told as the job's problem
        return None, told(error)


def told(error: Exception) -> str:
    """The error on one line; one that goodnet did not foresee with its kind and place."""
    if isinstance(error, GoodnetError):
        return " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())


def died(times: int, death: str) -> str:
    """The problem of a job whose process died too often."""
    return f"its process died {times} times, the last {death}; it may want memory"


def check_retries(retries: int) -> None:
    """Refuse a number below 0."""
    if retries < 0:
        raise SettingsError("retries", retries, "give a number from 0 up")


def machine_memory() -> int:
    """Bytes of memory this machine has; where that cannot be told, more than any has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63


def extra(module: str, name: str, *, field: str, value: object) -> Any:
    """The module of an extra.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            field, value, f"it needs {module}; install it with: pip install 'goodnet[{name}]'"
        ) from error
