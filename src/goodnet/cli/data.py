"""`goodnet data fetch NAME`: fetch a public data set and check it."""

from __future__ import annotations

import argparse
from pathlib import Path

from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import console_of, progress_bars
from goodnet.data.fetch import DATA_SETS, fetch

HELP = "fetch a public data set, and check that it is whole"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("action", choices=("fetch",), help="what to do")
    parser.add_argument("name", choices=DATA_SETS, help="fsdd: spoken digits, 8 kHz, CC BY-SA 4.0")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write; default: one of that name"
    )
    parser.add_argument("--url", metavar="URL", help="another address of the same archive")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Fetch one data set."""
    console = console_of(options)
    with progress_bars(console) as progress:
        folder = fetch(
            options.name, options.out or Path(options.name), url=options.url, told=progress
        )
    wanted = DATA_SETS[options.name]
    console.print(f"{wanted.recordings} recordings, checked; {wanted.licence}")
    print(folder)
    return DONE
