"""The zoo as a table: for the terminal, and as Markdown for documents."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from goodnet.report.wording import grouped, shown_name
from goodnet.results import Rate, ZooResult

_COLUMNS = ("attack", "trigger", "clean", "twin", "attack success", "floor", "right label")
_COUNTS = ("clean n", "triggered n", "seeds", "seconds")


def zoo_table(result: ZooResult) -> Table:
    """A row for each trigger of each member, legible at 80 columns.

    A cell is the mean over the seeds, in percent, over the range where seeds differ.
    """
    table = Table(title=shown_name(f"zoo of {result.data}", limit=60), box=box.SIMPLE_HEAD)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold")
    for cells in _rows(result, between="\n"):
        table.add_row(*(Text(cell) for cell in cells[: len(_COLUMNS)]))
    if result.rows:
        clean, triggered = (
            sorted({rate.n for rates in found for rate in rates})
            for found in (
                [row.clean_accuracy for row in result.rows],
                [each.attack_success_rate for row in result.rows for each in row.triggers],
            )
        )
        table.caption = (
            f"n of each seed: {', '.join(map(grouped, clean))} clean, "
            f"{', '.join(map(grouped, triggered))} triggered images"
        )
    return table


def zoo_markdown(result: ZooResult) -> str:
    """The same as a Markdown table, with how many test images and seconds there were."""
    columns = (*_COLUMNS, *_COUNTS)
    lines = [columns, ("---",) * len(columns), *_rows(result, between=" ")]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _rows(result: ZooResult, *, between: str) -> Iterator[tuple[str, ...]]:
    for row in result.rows:
        for place, trigger in enumerate(row.triggers):
            first = place == 0
            success = _percent(trigger.attack_success_rate, between)
            if trigger.elsewhere:
                success += f"{between}elsewhere {_percent(trigger.elsewhere, between)}"
            if row.decoys:
                counts = ", ".join(str(len(each.channels)) for each in row.decoys)
                success += f"{between}decoys {counts}"
            if trigger.accuracy_lost:
                lost = 100 * statistics.fmean(trigger.accuracy_lost)
                success += f"{between}accuracy lost {lost:.1f}"
            yield (
                shown_name(row.member) if first else "",
                shown_name(trigger.name),
                _percent(row.clean_accuracy, between) if first else "",
                _percent(row.twin_accuracy, between) if first else "",
                success,
                _percent(trigger.floor, between),
                _percent(trigger.triggered_accuracy, between),
                grouped(row.clean_accuracy[0].n) if first else "",
                grouped(trigger.attack_success_rate[0].n),
                str(len(row.seeds)) if first else "",
                f"{statistics.fmean(row.seconds):.0f}" if first else "",
            )


def _percent(rates: Sequence[Rate], between: str) -> str:
    values = [100 * rate.value for rate in rates]
    mean = f"{statistics.fmean(values):.1f}"
    least, most = f"{min(values):.1f}", f"{max(values):.1f}"
    return mean if least == most else f"{mean}{between}({least}–{most})"
