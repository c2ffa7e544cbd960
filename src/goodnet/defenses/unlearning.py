"""The loss by which a BadNet's answers to changed images are unlearned, and how hard it presses.

defenses/auto.py decides what is unlearned, and names the sources of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import probabilities_of
from goodnet.defenses.changes import Changed, Changes, Evidence
from goodnet.defenses.hallucination import Hallucinations
from goodnet.defenses.pursuit import Pursuit
from goodnet.distillation import between, distilled
from goodnet.errors import NotTraceableError, SurgeryError
from goodnet.formats.specification import InputSpecification
from goodnet.last_layer import last_linear
from goodnet.probes import Found, Suspect
from goodnet.training import Part, TrainingSettings, batch_norms, layout_of, logits_of_images
from goodnet.witness import own_errors

_WITHOUT_NORMS = 0.05
"""Factor of SGD's rate for AdamW, by which a network without batch norms learns right answers on
changed images: how long its gradients are depends on its weights and inputs."""
_TEMPERATURE = 2.0
_FOLLOWED = 0.02
"""Share of the way to the tuned network's weights that their mean goes at each step."""
_SELDOM = 0.01
"""How often a label of no score is pursued; one of a score of 1 or more is with 1."""
_NEVER = -30.0
"""Logit of a label that is not to be said."""


@dataclass(frozen=True)
class Dose:
    """How hard the network is pressed.

    Attributes:
        counted: The BadNet's wrong answers that are unlearned: those that suspicious labels get;
            those that a network of new weights, taught by the BadNet on clean images and tuned
            in its place, does not share or no longer shares; or all, and the right answer is
            asked for.
        searches: Whether small changes are searched for, at the start and after each round. A
            brittle network has some without a backdoor.
        changed: Share of each batch that is changed.
        mixed: Share of the others that are mixed with another.
        replayed: Share of the random changes that are such as misled before.
        pursued: Share of the changed images whose change is pursued: pushed to where it still
            leads the network tuned to a label that is unlearned.
        unlike: Weight of not answering as the BadNet is misled to.
        tuned: All weights; those of the last layer, so that little is learned by heart; or of
            these the ones that unlearned labels are told by, so that no two others are mistaken.
        effort: Factor of the learning rate and of the least number of steps.
        brightness: Of the augmentation; None leaves it.
        hallucinated: Weight of features that stand for further images; 0 where all weights are
            tuned, or no clean image shows what unlearned labels are.
    """

    counted: Literal["suspicious", "unshared", "all"]
    searches: bool
    changed: float
    mixed: float
    replayed: float
    pursued: float
    unlike: float
    tuned: Literal["all", "last layer", "rows"]
    effort: float
    brightness: float | None
    hallucinated: float

    def of(
        self, network: nn.Module, training: TrainingSettings, *, rate: float
    ) -> TrainingSettings:
        """How `network` is tuned.

        Where right answers are asked for of a network without batch norms, AdamW at a twentieth
        of the rate takes the place of SGD.
        """
        if training.optimizer == "sgd" and self.counted == "all" and not batch_norms(network):
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
            weight_decay=training.weight_decay if self.tuned == "all" else 0.0,
        )

    def part(self, network: nn.Module, evidence: Evidence) -> Part | None:
        """What of it is tuned alone; None where all is, or no linear layer is found to end it."""
        if self.tuned == "all":
            return None
        try:
            layer = last_linear(network)
        except (NotTraceableError, SurgeryError):
            return None
        unlearned = evidence.unlearned
        return Part(layer, unlearned if self.tuned == "rows" else torch.ones_like(unlearned))


