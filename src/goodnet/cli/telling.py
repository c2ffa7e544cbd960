"""What became of each network or cell of a bench, told while the others are made."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from goodnet.bench.tasks import went_wrong
from goodnet.cli.options import problems_of

Task = TypeVar("Task")


def teller(
    console: Console, total: int, name: Callable[[Task], str]
) -> Callable[[Task, str], None]:
    """Tells and counts them; with -q only those that failed are told.

    Args:
        console: Where messages go.
        total: How many tasks there are.
        name: What a task is called.
    """
    numbers = itertools.count(1)

    def told(task: Task, what: str) -> None:
        where = problems_of(console) if went_wrong(what) else console
        where.print(f"{next(numbers)}/{total} {name(task)}: {what}")

    return told
