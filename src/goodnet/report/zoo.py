"""The zoo as a table: for the terminal, and as Markdown for documents."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from goodnet.report.wording import grouped, shown_name
from goodnet.results import Rate, ZooResult, ZooRow, ZooTrigger

_RATES = ("clean", "twin", "attack success", "floor", "right label")


@dataclass(frozen=True)
class _Line:
    """One trigger of a member; what is of the member stands in its first line alone.

    Attributes:
        rates: For each of `_RATES` the mean over the seeds, and the range where they differ.
        notes: What else was measured.
    """

    member: str
    trigger: str
    rates: tuple[tuple[str, str], ...]
    counts: tuple[str, ...]
    notes: tuple[str, ...]


def zoo_table(result: ZooResult) -> Table:
    """A row for each trigger of each member, legible at 80 columns.

    A cell is the mean over the seeds, in percent, over the range where seeds differ.
    """
    table = Table(
        title=shown_name(f"zoo of {result.data}", limit=60),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("attack, trigger", no_wrap=True)
    for name in _RATES:
        table.add_column(name, justify="right")
    for line in _lines(result):
        first = [*([line.member] if line.member else []), f"  {line.trigger}"]
        first += [f"  {note}" for note in line.notes]
        cells = ["\n".join(filter(None, rate)) for rate in line.rates]
        table.add_row(Text("\n".join(first)), *map(Text, cells))
    clean = {rate.n for row in result.rows for rate in row.clean_accuracy}
    triggered = {
        rate.n for row in result.rows for each in row.triggers for rate in each.attack_success_rate
    }
    table.caption = (
        f"n of each seed: {_span(clean)} clean images, {_span(triggered)} triggered ones"
    )
    return table


def zoo_markdown(result: ZooResult) -> str:
    """The same as a Markdown table, with how many test images and seconds there were."""
    columns = ("attack", "trigger", *_RATES, "clean n", "triggered n", "seeds", "seconds", "notes")
    lines = [columns, ("---",) * len(columns)]
    for line in _lines(result):
        rates = [f"{mean} ({spread})" if spread else mean for mean, spread in line.rates]
        lines.append((line.member, line.trigger, *rates, *line.counts, "; ".join(line.notes)))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _lines(result: ZooResult) -> Iterator[_Line]:
    for row in result.rows:
        for place, trigger in enumerate(row.triggers):
            first = place == 0
            own = (row.clean_accuracy, row.twin_accuracy) if first else ((), ())
            measured = (trigger.attack_success_rate, trigger.floor, trigger.triggered_accuracy)
            triggered = grouped(trigger.attack_success_rate[0].n)
            seconds = f"{statistics.fmean(row.seconds):.0f}"
            yield _Line(
                member=shown_name(row.member) if first else "",
                trigger=shown_name(trigger.name),
                rates=tuple(_percent(rates) for rates in (*own, *measured)),
                counts=(
                    (grouped(row.clean_accuracy[0].n), triggered, str(len(row.seeds)), seconds)
                    if first
                    else ("", triggered, "", "")
                ),
                notes=_notes(row, trigger),
            )


def _notes(row: ZooRow, trigger: ZooTrigger) -> tuple[str, ...]:
    notes = []
    if trigger.elsewhere:
        notes.append(f"elsewhere {_percent(trigger.elsewhere)[0]}")
    if trigger.accuracy_lost:
        notes.append(f"accuracy lost {100 * statistics.fmean(trigger.accuracy_lost):.1f}")
    if row.decoys:
        notes.append(f"decoys {', '.join(str(len(each.channels)) for each in row.decoys)}")
    return tuple(notes)


def _percent(rates: Sequence[Rate]) -> tuple[str, str]:
    """The mean, and the range where the rates differ."""
    if not rates:
        return "", ""
    values = [100 * rate.value for rate in rates]
    mean, least, most = (f"{v:.1f}" for v in (statistics.fmean(values), min(values), max(values)))
    return mean, "" if least == most else f"{least}–{most}"


def _span(counts: set[int]) -> str:
    if len(counts) < 2:
        return "".join(map(grouped, counts))
    return f"{grouped(min(counts))} to {grouped(max(counts))}"
