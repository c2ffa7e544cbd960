"""auto: teach the network that no change of an image leads it where only a backdoor leads.

A trigger is a change of the image that people see through and a BadNet does not. The defender
knows no trigger, so many changes that might be one are tried: random stickers, ripples,
patterns, blends and warps. Where an image is merely spoiled, the answer depends on the image;
changes that give many images one wrong label show where a backdoor leads, if the network can be
made surer of that label than of others too (see probes/suspicion.py). Then

- such labels are unlearned: on images that random changes, or small ones that a search finds,
  lead there, the answer has to be the one the BadNet would give without that label. With few images
  changes are pursued to such labels too, and the last layer alone is tuned: what the layers below
  have learned is not learned again from a handful. Features that further images may have are
  hallucinated, of which the BadNet's answers are kept (hallucination.py). It begins gently: at
  first only weights that tell of these labels are tuned, so that no answer can change but from or
  to one of them, and each round presses harder while much is left. Of many labels the next likely
  ones are unlearned too; with fewer images than labels nothing is hallucinated, and weights of
  others are never touched;
- where there is none, the backdoor may lead from each class elsewhere, or to anything. With images
  enough a network of new weights learns the BadNet's answers on clean images first: little of such
  a backdoor is passed on. Errors of which the BadNet is far surer than this student, or than the
  student has become meanwhile, are then unlearned in it. Of fewer images every change that misleads
  the BadNet is unlearned, and the right answer asked for;
- with few images a label that weak evidence of two kinds points to is suspected too. Without one
  little is done, since a clean network would only lose by it: the two labels that changed images
  get most often are unlearned as a precaution, gently, which takes most of a weak backdoor to one
  of them. Whether a student shares the network's errors is told all the same.

On clean images the network keeps to the BadNet's answers, and on changed ones too where these are
not unlearned: what is not the backdoor's is not to change. Then what came out is asked. Where there
is a student, held-out images tell whether the BadNet's own errors are still made; otherwise small
changes are searched for; with few images changes like those that led astray are tried again. Where
much is left, tuning goes on; where little is, the logits of these labels are lowered by what the
margins of their own clean images allow.

This file decides; the loss is in defenses/unlearning.py, how changes are drawn in
defenses/changes.py and pursued in defenses/pursuit.py, learning anew in distillation.py, what a
student tells in witness.py.

Sources of the parts: Wang et al. 2019, Neural Cleanse (search, and unlearning by right labels);
Wei et al. 2023, Shared Adversarial Unlearning (-log(1 - p) of the label the old network is
misled to); Li et al. 2021, Neural Attention Distillation, and Hinton et al. 2015 (answers kept
by distillation; see distillation.py); Tarvainen and Valpola 2017, Mean Teacher (a network
as it was a while ago); Zhang et al. 2018, mixup (images between images); Izmailov et al. 2018
(weights averaged along the way); Wang et al. 2024, MM-BD (margins); Menon et al. 2021, Logit
Adjustment (after training). Random changes that many images share, and a student as the reference
for errors: this project.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from goodnet.answers import probabilities_of, rightly_named
from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.averaging import Average
from goodnet.defenses.changes import Evidence, around
from goodnet.defenses.exposure import exposure
from goodnet.defenses.hallucination import Hallucinations
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.defenses.unlearning import Dose, Unlearning
from goodnet.distillation import AUGMENTATION, student
from goodnet.last_layer import has_bias, lower
from goodnet.probes import (
    ENOUGH,
    FEW,
    Found,
    Suspect,
    least_changes,
    likeliest_labels,
    own_margins,
    random_probes,
    searched_probes,
    surely_misled,
    suspicion,
)
from goodnet.results import EpochRow
from goodnet.training import Progress, TrainingSettings, batch_norms, train
from goodnet.witness import asked, unshared_errors

AUTO = TrainingSettings(
    epochs=20,
    batch_size=128,
    learning_rate=0.02,
    weight_decay=5e-4,
    augmentation=AUGMENTATION,
    optimizer="sgd",
    warm_up=0.2,
    largest_gradient=5.0,
    least_steps=800,
)
"""Chosen on the development half of the zoo; see docs/results.md."""

_ROUNDS = 2
_RATES = (1.0, 0.2, 0.04)
"""Factors of the learning rate; the next is for networks that the last one breaks."""
_HARM, _BY_CHANCE = 0.02, 0.1
"""A network is broken where it lost more than the first share of all clean images, and the chance
of losing so many is below the second."""
_SEARCH_STEPS = 60
_ANY = 8
"""Starts of the search for changes that make answers wrong in any way."""
_MANY = 50
"""With so many a class a network with batch norms learns the BadNet's answers anew."""
_CAUTION = 2
"""Where images are few but enough, and no label is suspicious, one to which a weak backdoor may
lead is; without any, so many are unlearned as a precaution, those most often said wrongly."""
_NEXT = 0.01
"""Share of all labels that is unlearned at least, the likeliest, where one is suspicious: of many
labels a few cost little, and few changes lead to each."""
_ASKED, _AT_ONCE = 1024, 256
"""New changes of each kind that a repaired network is asked about, and how many at a time."""
_OFF = 0.05
"""How far these are from ones that had misled; in tuning changes are drawn closer."""
_OWN_LEFT = 0.1
"""What may be left of the BadNet's own errors: nearly twice the most on any network."""
_LED_LEFT = 0.025
"""What may be left of leading to unlearned labels, where images are few, without another round."""
_LED_ENOUGH = 0.005
"""Where more than this is left of it, the labels' logits are lowered."""

