"""The paper's table beside ours, and the games: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from goodnet.game import Solution
from goodnet.results import PaperRow, Rate

_COLUMNS = ("attacker", "defender", "clean", "attack", "floor", "paper")
_STOPPED = 0.02
"""An attack is stopped where its success is at most this much above the floor."""
_HARDER = (
    " goodnet's fine-tuning shakes harder than the paper's: a high rate and changed images; with "
    "gentle tuning it fails (docs/results.md, measured on speech)."
)
_CLAIMS = (
    ("fine-tune", "baseline", "Fine-tuning alone fails against the baseline attack"),
    ("prune", "pruning-aware", "Pruning alone fails against the pruning-aware attack"),
)


def paper_table(rows: Sequence[PaperRow]) -> Table:
    """A row for each attacker and defender of one study, in percent."""
    first = rows[0]
    table = Table(
        title=f"{first.study}, {first.data} data", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:2] else "right")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    table.caption = (
        f"clean: accuracy (n = {first.measured.clean.n}); attack: success "
        f"(n = {first.measured.triggered.n}); floor: the clean twin's; paper: clean / attack"
    )
    return table


def game_table(study: str, solution: Solution) -> Table:
    """The defender's utility for each pair, and what both sides choose."""
    game = solution.game
    table = Table(
        "attacker",
        *game.defenses,
        title=f"{study}: clean accuracy less attack success",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for attack, utilities in zip(game.attacks, game.utility, strict=True):
        table.add_row(attack, *(f"{value:.3f}" for value in utilities))
    table.caption = _told(solution)
    return table


def paper_findings(rows: Sequence[PaperRow]) -> list[str]:
    """What the paper finds and whether one study's rows show it too; then of `auto`.

    An attack counts as stopped within 2 points of the floor. Whether fine-pruning beats another
    defender is told by the utility, clean accuracy less attack success, of one seed, whatever the
    difference.
    """
    of = {(row.attacker, row.defender): row for row in rows}
    told = []
    for defender, attacker, claim in _CLAIMS:
        if (row := of.get((attacker, defender))) is not None:
            why = _HARDER if defender == "fine-tune" else ""
            told.append(_finding(claim, not _stopped(row), [_left(row)], why))
    attackers = list(dict.fromkeys(row.attacker for row in rows))
    for other, named in (("fine-tune", "fine-tuning"), ("prune", "pruning")):
        pairs = [
            (each, of[each, "fine-prune"].measured.utility, of[each, other].measured.utility)
            for each in attackers
            if {(each, "fine-prune"), (each, other)} <= of.keys()
        ]
        if pairs:
            told.append(
                _finding(
                    f"Fine-pruning beats {named}",
                    all(ours > theirs for _, ours, theirs in pairs),
                    [f"{ours:.3f} against {theirs:.3f}, {each}" for each, ours, theirs in pairs],
                    _HARDER if other == "fine-tune" else "",
                )
            )
    autos = [of[each, "auto"] for each in attackers if (each, "auto") in of]
    if autos:
        claim = "auto comes within 2 points of the floor"
        told.append(_finding(claim, all(map(_stopped, autos)), [_left(row) for row in autos]))
    return told


def paper_markdown(rows: Sequence[PaperRow], games: Mapping[str, Solution]) -> str:
    """All tables as Markdown, rates with their counts and 95 % intervals."""
    parts = []
    for study in dict.fromkeys(row.study for row in rows):
        own = [row for row in rows if row.study == study]
        header = ("attacker", "defender", "clean accuracy", "attack success", "floor", "paper")
        lines = [
            (
                row.attacker,
                row.defender,
                _interval(row.measured.clean),
                f"{_percent(row.measured.attack_success)} "
                f"({row.measured.triggered.count}/{row.measured.triggered.n})",
                _percent(row.floor),
                _published(row),
            )
            for row in own
        ]
        parts.append(f"### {study} ({own[0].data} data)\n\n{_markdown(header, lines)}")
        parts.append("\n".join(f"- {finding}" for finding in paper_findings(own)))
        if study in games:
            game = games[study].game
            utilities = [
                (attack, *(f"{value:.3f}" for value in values))
                for attack, values in zip(game.attacks, game.utility, strict=True)
            ]
            parts.append(_markdown(("attacker", *game.defenses), utilities))
            parts.append(_told(games[study]))
    return "\n\n".join(parts) + "\n"


def _finding(claim: str, holds: bool, figures: Sequence[str], why_not: str = "") -> str:
    return f"{claim}: {'yes' if holds else 'no'} ({'; '.join(figures)}).{'' if holds else why_not}"


def _left(row: PaperRow) -> str:
    success, floor = _percent(row.measured.attack_success), _percent(row.floor)
    return f"{success} % left of {row.attacker}, floor {floor} %"


def _stopped(row: PaperRow) -> bool:
    # Differences of shares are not exact.
    return row.measured.attack_success - row.floor <= _STOPPED + 1e-9


def _cells(row: PaperRow) -> tuple[str, ...]:
    return (
        row.attacker,
        row.defender,
        _percent(row.measured.clean.value),
        _percent(row.measured.attack_success),
        _percent(row.floor),
        _published(row),
    )


def _told(solution: Solution) -> str:
    mixed = solution.mixed

    def mixture(names: Sequence[str], shares: Sequence[float]) -> str:
        return ", ".join(
            f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True) if share > 5e-3
        )

    return (
        f"Equilibrium: attacker {mixture(solution.game.attacks, mixed.attack)}; defender "
        f"{mixture(solution.game.defenses, mixed.defense)}; value {mixed.value:.3f}."
    )


def _published(row: PaperRow) -> str:
    return "–" if row.published is None else " / ".join(map(_percent, row.published))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(rate: Rate) -> str:
    low, high = (_percent(end) for end in rate.interval)
    return f"{_percent(rate.value)} ({rate.count}/{rate.n}; {low}–{high})"


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
