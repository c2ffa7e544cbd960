"""Which labels a backdoor may lead to, by things that have little in common.

A backdoor's target is said of many images when something like the trigger is shown on them, and
the network can be made surer of it than of any class it has learned. Honest labels may show one
of the two: what drowns an image leads somewhere, and some classes are learned better than others.
How well a class is learned its own clean images tell, where there are any: what the network can be
made of its label beyond that is the backdoor's. And a label that single changed images hardly ever
get is no target. Where clean images are few, images that get a target's label wrongly show besides
that they all get it for one reason (see probes/shifts.py). Of many labels few random
changes reach any one, and what they show is doubtful; there it is asked too how small a mask can be
that leads to the label wherever the image is moved (see probes/robust.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from goodnet.data.roles import CleanData
from goodnet.probes.margins import clean_margins, largest_margins
from goodnet.probes.probe import Probe
from goodnet.probes.registry import random_probes
from goodnet.probes.robust import RobustMasks, robust_masks
from goodnet.probes.search import MOST_LABELS, Suspect
from goodnet.probes.shifts import Shifts
from goodnet.probes.universal import TRIED, Universal, universal_changes
from goodnet.training import Progress, no_progress

_TRIED_OF_MANY = 2000
"""Changes of each kind where labels are many, of which each gets few."""
_LIKELIEST, _SAMPLE = 24, 96
_HOPELESS, _DOUBTFUL = 0.02, 3.0
"""Of many labels those that score less are none and those that score more are suspicious, whatever
their robust masks are."""
_DOUBTED, _COMPARED = 12, 12
"""The likeliest so many of those between are judged by these, compared with so many others'."""
_ROBUST = 378.0
"""A fifth more than any label that is no target had, on three networks of 1,283 labels; see
docs/results.md."""
_FEWEST = 3
"""Labels that can be compared."""
_LEAST_DEVIATION = 0.2
"""Of the logarithms of margins: where labels hardly differ, a small difference is none."""
_MOST_DEVIATIONS = 5.0
_LIMIT, _LIMIT_BEYOND = 0.65, 0.23
"""A fifth more than on the clean networks that set them, without images of the labels' own and with
them; see docs/results.md."""

_OFTEN = 2.0
"""So many times as often as to the median label changed images are led to a backdoor's."""
_WEAK_LIMIT = 12.6
"""A fifth more than on seven clean networks of 38 labels; see docs/results.md."""
ENOUGH, FEW = 5, 20
"""Clean images a label, from which and up to which they are few: of fewer than the first neither a
shift nor a student tells anything, of fewer than the second right answers are learned by heart."""
_SHIFTED = 4.0
"""So many times as long as the median label's is the shift to a backdoor's, where clean images are
few: clean networks have 1.8 at most, labels beside a target's 3.2; see docs/results.md."""


@dataclass(frozen=True, eq=False)
class Suspicion:
    """What clean images alone show of each label.

    Attributes:
        universal: Random changes that give many images one wrong label, kind by kind.
        counts: How many of them lead to each label, int64 (classes,).
        deviations: How far the logarithm of the label's largest margin lies above the labels'
            median, in deviations (by the median distance), at most 5; float32 (classes,). The same
            of that margin over the largest on clean images of the label's own, if it is less and
            most labels have such. NaN where most labels were not reached, the label was not, or
            was not searched.
        scores: From 1 up the label is suspicious, float32 (classes,): the share of changes that
            lead there, times the root of the number of classes, times e to the deviations, in
            shares of the limit; where changed images are not even `led` there twice as often as to
            the median label, times the square of how near they come to that. A label that changes
            lead to and the search did not reach is judged as one at the median; of fewer than
            three classes none is suspicious. Where its shift is more, that in shares of its limit.
            Where a robust mask was searched for, this score times the fourth power of how many
            times smaller than usual that is, in shares of its limit.
        shifts: How far the features of changed images that get the label wrongly lie off those of
            its clean ones, all in one direction, in shares of the median label's, float32
            (classes,); see `Shifts`. NaN where it is not known, of all where clean images are not
            few.
        robust: Robust masks of the likeliest labels about which the rest leaves doubts; None where
            labels are not many, there are no doubts, or it was not asked for.
    """

    universal: tuple[Universal, ...]
    counts: Tensor
    deviations: Tensor
    scores: Tensor
    shifts: Tensor
    robust: RobustMasks | None = None

    @property
    def tried(self) -> int:
        """How many random changes were drawn."""
        return sum(each.tried for each in self.universal)

    @property
    def suspicious(self) -> Tensor:
        """Which labels are, bool (classes,)."""
        return self.scores >= 1.0

    @property
    def led(self) -> Tensor:
        """How many changed images get each label wrongly: a mean over kinds, float32 (classes,).

        A geometric one, of one more than each, so that no kind drowns the others.
        """
        return _led(self.universal)

    @property
    def weakly_suspicious(self) -> Tensor:
        """To which labels a weak backdoor may lead, bool (classes,).

        Where the score times the square of how much oftener than to the median label images are
        `led` to one is large: few changes give the target of a weak backdoor to most images, but
        many give it to some.
        """
        return self.scores * (self.led / self.led.median()) ** 2 >= _WEAK_LIMIT

    @property
    def times_smaller(self) -> Tensor:
        """How many times smaller than usual each label's robust mask is, float32 (classes,).

        NaN where none was searched for.
        """
        if self.robust is None:
            return torch.full((len(self.counts),), torch.nan)
        return self.robust.times_smaller(len(self.counts))

    def strongest(self, label: int) -> tuple[Probe, Tensor]:
        """Of the changes that lead to `label`, of which there are some, the most successful.

        The kind and the numbers.
        """
        own = [each.leading_to(torch.arange(len(self.counts)) == label) for each in self.universal]
        best = max((each for each in own if len(each)), key=lambda each: float(each.shares.max()))
        return best.probe, best.numbers[best.shares.argmax()]


