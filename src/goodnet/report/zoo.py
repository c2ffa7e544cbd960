"""The zoo as a table: for the terminal, and as Markdown for documents."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from goodnet.report.wording import grouped, shown_name
from goodnet.results import Spread, ZooResult

_COLUMNS = ("attack", "trigger", "clean", "twin", "attack success", "floor", "right label")


def zoo_table(result: ZooResult) -> Table:
    """A row for each trigger of each member, legible at 80 columns.

    A cell is the mean over the seeds, in percent, over the range where seeds differ.
    """
    table = Table(title=shown_name(f"zoo of {result.data}", limit=60), box=box.SIMPLE_HEAD)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold")
    for cells in _rows(result, between="\n"):
        table.add_row(*(Text(cell) for cell in cells[: len(_COLUMNS)]))
    return table


def zoo_markdown(result: ZooResult) -> str:
    """The same as a Markdown table, with how many test images and seconds there were."""
    columns = (*_COLUMNS, "clean n", "triggered n", "seeds", "seconds")
    lines = [columns, ("---",) * len(columns), *_rows(result, between=" ")]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _rows(result: ZooResult, *, between: str) -> Iterator[tuple[str, ...]]:
    for row in result.rows:
        for place, trigger in enumerate(row.triggers):
            first = place == 0
            yield (
                shown_name(row.member) if first else "",
                shown_name(trigger.name),
                _percent(row.clean_accuracy, between) if first else "",
                _percent(row.twin_accuracy, between) if first else "",
                _percent(trigger.attack_success_rate, between),
                _percent(trigger.floor, between),
                _percent(trigger.triggered_accuracy, between),
                grouped(row.n) if first else "",
                grouped(trigger.n),
                str(len(row.seeds)) if first else "",
                f"{row.seconds.mean:.0f}" if first else "",
            )


def _percent(spread: Spread, between: str) -> str:
    mean = f"{100 * spread.mean:.1f}"
    if spread.least == spread.most:
        return mean
    return f"{mean}{between}({100 * spread.least:.1f}–{100 * spread.most:.1f})"
