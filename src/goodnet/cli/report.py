"""`goodnet report RUN`: the page again from a run's results."""

from __future__ import annotations

import argparse
from pathlib import Path

from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import print_result
from goodnet.cli.pages import write_pages
from goodnet.runs import read_run

HELP = "make a run's plots and page again from its results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the --out of an earlier command")
    parser.add_argument("--json", action="store_true", help="the run's result object on stdout")


def run(options: argparse.Namespace) -> int:
    """Make the page again."""
    manifest, result = read_run(options.folder)
    page = write_pages(options.folder, manifest, result)
    print_result(options, result, f"report: {page}")
    return DONE
