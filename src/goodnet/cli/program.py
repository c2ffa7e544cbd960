"""`goodnet COMMAND …`: parse, call the library, print."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from goodnet.cli import (
    attack,
    bench,
    data,
    demo,
    evaluate,
    inspect,
    predict,
    prune,
    repair,
    report,
    scan,
)
from goodnet.cli.exit_codes import BAD_INPUT, DONE, INTERRUPTED
from goodnet.errors import GoodnetError, SettingsError

COMMANDS = (demo, inspect, scan, attack, prune, repair, evaluate, predict, report, bench, data)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(
        prog="goodnet",
        description="Turns a backdoored network into a repaired one, with evidence.",
    )
    top.add_argument("--version", action="version", version=version("goodnet"))
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        added = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(added)
        added.set_defaults(run=command.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; what a user caused is told in one line."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except GoodnetError as error:
        shown: GoodnetError = error
        if isinstance(error, SettingsError) and error.field in vars(options):
            flag = f"--{error.field.replace('_', '-')}"
            shown = SettingsError(flag, error.value, error.remedy)
        print(f"goodnet {options.command}: {one_line(shown)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"goodnet {options.command}: interrupted, {left_by(options)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"goodnet {options.command}: {one_line(f'{where}{error.strerror or error}')}; "
            "check the path, its permissions and the space left",
            file=sys.stderr,
        )
        return BAD_INPUT
    return code


def left_by(options: argparse.Namespace) -> str:
    """What an interrupted command leaves."""
    if options.command == "bench":
        return "what was finished is kept; give the same command to go on"
    return "nothing was written"


def one_line(message: object) -> str:
    """The message on one line, without control characters that a file's names may hold."""
    words = " ".join(str(message).split())
    return "".join(letter if letter.isprintable() else "�" for letter in words)


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())
