"""The last layer fitted anew so that changed images are whose they were.

Where a backdoor makes each label another one, no label is its own, and none can be unlearned. But
what images of a label become is known from the search for such changes, and so is what they are:
the same as without the change. So all rows of the last layer are fitted anew. They are to give the
BadNet's answers to clean images, and the right labels, and to changed ones the answers that it
gives without the change, and both to features as further images would have them (see
defenses/hallucination.py). The search finds the least change that serves, so features are also
moved further than by it.

How hard this is pressed images left out decide: as gently as it takes until next to none of them
becomes what the backdoor makes of it, unless that costs too many of the clean ones.

Sources: Wang et al. 2019, Neural Cleanse (unlearning by right labels); Hinton et al. 2015 (answers
kept by distillation); Stone 1974, Cross-Validatory Choice (images left out). In the last layer
alone, convexly: this project.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.defenses.convex import least
from goodnet.defenses.hallucination import hallucinated
from goodnet.last_layer import has_bias, last_linear, logits_by, put_rows, rows_of
from goodnet.probes import Relabellings, Suspect
from goodnet.training import Precision, Progress

_PRESSED = (0.03, 0.1, 0.3)
"""Weights of right answers to changed images, the gentlest first."""
_LEFT = 0.03
"""Share of changed images left out that may become what they did before."""
_LOST = 0.02
"""Share of clean images left out that may be lost, less those won."""
_FOLDS = 4
_FURTHER = (1.0, 1.4)
"""So far features are moved, in shares of what the change moves them."""
_HALLUCINATED, _HALLUCINATED_CHANGED = 6000, 3000
_TEMPERATURE = 2.0
_STAY = 1e-3
"""Weight of the squared distance from the BadNet's rows."""
_ITERATIONS = 150


@dataclass(frozen=True, eq=False)
class Restored:
    """A network whose last layer was fitted anew.

    Attributes:
        network: New, with the BadNet's layers below the last.
        pressed: How hard right answers to changed images were asked for.
        lost: Share of clean images that were lost when left out, less what was won.
        left: Share of changed images left out that still become what they did.
    """

    network: nn.Module
    pressed: float
    lost: float
    left: float

    def told(self) -> str:
        """For people."""
        return (
            f"the last layer is fitted anew, pressed with {self.pressed:g}: of images left out "
            f"{self.lost:.1%} more are lost than won, {self.left:.1%} still become what they did"
        )


def restored(
    badnet: nn.Module,
    clean: CleanData,
    found: Relabellings,
    *,
    precision: Precision,
    generator: torch.Generator,
    progress: Progress,
) -> Restored:
    """A copy of the BadNet to which images changed as was found are what they were.

    Args:
        badnet: B, left bit-identical.
        clean: Clean images with their labels.
        found: One change or more, and what it makes of each label.
        precision: Of the numbers inside.
        generator: Draws features and what is left out.
        progress: Told after each fit.

    Raises:
        SurgeryError: No linear layer gives the logits, or it does not run once for each image.
        NotTraceableError: The network has no graph.
    """
    layer = _Layer(badnet, clean, found, precision, generator)
    pressed, lost, left = layer.weight(progress)
    repaired = copy.deepcopy(badnet).eval()
    layer.put(repaired, pressed)
    return Restored(repaired, pressed, lost, left)


@dataclass(frozen=True, eq=False)
class _Lesson:
    """Features and the answers that they are to get.

    Attributes:
        clean: (image, feature).
        labels: Right ones of these, int64 (image,).
        to_clean: Probabilities at the temperature, (image, label).
        changed: (changed image, feature).
        to_changed: (changed image, label).
    """

    clean: Tensor
    labels: Tensor
    to_clean: Tensor
    changed: Tensor
    to_changed: Tensor


