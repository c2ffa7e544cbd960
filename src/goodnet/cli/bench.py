"""`goodnet bench`: many runs, resumable."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from goodnet.bench import Task, cores, make_zoo, members, read_zoo, zoo_tasks
from goodnet.cases import Case, folder_case
from goodnet.cli import attack, bench_paper, bench_repair, bench_run
from goodnet.cli.exit_codes import BAD_INPUT, DONE
from goodnet.cli.options import add_device, console_of, device_named, print_result, seed
from goodnet.cli.signals import as_interrupt
from goodnet.cli.telling import teller
from goodnet.errors import SettingsError
from goodnet.files import write_text
from goodnet.networks import ARCHITECTURES
from goodnet.poison import check_poisonings
from goodnet.report.zoo import zoo_markdown, zoo_table
from goodnet.results import ZooResult, to_json
from goodnet.training import Precision

HELP = "many runs: all attacks on a data set, all repairs of them; goes on where it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    commands = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    what = "a BadNet of every kind, each made by goodnet attack"
    zoo = commands.add_parser("zoo", help=what, description=what)
    zoo.add_argument("data", type=Path, metavar="DATA", help="folder with train.h5 and test.h5")
    zoo.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the zoo")
    zoo.add_argument("--architecture", choices=ARCHITECTURES, help="default: by the images' size")
    zoo.add_argument("--width", type=int, metavar="W", help="channels of the first block")
    zoo.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these members")
    zoo.add_argument("--seeds", type=seed, nargs="+", default=[0], metavar="N", help="default: 0")
    zoo.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of training; bfloat16 halves the time on processors that have it",
    )
    zoo.add_argument(
        "--jobs",
        type=int,
        default=cores(),
        metavar="J",
        help="networks trained at a time, the cores shared among them; default: one a core",
    )
    add_device(zoo)
    zoo.add_argument("--json", action="store_true", help="the result object on stdout")
    zoo.add_argument("-q", "--quiet", action="store_true", help="no progress")
    zoo.set_defaults(run_bench=run_zoo)
    repair = commands.add_parser("repair", help=bench_repair.HELP, description=bench_repair.HELP)
    bench_repair.add_arguments(repair)
    repair.set_defaults(run_bench=bench_repair.run)
    cell = commands.add_parser(
        "cell", help=bench_repair.CELL_HELP, description=bench_repair.CELL_HELP
    )
    bench_repair.add_cell_arguments(cell)
    cell.set_defaults(run_bench=bench_repair.run_cell)
    paper = commands.add_parser("paper", help=bench_paper.HELP, description=bench_paper.HELP)
    bench_paper.add_arguments(paper)
    paper.set_defaults(run_bench=bench_paper.run)
    grid = commands.add_parser("run", help=bench_run.HELP, description=bench_run.HELP)
    bench_run.add_arguments(grid)
    grid.set_defaults(run_bench=bench_run.run)


def run(options: argparse.Namespace) -> int:
    """Whichever bench was asked for."""
    code: int = options.run_bench(options)
    return code


def run_zoo(options: argparse.Namespace) -> int:
    """Make the zoo, then show what is in it."""
    if options.jobs < 1:
        raise SettingsError("jobs", options.jobs, "give at least 1")
    device_named(options.device)
    width = {} if options.width is None else {"width": options.width}
    case = folder_case(options.data, architecture=options.architecture, options=width)
    attack.check_network(case.recipe, None)
    seeds = list(dict.fromkeys(options.seeds))
    tasks = tasks_of(options, case, options.only, seeds)
    check_members(tasks, case)

    def name(task: Task) -> str:
        return f"{task.member.name}, seed {task.seed}"

    told = teller(console_of(options), len(tasks), name)
    with as_interrupt():
        failed = make_zoo(tasks, data=options.data, jobs=options.jobs, told=told)
    # The table is of all that is there, also of earlier calls.
    everything = tasks_of(options, case, (), sorted({*seeds, *seeds_there(tasks)}))
    result = ZooResult(data=case.name, rows=read_zoo(everything, data=options.data))
    if result.rows:
        place = tasks[0].folder.parents[1]
        write_text(place.with_name(f"{place.name}.json"), to_json(result) + "\n")
        write_text(place.with_name(f"{place.name}.md"), zoo_markdown(result))
    print_result(options, result, zoo_table(result))
    return BAD_INPUT if failed else DONE


def tasks_of(
    options: argparse.Namespace, case: Case, names: Sequence[str], seeds: Sequence[int]
) -> tuple[Task, ...]:
    """The tasks of these members, or of all where no name is given."""
    architecture = case.recipe.architecture
    return zoo_tasks(
        options.data,
        options.out,
        members(names, faces=architecture == "deepid"),
        architecture=architecture,
        width=options.width,
        seeds=seeds,
        curves=case.material.valid is not None,
        options=[] if options.precision is None else ["--precision", options.precision],
        device=options.device,
    )


def check_members(tasks: Sequence[Task], case: Case) -> None:
    """Nothing, where every member can be made of these images; raises before any is."""
    parser = argparse.ArgumentParser()
    attack.add_arguments(parser)
    for task in tasks:
        poisonings = attack.poisonings_of(parser.parse_args(task.arguments[1:]))
        try:
            check_poisonings(case.material.train, poisonings, classes=case.recipe.classes)
        except SettingsError as error:
            raise SettingsError(
                "only",
                task.member.name,
                f"{error}; this member cannot be made here, name the others",
            ) from error


def seeds_there(tasks: Sequence[Task]) -> set[int]:
    """The seeds of which earlier calls left something."""
    place = tasks[0].folder.parents[1]
    names = [folder.name.removeprefix("seed-") for folder in place.glob("*/seed-*")]
    return {int(name) for name in names if name.isdecimal()}
