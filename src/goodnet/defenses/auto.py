"""auto: teach the network that no change of an image leads it where only a backdoor leads.

A trigger is a change of the image that people see through and a BadNet does not. The defender
knows no trigger, so many changes that might be one are tried: random stickers, ripples,
patterns, blends and warps. Where an image is merely spoiled, the answer depends on the image;
changes that give many images one wrong label show where a backdoor leads, if the network can be
made surer of that label than of others too (see probes/suspicion.py). Then

- such labels are unlearned: on images that random changes, or small ones that a search finds,
  lead there, the answer has to be the one the BadNet would give without that label. Of many labels
  the next likely ones are unlearned too;
- where there is none, the backdoor may lead from each class elsewhere, or to anything. With images
  enough a network of new weights learns the BadNet's answers on clean images first: little of such
  a backdoor is passed on. Errors of which the BadNet is far surer than this student, or than the
  student has become meanwhile, are then unlearned in it. Of fewer images every change that misleads
  the BadNet is unlearned, and the right answer asked for;
- with few images a label that weak evidence of two kinds points to is suspected too, and what tells
  of such labels is fitted anew, in the last layer alone, each pressed as hard as it takes, as long
  as that costs its own images little (refitting.py). Where no label is suspicious, but small
  changes make each label another one, the whole last layer is fitted anew to right answers
  (restoring.py). Where there are none of these either, one of the two that changed images get most
  often is unlearned so as a precaution, as far as it costs next to nothing: of the two that bears
  more, since a label that is likely by nature soon loses its own images. Whether a student shares
  the network's errors is told all the same.

On clean images the network keeps to the BadNet's answers, and on changed ones too where these are
not unlearned: what is not the backdoor's is not to change. Then what came out is asked. Where there
is a student, held-out images tell whether the BadNet's own errors are still made; otherwise small
changes are searched for. Where much is left, tuning goes on.

This file decides; the loss is in defenses/unlearning.py, how changes are drawn in
defenses/changes.py, a student's learning in distillation.py, what it tells in witness.py.

Sources of the parts: Wang et al. 2019, Neural Cleanse (search, and unlearning by right labels);
Wei et al. 2023, Shared Adversarial Unlearning (-log(1 - p) of the label the old network is
misled to); Li et al. 2021, Neural Attention Distillation, and Hinton et al. 2015 (answers kept
by distillation; see distillation.py); Tarvainen and Valpola 2017, Mean Teacher (a network
as it was a while ago); Zhang et al. 2018, mixup (images between images); Izmailov et al. 2018
(weights averaged along the way); Wang et al. 2024, MM-BD (margins). Random changes that many images
share, and a student as the reference for errors: this project.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from goodnet.answers import probabilities_of, rightly_named
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.averaging import Average
from goodnet.defenses.changes import Evidence
from goodnet.defenses.exposure import exposure
from goodnet.defenses.refitting import Refitted, refitted
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.defenses.restoring import restored
from goodnet.defenses.unlearning import Dose, Unlearning
from goodnet.distillation import AUGMENTATION, student
from goodnet.errors import NotTraceableError, SurgeryError
from goodnet.last_layer import features_network, last_linear
from goodnet.probes import (
    ENOUGH,
    FEW,
    FEWEST_LABELS,
    MOST_LABELS,
    Found,
    Relabellings,
    Suspect,
    least_changes,
    likeliest_labels,
    random_probes,
    relabellings,
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
"""Where images are few but enough, and no label is suspicious, one of so many is unlearned as a
precaution: of those most often said wrongly that which bears most."""
_NEXT = 0.01
"""Share of all labels that is unlearned at least, the likeliest, where one is suspicious: of many
labels a few cost little, and few changes lead to each."""
_ASKED = 1024
"""New changes of each kind that a repaired network is asked about."""
_OWN_LEFT = 0.1
"""What may be left of the BadNet's own errors: nearly twice the most on any network."""

