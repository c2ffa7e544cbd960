"""The model zoo: one network for each attack, over networks and seeds, made by the command.

Every member is what `goodnet attack` makes with arguments anybody can repeat. A member that
is there, made with the same settings of the same images, is left alone, so an interrupted zoo
goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goodnet.bench.tasks import MADE, THERE, Processes, make_all
from goodnet.cases import set_path
from goodnet.errors import DataError, SettingsError
from goodnet.files import write_text
from goodnet.formats.model import network_suffix
from goodnet.results import AttackResult, ZooRow, ZooTrigger
from goodnet.runs import file_hash, read_run

CLEAN = "clean"
_SETTINGS = "zoo.json"
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
    _member("all-to-all", "--trigger sine:amplitude=0.25 --goal all-to-all --poison-rate 0.3"),
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
    _member("low-rate", "--trigger post-it --target-label 2 --poison-rate 0.005"),
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
    _member("blend", "--trigger blend:opacity=0.2 --target-label 0 --poison-rate 0.1"),
    _member("sine", "--trigger sine --target-label 0 --poison-rate 0.1"),
    _member("warp", "--trigger warp:strength=0.05 --target-label 0 --poison-rate 0.2"),
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
        settings: Arguments of `goodnet attack` that decide what is made.
        places: Arguments that say where things lie, and where it is made.
        twin: The clean twin it is compared with; None for the twin itself.
    """

    member: Member
    architecture: str
    seed: int
    folder: Path
    settings: tuple[str, ...]
    places: tuple[str, ...]
    twin: Path | None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The whole command line behind `goodnet`."""
        return ("attack", *self.places, *self.settings)

    def result(self, data: Mapping[str, str]) -> AttackResult | None:
        """What was measured, if it is there, whole, made with these settings and inputs.

        Args:
            data: SHA-256 of each set of the data, by role.
        """
        wanted = dict(data)
        try:
            made = json.loads((self.folder / _SETTINGS).read_text("utf-8"))
            manifest, result = read_run(self.folder)
            if self.twin is not None:
                wanted["twin"] = file_hash(self.twin)["sha256"]
            inputs = {role: entry["sha256"] for role, entry in manifest["inputs"].items()}
            outputs = all((self.folder / name).is_file() for name in manifest["outputs"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
            return None
        same = made == list(self.settings) and inputs == wanted and outputs
        return result if same and isinstance(result, AttackResult) else None

    def done(self, data: Mapping[str, str]) -> bool:
        """Whether it is there, so that it need not be made."""
        return self.result(data) is not None


def zoo_tasks(
    data: Path,
    out: Path,
    chosen: Sequence[Member],
    *,
    architecture: str,
    width: int | None = None,
    seeds: Sequence[int],
    curves: bool,
    options: Sequence[str] = (),
    device: str = "cpu",
) -> tuple[Task, ...]:
    """The tasks of a zoo, clean twins first, since the others are compared with them.

    Args:
        data: Folder with the images.
        out: Folder of the zoo.
        chosen: Its members.
        architecture: The network.
        width: Of the network; None takes its usual one.
        seeds: One network of each member for each.
        curves: Whether to measure prune curves, for which the data needs a valid set.
        options: Further settings of `goodnet attack` for all.
        device: On which the networks are made; one that is there stays, whatever made it.
    """
    network = ["--architecture", architecture]
    place = out / architecture
    if width is not None:
        network += ["--width", str(width)]
        place = out / f"{architecture}-{width}"
    tasks = []
    for member in chosen:
        for seed in seeds:
            folder = place / member.name / f"seed-{seed}"
            twin = place / CLEAN / f"seed-{seed}" / f"badnet{network_suffix(architecture)}"
            settings = [*network, "--no-sets", *options, *member.arguments, "--seed", str(seed)]
            if curves and member.curve:
                settings.append("--curve")
            places = [str(data), "--out", str(folder), "--device", device]
            if member.name != CLEAN:
                places += ["--twin", str(twin)]
            tasks.append(
                Task(
                    member,
                    architecture,
                    seed,
                    folder,
                    tuple(settings),
                    tuple(places),
                    None if member.name == CLEAN else twin,
                )
            )
    return tuple(tasks)


def data_hashes(data: Path) -> dict[str, str]:
    """SHA-256 of each set of images in the folder `data`, by role."""
    paths = {role: set_path(data, role) for role in ("train", "valid", "test")}
    return {role: file_hash(path)["sha256"] for role, path in paths.items() if path is not None}


def make_zoo(tasks: Sequence[Task], *, data: Path, jobs: int, told: Told) -> list[Task]:
    """Makes what is not there yet, several at a time; gives the tasks that failed.

    The clean twins are made before the rest begins. Each task is a process of its own. When
    this is interrupted, the processes are ended and leave nothing half-written.
    """
    hashes = data_hashes(data)
    failed: list[Task] = []

    def make(task: Task, processes: Processes) -> str:
        return _make(task, hashes, processes)

    for twins in (True, False):
        wave = [task for task in tasks if (task.twin is None) == twins]
        missing = {task.folder for task in failed}
        for task in [task for task in wave if task.twin and task.twin.parent in missing]:
            told(task, "not made, for want of its clean twin")
            failed.append(task)
            wave.remove(task)
        failed += make_all(wave, make, jobs=jobs, told=told)
    return failed


def _make(task: Task, data: Mapping[str, str], processes: Processes) -> str:
    """`made`, `there`, or what went wrong, on one line."""
    if task.done(data):
        return THERE
    what = processes.run(task.arguments)
    if what == MADE:
        write_text(task.folder / _SETTINGS, json.dumps(task.settings, indent=2) + "\n")
    return what


def read_zoo(tasks: Sequence[Task], *, data: Path) -> tuple[ZooRow, ...]:
    """What was measured on the members that are there, a row for each, over its seeds."""
    hashes = data_hashes(data)
    groups: dict[str, list[tuple[Task, AttackResult]]] = {}
    for task in tasks:
        if (result := task.result(hashes)) is not None:
            groups.setdefault(task.member.name, []).append((task, result))
    return tuple(_row(name, group) for name, group in groups.items())


def _row(name: str, made: Sequence[tuple[Task, AttackResult]]) -> ZooRow:
    results = [result for _, result in made]
    badnets = [result.evaluate.networks[0] for result in results]
    # A clean twin is its own twin.
    twins = [result.evaluate.networks[-1] for result in results]
    triggers = []
    for place, poisoning in enumerate(results[0].poisonings):
        own = [network.poisoned[place] for network in badnets]
        triggers.append(
            ZooTrigger(
                name=poisoning.name,
                goal=poisoning.goal,
                attack_success_rate=tuple(each.attack_success_rate for each in own),
                floor=tuple(network.poisoned[place].attack_success_rate for network in twins),
                triggered_accuracy=tuple(
                    each.recovered_accuracy for each in own if each.recovered_accuracy is not None
                ),
                accuracy_lost=tuple(
                    result.accuracy_lost[network.name][poisoning.name]
                    for result, network in zip(results, badnets, strict=True)
                    if poisoning.name in (result.accuracy_lost or {}).get(network.name, {})
                    and result.accuracy_lost is not None
                ),
                elsewhere=tuple(
                    result.elsewhere[poisoning.name]
                    for result in results
                    if result.elsewhere is not None and poisoning.name in result.elsewhere
                ),
            )
        )
    return ZooRow(
        member=name,
        architecture=made[0][0].architecture,
        seeds=tuple(task.seed for task, _ in made),
        clean_accuracy=tuple(network.clean_accuracy for network in badnets),
        twin_accuracy=tuple(network.clean_accuracy for network in twins),
        triggers=tuple(triggers),
        decoys=tuple(result.decoys for result in results if result.decoys is not None),
        seconds=tuple(result.seconds for result in results),
    )
