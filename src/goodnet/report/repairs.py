"""Repairs of a whole zoo as tables: for the terminal, and as Markdown for documents.

All in points (percent). Attack success is shown above its floor, the clean twin's on the same
images, of the trigger that is worst.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from goodnet.report.wording import count, grouped, shown_name
from goodnet.results import BenchPart, Cell, MemberSummary, Rate, RepairBenchResult, RiskCorrelation

_NONE = "–"
_SUMMARY = ("method", "cells", "cured", "near", "clean kept", "worst", "lost most", "seconds")


def repairs_table(result: RepairBenchResult, *, part: BenchPart) -> Table:
    """A row for each method, over all networks of a part; legible at 80 columns."""
    table = Table(
        title=f"{shown_name(result.network)} of {shown_name(result.data, limit=30)}: {part.name}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column(_SUMMARY[0], no_wrap=True)
    for name in _SUMMARY[1:]:
        table.add_column(name, justify="right")
    for line in _summary(part):
        table.add_row(*map(Text, line))
    table.caption = (
        "worst: attack success above its floor; lost most: clean accuracy, both in points. "
        f"{_risk(part.risk)}"
    )
    return table


def cell_table(cell: Cell) -> Table:
    """A row for each trigger of one cell, in percent."""
    result = cell.result
    table = Table(
        title=f"{shown_name(result.member)}, seed {result.seed}: {shown_name(result.method)}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("trigger", no_wrap=True)
    for name in ("before", "after", "floor", "right label", "flagged"):
        table.add_column(name, justify="right")
    for each in result.triggers:
        rates = (each.before, each.after, each.floor, each.recovered_accuracy, each.flagged)
        table.add_row(Text(shown_name(each.name)), *(Text(_points(rate.value)) for rate in rates))
    before, after = result.accuracy_before, result.accuracy_after
    table.caption = (
        f"clean accuracy {_points(before.value)} to {_points(after.value)} of {grouped(after.n)}; "
        f"false alarms {_points(result.false_alarm_rate.value)}; {result.seconds:.0f} s"
    )
    return table


def repairs_markdown(result: RepairBenchResult) -> str:
    """For each part what each method did over all, and to each attack."""
    risk = _risk(result.risk)
    return "\n".join(text for part in result.parts for text in _part(part)) + (
        f"\nOver all parts: {risk[0].lower()}{risk[1:]}\n"
    )


def _part(part: BenchPart) -> Iterable[str]:
    networks = {(cell.member, cell.seed) for cell in part.cells}
    number = "1 network" if len(networks) == 1 else f"{len(networks)} networks"
    yield f"### {part.name.capitalize()}: {number}\n"
    yield _markdown([_SUMMARY, *_summary(part)])
    yield (
        "Attack success above its floor / clean accuracy lost, in points: mean over the seeds "
        "(worst). **Cured** and *near* in every seed; of the clean network, left as good as it "
        "was.\n"
    )
    methods = [summary.method for summary in part.methods]
    rows: dict[str, dict[str, MemberSummary]] = {}
    for each in part.members:
        rows.setdefault(each.member, {})[each.method] = each
    lines = [("attack", "seeds", *map(shown_name, methods))]
    for member, own in rows.items():
        seeds = sorted({seed for each in own.values() for seed in each.seeds})
        cells = (
            _outcome(own[method], len(seeds)) if method in own else _NONE for method in methods
        )
        lines.append((shown_name(member), ", ".join(map(str, seeds)), *cells))
    yield _markdown(lines)
    yield f"{_risk(part.risk)}\n"


def _summary(part: BenchPart) -> Iterable[tuple[str, ...]]:
    for each in part.methods:
        yield (
            shown_name(each.method),
            str(each.cells),
            _count(each.cured),
            _count(each.near),
            _count(each.clean_kept),
            _points(each.excess_worst),
            _points(each.accuracy_lost_worst),
            f"{each.seconds:.0f}",
        )


def _outcome(each: MemberSummary, seeds: int) -> str:
    figures = []
    for mean, worst in (
        (each.excess_mean, each.excess_worst),
        (each.accuracy_lost_mean, each.accuracy_lost_worst),
    ):
        more = f" ({_points(worst)})" if len(each.seeds) > 1 else ""
        figures.append(f"{_points(mean)}{more}")
    text = " / ".join(figures)
    if each.cured.count == each.cured.n:
        text = f"**{text}**"
    elif each.near.count == each.near.n:
        text = f"*{text}*"
    # Where not every seed was repaired, the mean is of others than beside it.
    return text if len(each.seeds) == seeds else f"{text}, {len(each.seeds)} of {seeds} seeds"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ruled)


def _count(rate: Rate) -> str:
    return count(rate) if rate.n else _NONE


def _points(share: float) -> str:
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def _risk(risk: RiskCorrelation) -> str:
    if risk.cells == 0:
        return "No repair said a remaining risk."
    value = "unknown" if risk.value is None else f"{risk.value:.2f}".replace("-", "−")
    return (
        f"Rank correlation of remaining risk and attack success over {risk.cells} cells: {value}."
    )
