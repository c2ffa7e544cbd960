"""How rates, counts and names are put in print; the only place where percent appear."""

from __future__ import annotations

import math
import unicodedata

from goodnet.results import GoodNetCurve, PruneResult, Rate

NOT_MEASURED = "not measured"

# What would hide, reorder or break text: controls, formats (bidi overrides), surrogates, private
# use, unassigned, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def shown_name(name: str, *, limit: int = 60) -> str:
    """`name` fit to print: nothing invisible or reordering in it, at most `limit` characters.

    Names of layers, files and sets come from files somebody else made. Characters that
    cannot be seen become U+FFFD; the middle of a long name gives way to an ellipsis.
    """
    seen = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in _UNPRINTABLE else char
        for char in name
    )
    if len(seen) > limit:
        tail = limit // 2
        seen = f"{seen[: limit - tail - 1]}…{seen[-tail:]}"
    return seen or "(no name)"


def percent(rate: Rate) -> str:
    """`rate` in percent with one decimal, e.g. `95.3 %`.

    Rounding never makes a rate look complete: 12829 of 12830 is `>99.9 %`, not `100.0 %`,
    and 1 of 12830 is `<0.1 %`.
    """
    if rate.n == 0:
        return NOT_MEASURED
    text = f"{100 * rate.value:.1f}"
    if text == "100.0" and rate.count < rate.n:
        return ">99.9 %"
    if text == "0.0" and rate.count > 0:
        return "<0.1 %"
    return f"{text} %"


def count(rate: Rate) -> str:
    """The count and n of `rate`, e.g. `953/1000`."""
    return f"{rate.count}/{rate.n}"


def interval(rate: Rate) -> str:
    """The 95 % interval of `rate` in percent, e.g. `93.8–96.5`; empty where n = 0.

    Bounds are rounded outwards: 12830 of 12830 is `99.9–100.0`, never `100.0–100.0`.
    """
    if rate.n == 0:
        return ""
    low, high = rate.interval
    return f"{math.floor(1000 * low) / 10:.1f}–{math.ceil(1000 * high) / 10:.1f}"


def in_full(rate: Rate) -> str:
    """`rate` with all that goes with it: `95.3 % (953 of 1000; 95 % interval 93.8–96.5 %)`."""
    if rate.n == 0:
        return NOT_MEASURED
    return f"{percent(rate)} ({rate.count} of {rate.n}; 95 % interval {interval(rate)} %)"


def grouped(number: int) -> str:
    """`number` with its thousands set apart, e.g. `1,283`."""
    return f"{number:,}"


def risk_in_words(remains: Rate) -> str:
    """What an estimate of the remaining risk says, and what it does not."""
    if remains.n == 0:
        return (
            "Remaining risk: not known. No small change was found that misleads the network "
            "handed in, so there was none for the repaired one to follow. That is no proof that "
            "there is no backdoor."
        )
    return (
        f"Remaining risk: up to {in_full(remains)} of held-out images still follow a made-up "
        "trigger as the network handed in did. This is an estimate from clean images, not a "
        "guarantee: a trigger unlike all that were tried stays unseen. Networks without a "
        "backdoor follow such changes too, so use it to compare repairs of one network."
    )


def budget_in_words(curve: GoodNetCurve, held_out: int) -> str:
    """What the GoodNet's budget of false alarms comes to on `held_out` images."""
    if curve.budget is None:
        return "none; every input is flagged on which the two networks disagree"
    allowed = int(curve.budget * held_out + 1e-9)
    share = f"{100 * curve.budget:g} % of {grouped(held_out)} held-out images"
    of_all = "and half of that share of all clean images"
    if any(row.distance is not None for row in curve.rows):
        of_all += " by disagreement, and as many by distance"
    if allowed == 0 and curve.budget > 0:
        return f"{share}, which is less than one: none of them may be flagged, {of_all}"
    return f"{share}: at most {grouped(allowed)} of them may be flagged, {of_all}"


def points(drop: float) -> str:
    """A drop in points of accuracy, e.g. `1 point`, `2.5 points`."""
    return f"{drop:g} point" if drop == 1 else f"{drop:g} points"


def poisoned_names(result: PruneResult) -> list[str]:
    """The poisoned sets of a prune curve, in the order in which they first appear."""
    return list(
        dict.fromkeys(name for row in result.curve for name in row.attack_success_rate or {})
    )