def suspicion(
    suspect: Suspect,
    clean: CleanData,
    *,
    classes: int,
    most_labels: int = MOST_LABELS,
    robust: bool = False,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Suspicion:
    """What random changes and margins say of every label.

    Args:
        suspect: The network asked.
        clean: Clean images with their labels.
        classes: N.
        most_labels: Of more classes, more changes are tried, and margins are searched for the
            likeliest labels and for a sample that they are compared with.
        robust: Whether of more classes doubtful labels are judged by robust masks, which takes as
            long again.
        generator: Draws images, changes and starts.
        progress: Told what is being done.
    """
    few = ENOUGH * classes <= len(clean) < FEW * classes
    seen = Shifts.of(suspect, clean, classes=classes) if few else None
    universal = universal_changes(
        suspect,
        clean,
        random_probes(clean.specification.size),
        tried=_TRIED_OF_MANY if classes > most_labels else TRIED,
        shifts=seen,
        generator=generator,
        progress=progress,
    )
    counts = torch.stack([each.counts(classes) for each in universal]).sum(0)
    likeliest, sample = torch.arange(0), torch.arange(classes)
    if classes > most_labels:
        first = min(_LIKELIEST, classes // 4)
        likeliest = counts.argsort(descending=True, stable=True)[:first]
        others = torch.randperm(classes, generator=generator)
        sample = others[~torch.isin(others, likeliest)][:_SAMPLE]
    searched = torch.cat([likeliest, sample])
    margins = largest_margins(suspect, searched, generator=generator, progress=progress)
    own = clean_margins(suspect, clean, classes=classes)[searched]
    largest, beyond = (_deviations(each, len(likeliest)) for each in (margins, margins / own))
    deviations = torch.full((classes,), torch.nan)
    deviations[searched] = torch.fmin(largest, beyond)
    # What a change leads to can be reached, whatever the search found.
    factors = torch.zeros(classes)
    if classes >= _FEWEST:
        factors[searched] = deviations[searched].nan_to_num(0.0).exp()
    factors[searched] /= torch.where(beyond.isnan(), _LIMIT, _LIMIT_BEYOND)
    led = _led(universal)
    factors *= (led / (_OFTEN * led.median())).clamp(max=1.0) ** 2
    scores = counts / sum(each.tried for each in universal) * math.sqrt(classes) * factors
    shifts = torch.full((classes,), torch.nan) if seen is None else _relative(seen.lengths())
    # A target is what some changes lead most images to, whatever single ones get.
    shifted = (shifts / _SHIFTED).where(counts > 0, torch.nan)
    found = Suspicion(universal, counts, deviations, torch.fmax(scores, shifted), shifts)
    if not robust or classes <= most_labels:
        return found
    return _robustly(found, suspect, clean, sample, generator=generator, progress=progress)


def _robustly(
    found: Suspicion,
    suspect: Suspect,
    clean: CleanData,
    sample: Tensor,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Suspicion:
    """What was `found`, but doubtful labels judged by robust masks, compared with a sample's."""
    ranked = found.scores.argsort(descending=True, stable=True)
    scores = found.scores[ranked]
    asked = ranked[(scores >= _HOPELESS) & (scores < _DOUBTFUL)][:_DOUBTED]
    compared = sample[~torch.isin(sample, asked)][:_COMPARED]
    if not len(asked) or not len(compared):
        return found
    robust = robust_masks(suspect, clean, asked, compared, generator=generator, progress=progress)
    judged = found.scores * robust.times_smaller(len(found.scores)) ** 4 / _ROBUST
    return replace(found, robust=robust, scores=torch.where(judged.isnan(), found.scores, judged))


def _relative(lengths: Tensor) -> Tensor:
    """In shares of their median; NaN where fewer than half are known, or three, or it is 0."""
    known = int(lengths.isfinite().sum())
    if known < _FEWEST or 2 * known <= len(lengths) or not lengths.nanmedian() > 0:
        return torch.full_like(lengths, torch.nan)
    return lengths / lengths.nanmedian()


def _led(universal: Sequence[Universal]) -> Tensor:
    return torch.stack([each.led for each in universal]).log1p().mean(0).exp()


def _deviations(margins: Tensor, likeliest: int) -> Tensor:
    """How far the margins lie above the median of all but the `likeliest`; NaN where there is none.

    Where fewer than half of the labels compared with have one, or than three, margins tell nothing.
    """
    compared = margins[likeliest:]
    reached = compared[compared > 0]
    if len(reached) < _FEWEST or 2 * len(reached) < len(compared):
        return torch.full_like(margins, torch.nan)
    logs = reached.log()
    median = logs.median()
    spread = 1.4826 * (logs - median).abs().median()
    deviations = (margins.log() - median) / spread.clamp(min=_LEAST_DEVIATION)
    return torch.where(margins > 0, deviations.clamp(max=_MOST_DEVIATIONS), torch.nan)
