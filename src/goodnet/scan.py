"""Which labels are a backdoor's targets, by clean images alone.

Two things flag a label. *Suspicion*: random changes lead many images there, and the network can be
made surer of it than of others, or where clean images are few they all lead there for one reason
(see probes/suspicion.py). *Small changes*: a trigger turns images of every class into the target
and is itself small, so for each label the smallest change that makes the network say it of most
images is searched for, in several kinds: a few pixels painted over, a faint pattern added, the
image bent; a label is flagged where its change is smaller than
any seen on clean networks *and* much smaller than those of the other labels. All-to-all and
untargeted backdoors have no target; changes that make answers wrong in any way may show those.

Where nothing shows and images are enough, a network of new weights learns the answers of the one
scanned on clean images: *errors that it does not share* are the scanned network's own, and where
each class is led elsewhere these are many (see witness.py).

Of many labels some are led to by small changes without a backdoor, and some change makes answers
wrong anyhow; there suspicion alone flags, which asks for masks that are small though robust, and
small changes are searched for to show the trigger.

Source: Wang et al. 2019, Neural Cleanse (masks; distance from the median in deviations).
Departures: patterns and warps beside masks; extents are compared by their logarithms; of many
labels only the most suspicious and a random sample are searched for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, require_clean
from goodnet.errors import DataError, SettingsError
from goodnet.probes import (
    MOST_LABELS,
    Found,
    Probe,
    SearchedProbe,
    Suspect,
    Suspicion,
    in_parts,
    least_changes,
    searched_probes,
    suspicion,
)
from goodnet.results import AnyChange, LabelScan, Rate, ScanResult, ScanTarget, UsualChange
from goodnet.training import Precision, Progress, no_progress
from goodnet.witness import unshared_errors

_UNUSUAL = {"masks": 3.0, "fields": 3.0, "warps": 6.3}
"""Deviations below the median at which a change is unusually small: a fifth more than any seen on
clean networks; see docs/results.md."""
_LEAST_DEVIATION = 0.15
"""Of the logarithms of extents: where labels hardly differ, a small difference is none."""
_ANYHOW = {"masks": 0.3, "fields": 0.8, "warps": 0.3}
"""Up to this many times `small`, a change that makes answers wrong in any way is a backdoor's."""
_STARTS = 8
"""Of the search for changes that make answers wrong in any way."""
_BEST, _SAMPLE = 16, 24
"""Where labels are too many, the most suspicious and a random sample of the others are searched."""
_SUSPICION, _ROBUST = "universal", "robust"
"""What flags a label by suspicion: random changes that are universal, where that leaves doubts a
robust mask."""
_CHUNK = 64
_SHOWN_LABELS = 12
_SHOWN_IMAGES = 4
_COUNTED = 1000
"""Images at most on which a change that was found is tried."""
_BATCH = 128
_MISLED = 0.75
"""A change counts where it misleads this share of these images."""
_FACTORS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)
"""By which a change that does not is made stronger."""


@dataclass(frozen=True)
class ScanSettings:
    """How long a scan searches.

    Attributes:
        steps: Of the search for a label's smallest change.
        most_labels: Up to so many classes each label is searched for, and small changes flag.
        precision: Of the numbers inside the network.
        student: Whether a network is taught where nothing else shows.
    """

    steps: int = 80
    most_labels: int = MOST_LABELS
    precision: Precision = "float32"
    student: bool = True

    def __post_init__(self) -> None:
        if self.steps < 20:
            raise SettingsError("steps", self.steps, "give at least 20")
        if self.most_labels < 3:
            raise SettingsError("most_labels", self.most_labels, "give at least 3")