_UNTARGETED = Dose(
    counted="all",
    searches=True,
    changed=0.5,
    mixed=0.4,
    replayed=0.5,
    pursued=0.0,
    unlike=4.0,
    tuned="all",
    effort=1.0,
    brightness=None,
    hallucinated=0.0,
)
_RELEARNED = replace(
    _UNTARGETED,
    counted="unshared",
    searches=False,
    mixed=0.9,
    replayed=0.7,
    unlike=30.0,
    effort=0.5,
)
_TARGETED = Dose(
    counted="suspicious",
    searches=True,
    changed=0.5,
    mixed=0.9,
    replayed=0.7,
    pursued=0.0,
    unlike=20.0,
    tuned="all",
    effort=1.0,
    brightness=0.7,
    hallucinated=0.0,
)
_LAST_LAYER = replace(
    _TARGETED, searches=False, pursued=0.4, unlike=16.0, tuned="last layer", effort=0.5
)
_TARGETED_OF_FEW = (
    replace(_LAST_LAYER, tuned="rows", hallucinated=10.0),
    replace(_LAST_LAYER, tuned="rows", hallucinated=3.0),
    replace(_LAST_LAYER, hallucinated=3.0),
    replace(_LAST_LAYER, hallucinated=1.5),
    replace(_LAST_LAYER, hallucinated=1.5, unlike=32.0),
)
"""Round by round, the gentlest first."""
_CAUTIOUS = replace(_LAST_LAYER, unlike=4.0, hallucinated=10.0)
"""Where few images point to no label: little is asked, so that a clean network loses little."""
_TARGETED_OF_FEWER = (
    replace(_LAST_LAYER, unlike=8.0, tuned="rows"),
    replace(_LAST_LAYER, unlike=16.0, tuned="rows"),
)
"""With fewer images than labels: most labels have no image that shows what they should become."""


