"""auto: teach the network that no change of an image leads it where only a backdoor leads.

A trigger is a change of the image that people see through and a BadNet does not. The defender
knows no trigger, so many changes that might be one are tried: random stickers, ripples,
patterns, blends and warps. Where an image is merely spoiled, the answer depends on the image;
changes that give many images one wrong label show where a backdoor leads, if the network can be
made surer of that label than of others too (see probes/suspicion.py). Then

- such labels are unlearned: on images that random changes, or small ones that a search finds,
  lead there, the answer has to be the one the BadNet would give without that label;
- where there is none, the backdoor may lead from each class elsewhere, or to anything. With images
  enough a network of new weights learns the BadNet's answers on clean images first: little of such
  a backdoor is passed on. Errors of the BadNet that this student does not share are then unlearned
  in it. Of fewer images every change that misleads the BadNet is unlearned, and the right answer
  asked for;
- with few images nothing is done without a reason: a clean network would only lose by it.

On clean images the network keeps to the BadNet's answers, and on changed ones too where these are
not unlearned: what is not the backdoor's is not to change. Then small changes are searched for in
what came out; where there are some, tuning goes on. With few images, where a search costs
accuracy, it is made only where changes like those that led astray still do.

Sources of the parts: Wang et al. 2019, Neural Cleanse (search, and unlearning by right labels);
Wei et al. 2023, Shared Adversarial Unlearning (-log(1 - p) of the label the old network is
misled to); Li et al. 2021, Neural Attention Distillation, and Hinton et al. 2015 (answers kept
by distillation; see defenses/distillation.py); Zhang et al. 2018, mixup, and Yun et al. 2019,
CutMix (images between images, and with parts of others); Izmailov et al. 2018 (weights averaged
along the way), and Wortsman et al. 2022, Model Soups (over runs too); Wang et al. 2024, MM-BD
(margins). Random changes that many images share, and a student as the reference for errors: this
project.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import probabilities_of, rightly_named
from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.averaging import Average
from goodnet.defenses.distillation import between, distilled, pasted, student
from goodnet.defenses.exposure import exposure
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.probes import (
    Found,
    Probe,
    Suspect,
    Universal,
    least_changes,
    likeliest_labels,
    random_probes,
    searched_probes,
    surely_misled,
    suspicion,
)
from goodnet.results import EpochRow
from goodnet.training import Augmentation, Progress, TrainingSettings, layout_of, train

_Norm = nn.modules.batchnorm._BatchNorm

AUTO = TrainingSettings(
    epochs=20,
    batch_size=128,
    learning_rate=0.02,
    weight_decay=5e-4,
    augmentation=Augmentation(shift=0.06, rotation=10.0, scale=0.12, brightness=0.3),
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
_FEW = 20
"""With fewer images a class than this, right answers on changed images are learned by heart."""
_MANY = 50
"""With so many a class a network with batch norms learns the BadNet's answers anew."""
_UNLEARNED = 0.5
"""Score from which a label is unlearned where one is suspicious, or images are few: a label missed
is a backdoor left."""
_WITHOUT_NORMS = 0.05
"""Factor of SGD's rate for AdamW, by which a network without batch norms learns right answers on
changed images: how long its gradients are depends on its weights and inputs."""
_SEARCHED = 0.3
"""Share of the changed images whose change was searched for, where any was found."""
_REMEMBERED = 256
_ASKED, _AT_ONCE = 1024, 256
"""New changes of each kind that a repaired network is asked about, and how many at a time."""
_CLOSE, _OFF = 0.01, 0.05
"""How far from one that misled a change is drawn in tuning, and when it is asked what is left."""
_LITTLE = 0.01
"""What may be left of a backdoor of few images, where tuning stops."""
_OTHER_LABEL = 0.1
"""How likely a change that misled images of one label is tried again on one of another."""
_RARELY = 0.03
"""Added to how much a kind misleads images of a label, for how often it is drawn for them."""
_LASTING = 0.95
_TEMPERATURE = 2.0
_SHARED = 0.5
"""From this probability on the reference gives the wrong answer too."""
_NEVER = -30.0
"""Logit of a label that is not to be said."""
_WEAKER, _STRONGER = 0.6, 3.0
"""Factors of a change that was found, since the attacker's need not be the smallest."""