@dataclass(frozen=True, eq=False)
class Reconstructed:
    """The change found for a flagged target.

    Attributes:
        label: The target, as the data labels it.
        clean: Some clean images of other labels, float32 in [0, 1], (n, channel, height, width).
        changed: The same, changed.
    """

    label: int
    clean: Tensor
    changed: Tensor

    def picture(self) -> Tensor:
        """A row for each image: clean, changed, their difference; uint8 (channel, ...).

        The difference is grey where nothing changed and stretched to the full range.
        """
        difference = self.changed - self.clean
        largest = difference.abs().amax().clamp(min=1e-6)
        columns = torch.stack([self.clean, self.changed, 0.5 + 0.5 * difference / largest], 1)
        framed = torch.nn.functional.pad(columns, (1, 1, 1, 1), value=1.0)
        rows = torch.cat([torch.cat(list(row), 2) for row in framed], 1)
        return rows.mul(255.0).round().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Scanned:
    """What a scan found, and the triggers it reconstructed, one for each target."""

    result: ScanResult
    triggers: tuple[Reconstructed, ...]


def scan(
    network: nn.Module,
    clean: CleanData,
    *,
    classes: int,
    settings: ScanSettings | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Scanned:
    """The labels that a backdoor may lead to, each with a change that does.

    Args:
        network: Left bit-identical.
        clean: Clean images with their labels; all that the scan sees.
        classes: N.
        settings: How long to search.
        generator: Draws images, starts, and which labels are searched for.
        progress: Told what is being done.

    Raises:
        TypeError: The data is not clean data.
        DataError: The network has fewer than three classes, or all images have one label.
    """
    settings = settings or ScanSettings()
    start = time.perf_counter()
    specification = require_clean(clean).specification
    if classes < 3:
        raise DataError(
            clean.images.source, f"has {classes} classes", "a scan compares three labels or more"
        )
    if len(clean.labels.unique()) == 1:
        raise DataError(
            clean.images.source,
            f"has images of label {int(clean.images.labels[0])} alone",
            "give clean images of several labels",
        )
    suspect = Suspect(network, specification, settings.precision)
    probes = searched_probes(specification.size)
    search = partial(
        least_changes, suspect, clean, steps=settings.steps, generator=generator, progress=progress
    )
    few = classes <= settings.most_labels
    evidence = suspicion(
        suspect,
        clean,
        classes=classes,
        most_labels=settings.most_labels,
        robust=True,
        generator=generator,
        progress=progress,
    )
    anyhow = [search(probe, torch.full((_STARTS,), -1)) for probe in probes] if few else []
    best, sample = torch.arange(0), torch.arange(classes)
    if not few:
        ranked = evidence.scores.argsort(descending=True, stable=True)
        first = max(_BEST, int(evidence.suspicious.sum()))
        best, others = ranked[:first], ranked[first:]
        sample = others[torch.randperm(len(others), generator=generator)[:_SAMPLE]]
    labels = torch.cat([best, sample])
    found = [in_parts(partial(search, probe), labels, _CHUNK) for probe in probes]
    compared = [_Compared.of(each, len(best)) for each in found]
    judge = partial(_judged, suspect, clean, evidence, found, compared, few=few)
    judged = [judge(place) for place in range(len(labels))]
    flagged = [(each.target, each.trigger) for each in judged if each.target and each.trigger]
    flagged.sort(key=lambda pair: -pair[0].score)
    changes = [_any_change(suspect, clean, each) for each in anyhow]
    backdoored = bool(flagged) or any(change.score >= 1.0 for change in changes)
    unshared = None
    if settings.student and few and not backdoored:
        unshared = unshared_errors(
            network,
            clean,
            classes=classes,
            precision=settings.precision,
            generator=generator,
            progress=progress,
        )
        backdoored = unshared is not None and unshared.score >= 1.0
    result = ScanResult(
        backdoored=backdoored,
        targets=tuple(target for target, _ in flagged),
        labels=tuple(_first([each.row for each in judged], probes)),
        usual=tuple(each.row for each in compared),
        anyhow=tuple(changes),
        classes=classes,
        labels_searched=len(labels),
        images=len(clean),
        unshared=unshared,
        seconds=time.perf_counter() - start,
    )
    return Scanned(result, tuple(trigger for _, trigger in flagged))


@dataclass(frozen=True, eq=False)
class _Compared:
    """How small a label's change usually is, in one kind."""

    row: UsualChange
    largest: float

    @classmethod
    def of(cls, found: Found, best: int) -> _Compared:
        """As the labels after the `best` first show, which were not chosen for being suspicious."""
        finite = found.extents[found.extents.isfinite()]
        largest = float(finite.max()) if len(finite) else math.inf
        extents = found.extents[best:]
        # Where no change was found it is at least as large as any that was.
        logs = extents.clamp(max=largest).log()
        median = logs.median()
        deviation = 1.4826 * float((logs - median).abs().nan_to_num().median())
        return cls(
            UsualChange(
                kind=found.probe.name,
                extent=float(median.exp()) if len(finite) else None,
                deviation=max(deviation, _LEAST_DEVIATION),
                found=int(extents.isfinite().sum()),
                labels=len(extents),
                small=found.probe.small,
            ),
            largest,
        )

    def score(self, extent: Tensor) -> float:
        """1 and more where a change is both unusually small and below `small`."""
        if self.row.extent is None or not extent.isfinite():
            return 0.0
        unusual = math.log(self.row.extent / float(extent)) / self.row.deviation
        unusual /= _UNUSUAL[self.row.kind]
        return max(0.0, min(unusual, self.row.small / float(extent)))


@dataclass(frozen=True, eq=False)
class _Judged:
    """A label with its scores; where it is flagged, the target and its trigger too."""

    row: LabelScan
    target: ScanTarget | None = None
    trigger: Reconstructed | None = None


def _judged(
    suspect: Suspect,
    clean: CleanData,
    evidence: Suspicion,
    found: Sequence[Found],
    compared: Sequence[_Compared],
    place: int,
    *,
    few: bool,
) -> _Judged:
    """The label at `place` of those searched for, by what it scores most in.

    Changes that would flag it, or show the trigger of one that is suspicious, are tried on many
    images first. Only where labels are `few` do small changes flag.
    """
    label = int(found[0].targets[place])
    suspicious = float(evidence.scores[label])
    tried = [
        _confirmed(suspect, clean, each, place)
        if suspicious >= 1.0 or (few and of.score(each.extents[place]) >= 1.0)
        else None
        for each, of in zip(found, compared, strict=True)
    ]
    extents = [
        each.extents[place] if change is None else change.extent
        for each, change in zip(found, tried, strict=True)
    ]
    scores = [
        of.score(extent) if few else 0.0 for of, extent in zip(compared, extents, strict=True)
    ]
    smallness = [
        float(each.probe.small / extent) for each, extent in zip(found, extents, strict=True)
    ]
    kind = max(range(len(found)), key=lambda at: (scores[at], smallness[at]))
    probe, change = found[kind].probe, tried[kind]
    score = max(scores[kind], suspicious)
    robust = evidence.robust.of(label) if evidence.robust else None
    suspected = _SUSPICION if robust is None else _ROBUST
    by = suspected if suspicious > scores[kind] else probe.name
    deviations, shift = evidence.deviations[label], evidence.shifts[label]
    times_smaller = evidence.times_smaller[label]
    row = LabelScan(
        label=label + clean.specification.label_offset,
        score=score,
        by=by,
        extents={
            each.probe.name: float(extent) if extent.isfinite() else None
            for each, extent in zip(found, extents, strict=True)
        },
        universal=Rate.of(int(evidence.counts[label]), evidence.tried),
        margin_deviations=float(deviations) if deviations.isfinite() else None,
        shift=float(shift) if shift.isfinite() else None,
        times_smaller=float(times_smaller) if times_smaller.isfinite() else None,
    )
    if score < 1.0:
        return _Judged(row)
    assert change is not None
    shown: Probe = probe
    if evidence.robust and robust is not None:
        shown, numbers = evidence.robust.found.probe, robust
        misled, _ = _misled(suspect, clean, shown, numbers, label)
        extent: float | None = float(evidence.robust.found.probe.extent(numbers[None]))
    elif change.extent.isfinite():
        numbers, extent, misled = change.numbers, float(change.extent), change.misled
    else:
        shown, numbers = evidence.strongest(label)
        misled, _ = _misled(suspect, clean, shown, numbers, label)
        extent = None
    target = ScanTarget(row.label, score, by, shown.name, extent, misled)
    return _Judged(row, target, _reconstructed(clean, shown, numbers, label))


def _first(rows: list[LabelScan], probes: Sequence[SearchedProbe]) -> list[LabelScan]:
    """The likeliest targets; where nothing is unusual the smaller changes go first."""

    def smallness(row: LabelScan) -> float:
        extents = [(probe.small, row.extents[probe.name]) for probe in probes]
        return max(small / extent if extent else 0.0 for small, extent in extents)

    return sorted(rows, key=lambda row: (-row.score, -smallness(row)))[:_SHOWN_LABELS]


@dataclass(frozen=True, eq=False)
class _Change:
    """A change that was tried on many clean images.

    Attributes:
        numbers: Of the probe, (length,).
        extent: How large it is; infinite where none misleads enough of them.
        misled: Share of the images of other labels that get the wanted answer.
        labels: How many different wrong labels are said.
    """

    numbers: Tensor
    extent: Tensor
    misled: Rate
    labels: int


def _confirmed(suspect: Suspect, clean: CleanData, found: Found, place: int) -> _Change:
    """A change that was found, made just strong enough to mislead most of many images.

    The search counts on few images a step and may have stopped at a lucky one.
    """
    label = int(found.targets[place])
    numbers, never = found.numbers[place][None], torch.tensor(torch.inf)
    if not found.extents[place].isfinite():
        return _Change(numbers[0], never, Rate.of(0, 0), 0)
    for factor in _FACTORS:
        numbers = found.probe.stronger(found.numbers[place][None], torch.tensor([factor]))
        rate, labels = _misled(suspect, clean, found.probe, numbers[0], label)
        if rate.value >= _MISLED:
            return _Change(numbers[0], found.probe.extent(numbers)[0], rate, labels)
    return _Change(numbers[0], never, rate, labels)


def _misled(
    suspect: Suspect, clean: CleanData, probe: Probe, numbers: Tensor, label: int
) -> tuple[Rate, int]:
    """Share of images of other labels that a change turns into `label`; wrong labels said.

    Of label -1, the share that get any wrong answer.
    """
    said, right = _answers(suspect, clean, probe, numbers)
    counted = right != label
    misled = said != right if label < 0 else said == label
    rate = Rate.of(int((misled & counted).sum()), int(counted.sum()))
    return rate, len(said[said != right].unique())


def _any_change(suspect: Suspect, clean: CleanData, found: Found) -> AnyChange:
    """The smallest change of one kind that makes answers wrong in any way."""
    for place in found.extents.argsort(stable=True).tolist():
        if not found.extents[place].isfinite():
            break
        change = _confirmed(suspect, clean, found, place)
        if change.extent.isfinite():
            extent = float(change.extent)
            score = _ANYHOW[found.probe.name] * found.probe.small / extent
            return AnyChange(found.probe.name, extent, score, change.misled, change.labels)
    return AnyChange(found.probe.name, None, 0.0, Rate.of(0, 0), 0)


@torch.no_grad()
def _answers(
    suspect: Suspect, clean: CleanData, probe: Probe, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """What the network says of changed images, at most 1,000, and what is right."""
    chosen = _spread(torch.arange(len(clean)), _COUNTED)
    pixels, labels = clean.pixels(), clean.labels
    said = []
    for part in chosen.split(_BATCH):
        images = as_float(pixels[part])
        changed = probe.change(images, numbers.expand(len(part), -1))
        said.append(suspect(changed).argmax(1).cpu())
    return torch.cat(said), labels[chosen]


def _reconstructed(clean: CleanData, probe: Probe, numbers: Tensor, label: int) -> Reconstructed:
    """The change shown on some clean images of other labels."""
    chosen = _spread((clean.labels != label).nonzero().flatten(), _SHOWN_IMAGES)
    images = as_float(clean.pixels()[chosen])
    changed = probe.change(images, numbers.expand(len(chosen), -1)).clamp(0.0, 1.0)
    return Reconstructed(label + clean.specification.label_offset, images, changed)


def _spread(places: Tensor, most: int) -> Tensor:
    """At most `most` of `places`, spread evenly."""
    if len(places) <= most:
        return places
    return places[torch.arange(most) * len(places) // most]
