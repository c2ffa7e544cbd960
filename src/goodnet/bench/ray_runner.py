"""Jobs as tasks of Ray: on every machine of a cluster, with the resources each needs.

Ray hands the jobs out and tells of machines that died. How often a job then begins again is
counted here, as for local processes, and not by Ray: so the number is what was asked for, and a
job that Ray ran twice still ends once.
"""

from __future__ import annotations

import logging
import pickle
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from goodnet.bench.runners import (
    Begun,
    Ended,
    Event,
    Job,
    Lost,
    Needs,
    check_retries,
    died,
    extra,
    pickled_answer,
)
from goodnet.errors import GoodnetError

_AHEAD = 2
"""Jobs handed to Ray for each processor it has: enough that no machine waits for the next."""

_PATIENCE = 10.0
"""Seconds a cluster is given to answer."""


class RayRunner:
    """Runs the jobs on a Ray cluster.

    Every machine of it needs this version of goodnet, and the files that jobs name at the same
    paths.

    Args:
        address: Of the cluster; `auto` finds the one this machine is part of.
        retries: How often a job begins again whose process or machine died.

    Raises:
        SettingsError: Ray is not installed.
    """

    def __init__(self, address: str = "auto", *, retries: int = 2) -> None:
        check_retries(retries)
        self._ray = extra("ray", "ray", field="ray", value=address)
        self._address = address
        self._retries = retries

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """What becomes of the jobs; see `Runner`. Those handed to Ray have begun.

        Raises:
            GoodnetError: No cluster answers at the address.
        """
        if not jobs:
            return
        connected = self._ray.is_initialized()
        if not connected:
            self._connect()
        try:
            yield from self._run(jobs)
        finally:
            if not connected:
                self._ray.shutdown()

    def _connect(self) -> None:
        try:
            self._knock()
            self._ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise GoodnetError(
                f"no Ray cluster answers at {self._address!r} ({' '.join(str(error).split())}); "
                "start one with: ray start --head"
            ) from error

    def _knock(self) -> None:
        """Nothing, where something listens at HOST:PORT; Ray itself would try for minutes."""
        host, _, port = self._address.removeprefix("ray://").rpartition(":")
        if host:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()

    def _run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        task = self._ray.remote(pickled_answer)
        waiting = deque(range(len(jobs)))
        deaths = [0] * len(jobs)
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._room():
                    place = waiting.popleft()
                    needs = jobs[place].needs
                    if (lacking := self._lacking(needs)) is not None:
                        yield Ended(place, problem=lacking)
                        continue
                    handed = task.options(
                        num_cpus=needs.threads, memory=needs.memory, max_retries=0
                    ).remote(pickle.dumps((jobs[place].call, jobs[place].arguments, needs.threads)))
                    running[handed] = place
                    yield Begun(place)
                if not running:
                    continue
                for handed in self._ray.wait(list(running))[0]:
                    place = running.pop(handed)
                    event = self._outcome(place, handed, deaths)
                    if isinstance(event, Lost):
                        waiting.appendleft(place)
                    yield event
        finally:
            for handed in running:
                self._ray.cancel(handed, force=True)

    def _outcome(self, place: int, handed: object, deaths: list[int]) -> Lost | Ended:
        errors = self._ray.exceptions
        try:
            value, problem = pickle.loads(self._ray.get(handed))  # noqa: S301 - from our own task
            return Ended(place, value, problem)
        except errors.RayTaskError as error:
            # The job's own errors are caught where it runs: this is the machine's set-up.
            return Ended(place, problem=" ".join(str(error).split()[-30:]))
        except errors.RayError as error:
            death = f"by {type(error).__name__}"
            deaths[place] += 1
            if deaths[place] > self._retries:
                return Ended(place, problem=died(deaths[place], death))
            return Lost(place, death)

    def _room(self) -> int:
        return max(1, _AHEAD * int(self._ray.cluster_resources().get("CPU", 0)))

    def _lacking(self, needs: Needs) -> str | None:
        """Why no machine of the cluster can ever run this; Ray would wait for one for ever."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(
            node.get("CPU", 0) >= needs.threads and node.get("memory", 0) >= needs.memory
            for node in nodes
        ):
            return None
        return (
            f"needs {needs.threads} threads and {needs.memory / 1e9:.1f} GB of memory; "
            f"none of the {len(nodes)} machines has both"
        )