@dataclass(frozen=True)
class _Dose:
    """How hard the network is pressed.

    Attributes:
        counted: The BadNet's wrong answers that are unlearned: those that suspicious labels get;
            those that a network of new weights, taught by the BadNet on clean images and tuned
            in its place, does not share; or all, and the right answer is asked for.
        searches: Whether small changes are searched for: at the start, where the network handed
            in is tuned, and after each round. A brittle network has some without a backdoor.
        changed: Share of each batch that is changed.
        redrawn: Share of these that are drawn once more from all images, a class the more often
            the more its images are still misled: of a backdoor of one class others show nothing.
        mixed: Share of the others that are mixed with another.
        pasted: Whether a rectangle of the other is put in, in place of a weighted mean of both.
        replayed: Share of the random changes that are such as misled before.
        unlike: Weight of not answering as the BadNet is misled to.
        effort: Factor of the learning rate and of the least number of steps.
        brightness: Of the augmentation; None leaves it.
        runs: How often the network is tuned from the same weights; the mean is taken, since of
            few images what a run gives depends much on its draws.
    """

    counted: Literal["suspicious", "unshared", "all"]
    searches: bool
    changed: float
    redrawn: float
    mixed: float
    pasted: bool
    replayed: float
    unlike: float
    effort: float
    brightness: float | None
    runs: int

    def of(
        self, network: nn.Module, training: TrainingSettings, *, rate: float
    ) -> TrainingSettings:
        """How `network` is tuned.

        Where right answers are asked for of a network without batch norms, AdamW at a twentieth
        of the rate takes the place of SGD.
        """
        if training.optimizer == "sgd" and self.counted == "all" and not _normed(network):
            rate *= _WITHOUT_NORMS
            training = replace(training, optimizer="adamw", weight_decay=0.0)
        augmentation = training.augmentation
        if augmentation is not None and self.brightness is not None:
            augmentation = replace(augmentation, brightness=self.brightness)
        return replace(
            training,
            learning_rate=rate * self.effort * training.learning_rate,
            least_steps=round(self.effort * training.least_steps),
            augmentation=augmentation,
        )

    @property
    def again(self) -> _Dose:
        """For a second round: shorter, but harder on what is left."""
        return replace(self, searches=True, unlike=1.5 * self.unlike, effort=0.5 * self.effort)


