"""`goodnet bench paper`: the paper's three studies, its table beside ours, and the game."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from goodnet.bench.cache import Cache
from goodnet.bench.engine import Failure, make_grid
from goodnet.bench.paper import STUDIES, games_of, paper_cells, paper_rows
from goodnet.bench.tidy import tidy, tidy_csv
from goodnet.cli.bench_run import add_machine_arguments, progress_table, runner_of
from goodnet.cli.exit_codes import BAD_INPUT, DONE
from goodnet.cli.options import console_of, seed
from goodnet.cli.signals import as_interrupt
from goodnet.errors import SettingsError
from goodnet.files import write_text
from goodnet.report.paper import game_table, paper_findings, paper_markdown, paper_table

HELP = "the paper's three studies under both attackers and all defenders, and the game they play"
_DATA = {"face": "faces", "face-one-source": "faces", "speech": "speech", "signs": "signs"}
"""Which option names the data of each study."""
_QUICK = ("face", "speech", "signs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bench paper`."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of cells and results"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STUDIES,
        help="these studies; default: all, with --quick without face-one-source",
    )
    for name, what in (
        ("faces", "train, valid and test images of faces, 55x47"),
        ("speech", "recordings laid out as the Free Spoken Digit Dataset"),
        ("signs", "train.h5, valid.h5 and test.h5 of GTSRB, to paste into scenes"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, metavar="FOLDER", help=f"{what}; rendered where not given"
        )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--quick", action="store_true", help="fewer epochs and scenes, to try the command"
    )
    add_machine_arguments(parser)
    parser.add_argument(
        "--show", action="store_true", help="make nothing, show the results that are there"
    )
    parser.add_argument("--json", action="store_true", help="the rows as JSON on stdout")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Make the cells that are not there, then write and show the table and the games."""
    console = console_of(options)
    studies = options.only or [each for each in STUDIES if not options.quick or each in _QUICK]
    cells = paper_cells(
        {study: _folder(options, _DATA[study]) for study in studies},
        seed=options.seed,
        quick=options.quick,
    )
    cache = Cache(options.out)
    failures: Sequence[Failure] = ()
    if not options.show:
        runner = runner_of(options)
        with as_interrupt(), progress_table(console) as told:
            failures = make_grid(cells, cache, runner, told=told)
    made = [(cell, found) for cell in cells if (found := cache.read(cell)) is not None]
    rows = paper_rows(made)
    games = games_of(rows)
    if made:
        write_text(options.out / "results.csv", tidy_csv(tidy(made)))
        write_text(options.out / "paper.md", paper_markdown(rows, games))
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        return BAD_INPUT if failures else DONE
    shown = Console(highlight=False, markup=False)
    for study in dict.fromkeys(row.study for row in rows):
        own = [row for row in rows if row.study == study]
        shown.print(paper_table(own))
        for finding in paper_findings(own):
            shown.print(finding)
        if study in games:
            shown.print(game_table(study, games[study]))
    return BAD_INPUT if failures else DONE


def _folder(options: argparse.Namespace, name: str) -> str | None:
    folder: Path | None = getattr(options, name)
    if folder is None:
        return None
    if not folder.is_dir():
        raise SettingsError(name, str(folder), "give a folder that is there")
    return str(folder.resolve())
