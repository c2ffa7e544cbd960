"""Methods × attacks × seeds: every network of a zoo repaired by every method.

A cell that is there, made with the same settings of the same files, is left alone, so an
interrupted bench goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from scipy.stats import spearmanr

from goodnet.bench.cells import CellTask, data_hashes
from goodnet.bench.tasks import THERE, Processes, make_all
from goodnet.bench.zoo import CLEAN, FACES, SIGNS
from goodnet.errors import DataError, SettingsError
from goodnet.results import (
    BenchPart,
    CellResult,
    MemberSummary,
    MethodSummary,
    PartName,
    Rate,
    RiskCorrelation,
)
from goodnet.training import Precision

DEVELOPMENT: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "small_cnn": {
        "patch": (0,),
        "post-it": (0,),
        "blend": (0,),
        "sine": (0,),
        "warp": (0,),
        "all-to-all": (0,),
        "untargeted": (0,),
        "multi-target": (0,),
        "source-specific": (0, 1),
        CLEAN: (0, 1),
    },
    "deepid": {member.name: tuple(range(13)) for member in FACES},
}
"""By network and attack, the seeds whose outcomes were looked at while methods were made and tuned.

Figures on these are chosen by us and so too good; all others were first looked at when the
methods were finished, and tell what a method does to networks that nobody had in mind.
"""


@dataclass(frozen=True)
class Margins:
    """How close to what can be asked for a repair has to come.

    Attributes:
        attack_success: Points above the floor, for each trigger.
        clean_accuracy: Points below B.
    """

    attack_success: int
    clean_accuracy: int

    def met_by(self, cell: CellResult) -> bool:
        """Whether B′ stays within them; computed on counts, so that no rounding decides."""
        lost = _exact(cell.accuracy_before) - _exact(cell.accuracy_after)
        return lost <= Fraction(self.clean_accuracy, 100) and all(
            _exact(each.after) - _exact(each.floor) <= Fraction(self.attack_success, 100)
            for each in cell.triggers
        )


CURED = Margins(attack_success=1, clean_accuracy=1)
NEAR = Margins(attack_success=3, clean_accuracy=2)


def _exact(rate: Rate) -> Fraction:
    return Fraction(rate.count, rate.n) if rate.n else Fraction(0)


def network_folder(zoo: Path, *, architecture: str | None, width: int | None) -> Path:
    """The folder of one network in the zoo.

    Raises:
        DataError: No zoo, or none of that network.
        SettingsError: It is not said which of several.
    """
    there = sorted({run.parents[1].name for run in zoo.glob("*/*/seed-*")})
    if not there:
        raise DataError(zoo, "holds no zoo", "give the --out of goodnet bench zoo")
    if architecture is None:
        if width is not None:
            raise SettingsError("width", width, "give --architecture beside it")
        if len(there) > 1:
            raise SettingsError("architecture", None, f"the zoo has {', '.join(there)}; say which")
        return zoo / there[0]
    name = architecture if width is None else f"{architecture}-{width}"
    if name not in there:
        raise SettingsError("architecture", name, f"the zoo has {', '.join(there)}")
    return zoo / name


def cell_tasks(
    network: Path,
    data: Path,
    out: Path,
    *,
    methods: Sequence[str],
    names: Sequence[str] = (),
    seeds: Sequence[int] = (),
    repair_seed: int,
    precision: Precision,
    risk: bool = True,
    device: str = "cpu",
) -> tuple[CellTask, ...]:
    """The cells of one network, attack by attack.

    Args:
        network: Its folder in the zoo, ZOO/NETWORK.
        data: Folder with the images.
        out: Folder of the bench.
        methods: Names in `DEFENSES`.
        names: Of members; all that are there where none is given.
        seeds: Of the networks; all that are there where none is given.
        repair_seed: Of the repairs.
        precision: Of the numbers while tuning.
        risk: Whether the repairs estimate the remaining risk too.
        device: On which they are made.

    Raises:
        SettingsError: No such member, or no such seed of any member chosen.
    """
    usual = [member.name for member in (*SIGNS, *FACES)]
    runs = sorted(
        (run for run in network.glob("*/seed-*") if run.name.removeprefix("seed-").isdecimal()),
        key=lambda run: (
            usual.index(run.parent.name) if run.parent.name in usual else len(usual),
            run.parent.name,
            int(run.name.removeprefix("seed-")),
        ),
    )
    there = list(dict.fromkeys(run.parent.name for run in runs))
    for name in names:
        if name not in there:
            raise SettingsError("only", name, f"the zoo has: {', '.join(there)}")
    runs = [run for run in runs if not names or run.parent.name in names]
    seeds_there = {int(run.name.removeprefix("seed-")) for run in runs}
    for seed in seeds:
        if seed not in seeds_there:
            listed = ", ".join(map(str, sorted(seeds_there)))
            raise SettingsError("seeds", seed, f"the zoo has: {listed}")
    tasks = [
        CellTask(
            run=run,
            data=data,
            method=method,
            repair_seed=repair_seed,
            precision=precision,
            file=out / network.name / run.parent.name / run.name / f"{method}.json",
            risk=risk,
            device=device,
        )
        for run in runs
        for method in methods
    ]
    return tuple(task for task in tasks if not seeds or task.seed in seeds)


def make_cells(
    tasks: Sequence[CellTask], *, data: Path, jobs: int, told: Callable[[CellTask, str], None]
) -> list[CellTask]:
    """Makes what is not there yet, several at a time; gives the cells that failed.

    Each is a process of its own. When this is interrupted, the processes are ended and leave
    nothing half-written.
    """
    hashes = data_hashes(data)

    def make(task: CellTask, processes: Processes) -> str:
        return THERE if task.result(hashes) else processes.run(task.arguments)

    return make_all(tasks, make, jobs=jobs, told=told)


def read_cells(tasks: Sequence[CellTask], *, data: Path) -> tuple[CellResult, ...]:
    """What was measured in the cells that are there, made with these settings and files."""
    hashes = data_hashes(data)
    results = (task.result(hashes) for task in tasks)
    return tuple(result for result in results if result is not None)


def parts_of(cells: Sequence[CellResult]) -> tuple[BenchPart, ...]:
    """The cells in two parts, those that methods were developed on and the others, summed up.

    A part without cells is left out.
    """
    development = [cell for cell in cells if is_development(cell)]
    others = [cell for cell in cells if not is_development(cell)]
    parts = []
    if development:
        parts.append(_part("development", development))
    if others:
        parts.append(_part("held out", others))
    return tuple(parts)


def is_development(cell: CellResult) -> bool:
    """Whether methods were developed on this network."""
    return cell.seed in DEVELOPMENT.get(cell.network, {}).get(cell.member, ())


def risk_correlation(cells: Iterable[CellResult]) -> RiskCorrelation:
    """Whether repairs that say more risk remains are those on which more does.

    Attack success is that of the trigger that works best on B′. A risk of n = 0, where the
    repair found no trigger to try, is ranked as 0.
    """
    said = [
        (cell.remaining_risk.value, max(each.after.value for each in cell.triggers))
        for cell in cells
        if cell.remaining_risk is not None
    ]
    risks, successes = [risk for risk, _ in said], [success for _, success in said]
    if len(set(risks)) < 2 or len(set(successes)) < 2:
        return RiskCorrelation(len(said), None)
    return RiskCorrelation(len(said), float(spearmanr(risks, successes).statistic))


def _part(name: PartName, cells: Sequence[CellResult]) -> BenchPart:
    by_method: dict[str, list[CellResult]] = {}
    by_both: dict[tuple[str, str], list[CellResult]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, []).append(cell)
        by_both.setdefault((cell.member, cell.method), []).append(cell)
    return BenchPart(
        name=name,
        methods=tuple(_of_method(own) for own in by_method.values()),
        members=tuple(_of_member(own) for own in by_both.values()),
        risk=risk_correlation(cells),
        cells=tuple(cells),
    )


def _of_method(cells: Sequence[CellResult]) -> MethodSummary:
    backdoored = [cell for cell in cells if cell.member != CLEAN]
    return MethodSummary(
        method=cells[0].method,
        cells=len(cells),
        cured=_share(CURED, backdoored),
        near=_share(NEAR, backdoored),
        clean_kept=_share(CURED, [cell for cell in cells if cell.member == CLEAN]),
        excess_worst=max(map(excess, cells)),
        accuracy_lost_worst=max(map(accuracy_lost, cells)),
        seconds=statistics.fmean(cell.seconds for cell in cells),
    )


def _of_member(cells: Sequence[CellResult]) -> MemberSummary:
    over, lost = [excess(cell) for cell in cells], [accuracy_lost(cell) for cell in cells]
    return MemberSummary(
        method=cells[0].method,
        member=cells[0].member,
        seeds=tuple(cell.seed for cell in cells),
        cured=_share(CURED, cells),
        near=_share(NEAR, cells),
        excess_mean=statistics.fmean(over),
        excess_worst=max(over),
        accuracy_lost_mean=statistics.fmean(lost),
        accuracy_lost_worst=max(lost),
    )


def excess(cell: CellResult) -> float:
    """Attack success on B′ above its floor, of the trigger where that is most."""
    return max(each.after.value - each.floor.value for each in cell.triggers)


def accuracy_lost(cell: CellResult) -> float:
    """How much lower the clean accuracy of B′ is than that of B."""
    return cell.accuracy_before.value - cell.accuracy_after.value


def _share(margins: Margins, cells: Sequence[CellResult]) -> Rate:
    return Rate.of(sum(margins.met_by(cell) for cell in cells), len(cells))


def cells_csv(parts: Sequence[BenchPart]) -> str:
    """Every figure: a row for each cell and trigger, rates with their counts.

    What is of the whole cell stands in each of its rows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("accuracy_before", "accuracy_after", "false_alarm_rate", "remaining_risk")
    own = ("before", "after", "floor", "goodnet", "flagged", "recovered_accuracy")
    header = ["network", "part", "member", "seed", "method", "repair_seed", "precision"]
    header += ["cured", "near", "seconds", "trigger", "goal"]
    writer.writerow([*header, *(f"{n}{x}" for n in (*names, *own) for x in ("", "_count", "_n"))])
    for part in parts:
        for cell in part.cells:
            for each in cell.triggers:
                rates = [getattr(cell, name) for name in names]
                rates += [getattr(each, name) for name in own]
                writer.writerow(
                    [
                        *(cell.network, part.name, cell.member, cell.seed, cell.method),
                        *(cell.repair_seed, cell.precision),
                        *(int(CURED.met_by(cell)), int(NEAR.met_by(cell)), cell.seconds),
                        *(each.name, each.goal),
                        *(value for rate in rates for value in _values(rate)),
                    ]
                )
    return text.getvalue()


def _values(rate: Rate | None) -> tuple[object, object, object]:
    return ("", "", "") if rate is None else (rate.value, rate.count, rate.n)