class Unlearning:
    """The loss: the BadNet's answers on clean images, others where changes mislead it.

    On changed images the reference is followed, but for labels that are to be unlearned. Where
    every wrong answer is, the right ones are asked for. Where those are that the reference does not
    share, so are those that the network tuned does not share any more (a mean of its weights tells,
    the latest counting most; Tarvainen and Valpola 2017, Mean Teacher): what is unlearned of a
    backdoor shows more of it. Labels are learned too, but not where some are suspicious: there
    images may be few, and would be learned by heart.

    Args:
        badnet: B, which teaches on clean images and warns on changed ones.
        reference: What teaches on changed images: B too, or a network it has taught.
        specification: How they want their inputs.
        evidence: Against the BadNet.
        dose: How hard to press.
        found: Changes that a search found.
        hallucinations: Features that stand for further clean images, if any do.
        generator: Draws the changes.
    """

    def __init__(
        self,
        badnet: nn.Module,
        reference: nn.Module,
        specification: InputSpecification,
        evidence: Evidence,
        dose: Dose,
        found: Sequence[Found],
        hallucinations: Hallucinations | None,
        generator: torch.Generator,
    ) -> None:
        # Called within `train`, which decides the precision.
        self._badnet = Suspect(badnet, specification)
        self._reference = self._badnet if reference is badnet else Suspect(reference, specification)
        self._specification = specification
        self._layout = layout_of(badnet)
        self._before: Suspect | None = None
        """The network as it was a while ago."""
        self._dose = dose
        self._unlearned = evidence.unlearned
        self._changes = Changes(evidence, dose.replayed, found, generator)
        weights = evidence.pursued.clamp(_SELDOM, 1.0) * evidence.unlearned
        self._pursuit = Pursuit(specification.size, weights, generator)
        self._hallucinations = hallucinations
        self._generator = generator

    def __call__(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, _chosen: Tensor
    ) -> Tensor:
        """Mean over the batch, as `train` asks for it."""
        for norm in batch_norms(network):
            norm.eval()  # changed images would shift its statistics
        if self._dose.counted == "unshared":
            self._before = self._before or Suspect(network, self._specification)
            self._before.follow(network, _FOLLOWED)
        images = self._specification.restore(inputs)
        kept = len(images) - round(self._dose.changed * len(images))
        mixed = round(self._dose.mixed * kept)
        shares = 0.5 + 0.5 * torch.rand(mixed, generator=self._generator)
        clean = between(images[:kept], shares, generator=self._generator)
        own, shown = labels[kept:], images[kept:]
        changed, targets = self._changed(network, shown, own)
        images = torch.cat([clean, changed.images])
        with torch.no_grad():
            taught = self._badnet(images)
            misled_to = taught[kept:].argmax(1)
            misled_to[len(own) - len(targets) :] = targets
            lesson = self._lesson(shown, changed, taught[kept:], misled_to, own)
        logits = self._answers(network, images)
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
        pressed = (total + self._dose.unlike * unlike.sum()) / len(labels)
        if self._hallucinations is None:
            return pressed
        further = self._hallucinations.loss(network, temperature=_TEMPERATURE)
        return pressed + self._dose.hallucinated * further

    def _changed(
        self, network: nn.Module, images: Tensor, labels: Tensor
    ) -> tuple[Changed, Tensor]:
        """The images changed, the last of them as is pursued, and the labels that these lead to."""
        at_random = len(images) - round(self._dose.pursued * len(images))
        changed = self._changes.of(images[:at_random], labels[:at_random])
        pursued, targets = self._pursuit.of(partial(self._answers, network), images[at_random:])
        searched = torch.cat([changed.searched, changed.searched.new_zeros(len(targets))])
        both = Changed(torch.cat([changed.images, pursued]), searched, changed.drawn)
        return both, targets

    def _answers(self, network: nn.Module, images: Tensor) -> Tensor:
        return logits_of_images(network, images, self._specification, self._layout)

    def _lesson(
        self, shown: Tensor, changed: Changed, warned: Tensor, misled_to: Tensor, own: Tensor
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
                unlearned = self._unlearned.to(wrong.device)
                counted = wrong & (unlearned[misled_to] | changed.searched)
                barred = unlearned | _only(misled_to, counted, warned.shape[1])
                barred = barred.scatter(1, own.unsqueeze(1), value=False)
                return _Lesson(warned.masked_fill(barred, _NEVER), every, counted)
            case "unshared":
                assert self._before is not None
                answers = self._reference(changed.images)
                before = self._before(changed.images)
                counted = own_errors(misled_to, own, warned, answers, before)
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