def auto(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network tuned until the search finds no small change that misleads it.

    Where random changes and margins point to some labels, only what leads there is unlearned;
    otherwise whatever misleads the network, with many images only where a student of it is not
    misled too. Of few images only two labels are unlearned then, gently, and of too few for that
    nothing: it is an equal copy of the one handed in. The last round is kept; there is another
    where one left something.

    Where images have a task of their own this is `exposure`.
    """
    require_clean(held_out)
    if require_clean(tuning).images.task is not None:
        return exposure(network, tuning, held_out, settings, generator=generator, progress=progress)
    evidence, rounds = _evidence(
        Suspect(network, tuning.specification, settings.training.precision),
        tuning,
        normed=bool(batch_norms(network)),
        generator=generator,
        progress=progress,
    )
    tuner = _Tuner(network, tuning, held_out, settings, evidence, generator, progress)
    if rounds in ((), (_CAUTIOUS,)):
        repaired = tuner.with_caution(*rounds)
        return Repaired(repaired, stopped="; ".join(tuner.told), epochs=tuple(tuner.epochs))
    learned = None
    if rounds[0].counted == "unshared":
        learned = tuner.learned_anew()
        rounds = _ROUNDS * (_UNTARGETED,) if learned is None else rounds
    repaired = reference = network if learned is None else learned
    found = tuner.search(network, rounds[0]) if rounds[0].searches else ()
    left = 0.0
    for number, dose in enumerate(rounds, start=1):
        repaired = tuner.unlearned(
            repaired, reference, dose, found, what=f"unlearning, round {number}"
        )
        if dose.counted == "unshared":
            if tuner.own_left(repaired, reference) <= _OWN_LEFT:
                break
        elif dose.searches:
            still = tuner.search(repaired, dose)
            if not still:
                break
            found = (*found, *still)
        else:
            left = tuner.led_left(repaired)
            if left <= _LED_LEFT:
                break
    if dose.hallucinated and left > _LED_ENOUGH:
        repaired = tuner.held_back(repaired, dose)
    return Repaired(repaired, stopped="; ".join(tuner.told), epochs=tuple(tuner.epochs))


class _Tuner:
    """The steps of `auto`, and the record of them.

    Attributes:
        told: What was done and what came of it, for people.
        epochs: All that were tuned.
    """

    def __init__(
        self,
        badnet: nn.Module,
        tuning: CleanData,
        held_out: CleanData,
        settings: DefenseSettings,
        evidence: Evidence,
        generator: torch.Generator,
        progress: Progress,
    ) -> None:
        self._badnet = badnet
        self._tuning, self._held_out = tuning, held_out
        self._training = settings.training
        self._evidence = evidence
        self._generator = generator
        self._progress = progress
        self._before = self._right(badnet)
        self.told = [f"of the network handed in: {evidence.told()}"]
        self.epochs: list[EpochRow] = []

    def search(self, network: nn.Module, dose: Dose) -> tuple[Found, ...]:
        """The small changes that mislead the network; kinds that have none are left out."""
        suspect = self._suspect(network)
        if dose.counted == "suspicious":
            targets = self._evidence.unlearned.nonzero().flatten()
        else:
            labels = likeliest_labels(suspect, self._tuning, generator=self._generator)
            targets = torch.cat([labels, torch.full((_ANY,), -1)])
        found = [
            least_changes(
                suspect,
                self._tuning,
                probe,
                targets,
                steps=_SEARCH_STEPS,
                generator=self._generator,
                progress=self._progress,
            ).small()
            for probe in searched_probes(self._tuning.specification.size)
        ]
        small = tuple(each for each in found if len(each))
        self.told.append(_told(small))
        return small

    def learned_anew(self) -> nn.Module | None:
        """A student of the BadNet; None where it is worse."""
        learned = student(
            self._badnet,
            self._tuning,
            self._held_out,
            augmentation=self._training.augmentation,
            precision=self._training.precision,
            generator=self._generator,
            progress=self._progress,
        )
        self.epochs += learned.epochs
        harmed = self._harms(learned.network, "after learning anew")
        return None if harmed else learned.network

    def with_caution(self, dose: Dose | None = None) -> nn.Module:
        """The BadNet, to which nothing points; tuned if there is a dose for its last layer."""
        if dose is None or dose.part(self._badnet, self._evidence) is None:
            self.told.append("of so few images nothing is unlearned without a reason")
            repaired = copy.deepcopy(self._badnet).eval()
        else:
            what = "unlearning as a precaution"
            repaired = self.unlearned(self._badnet, self._badnet, dose, (), what=what)
            if self.led_left(repaired) > _LED_ENOUGH:
                repaired = self.held_back(repaired, dose)
        unshared = unshared_errors(
            self._badnet,
            self._tuning,
            classes=len(self._evidence.suspicious),
            precision=self._training.precision,
            generator=self._generator,
            progress=self._progress,
        )
        if unshared and unshared.score >= 1.0:
            self.told.append(
                f"yet {unshared.share.value:.1%} of the errors it is sure of are its own, more "
                "than of any clean network: it may have a backdoor, which is left in place"
            )
        return repaired

    def unlearned(
        self,
        network: nn.Module,
        reference: nn.Module,
        dose: Dose,
        found: Sequence[Found],
        *,
        what: str,
    ) -> nn.Module:
        """`network` tuned once; more gently where that breaks it."""
        part = dose.part(network, self._evidence)
        hallucinations = None
        if part is not None:
            rows = "" if part.rows.all() else " that tell of these labels"
            told = f"with few images only weights of {part.layer}{rows} are tuned"
            if told not in self.told:
                self.told.append(told)
            if dose.hallucinated:
                hallucinations = Hallucinations(
                    self._badnet,
                    part.layer,
                    self._tuning,
                    self._evidence.unlearned,
                    generator=self._generator,
                )
        for rate in _RATES:
            now = what if rate == _RATES[0] else f"{what} again at {rate:.0%} of the rate"
            average = Average()
            training = train(
                network,
                self._tuning,
                dose.of(self._badnet, self._training, rate=rate),
                loss=Unlearning(
                    self._badnet,
                    reference,
                    self._tuning.specification,
                    self._evidence,
                    dose,
                    found,
                    hallucinations,
                    self._generator,
                ),
                part=part,
                held_out=self._held_out,
                generator=self._generator,
                after_step=average,
                keep_last=True,
                progress=self._progress,
                what=now,
            )
            self.epochs += training.epochs
            tuned = average.of(training.network)
            if not self._harms(tuned, f"after {now}"):
                break
        return tuned

    @torch.no_grad()
    def led_left(self, network: nn.Module) -> float:
        """How likely `network` says the label that new changes make the BadNet say.

        The mean over those that lead the BadNet to a label that is unlearned; 0 where none does.
        New changes are drawn around the universal ones that do, a little further off than in
        tuning.
        """
        badnet, repaired = self._suspect(self._badnet), self._suspect(network)
        pixels, labels = self._tuning.pixels(), self._tuning.labels
        unlearned = self._evidence.unlearned
        likely = []
        for universal in self._evidence.universal:
            leading = universal.leading_to(unlearned)
            if not len(leading):
                continue
            drawn = torch.randint(len(leading), (_ASKED,), generator=self._generator)
            numbers = around(leading.numbers[drawn], _OFF, self._generator)
            chosen = torch.randint(len(labels), (_ASKED,), generator=self._generator)
            for part, own in zip(numbers.split(_AT_ONCE), chosen.split(_AT_ONCE), strict=True):
                changed = universal.probe.change(as_float(pixels[own]), part)
                said = badnet(changed).argmax(1).cpu()
                led = (said != labels[own]) & unlearned[said]
                if led.any():
                    likely.append(probabilities_of(said[led], repaired(changed[led]).cpu()))
        left = _mean(likely)
        self.told.append(f"then changes that led there still do so with {left:.1%}")
        return left

    def held_back(self, network: nn.Module, dose: Dose) -> nn.Module:
        """`network` with the logits of unlearned labels lowered, where its last layer has a bias.

        Of each by half of the least margin by which a clean image of its own is named rightly, so
        that all of these still are.
        """
        part = dose.part(network, self._evidence)
        if part is None or not has_bias(network, part.layer):
            return network
        suspect = self._suspect(network)
        images = (self._tuning, self._held_out)
        margins = torch.cat([own_margins(suspect, each) for each in images])
        labels = torch.cat([each.labels for each in images])
        unlearned = self._evidence.unlearned
        counted = (margins > 0) & unlearned[labels]
        least = torch.full(unlearned.shape, torch.inf)
        least.scatter_reduce_(0, labels[counted], margins[counted], "amin")
        lower_by = torch.where(least < torch.inf, least / 2, 0.0)
        repaired = copy.deepcopy(network)
        lower(repaired, part.layer, lower_by)
        lowered = ", ".join(
            f"{label} by {float(lower_by[label]):.1f}" for label in lower_by.nonzero().flatten()
        )
        self.told.append(f"logits of unlearned labels are lowered: {lowered or 'none'}")
        return repaired

    @torch.no_grad()
    def own_left(self, network: nn.Module, learned: nn.Module) -> float:
        """How likely `network` makes the errors that are the BadNet's own, not its student's.

        The mean over held-out images that new changes make the BadNet err on; 0 where none does.
        """
        badnet, witness, repaired = map(self._suspect, (self._badnet, learned, network))
        likely, own = [], []
        for each in asked(badnet, witness, self._held_out, generator=self._generator):
            likely.append(probabilities_of(each.said, repaired(each.images).cpu())[each.own])
            own.append(each.own.float())
        left = _mean(likely)
        self.told.append(
            f"of new changes {_mean(own):.1%} make the network handed in err where its "
            f"student does not; {left:.1%} of that is left"
        )
        return left

    def _suspect(self, network: nn.Module) -> Suspect:
        return Suspect(network, self._tuning.specification, self._training.precision)

    def _right(self, network: nn.Module) -> Tensor:
        """Whether each clean image is named rightly, those held out last, bool (images,)."""
        return torch.cat([rightly_named(network, each) for each in (self._tuning, self._held_out)])

    def _harms(self, network: nn.Module, when: str) -> bool:
        after = self._right(network)
        share = float(after[len(self._tuning) :].float().mean())
        self.told.append(f"{when}, {share:.1%} of held-out images are right")
        return _harmed(self._before, after)


def _mean(parts: Sequence[Tensor]) -> float:
    """Over all of several; 0 of nothing."""
    every = torch.cat([*parts, torch.zeros(0)])
    return float(every.mean()) if len(every) else 0.0


def _harmed(before: Tensor, after: Tensor) -> bool:
    """Whether fewer clean images are named rightly, and hardly by chance (McNemar 1947).

    Images that were tuned on count too: a network that was broken fails on them as well, and
    few are held out.
    """
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    if lost - won <= _HARM * len(before):
        return False
    return float(binomtest(won, lost + won, alternative="less").pvalue) < _BY_CHANCE


def _evidence(
    suspect: Suspect,
    tuning: CleanData,
    *,
    normed: bool,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[Evidence, tuple[Dose, ...]]:
    """What points to a backdoor, and how hard it is gone against, round by round.

    Not at all where nothing points to one and images are too few for anything.
    """
    probes = random_probes(tuning.specification.size)
    weights = surely_misled(suspect, tuning, probes, generator=generator)
    classes = suspect(torch.zeros(1, *tuning.specification.size)).shape[1]
    found = suspicion(suspect, tuning, classes=classes, generator=generator, progress=progress)
    few, many = len(tuning) < FEW * classes, len(tuning) >= _MANY * classes
    enough = len(tuning) >= ENOUGH * classes and classes > _CAUTION
    pursued, suspicious = found.scores, found.suspicious
    if few and enough and not suspicious.any():
        suspicious = found.weakly_suspicious
    next_likely = torch.zeros_like(suspicious)
    rounds = _ROUNDS * (_RELEARNED if many and normed else _UNTARGETED,)
    if suspicious.any():
        first = found.scores.argsort(descending=True, stable=True)[: int(_NEXT * classes)]
        next_likely[first] = (found.scores[first] > 0) & ~suspicious[first]
        rounds = _TARGETED_OF_FEW if few else _ROUNDS * (_TARGETED,)
        if len(tuning) < classes:
            rounds = _TARGETED_OF_FEWER
    elif few and enough:
        next_likely[found.led.argsort(descending=True, stable=True)[:_CAUTION]] = True
        pursued, rounds = next_likely.float(), (_CAUTIOUS,)
    elif few:
        rounds = ()
    return Evidence(found.universal, weights, pursued, suspicious, next_likely), rounds


def _told(found: Sequence[Found]) -> str:
    parts = [
        f"{each.probe.name} ({_labels(each)}, from {float(each.extents.min()):.1%})"
        for each in found
    ]
    if not parts:
        return "no small change misleads it"
    return f"small changes mislead it: {', '.join(parts)}"


def _labels(found: Found) -> str:
    named = found.targets[found.targets >= 0].tolist()
    labels = [f"to {', '.join(map(str, named))}"] if named else []
    return " and ".join([*labels, *(["anyhow"] if (found.targets < 0).any() else [])])
