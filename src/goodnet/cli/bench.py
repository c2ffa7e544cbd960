"""`goodnet bench`: many runs, resumable."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import get_args

from goodnet.bench import Task, make_zoo, members, read_zoo, zoo_tasks
from goodnet.cases import folder_case
from goodnet.cli.attack import check_network
from goodnet.cli.exit_codes import BAD_INPUT, DONE
from goodnet.cli.options import console_of, print_result, seed
from goodnet.errors import SettingsError
from goodnet.files import write_text
from goodnet.networks import ARCHITECTURES
from goodnet.report.zoo import zoo_markdown, zoo_table
from goodnet.results import ZooResult, to_json
from goodnet.training import Precision

HELP = "many runs: the zoo of all attacks on a data set; goes on where it stopped"


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
        default=os.cpu_count() or 1,
        metavar="J",
        help="networks trained at a time, the cores shared among them; default: one a core",
    )
    zoo.add_argument("--json", action="store_true", help="the result object on stdout")
    zoo.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Make the zoo, then show what is in it."""
    if options.jobs < 1:
        raise SettingsError("jobs", options.jobs, "give at least 1")
    console = console_of(options)
    width = {} if options.width is None else {"width": options.width}
    case = folder_case(options.data, architecture=options.architecture, options=width)
    check_network(case.recipe, None)
    architecture = case.recipe.architecture
    further = ["--no-sets"]
    for name in ("width", "precision"):
        if getattr(options, name) is not None:
            further += [f"--{name}", str(getattr(options, name))]
    tasks = zoo_tasks(
        options.data,
        options.out,
        members(options.only, faces=architecture == "deepid"),
        architecture=architecture,
        seeds=list(dict.fromkeys(options.seeds)),
        curves=case.material.valid is not None,
        options=further,
    )
    done = 0

    def told(task: Task, what: str) -> None:
        nonlocal done
        done += 1
        console.print(f"{done}/{len(tasks)} {task.member.name}, seed {task.seed}: {what}")

    failed = make_zoo(tasks, jobs=options.jobs, told=told)
    result = ZooResult(data=case.name, rows=read_zoo(tasks))
    if result.rows:
        write_text(options.out / f"{architecture}.json", to_json(result) + "\n")
        write_text(options.out / f"{architecture}.md", zoo_markdown(result))
    print_result(options, result, zoo_table(result))
    return BAD_INPUT if failed else DONE
