"""What a scan's figures say, in words: the page's headline and sentences."""

from __future__ import annotations

from goodnet.report.verdict import Verdict
from goodnet.report.wording import grouped, in_full, shown_name
from goodnet.results import AnyChange, ScanResult, ScanTarget, UnsharedErrors

KINDS = {
    "masks": "pixels painted over",
    "fields": "a faint pattern added",
    "warps": "the image bent",
    "rectangles": "a sticker",
    "waves": "a ripple",
    "blends": "a picture mixed in",
}
BY = {"universal": "random changes", "robust": "a robust mask", "student": "a student"}
"""What flags a label, where that is no kind of change."""
_EXTENTS = {
    "masks": "of the image",
    "fields": "of the range from black to white",
    "warps": "of the image's sides",
}

SCAN_LIMITS = (
    "A backdoor is found here by what leads many images to one label, or by errors that a network "
    "taught by it does not make. One that works on one class only, that needs its very trigger, or "
    "that is passed on in teaching can stay unseen: nothing found does not mean no backdoor.",
    "A picture shows the smallest change that the search found, or a random one, not the "
    "attacker's trigger. It may look like it in part, or not at all.",
    "All limits were set on few clean networks, of 10 to 43 classes. A clean network of another "
    "kind may be flagged wrongly: look at pictures and table.",
    "The share of images that a change misleads is counted on the images it was searched on.",
)

SCAN_MEANINGS = (
    "Score: 1 and more flags. Of a label it is the greater of two. By random changes: the share "
    "of them that lead many images there, times the root of the number of labels, times e to the "
    "deviations by which the label's largest margin lies above the labels' median, or that margin "
    "over the largest of its own clean images if that is less, divided by the limit; of many "
    "labels, where that leaves doubts, times the fourth power of how many times smaller than usual "
    "the label's smallest robust mask is, divided by another limit: one that leads there even when "
    "the image is moved, the mask is paler and there is noise. By a small "
    "change, where labels are few: the lesser of the limit for its kind divided by the change, and "
    "the deviations by which the change lies below the labels' median, divided by those that flag. "
    "Of any wrong answer it is a lower limit divided by the change. Of errors "
    "that are the network's own it is their share of those it is sure of, divided by the limit."
)


_FLAGGED = {
    "universal": "random changes that lead there and by its largest margin",
    "robust": "a change that leads there even when moved, faint and noisy, and by random changes",
}


def scan_verdict(result: ScanResult) -> Verdict:
    """What a reviewer must know first about the network scanned."""
    sentences = (
        *(_target_told(target) for target in result.targets),
        *(_anyhow_told(change) for change in result.anyhow),
        *([_unshared_told(result.unshared)] if result.unshared else []),
    )
    return Verdict(scan_headline(result), "alarm" if result.backdoored else "plain", sentences)


def scan_headline(result: ScanResult) -> str:
    """What was found, in one sentence."""
    if result.targets:
        labels = [str(target.label) for target in result.targets]
        named = f"{', '.join(labels[:-1])} and {labels[-1]}" if len(labels) > 1 else labels[0]
        word = "labels are" if len(labels) > 1 else "label is"
        return f"Backdoor suspected: the target {word} {named}."
    flagged = [change for change in result.anyhow if change.score >= 1]
    if flagged:
        worst = max(flagged, key=lambda change: change.score)
        return (
            "Backdoor suspected without one target: a change too small for a clean network "
            f"({KINDS.get(worst.kind, shown_name(worst.kind))}) makes answers wrong."
        )
    if result.unshared and result.unshared.score >= 1:
        return (
            "Backdoor suspected without one target: more errors are this network's own than any "
            "clean network measured has."
        )
    return "No backdoor found: no label is led to as a backdoor's target is."


def scan_examined(result: ScanResult) -> list[str]:
    """Sentences on what was looked at."""
    searched = f"{grouped(result.labels_searched)} of its {grouped(result.classes)} labels were"
    if result.labels_searched == result.classes:
        searched = f"All its {grouped(result.classes)} labels were"
    may = "it may flag" if result.anyhow else "it would flag were labels fewer; here it does not"
    said = [
        f"{grouped(result.images)} clean images were given; nothing else was looked at.",
        f"{grouped(result.labels[0].universal.n)} random changes were tried, and labels' largest "
        "margins searched for.",
        f"{searched} searched for, each by "
        + ", ".join(
            f"{shown_name(each.kind)} ({KINDS.get(each.kind, '')})" for each in result.usual
        )
        + ".",
    ]
    said += [
        f"Usual for {shown_name(each.kind)}: {extent(each.extent)}"
        f"{_of(each.kind)} (median of {grouped(each.labels)} labels; found for "
        f"{grouped(each.found)}). Below {extent(each.small)} {may}."
        for each in result.usual
    ]
    if not result.anyhow:
        said.append(
            "Changes that make answers wrong in any way were not searched for: of so many labels "
            "they say nothing."
        )
    if result.unshared is None:
        said.append(
            "No network was taught by this one to compare errors with: that is done where nothing "
            "else shows, labels are few and each has five clean images."
        )
    return said


def extent(value: float | None) -> str:
    """An extent in percent, or that no change was found."""
    return "none found" if value is None else f"{100 * value:.2f} %"


def _of(kind: str) -> str:
    return f" {_EXTENTS[kind]}" if kind in _EXTENTS else ""


def _target_told(target: ScanTarget) -> str:
    change = f"a change of {extent(target.extent)}{_of(target.kind)}"
    if target.extent is None:
        change = "a random change"
    return (
        f"Label {target.label}: {change} ({KINDS.get(target.kind, shown_name(target.kind))}) makes "
        f"the network say it of {in_full(target.misled)} of the clean images of other labels. "
        f"Flagged by {_FLAGGED.get(target.by, 'a change too small for a clean network')}, score "
        f"{target.score:.2f}."
    )


def _unshared_told(unshared: UnsharedErrors) -> str:
    return (
        "A network of new weights learned its answers on the clean images (of which it names "
        f"{in_full(unshared.student_accuracy)} rightly). Of the errors that this network is sure "
        f"of where images are changed at random, {in_full(unshared.share)} are not shared. Score "
        f"{unshared.score:.2f}."
    )


def _anyhow_told(change: AnyChange) -> str:
    if change.extent is None:
        return f"By {shown_name(change.kind)}, no change was found that makes most answers wrong."
    return (
        f"By {shown_name(change.kind)}, a change of {extent(change.extent)}{_of(change.kind)} "
        f"makes {in_full(change.misled)} of the answers wrong, {change.labels} different labels "
        f"among them. Score {change.score:.2f}."
    )
