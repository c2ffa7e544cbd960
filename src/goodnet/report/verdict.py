"""What the figures say, in words: the page's headline and sentences.

The wording follows the numbers and never runs ahead of them. "Not repaired", "partly repaired"
and "fell" have fixed meanings, printed on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from goodnet.report.wording import (
    in_full,
    percent,
    points,
    poisoned_names,
    risk_in_words,
    shown_name,
)
from goodnet.results import (
    EvaluateResult,
    NetworkRow,
    PoisonedRow,
    PruneResult,
    Rate,
    RepairResult,
)

Tone = Literal["plain", "caution", "alarm"]

# Attack success from which on the page says "not repaired", and "partly repaired".
STILL = 0.5
PARTLY = 0.1
# Points of clean accuracy whose loss the headline does not pass over.
COSTLY = 0.1

NO_POISONED = "Attack success was not measured: no poisoned data was given."

MEANINGS = (
    "“Not repaired”: on some poisoned set the repaired network still answers the target for "
    f"{100 * STILL:.0f} % of the inputs or more, or its 95 % interval overlaps that of the "
    f"network handed in. “Partly repaired”: for {100 * PARTLY:.0f} % or more. Below that the page "
    "says how far it fell, and no more. "
    f"Sets below {100 * PARTLY:.0f} % both before and after do not count here."
)


@dataclass(frozen=True)
class Verdict:
    """The headline, how loud it is, and the sentences with all counts and intervals."""

    headline: str
    tone: Tone
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Roles:
    """Which of the networks measured was handed in, which is the repaired one, which G."""

    before: NetworkRow
    after: NetworkRow
    goodnet: NetworkRow | None


def roles(evaluate: EvaluateResult | None, repair: RepairResult | None) -> Roles | None:
    """The parts the measured networks play in `repair`; None where the records do not say.

    The repaired network and the GoodNet are known by the paths in `repair` (or by their file
    names, where these are unique); the one handed in is the first other plain network.
    """
    if evaluate is None or repair is None:
        return None
    after = _by_path(evaluate.networks, repair.network, "network")
    goodnet = _by_path(evaluate.networks, repair.goodnet, "goodnet")
    before = next(
        (row for row in evaluate.networks if row.kind == "network" and row != after), None
    )
    if before is None or after is None:
        return None
    return Roles(before, after, goodnet)


def verdict(
    *,
    prune: PruneResult | None,
    repair: RepairResult | None,
    evaluate: EvaluateResult | None,
) -> Verdict:
    """What a reviewer must know first, from the records at hand."""
    parts = roles(evaluate, repair)
    if parts is not None:
        headline, tone = _repair_headline(parts)
        return Verdict(headline, tone, _repair_sentences(parts, repair))
    if evaluate is not None and evaluate.networks:
        headline, tone = _measured_headline(evaluate)
        return Verdict(headline, tone, (*_measured_sentences(evaluate), *_held_out(repair)))
    if repair is not None:
        return Verdict(
            f"{NO_POISONED} On held-out clean data, accuracy was "
            f"{percent(repair.valid_accuracy_before)} before repair and "
            f"{percent(repair.valid_accuracy_after)} after.{_estimated(repair)}",
            "caution",
            _held_out(repair),
        )
    if prune is not None and prune.curve:
        return _prune_verdict(prune)
    return Verdict("Nothing was measured.", "caution", ())


def _by_path(
    networks: tuple[NetworkRow, ...], path: str, kind: Literal["network", "goodnet"]
) -> NetworkRow | None:
    same = [row for row in networks if row.kind == kind and row.path == path]
    if same:
        return same[0]
    named = [
        row
        for row in networks
        if row.kind == kind and PurePath(row.path).name == PurePath(path).name
    ]
    return named[0] if len(named) == 1 else None


def _measured(row: NetworkRow) -> dict[str, PoisonedRow]:
    return {each.name: each for each in row.poisoned if each.attack_success_rate.n > 0}


def _repair_headline(parts: Roles) -> tuple[str, Tone]:
    clean = _clean_change(parts.before.clean_accuracy, parts.after.clean_accuracy)
    before = {name: row.attack_success_rate for name, row in _measured(parts.before).items()}
    after = {name: row.attack_success_rate for name, row in _measured(parts.after).items()}
    if not after:
        return f"{NO_POISONED} {clean}", "caution"
    # Sets on which there was something to repair, or on which there is now.
    open_sets = {
        name: rate
        for name, rate in after.items()
        if name not in before or max(before[name].value, rate.value) >= PARTLY
    }
    if open_sets:
        text, tone = _open_headline(before, after, open_sets)
    else:
        name = max(after, key=lambda each: after[each].value)
        text, tone = (
            "Attack success was low before repair, so the sets given show no effect of it: on "
            f"{shown_name(name)} {percent(before[name])} before, {percent(after[name])} after.",
            "caution",
        )
    costly = parts.before.clean_accuracy.value - parts.after.clean_accuracy.value >= COSTLY
    return f"{text} {clean}", "caution" if costly and tone == "plain" else tone


def _open_headline(
    before: Mapping[str, Rate], after: Mapping[str, Rate], open_sets: Mapping[str, Rate]
) -> tuple[str, Tone]:
    """The sentence on the worst of `open_sets`, the sets that a repair has to answer for."""
    worst = max(open_sets, key=lambda name: open_sets[name].value)
    rate, name = open_sets[worst], shown_name(worst)
    was = f"{percent(before[worst])} before" if worst in before else "not measured before"
    others = ""
    if len(after) > 1 and rate.value == max(each.value for each in after.values()):
        others = f", the highest of {len(after)} poisoned sets"
    stuck = [each for each in open_sets if each in before and _overlaps(after[each], before[each])]
    if rate.value >= STILL:
        text = f"Not repaired: attack success on {name} is still {percent(rate)} ({was}){others}."
        return text, "alarm"
    if stuck:
        first = max(stuck, key=lambda each: after[each].value)
        text = (
            f"Not repaired: attack success on {shown_name(first)} is {percent(after[first])}, "
            f"no measurable fall from {percent(before[first])}."
        )
        return text, "alarm"
    if worst not in before:
        return (
            f"After repair, attack success on {name} is {percent(rate)} ({was}){others}.",
            "caution",
        )
    if rate.value >= PARTLY:
        text = f"Partly repaired: attack success on {name} is {percent(rate)} ({was}){others}."
        return text, "caution"
    text = (
        f"Attack success on {name} fell from {percent(before[worst])} to {percent(rate)}{others}."
    )
    return text, "plain"


def _overlaps(after: Rate, before: Rate) -> bool:
    """Whether the interval of `after` reaches up into that of `before`."""
    return after.interval[1] >= before.interval[0]


def _clean_change(before: Rate, after: Rate) -> str:
    if before.n == 0 or after.n == 0:
        return "Clean accuracy was not measured."
    if before.value - after.value >= COSTLY:
        return f"Clean accuracy fell too, from {percent(before)} to {percent(after)}."
    return f"Clean accuracy was {percent(before)} before and is {percent(after)} after."


def _repair_sentences(parts: Roles, repair: RepairResult | None) -> tuple[str, ...]:
    sentences = [
        f"Clean accuracy: {in_full(parts.before.clean_accuracy)} before repair, "
        f"{in_full(parts.after.clean_accuracy)} after."
    ]
    before, after = _measured(parts.before), _measured(parts.after)
    guarded = _measured(parts.goodnet) if parts.goodnet else {}
    for name in dict.fromkeys([*before, *after]):
        sentences.append(
            f"Attack success on {shown_name(name)}: "
            f"{_rate_of(before.get(name))} before repair, {_rate_of(after.get(name))} after."
        )
        if name in guarded:
            sentences.append(
                f"The GoodNet on {shown_name(name)}: flags {in_full(guarded[name].flagged)} "
                f"and answers the target in {in_full(guarded[name].attack_success_rate)}."
            )
    if not after:
        sentences.append(NO_POISONED)
    if parts.goodnet is None:
        sentences.append("The GoodNet was not measured on test data.")
    else:
        sentences.append(
            "False alarms: the GoodNet flags "
            f"{in_full(parts.goodnet.false_alarm_rate)} of the clean test inputs."
        )
    return (*sentences, *_held_out(repair))


def _held_out(repair: RepairResult | None) -> tuple[str, ...]:
    if repair is None:
        return ()
    return (
        f"On held-out clean data, all that the defense was judged by: accuracy "
        f"{in_full(repair.valid_accuracy_before)} before, "
        f"{in_full(repair.valid_accuracy_after)} after; "
        f"the GoodNet flags {in_full(repair.false_alarm_rate)}.",
        *(() if repair.remaining_risk is None else (risk_in_words(repair.remaining_risk),)),
    )


def _estimated(repair: RepairResult) -> str:
    """The remaining risk in a headline, where it was estimated."""
    if repair.remaining_risk is None:
        return ""
    return f" Remaining risk, an estimate: {percent(repair.remaining_risk)}."


def _rate_of(row: PoisonedRow | None) -> str:
    return in_full(row.attack_success_rate) if row is not None else "not measured"


def _measured_headline(evaluate: EvaluateResult) -> tuple[str, Tone]:
    found = [(row, each) for row in evaluate.networks for each in _measured(row).values()]
    if not found:
        return f"{NO_POISONED} Clean accuracy is in the table below.", "caution"
    network, worst = max(found, key=lambda pair: pair[1].attack_success_rate.value)
    rate = worst.attack_success_rate
    highest = "Highest attack success measured" if len(found) > 1 else "Attack success"
    return (
        f"{highest}: {percent(rate)} on {shown_name(worst.name)}, network "
        f"{shown_name(network.name)}, whose clean accuracy is {percent(network.clean_accuracy)}.",
        "alarm" if rate.value >= STILL else "caution" if rate.value >= PARTLY else "plain",
    )


def _measured_sentences(evaluate: EvaluateResult) -> tuple[str, ...]:
    sentences = []
    for network in evaluate.networks:
        parts = [f"clean accuracy {in_full(network.clean_accuracy)}"]
        if network.kind == "goodnet":
            parts.append(f"false alarms {in_full(network.false_alarm_rate)}")
        for name, row in _measured(network).items():
            parts.append(f"attack success on {shown_name(name)} {in_full(row.attack_success_rate)}")
            if network.kind == "goodnet":
                parts.append(f"flagged on {shown_name(name)} {in_full(row.flagged)}")
        sentences.append(f"{shown_name(network.name)}: {'; '.join(parts)}.")
    if not any(network.poisoned for network in evaluate.networks):
        sentences.append(NO_POISONED)
    return tuple(sentences)


def _prune_verdict(prune: PruneResult) -> Verdict:
    """Of pruning alone: the unpruned network against that of the largest drop."""
    rows = {row.channels_pruned: row for row in prune.curve}
    start = rows.get(0, prune.curve[0])
    chosen = [row for row in prune.thresholds if row.channels_pruned in rows]
    names = poisoned_names(prune)
    sentences = [f"Unpruned: validation accuracy {in_full(start.valid_accuracy)}."]
    sentences += [
        f"Unpruned: attack success on {shown_name(name)} {in_full(rate)}."
        for name, rate in (start.attack_success_rate or {}).items()
    ]
    if not chosen:
        text = "No threshold was asked for, so no pruned network was chosen."
        return Verdict(
            f"{text} {'' if names else NO_POISONED}".strip(), "caution", tuple(sentences)
        )
    last = max(chosen, key=lambda row: (row.drop, row.rule == "at-least"))
    row = rows[last.channels_pruned]
    where = (
        f"with {last.channels_pruned} of {prune.channels} channels pruned "
        f"(drop {points(last.drop)}, {last.rule})"
    )
    sentences.append(f"{where.capitalize()}: validation accuracy {in_full(row.valid_accuracy)}.")
    if row.clean_accuracy is not None:
        sentences.append(f"{where.capitalize()}: clean accuracy {in_full(row.clean_accuracy)}.")
    rates = {name: rate for name, rate in (row.attack_success_rate or {}).items() if rate.n > 0}
    sentences += [
        f"{where.capitalize()}: attack success on {shown_name(name)} {in_full(rate)}."
        for name, rate in rates.items()
    ]
    if not rates:
        return Verdict(
            f"{NO_POISONED} Pruning alone, {where}: validation accuracy "
            f"{percent(row.valid_accuracy)}, unpruned {percent(start.valid_accuracy)}.",
            "caution",
            (*sentences, NO_POISONED),
        )
    name, rate = max(rates.items(), key=lambda pair: pair[1].value)
    was = (start.attack_success_rate or {}).get(name)
    unpruned = f", unpruned {percent(was)}" if was is not None else ""
    clean = row.clean_accuracy or row.valid_accuracy
    kind = "Clean" if row.clean_accuracy else "Validation"
    clean_was = start.clean_accuracy if row.clean_accuracy else start.valid_accuracy
    clean_unpruned = f", unpruned {percent(clean_was)}" if clean_was is not None else ""
    return Verdict(
        f"Pruning alone, {where}: attack success on {shown_name(name)} is {percent(rate)}"
        f"{unpruned}. {kind} accuracy is {percent(clean)}{clean_unpruned}.",
        "alarm" if rate.value >= STILL else "caution" if rate.value >= PARTLY else "plain",
        tuple(sentences),
    )