_UNTARGETED = _Dose(
    counted="all",
    searches=True,
    changed=0.5,
    redrawn=0.0,
    mixed=0.4,
    pasted=False,
    replayed=0.5,
    unlike=4.0,
    effort=1.0,
    brightness=None,
    runs=1,
)
_RELEARNED = replace(
    _UNTARGETED,
    counted="unshared",
    redrawn=0.5,
    mixed=0.9,
    pasted=True,
    replayed=0.7,
    unlike=30.0,
    effort=0.5,
)
_TARGETED = _Dose(
    counted="suspicious",
    searches=True,
    changed=0.5,
    redrawn=0.0,
    mixed=0.9,
    pasted=False,
    replayed=0.7,
    unlike=20.0,
    effort=1.0,
    brightness=0.7,
    runs=1,
)
_TARGETED_OF_FEW = replace(_TARGETED, searches=False, unlike=8.0, effort=0.5, runs=2)


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
    misled too, and of few images nothing: it is then an equal copy of the one handed in. The last
    round is kept; there is a second where the first left something.

    Where images have a task of their own this is `exposure`.
    """
    require_clean(held_out)
    if require_clean(tuning).images.task is not None:
        return exposure(network, tuning, held_out, settings, generator=generator, progress=progress)
    evidence = _Evidence.of(
        Suspect(network, tuning.specification, settings.training.precision),
        tuning,
        normed=_normed(network),
        generator=generator,
        progress=progress,
    )
    dose = evidence.dose
    if dose is None:
        stopped = f"{evidence.told()}, and of so few images nothing is unlearned without a reason"
        return Repaired(copy.deepcopy(network).eval(), stopped=stopped)
    tuner = _Tuner(network, tuning, held_out, settings, evidence, generator, progress)
    repaired = reference = network
    if dose.counted == "unshared":
        learned = tuner.learned_anew()
        if learned is None:
            dose = _UNTARGETED
        else:
            repaired = reference = learned
    # What misleads the BadNet says little of what was learned anew, which is searched afterwards.
    found = tuner.search(network, dose) if dose.searches and repaired is network else ()
    for round_ in range(1, _ROUNDS + 1):
        repaired = tuner.unlearned(
            repaired, reference, dose, found, what=f"unlearning, round {round_}"
        )
        if dose.searches:
            left = tuner.search(repaired, dose)
            if not left:
                break
            found = (*found, *left)
        elif tuner.still_led(repaired) <= _LITTLE:
            break
        else:
            dose = dose.again
            found = tuner.search(network, dose)
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
        evidence: _Evidence,
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

    def search(self, network: nn.Module, dose: _Dose) -> tuple[Found, ...]:
        """The small changes that mislead the network; kinds that have none are left out."""
        suspect = self._suspect(network)
        if dose.counted == "suspicious":
            targets = self._evidence.suspicious.nonzero().flatten()
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

    def unlearned(
        self,
        network: nn.Module,
        reference: nn.Module,
        dose: _Dose,
        found: Sequence[Found],
        *,
        what: str,
    ) -> nn.Module:
        """`network` tuned once; more gently where that breaks it."""
        now = what
        for rate in _RATES:
            average = Average()
            for _ in range(dose.runs):
                training = train(
                    network,
                    self._tuning,
                    dose.of(self._badnet, self._training, rate=rate),
                    loss=_Unlearning(
                        self._badnet,
                        reference,
                        self._tuning,
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
            now = f"{what} again at a fifth of the rate"
        return tuned

    @torch.no_grad()
    def still_led(self, network: nn.Module) -> float:
        """How likely `network` says the label that new changes make the BadNet say.

        The mean over those that lead the BadNet to a suspicious label; 0 where none does. New
        changes are drawn around the universal ones that do, a little further off than in tuning.
        """
        badnet, repaired = self._suspect(self._badnet), self._suspect(network)
        pixels, labels = self._tuning.pixels(), self._tuning.labels
        suspicious = self._evidence.suspicious
        likely = []
        for universal in self._evidence.universal:
            leading = universal.leading_to(suspicious)
            if not len(leading):
                continue
            drawn = torch.randint(len(leading), (_ASKED,), generator=self._generator)
            numbers = _around(leading.numbers[drawn], _OFF, self._generator)
            chosen = torch.randint(len(labels), (_ASKED,), generator=self._generator)
            for part, own in zip(numbers.split(_AT_ONCE), chosen.split(_AT_ONCE), strict=True):
                changed = universal.probe.change(as_float(pixels[own]), part)
                said = badnet(changed).argmax(1).cpu()
                led = (said != labels[own]) & suspicious[said]
                if led.any():
                    likely.append(probabilities_of(said[led], repaired(changed[led]).cpu()))
        every = torch.cat(likely) if likely else torch.zeros(0)
        left = float(every.mean()) if len(every) else 0.0
        self.told.append(f"then changes that led there still do so with {left:.1%}")
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


def _normed(network: nn.Module) -> bool:
    return any(isinstance(each, _Norm) for each in network.modules())


def _harmed(before: Tensor, after: Tensor) -> bool:
    """Whether fewer clean images are named rightly, and hardly by chance (McNemar 1947).

    Images that were tuned on count too: a network that was broken fails on them as well, and
    few are held out.
    """
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    if lost - won <= _HARM * len(before):
        return False
    return float(binomtest(won, lost + won, alternative="less").pvalue) < _BY_CHANCE


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What points to a backdoor, and how hard it is gone against.

    Attributes:
        dose: How hard; None where nothing points to one and there are few images.
        universal: Random changes that work as triggers do, kind by kind.
        weights: How often images are surely misled by each kind, float32 (kind,).
        suspicious: The labels that a backdoor may lead to, bool (label,).
    """

    dose: _Dose | None
    universal: tuple[Universal, ...]
    weights: Tensor
    suspicious: Tensor

    @classmethod
    def of(
        cls,
        suspect: Suspect,
        tuning: CleanData,
        *,
        normed: bool,
        generator: torch.Generator,
        progress: Progress,
    ) -> _Evidence:
        probes = random_probes(tuning.specification.size)
        weights = surely_misled(suspect, tuning, probes, generator=generator)
        classes = suspect(torch.zeros(1, *tuning.specification.size)).shape[1]
        found = suspicion(suspect, tuning, classes=classes, generator=generator, progress=progress)
        few, many = len(tuning) < _FEW * classes, len(tuning) >= _MANY * classes
        limit = _UNLEARNED if few or found.suspicious.any() else torch.inf
        suspicious = found.scores >= limit
        untargeted = _RELEARNED if many and normed else _UNTARGETED
        dose = None if few else untargeted
        if suspicious.any():
            dose = _TARGETED_OF_FEW if few else _TARGETED
        return cls(dose, found.universal, weights, suspicious)

    def told(self) -> str:
        """For people."""
        labels = ", ".join(map(str, self.suspicious.nonzero().flatten().tolist()))
        return f"random changes and margins point to {labels or 'no label'}"


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


