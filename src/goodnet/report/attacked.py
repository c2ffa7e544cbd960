"""What an attack's figures say, in words: the page's headline and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goodnet.report.verdict import PARTLY, STILL, Tone, Verdict
from goodnet.report.wording import grouped, in_full, percent, shown_name
from goodnet.results import AttackResult, DecoyRow, NetworkRow, PoisonedRow, PoisoningRow

ATTACK_LIMITS = (
    "This is one network from one seed; another seed gives other figures. Train several before "
    "saying that one attack works better than another.",
    "Attack success was counted on test images stamped with the very triggers that were trained "
    "in. Met in the world, turned, lit or worn, a trigger may work less well.",
    "The clean twin's rate is the floor: triggered images that a clean network takes for the "
    "target as well say nothing of a backdoor, and no repair need go below it.",
    "Each interval covers the chance in drawing the inputs, not a difference between these "
    "inputs and those met in use, nor that between one training and the next.",
)

UNTARGETED = (
    "For an untargeted trigger attack success is the share of triggered inputs that get any wrong "
    "label; accuracy lost is 1 − A_backdoor / A_clean, the share of right answers it costs."
)


def badnet_and_twin(result: AttackResult) -> tuple[NetworkRow, NetworkRow | None]:
    """The BadNet's measurements, and the clean twin's where there is one."""
    rows = result.evaluate.networks
    return rows[0], rows[1] if len(rows) > 1 else None


def answers_to(network: NetworkRow | None, name: str) -> PoisonedRow | None:
    """What `network` answers to the poisoned set `name`, where that was measured."""
    rows = () if network is None else network.poisoned
    return next((row for row in rows if row.name == name), None)


def goal_of(row: PoisoningRow) -> str:
    """What the attacker wants said, e.g. `any → 3`."""
    source = "any" if row.source_label is None else str(row.source_label)
    if row.goal == "targeted":
        return f"{source} → {row.target_label}"
    return f"{source} → next" if row.goal == "all-to-all" else f"{source} → any wrong"


def trigger_in_words(trigger: Mapping[str, Any], *, limit: int = 160) -> str:
    """A trigger's kind and settings on one line, in short; pixels are left out."""
    kept = {k: v for k, v in trigger.items() if k != "name" and len(str(v)) <= limit}
    settings = "; ".join(f"{key} {_short(value)}" for key, value in kept.items())
    return shown_name(": ".join(filter(None, (str(trigger.get("name")), settings))), limit=limit)


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def attack_verdict(result: AttackResult) -> Verdict:
    """What a reader must know first of a BadNet."""
    badnet, twin = badnet_and_twin(result)
    measured = [row for row in badnet.poisoned if row.attack_success_rate.n > 0]
    clean = f"Clean accuracy is {percent(badnet.clean_accuracy)}"
    clean += "." if twin is None else f", the clean twin's {percent(twin.clean_accuracy)}."
    if not measured:
        return Verdict(f"Attack success was not measured. {clean}", "caution", ())
    # The attacker's word is as good as the worst of its triggers.
    worst = min(measured, key=lambda row: row.attack_success_rate.value)
    rate = worst.attack_success_rate
    floor = answers_to(twin, worst.name)
    beside = "" if floor is None else f" (clean twin {percent(floor.attack_success_rate)})"
    lowest = f", the lowest of {len(measured)} triggers" if len(measured) > 1 else ""
    tone: Tone = "alarm" if rate.value >= STILL else "caution" if rate.value >= PARTLY else "plain"
    return Verdict(
        f"Attack success on {shown_name(worst.name)} is {percent(rate)}{beside}{lowest}. {clean}",
        tone,
        _rates(result),
    )


def _rates(result: AttackResult) -> tuple[str, ...]:
    badnet, twin = badnet_and_twin(result)
    said = [f"Clean accuracy of the BadNet: {in_full(badnet.clean_accuracy)}."]
    if twin is not None:
        said.append(f"Clean accuracy of the clean twin: {in_full(twin.clean_accuracy)}.")
    for row in badnet.poisoned:
        floor = answers_to(twin, row.name)
        said.append(
            f"Attack success on {shown_name(row.name)}: {in_full(row.attack_success_rate)}"
            + (
                "."
                if floor is None
                else f"; of the clean twin, the floor: {in_full(floor.attack_success_rate)}."
            )
        )
        if result.elsewhere is not None and row.name in result.elsewhere:
            said.append(
                f"On the classes that are not its source {shown_name(row.name)} works on "
                f"{in_full(result.elsewhere[row.name])}; the attacker wants 0."
            )
        for network, lost in (result.accuracy_lost or {}).items():
            if row.name in lost:
                said.append(
                    f"{shown_name(row.name)} costs the {shown_name(network)} "
                    f"{100 * lost[row.name]:.1f} % of its right answers (1 − A_backdoor / A_clean)."
                )
    return tuple(said)


def decoys_in_words(decoys: DecoyRow) -> tuple[str, ...]:
    """What the decoys of a pruning-aware attacker do, with the counts."""
    return (
        f"Decoys: {len(decoys.channels)} of the channels of layer {shown_name(decoys.layer)}. They "
        "were dormant in a clean network; the attacker took them out, trained the backdoor into "
        "the others, and put these back silenced. A defender who prunes dormant channels prunes "
        "these first.",
        f"All decoys are exactly 0 on {in_full(decoys.silent_images)} of the clean images; their "
        f"largest activation on any is {decoys.largest_activation:g}.",
        f"Putting them back changes {in_full(decoys.changed_by_putting_back)} of the answers to "
        f"clean and triggered test images; pruning them changes "
        f"{in_full(decoys.changed_by_pruning)}.",
    )


def attack_examined(result: AttackResult) -> list[str]:
    """Sentences on what was made, of what."""
    copies = sum(row.poisoned.count + row.covers.count for row in result.poisonings)
    said = [
        f"A BadNet, made here by the {shown_name(result.attack)} attack: a "
        f"{shown_name(result.architecture)}, {shown_name(result.network, limit=120)}. It was "
        f"trained on {grouped(result.training_images)} images, {grouped(copies)} of them stamped "
        "copies of others; poisoned.csv names each."
    ]
    if result.twin is not None:
        said.append(
            "Its clean twin, the same network trained on clean images: "
            f"{shown_name(result.twin, limit=120)}."
        )
    return said


def attack_missing(result: AttackResult) -> list[str]:
    """Sentences on what the page of an attack cannot say."""
    missing = []
    if badnet_and_twin(result)[1] is None:
        missing.append(
            "No clean twin was measured, so it is not known what the triggers do to a network "
            "without a backdoor."
        )
    if result.prune is None:
        missing.append("The prune curve that a defender would see was not measured.")
    return missing