class _Layer:
    """The last layer, and the features of clean and changed images that the BadNet names rightly.

    All numbers are float64.
    """

    def __init__(
        self,
        badnet: nn.Module,
        clean: CleanData,
        found: Relabellings,
        precision: Precision,
        generator: torch.Generator,
    ) -> None:
        self._name, self._generator = last_linear(badnet), generator
        self._rows = rows_of(badnet, self._name)
        self._moved = torch.ones_like(self._rows, dtype=torch.bool)
        self._moved[:, -1] = has_bias(badnet, self._name)
        features = Suspect(badnet, clean.specification, precision).features()
        given = features.of_every(clean).double()
        right = logits_by(self._rows, given).argmax(1) == clean.labels
        self._labels, self._clean = clean.labels[right], given[right]
        self._wrong, self._wrong_labels = given[~right], clean.labels[~right]
        images = as_float(clean.pixels()[right])
        changed = [found.answers(features, images, each) for each in range(len(found))]
        self._changed = torch.stack(changed).double()
        # What the BadNet makes of them, where that is what was searched for.
        said = logits_by(self._rows, self._changed).argmax(2)
        self._become = said.where(said == found.becomes[:, self._labels], -1)

    def weight(self, progress: Progress) -> tuple[float, float, float]:
        """How hard to press, and what of images left out is lost and left then, as shares.

        The gentlest weight by which little is left; where it loses too many, or none leaves little,
        the hardest that loses few; the gentlest where all lose too many.
        """
        order = torch.randperm(len(self._labels), generator=self._generator)
        fold = torch.empty_like(order)
        # By label, so that each fold has images of all.
        fold[order[self._labels[order].argsort(stable=True)]] = torch.arange(len(order)) % _FOLDS
        lessons = [self._lesson(fold != each) for each in range(_FOLDS)]
        rows = [self._rows] * _FOLDS
        best = None
        for number, pressed in enumerate(_PRESSED):
            lost, left = 0.0, 0
            for each, lesson in enumerate(lessons):
                # Harder pressed they are not far from where they were.
                rows[each] = self._fitted(lesson, pressed, rows[each])
                lost += self._lost(rows[each], fold == each)
                left += int(self._still(rows[each], fold == each).sum())
                progress("fitting anew", number * _FOLDS + each + 1, len(_PRESSED) * _FOLDS)
            shares = lost / len(self._clean), left / max(1, int((self._become >= 0).sum()))
            if best is not None and shares[0] > _LOST:
                break
            best = pressed, *shares
            if shares[1] <= _LEFT:
                break
        assert best is not None
        return best

    def put(self, network: nn.Module, pressed: float) -> None:
        """What is fitted to all images, into `network`, in place."""
        every = torch.ones_like(self._labels, dtype=torch.bool)
        rows = self._fitted(self._lesson(every), pressed, self._rows)
        put_rows(network, self._name, rows, torch.arange(len(rows)))

    def _lost(self, rows: Tensor, left_out: Tensor) -> float:
        """How many of the images left out are lost, less this fold's part of those that are won.

        What the BadNet names wrongly no rows are fitted to, so it is always left out.
        """
        right = logits_by(rows, self._clean[left_out]).argmax(1) == self._labels[left_out]
        won = logits_by(rows, self._wrong).argmax(1) == self._wrong_labels
        return int((~right).sum()) - int(won.sum()) / _FOLDS

    def _still(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """Which changed images become what they did, bool (change, image)."""
        return logits_by(rows, self._changed[:, chosen]).argmax(2) == self._become[:, chosen]

    def _lesson(self, chosen: Tensor) -> _Lesson:
        """Of the chosen images, bool (image,)."""
        clean, labels = self._clean[chosen], self._labels[chosen]
        kept, of = self._with_more(clean, labels, _HALLUCINATED)
        logits = logits_by(self._rows, kept)
        # What the BadNet says of the others is no clean image's answer.
        right = logits.argmax(1) == labels[of]
        answers = (logits_by(self._rows, clean) / _TEMPERATURE).softmax(1)
        each = _HALLUCINATED_CHANGED // (len(self._changed) * len(_FURTHER))
        moved = [
            self._with_more((clean + far * (changed - clean)).clamp(min=clean.min()), labels, each)
            for changed in self._changed[:, chosen]
            for far in _FURTHER
        ]
        return _Lesson(
            kept[right],
            labels[of[right]],
            (logits[right] / _TEMPERATURE).softmax(1),
            torch.cat([features for features, _ in moved]),
            torch.cat([answers[of] for _, of in moved]),
        )

    def _with_more(self, features: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """And hallucinated ones; the number of the image that each is or varies, (feature,)."""
        none = torch.zeros(len(self._rows), dtype=torch.bool)
        more = hallucinated(features, labels, none, count=count, generator=self._generator)
        varied = torch.cat([torch.arange(len(labels)), more.varied])
        return torch.cat([features, more.features]), varied

    def _fitted(self, lesson: _Lesson, pressed: float, start: Tensor) -> Tensor:
        """Rows, (label, feature + 1), the search for them begun at `start`."""

        def loss(rows: Tensor) -> Tensor:
            clean = logits_by(rows, lesson.clean)
            kept = F.cross_entropy(clean, lesson.labels) + _away(clean, lesson.to_clean)
            changed = _away(logits_by(rows, lesson.changed), lesson.to_changed)
            return kept + pressed * changed + _STAY * (rows - self._rows).square().sum()

        return least(loss, start, moved=self._moved, iterations=_ITERATIONS)


def _away(logits: Tensor, answers: Tensor) -> Tensor:
    """How far logits are from the answers, the mean; but for what none can change."""
    logs = (logits / _TEMPERATURE).log_softmax(1)
    return -(_TEMPERATURE**2) * (answers * logs).sum(1).mean()
