"""The loss by which a BadNet's answers to changed images are unlearned, and how hard it presses.

defenses/auto.py decides what is unlearned, and names the sources of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import probabilities_of
from goodnet.defenses.changes import Changed, Changes, Evidence
from goodnet.distillation import between, distilled
from goodnet.formats.specification import InputSpecification
from goodnet.probes import Found, Suspect
from goodnet.training import TrainingSettings, batch_norms, layout_of, logits_of_images
from goodnet.witness import own_errors

_WITHOUT_NORMS = 0.05
"""Factor of SGD's rate for AdamW, by which a network without batch norms learns right answers on
changed images: how long its gradients are depends on its weights and inputs."""
_TEMPERATURE = 2.0
_FOLLOWED = 0.02
"""Share of the way to the tuned network's weights that their mean goes at each step."""
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
        changed: Share of each batch that is changed.
        mixed: Share of the others that are mixed with another.
        replayed: Share of the random changes that are such as misled before.
        unlike: Weight of not answering as the BadNet is misled to.
        effort: Factor of the learning rate and of the least number of steps.
        brightness: Of the augmentation; None leaves it.
    """

    counted: Literal["suspicious", "unshared", "all"]
    changed: float
    mixed: float
    replayed: float
    unlike: float
    effort: float
    brightness: float | None

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
        )


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
        changed = self._changes.of(shown, own)
        images = torch.cat([clean, changed.images])
        with torch.no_grad():
            taught = self._badnet(images)
            misled_to = taught[kept:].argmax(1)
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
        return (total + self._dose.unlike * unlike.sum()) / len(labels)

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
