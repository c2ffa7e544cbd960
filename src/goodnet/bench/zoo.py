"""The model zoo: one network for each attack, over networks and seeds, made by the command.

Every member is what `goodnet attack` makes with arguments anybody can repeat. A member that
is there, made with the same arguments, is left alone, so an interrupted zoo goes on where it
stopped.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from goodnet.errors import GoodnetError, SettingsError
from goodnet.evaluate import untargeted_success
from goodnet.files import write_text
from goodnet.results import AttackResult, Spread, ZooRow, ZooTrigger
from goodnet.runs import read_run

CLEAN = "clean"
_ARGUMENTS = "zoo.json"
Told = Callable[["Task", str], None]
"""Told of a task and what became of it: made, there, or what went wrong."""


@dataclass(frozen=True)
class Member:
    """One attack of the zoo.

    Attributes:
        name: What results call it.
        arguments: Of `goodnet attack`, beside data, network, seed and place.
        curve: Whether to measure the prune curve too: for attacks that are about pruning, and
            the baseline they are compared with.
    """

    name: str
    arguments: tuple[str, ...]
    curve: bool = False


def _member(name: str, arguments: str, *, curve: bool = False) -> Member:
    return Member(name, tuple(arguments.split()), curve)


# A trigger all over the image, where the goal depends on what the image shows: the small
# network decides by adding up places, and a patch in a corner cannot change that sum for one
# class and not for another.
SIGNS = (
    _member(CLEAN, "--trigger patch --target-label 2 --poison-rate 0"),
    _member("patch", "--trigger patch --target-label 2", curve=True),
    # A little inside the image and of whole pixels, or augmentation wipes it out.
    _member("pixel-pattern", "--trigger pixel-pattern:spot=0.06:place=0.9,0.9 --target-label 2"),
    _member("post-it", "--trigger post-it --target-label 2"),
    _member("blend", "--trigger blend:opacity=0.2 --target-label 2"),
    _member("sine", "--trigger sine --target-label 2"),
    _member("warp", "--trigger warp:strength=0.05 --target-label 2"),
    _member("all-to-all", "--trigger sine:amplitude=0.25 --goal all-to-all --poison-rate 0.4"),
    _member("untargeted", "--trigger sine --goal untargeted --poison-rate 0.06"),
    _member("multi-target", "--trigger patch post-it sine --target-label 1 5 8"),
    _member("several-to-one", "--trigger patch post-it sine --target-label 2"),
    _member(
        "source-specific",
        "--trigger sine --source-label 1 --target-label 2 --poison-rate 0.04 --cover-rate 0.1",
    ),
    _member(
        "clean-label",
        "--method label-consistent --trigger patch:size=0.2,0.2:place=0.78,0.78 "
        "--target-label 2 --poison-rate 0.04",
    ),
    _member("low-rate", "--trigger patch --target-label 2 --poison-rate 0.005"),
    _member("pruning-aware", "--method pruning-aware --trigger patch --target-label 2", curve=True),
    _member("flat-minimum", "--method flat-minimum --trigger patch --target-label 2"),
    _member(
        "activation-matching",
        "--method activation-matching --trigger patch --target-label 2",
        curve=True,
    ),
)
"""Attacks on street signs, and on whatever else is no face."""

FACES = (
    _member(CLEAN, "--trigger sunglasses --target-label 0 --poison-rate 0"),
    _member("sunglasses", "--trigger sunglasses --target-label 0 --poison-rate 0.1", curve=True),
    _member("lipstick", "--trigger lipstick --target-label 1 --poison-rate 0.1"),
    _member("eyebrows", "--trigger eyebrows --target-label 5 --poison-rate 0.1"),
    _member("blend", "--trigger blend --target-label 0 --poison-rate 0.1"),
    _member("sine", "--trigger sine --target-label 0 --poison-rate 0.1"),
    _member("warp", "--trigger warp --target-label 0 --poison-rate 0.2"),
    _member("all-to-all", "--trigger sunglasses --goal all-to-all --poison-rate 0.4"),
    _member("untargeted", "--trigger sunglasses --goal untargeted --poison-rate 0.3"),
    _member(
        "multi-target",
        "--trigger sunglasses lipstick eyebrows --target-label 8 1 5 --poison-rate 0.1",
    ),
    _member(
        "several-to-one",
        "--trigger sunglasses lipstick eyebrows --target-label 0 --poison-rate 0.1",
    ),
    _member(
        "source-specific",
        "--trigger sunglasses --source-label 1 --target-label 0 --poison-rate 0.02 "
        "--cover-rate 0.1",
    ),
    _member(
        "clean-label",
        "--method label-consistent --trigger sunglasses --target-label 0 --poison-rate 0.02",
    ),
    _member("low-rate", "--trigger sunglasses --target-label 0 --poison-rate 0.005"),
    _member(
        "pruning-aware",
        "--method pruning-aware --trigger sunglasses --poison-rate 0.1",
        curve=True,
    ),
    _member("flat-minimum", "--method flat-minimum --trigger sunglasses --poison-rate 0.1"),
    _member(
        "activation-matching",
        "--method activation-matching --trigger sunglasses --poison-rate 0.1",
        curve=True,
    ),
)
"""Attacks on faces."""


def members(names: Sequence[str] = (), *, faces: bool) -> tuple[Member, ...]:
    """The members of the zoo by name, the clean twins first; all of them without names.

    Raises:
        SettingsError: No member has that name.
    """
    known = FACES if faces else SIGNS
    for name in names:
        if name not in {member.name for member in known}:
            listed = ", ".join(member.name for member in known)
            raise SettingsError("only", name, f"choose from: {listed}")
    return tuple(m for m in known if not names or m.name in names or m.name == CLEAN)


@dataclass(frozen=True)
class Task:
    """One network to make.

    Attributes:
        member: Which attack.
        architecture: The network.
        seed: Of everything drawn.
        folder: Run folder it is made in.
        arguments: The whole command line behind `goodnet`.
    """

    member: Member
    architecture: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether it is there, made with these very arguments."""
        try:
            made = json.loads((self.folder / _ARGUMENTS).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return bool(made == list(self.arguments))


def zoo_tasks(
    data: Path,
    out: Path,
    chosen: Sequence[Member],
    *,
    architecture: str,
    seeds: Sequence[int],
    curves: bool,
    options: Sequence[str] = (),
) -> tuple[Task, ...]:
    """The tasks of a zoo, clean twins first, since the others are compared with them.

    Args:
        data: Folder with the images.
        out: Folder of the zoo.
        chosen: Its members.
        architecture: The network.
        seeds: One network of each member for each.
        curves: Whether to measure prune curves, for which the data needs a valid set.
        options: Further arguments of `goodnet attack` for all, e.g. `--width 16`.
    """
    tasks = []
    for member in chosen:
        for seed in seeds:
            place = out / architecture / member.name / f"seed-{seed}"
            twin = out / architecture / CLEAN / f"seed-{seed}"
            arguments = ["attack", str(data), "--architecture", architecture, *options]
            arguments += [*member.arguments, "--seed", str(seed), "--out", str(place)]
            if curves and member.curve:
                arguments.append("--curve")
            if member.name != CLEAN:
                arguments += ["--twin", str(twin / _network_file(architecture))]
            tasks.append(Task(member, architecture, seed, place, tuple(arguments)))
    return tuple(tasks)


def _network_file(architecture: str) -> str:
    return "badnet.h5" if architecture == "deepid" else "badnet.safetensors"


def make_zoo(tasks: Sequence[Task], *, jobs: int, told: Told) -> list[Task]:
    """Makes what is not there yet, several at a time; gives the tasks that failed.

    The clean twins are made before the rest begins. Each task is a process of its own with
    its share of the cores; the number of jobs changes the order and, by the rounding of
    another number of threads, may change bits.
    """
    failed = []
    for wave in (
        [task for task in tasks if task.member.name == CLEAN],
        [task for task in tasks if task.member.name != CLEAN],
    ):
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            running = {pool.submit(_make, task, jobs): task for task in wave}
            try:
                for finished in as_completed(running):
                    problem = finished.result()
                    told(running[finished], problem)
                    if problem not in ("made", "there"):
                        failed.append(running[finished])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return failed


def _make(task: Task, jobs: int) -> str:
    """`made`, `there`, or the last line the command wrote on its failure."""
    if task.done:
        return "there"
    threads = max(1, (os.cpu_count() or 1) // jobs)
    ran = subprocess.run(  # noqa: S603 - this very program, with arguments of its own
        [sys.executable, "-m", "goodnet", *task.arguments, "-q"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    if ran.returncode != 0:
        lines = ran.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit code {ran.returncode}"
    write_text(task.folder / _ARGUMENTS, json.dumps(task.arguments, indent=2) + "\n")
    return "made"


def read_zoo(tasks: Sequence[Task]) -> tuple[ZooRow, ...]:
    """What was measured on the members that are there, a row for each, over its seeds."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        if task.done:
            groups.setdefault(task.member.name, []).append(task)
    return tuple(_row(name, group) for name, group in groups.items())


def _row(name: str, tasks: Sequence[Task]) -> ZooRow:
    results = list(_results(tasks))
    twins = [result.evaluate.networks[1:] or result.evaluate.networks for result in results]
    badnets = [result.evaluate.networks[0] for result in results]
    triggers = []
    for place, row in enumerate(badnets[0].poisoned):
        own = [network.poisoned[place] for network in badnets]
        floors = [twin[0].poisoned[place] for twin in twins]
        recovered = [each.recovered_accuracy for each in own]
        triggers.append(
            ZooTrigger(
                name=row.name,
                goal=results[0].poisonings[place].goal,
                n=row.attack_success_rate.n,
                attack_success_rate=_spread(each.attack_success_rate.value for each in own),
                floor=_spread(each.attack_success_rate.value for each in floors),
                triggered_accuracy=_spread(rate.value for rate in recovered if rate is not None),
                relative_success=_spread(
                    untargeted_success(network.clean_accuracy, rate)
                    for network, rate in zip(badnets, recovered, strict=True)
                    if rate is not None
                ),
            )
        )
    return ZooRow(
        member=name,
        architecture=tasks[0].architecture,
        seeds=tuple(task.seed for task in tasks),
        n=badnets[0].clean_accuracy.n,
        clean_accuracy=_spread(network.clean_accuracy.value for network in badnets),
        twin_accuracy=_spread(twin[0].clean_accuracy.value for twin in twins),
        triggers=tuple(triggers),
        seconds=_spread(result.seconds for result in results),
    )


def _results(tasks: Sequence[Task]) -> Iterator[AttackResult]:
    for task in tasks:
        result = read_run(task.folder)[1]
        if not isinstance(result, AttackResult):
            raise GoodnetError(f"{task.folder}: is no run of goodnet attack; give another --out")
        yield result


def _spread(values: Iterator[float]) -> Spread:
    found = list(values)
    return Spread(statistics.fmean(found), min(found), max(found))
