"""`goodnet bench repair` and `goodnet bench cell`: every method on every network of a zoo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from goodnet.bench import (
    CURED,
    NEAR,
    CellTask,
    cell_tasks,
    cells_csv,
    cores,
    make_cell,
    make_cells,
    network_folder,
    parts_of,
    read_cells,
    risk_correlation,
)
from goodnet.cli.exit_codes import BAD_INPUT, DONE
from goodnet.cli.options import (
    add_device,
    console_of,
    device_named,
    print_result,
    progress_bars,
    seed,
)
from goodnet.cli.signals import as_interrupt
from goodnet.cli.telling import teller
from goodnet.defenses import DEFENSES
from goodnet.errors import SettingsError
from goodnet.files import write_text
from goodnet.networks import ARCHITECTURES
from goodnet.report.repairs import cell_table, repairs_markdown, repairs_table
from goodnet.results import RepairBenchResult, to_json
from goodnet.training import Precision

HELP = "every network of a zoo repaired by every method, each by goodnet bench cell"
CELL_HELP = "one network of a zoo repaired by one method"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bench repair`."""
    parser.epilog = (
        f"Cured: attack success of every trigger at most {CURED.attack_success} point above the "
        f"clean twin's and clean accuracy at most {CURED.clean_accuracy} below the BadNet's; "
        f"near: {NEAR.attack_success} and {NEAR.clean_accuracy}."
    )
    parser.add_argument("zoo", type=Path, metavar="ZOO", help="--out of goodnet bench zoo")
    _add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of cells")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=DEFENSES,
        default=list(DEFENSES),
        metavar="M",
        help="default: all",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these members")
    parser.add_argument(
        "--seeds",
        type=seed,
        nargs="+",
        default=[],
        metavar="N",
        help="of the networks; default: all",
    )
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="default: that of the zoo")
    parser.add_argument("--width", type=int, metavar="W", help="channels of the first block")
    _add_repair(parser)
    parser.add_argument(
        "--jobs",
        type=int,
        default=cores(),
        metavar="J",
        help="cells at a time, the cores shared among them; default: one a core",
    )
    parser.add_argument(
        "--show", action="store_true", help="make nothing, show the table of what is there"
    )
    _add_common(parser)


def add_cell_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bench cell`."""
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="a run of the zoo: ZOO/NETWORK/MEMBER/seed-N"
    )
    _add_data(parser)
    parser.add_argument("--method", choices=DEFENSES, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .json to write")
    _add_repair(parser)
    _add_common(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="folder with valid.h5, all that a repair is given, and test.h5 to measure on",
    )


def _add_repair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="of tuning; bfloat16 halves the time on processors that have it; default: %(default)s",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of the repair; default: %(default)s"
    )
    parser.add_argument(
        "--no-risk",
        dest="risk",
        action="store_false",
        help="leave out the estimate of the remaining risk",
    )
    add_device(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the result object on stdout")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Make the cells, then show all that are there."""
    if options.jobs < 1:
        raise SettingsError("jobs", options.jobs, "give at least 1")
    device_named(options.device)
    console = console_of(options)
    network = network_folder(options.zoo, architecture=options.architecture, width=options.width)
    methods = list(dict.fromkeys(options.methods))
    seeds = list(dict.fromkeys(options.seeds))
    tasks = tasks_of(options, network, methods, names=options.only, seeds=seeds)

    def name(task: CellTask) -> str:
        return f"{task.member}, seed {task.seed}, {task.method}"

    failed: list[CellTask] = []
    if not options.show:
        told = teller(console, len(tasks), name)
        with as_interrupt():
            failed = make_cells(tasks, data=options.data, jobs=options.jobs, told=told)
    # The table is of all that is there, also of earlier calls.
    everything = tasks_of(options, network, list(DEFENSES))
    cells = read_cells(everything, data=options.data)
    others = sum(task.file.is_file() for task in everything) - len(cells)
    if others:
        console.print(
            f"{others} cells are not shown: they were made with other settings or of other files"
        )
    result = RepairBenchResult(
        data=options.data.resolve().name,
        network=network.name,
        parts=parts_of(cells),
        risk=risk_correlation(cells),
    )
    if cells:
        place = options.out / network.name
        for suffix, text in (
            (".json", to_json(result) + "\n"),
            (".md", repairs_markdown(result)),
            (".csv", cells_csv(result.parts)),
        ):
            write_text(place.with_name(f"{place.name}{suffix}"), text)
    print_result(options, result, *(repairs_table(result, part=part) for part in result.parts))
    return BAD_INPUT if failed else DONE


def tasks_of(
    options: argparse.Namespace,
    network: Path,
    methods: Sequence[str],
    *,
    names: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> tuple[CellTask, ...]:
    """The cells of these members and seeds, or of all that are there."""
    return cell_tasks(
        network,
        options.data,
        options.out,
        methods=methods,
        names=names,
        seeds=seeds,
        repair_seed=options.seed,
        precision=options.precision,
        risk=options.risk,
        device=options.device,
    )


def run_cell(options: argparse.Namespace) -> int:
    """Make one cell."""
    device_named(options.device)
    with progress_bars(console_of(options)) as progress:
        cell = make_cell(
            options.run_folder,
            options.data,
            method=options.method,
            seed=options.seed,
            precision=options.precision,
            risk=options.risk,
            device=options.device,
            progress=progress,
        )
    write_text(options.out, to_json(cell) + "\n")
    print_result(options, cell, cell_table(cell))
    return DONE