_UNTARGETED = Dose(
    counted="all",
    changed=0.5,
    mixed=0.4,
    replayed=0.5,
    unlike=4.0,
    effort=1.0,
    brightness=None,
)
_RELEARNED = replace(
    _UNTARGETED,
    counted="unshared",
    mixed=0.9,
    replayed=0.7,
    unlike=30.0,
    effort=0.5,
)
_TARGETED = Dose(
    counted="suspicious",
    changed=0.5,
    mixed=0.9,
    replayed=0.7,
    unlike=20.0,
    effort=1.0,
    brightness=0.7,
)


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
    misled too. Of few images only rows of the last layer are fitted anew; where nothing points to a
    label all of them if small changes make each label another one, and otherwise those of one that
    is said wrongly most often, if that costs next to nothing, or none: then it is an equal copy of
    the one handed in. The last round is kept; there is another where one left something.

    Where images have a task of their own this is `exposure`.
    """
    require_clean(held_out)
    if require_clean(tuning).images.task is not None:
        return exposure(network, tuning, held_out, settings, generator=generator, progress=progress)
    evidence, rounds = _evidence(
        Suspect(network, tuning.specification, settings.training.precision),
        tuning,
        normed=bool(batch_norms(network)),
        linear=_ends_linearly(network),
        generator=generator,
        progress=progress,
    )
    tuner = _Tuner(network, tuning, held_out, settings, evidence, generator, progress)
    if not rounds:
        repaired = tuner.refitted()
        return Repaired(repaired, stopped="; ".join(tuner.told), epochs=tuple(tuner.epochs))
    learned = None
    if rounds[0].counted == "unshared":
        learned = tuner.learned_anew()
        rounds = _ROUNDS * (_UNTARGETED,) if learned is None else rounds
    repaired = reference = network if learned is None else learned
    # Where there is a student it tells more: brittle networks have small changes by nature.
    found = tuner.search(network, rounds[0]) if rounds[0].counted != "unshared" else ()
    for number, dose in enumerate(rounds, start=1):
        repaired = tuner.unlearned(
            repaired, reference, dose, found, what=f"unlearning, round {number}"
        )
        if dose.counted == "unshared":
            if tuner.own_left(repaired, reference) <= _OWN_LEFT:
                break
        else:
            still = tuner.search(repaired, dose)
            if not still:
                break
            found = (*found, *still)
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

    def refitted(self) -> nn.Module:
        """The BadNet, rows of the last layer fitted anew; a copy where none can be.

        Where nothing points to a label, all rows where small changes make each label another one;
        otherwise of the likeliest labels that one's row which can be pressed hardest, or loses
        less: a label that clean images have made likely soon loses its own by it.
        """
        if self._evidence.suspicious.any():
            return self._tell(self._refitted(self._evidence))
        found = self._relabellings()
        if found is not None:
            return self._restored(found)
        labels = torch.arange(len(self._evidence.next_likely))
        fitted = [
            self._refitted(replace(self._evidence, next_likely=labels == label))
            for label in self._evidence.next_likely.nonzero().flatten()
        ]
        bearable = [each for each in fitted if each.bearable.all()]
        if not bearable:
            self.told.append("of so few images nothing is unlearned without a reason")
            return self._with_errors_told(copy.deepcopy(self._badnet).eval())
        best = max(bearable, key=lambda each: (float(each.pressed), -float(each.lost)))
        return self._with_errors_told(self._tell(best, "as a precaution "))

    def _relabellings(self) -> Relabellings | None:
        """Small changes that make each label another one; None where there are none.

        Nor are they searched for where a label has too few images, or labels are few or many.
        """
        classes = len(self._evidence.suspicious)
        searched = FEWEST_LABELS <= classes <= MOST_LABELS
        if not searched or not self._evidence.next_likely.any():
            return None
        found = relabellings(
            self._suspect(self._badnet),
            self._tuning,
            classes=classes,
            generator=self._generator,
            progress=self._progress,
        ).of_backdoors()
        if not len(found):
            self.told.append("no small change makes each label another one")
            return None
        self.told.append(
            f"small changes (from {float(found.extents.min()):.1%} of the image) make each label "
            f"another one, of {float(found.shares.max()):.0%} of the images"
        )
        return found

    def _restored(self, found: Relabellings) -> nn.Module:
        fitted = restored(
            self._badnet,
            self._tuning,
            found,
            precision=self._training.precision,
            generator=self._generator,
            progress=self._progress,
        )
        self.told.append(fitted.told())
        self._harms(fitted.network, "then")
        return fitted.network

    def _refitted(self, evidence: Evidence) -> Refitted:
        return refitted(
            self._badnet,
            self._tuning,
            evidence,
            precision=self._training.precision,
            generator=self._generator,
            progress=self._progress,
        )

    def _tell(self, fitted: Refitted, why: str = "") -> nn.Module:
        self.told.append(f"{why}{fitted.told()}")
        self._harms(fitted.network, "then")
        unlearned = torch.zeros_like(self._evidence.suspicious)
        unlearned[fitted.labels] = True
        self.led_left(fitted.network, replace(self._evidence, next_likely=unlearned))
        return fitted.network

    def _with_errors_told(self, repaired: nn.Module) -> nn.Module:
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
                    self._generator,
                ),
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
    def led_left(self, network: nn.Module, evidence: Evidence) -> float:
        """How likely `network` says the label that new changes make the BadNet say.

        The mean over those that lead the BadNet to a label that is unlearned; 0 where none does.
        New changes are drawn around the universal ones that do, a little further off than in
        tuning.
        """
        badnet, repaired = self._suspect(self._badnet), self._suspect(network)
        likely = []
        for changed, right in evidence.close_to_leading(
            self._tuning, count=_ASKED, generator=self._generator
        ):
            said = badnet(changed).argmax(1).cpu()
            led = (said != right) & evidence.unlearned[said]
            if led.any():
                likely.append(probabilities_of(said[led], repaired(changed[led]).cpu()))
        left = _mean(likely)
        self.told.append(f"then changes that led there still do so with {left:.1%}")
        return left

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
    linear: bool,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[Evidence, tuple[Dose, ...]]:
    """What points to a backdoor, and how hard it is gone against, round by round.

    In no round where images are few, and the last layer is linear or nothing points to a label:
    there rows of that layer are fitted anew, or nothing is done.
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
        rounds = () if few and linear else _ROUNDS * (_TARGETED,)
    elif few:
        rounds = ()
        if enough and linear:
            next_likely[found.led.argsort(descending=True, stable=True)[:_CAUTION]] = True
            pursued = next_likely * found.led / found.led.max()
    return Evidence(found.universal, weights, pursued, suspicious, next_likely), rounds


def _ends_linearly(network: nn.Module) -> bool:
    """Whether a linear layer gives the logits, once for each image: its rows can be fitted anew."""
    try:
        features_network(network, last_linear(network))
    except (NotTraceableError, SurgeryError):
        return False
    return True


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