class _Unlearning:
    """The loss: the BadNet's answers on clean images, others where changes mislead it.

    On changed images the reference is followed, but for labels that are to be unlearned. Where
    every wrong answer is, the right ones are asked for. Labels are learned too, but not where some
    are suspicious: there images may be few, and would be learned by heart.

    Args:
        badnet: B, which teaches on clean images and warns on changed ones.
        reference: What teaches on changed images: B too, or a network it has taught.
        tuning: The images that are tuned on, of which some are drawn once more.
        evidence: Against the BadNet.
        dose: How hard to press.
        found: Changes that a search found.
        generator: Draws the changes.
    """

    def __init__(
        self,
        badnet: nn.Module,
        reference: nn.Module,
        tuning: CleanData,
        evidence: _Evidence,
        dose: _Dose,
        found: Sequence[Found],
        generator: torch.Generator,
    ) -> None:
        # Called within `train`, which decides the precision.
        self._specification = tuning.specification
        self._badnet = Suspect(badnet, self._specification)
        self._reference = (
            self._badnet if reference is badnet else Suspect(reference, self._specification)
        )
        self._pixels, self._labels = tuning.pixels(), tuning.labels
        self._layout = layout_of(badnet)
        self._dose = dose
        self._suspicious = evidence.suspicious
        self._changes = _Changes(evidence, dose, found, generator)
        self._generator = generator

    def __call__(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, _chosen: Tensor
    ) -> Tensor:
        _freeze_norms(network)
        images = self._specification.restore(inputs)
        kept = len(images) - round(self._dose.changed * len(images))
        mixed = round(self._dose.mixed * kept)
        clean = self._mixed(images[:kept], mixed)
        shown, own = self._redrawn(images[kept:], labels[kept:])
        labels = torch.cat([labels[:kept], own])
        changed = self._changes.of(shown, own)
        with torch.no_grad():
            taught = self._badnet(torch.cat([clean, changed.images]))
            misled_to = taught[kept:].argmax(1)
            lesson = self._lesson(shown, changed, taught[kept:], misled_to, own)
        prepared = self._specification.prepare(torch.cat([clean, changed.images]))
        logits = network(prepared.contiguous(memory_format=self._layout)).float()
        taught = torch.cat([taught[:kept], lesson.answers])
        loss = distilled(logits, taught, temperature=_TEMPERATURE)
        if self._dose.counted != "suspicious":
            right = F.cross_entropy(logits, labels, reduction="none")
            # A mixed image has no right label.
            loss[mixed:] = (loss + right)[mixed:] / 2
        said = probabilities_of(misled_to, logits[kept:]) * lesson.counted
        self._changes.learn(changed, own, said.detach())
        unlike: Tensor = -torch.log1p(-said.clamp(max=1 - 1e-4))
        total = loss[:kept].sum() + loss[kept:][lesson.followed].sum()
        return (total + self._dose.unlike * unlike.sum()) / len(images)

    def _mixed(self, images: Tensor, count: int) -> Tensor:
        """The images, the first `count` mixed with others."""
        if self._dose.pasted:
            return pasted(images, count, generator=self._generator)
        shares = 0.5 + 0.5 * torch.rand(count, generator=self._generator)
        return between(images, shares, generator=self._generator)

    def _redrawn(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images and their labels, the first of them others that are still misled."""
        count = round(self._dose.redrawn * len(images))
        if not count:
            return images, labels
        chosen = self._changes.needed(self._labels, count)
        drawn = as_float(self._pixels[chosen]).to(images.device)
        return (
            torch.cat([drawn, images[count:]]),
            torch.cat([self._labels[chosen].to(labels.device), labels[count:]]),
        )

    def _lesson(
        self, shown: Tensor, changed: _Changed, warned: Tensor, misled_to: Tensor, own: Tensor
    ) -> _Lesson:
        """What is asked for on changed images.

        Args:
            shown: The images before they were changed.
            changed: The same after.
            warned: The BadNet's answers to these.
            misled_to: Its labels.
            own: The right ones.
        """
        wrong = misled_to != own
        every = torch.ones_like(wrong)
        match self._dose.counted:
            case "suspicious":
                suspicious = self._suspicious.to(wrong.device)
                counted = wrong & (suspicious[misled_to] | changed.searched)
                barred = suspicious | _only(misled_to, counted, warned.shape[1])
                barred = barred.scatter(1, own.unsqueeze(1), value=False)
                return _Lesson(warned.masked_fill(barred, _NEVER), every, counted)
            case "unshared":
                answers = self._reference(changed.images)
                counted = wrong & (probabilities_of(misled_to, answers) < _SHARED)
                barred = _only(misled_to, counted, answers.shape[1])
                # An error that the reference shares may be the backdoor's all the same.
                followed = ~wrong | counted
                return _Lesson(answers.masked_fill(barred, _NEVER), followed, counted)
            case "all":
                return _Lesson(self._badnet(shown), every, wrong)


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What is asked for on changed images.

    Attributes:
        answers: Logits to come close to, float32 (batch, label).
        followed: On which images, bool (batch,).
        counted: On which the BadNet's label is unlearned, bool (batch,).
    """

    answers: Tensor
    followed: Tensor
    counted: Tensor


def _only(labels: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """Of each row that is chosen its label alone, bool (batch, classes)."""
    return F.one_hot(labels, classes).bool() & chosen.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class _Changed:
    """Changed images.

    Attributes:
        images: float32 in [0, 1], (batch, channel, height, width).
        searched: Whether the change of each was searched for, bool (batch,).
        drawn: Of random changes: the kind, the places in the batch, the numbers.
    """

    images: Tensor
    searched: Tensor
    drawn: list[tuple[int, Tensor, Tensor]]


class _Changes:
    """Draws changes, the more often the more they misled.

    Args:
        evidence: Which kinds misled the BadNet, and universal changes to try again.
        dose: How often changes are tried again.
        found: Changes that a search found.
        generator: Draws them.
    """

    def __init__(
        self,
        evidence: _Evidence,
        dose: _Dose,
        found: Sequence[Found],
        generator: torch.Generator,
    ) -> None:
        self._found = found
        suspicious = evidence.suspicious
        self._memories = [
            _Memory(each.probe, dose.replayed, generator) for each in evidence.universal
        ]
        for memory, universal in zip(self._memories, evidence.universal, strict=True):
            memory.begin(universal.leading_to(suspicious))
        self._misled = evidence.weights.expand(len(suspicious), -1).clone()
        """How much each kind misleads images of each label, running means, (label, kind)."""
        self._generator = generator

    def of(self, images: Tensor, labels: Tensor) -> _Changed:
        """The images, each changed in one way."""
        labels, count = labels.cpu(), len(images)
        weights = self._misled[labels] + _RARELY
        kinds = torch.multinomial(weights, 1, generator=self._generator).squeeze(1)
        searched = torch.rand(count, generator=self._generator) < _SEARCHED
        searched &= bool(self._found)
        kinds[searched] = -1
        changed, drawn = images.clone(), []
        for kind, memory in enumerate(self._memories):
            own = (kinds == kind).nonzero().flatten()
            if len(own):
                numbers = memory.draw(images[own], labels[own])
                changed[own] = memory.probe.change(images[own], numbers.to(images.device))
                drawn.append((kind, own, numbers))
        places = searched.nonzero().flatten()
        if len(places):
            of = torch.randint(0, len(self._found), (len(places),), generator=self._generator)
            for place, found in enumerate(self._found):
                own = places[of == place]
                if len(own):
                    changed[own] = self._of_found(found, images[own])
        return _Changed(changed, searched.to(images.device), drawn)

    def needed(self, labels: Tensor, count: int) -> Tensor:
        """Places of images, a class as often as the kind that misleads it most does so.

        Args:
            labels: Of the images to draw from.
            count: How many are drawn; int64 (count,).
        """
        misled = self._misled.amax(1).clamp(min=1e-6)
        each = misled / torch.bincount(labels, minlength=len(misled)).clamp(min=1)
        return torch.multinomial(each[labels], count, replacement=True, generator=self._generator)

    def learn(self, changed: _Changed, labels: Tensor, said: Tensor) -> None:
        """What came of it: how likely each image still gets the BadNet's wrong answer."""
        labels, said = labels.cpu(), said.cpu()
        for kind, own, numbers in changed.drawn:
            self._memories[kind].keep(numbers, labels[own], said[own])
            count = torch.bincount(labels[own], minlength=len(self._misled))
            total = torch.zeros(len(count)).index_add_(0, labels[own], said[own])
            lasting = _LASTING**count
            mean = total / count.clamp(min=1)
            self._misled[:, kind] = lasting * self._misled[:, kind] + (1 - lasting) * mean

    def _of_found(self, found: Found, images: Tensor) -> Tensor:
        chosen = torch.randint(0, len(found), (len(images),), generator=self._generator)
        factors = torch.rand(len(images), generator=self._generator)
        factors = _WEAKER * (_STRONGER / _WEAKER) ** factors
        numbers = found.probe.stronger(found.numbers[chosen], factors)
        return found.probe.change(images, numbers.to(images.device))


class _Memory:
    """Random changes of one kind, a share of them close to such as misled the network before."""

    def __init__(self, probe: Probe, replayed: float, generator: torch.Generator) -> None:
        self.probe = probe
        self._replayed = replayed
        self._generator = generator
        self._numbers, self._marks = torch.empty(0, probe.length), torch.empty(0)
        self._labels = torch.empty(0, dtype=torch.int64)

    def begin(self, universal: Universal) -> None:
        """Remembers changes that mislead images of all labels, for which -1 stands."""
        self._numbers, self._marks = universal.numbers, universal.shares
        self._labels = torch.full_like(universal.targets, -1)

    def draw(self, images: Tensor, labels: Tensor) -> Tensor:
        """A change for each image, float32 (count, length)."""
        numbers = self.probe.draw(len(images), images.cpu(), generator=self._generator)
        again = round(self._replayed * len(images))
        if again and len(self._marks):
            fitting = (labels[:again].unsqueeze(1) == self._labels) | (self._labels < 0)
            weights = (self._marks + 0.02) * torch.where(fitting, 1.0, _OTHER_LABEL)
            chosen = torch.multinomial(weights, 1, generator=self._generator).squeeze(1)
            numbers[:again] = _around(self._numbers[chosen], _CLOSE, self._generator)
        return numbers

    def keep(self, numbers: Tensor, labels: Tensor, marks: Tensor) -> None:
        """Keeps the changes that misled most; `marks` tell how much, in [0, 1]."""
        numbers = torch.cat([self._numbers, numbers])
        labels = torch.cat([self._labels, labels])
        marks = torch.cat([0.99 * self._marks, marks])
        best = marks.argsort(descending=True, stable=True)[:_REMEMBERED]
        self._numbers, self._labels, self._marks = numbers[best], labels[best], marks[best]


def _around(numbers: Tensor, distance: float, generator: torch.Generator) -> Tensor:
    """Changes close to those told by `numbers`, one for each."""
    noise = distance * torch.randn(numbers.shape, generator=generator)
    return (numbers + noise).clamp(0.0, 1.0)


def _freeze_norms(network: nn.Module) -> None:
    """Norms keep their statistics: changed images would shift them."""
    for module in network.modules():
        if isinstance(module, _Norm):
            module.eval()
