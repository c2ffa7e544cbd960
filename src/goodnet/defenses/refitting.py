"""What tells of some labels fitted anew, in the last layer alone, to a handful of images.

From few images the layers below would learn by heart. So they stay, and with them the features that
they make of an image; of the last layer the rows that tell of labels a backdoor may lead to are
fitted anew, so that no two others can be mistaken for each other. They are to give

- the BadNet's answers to clean images, and to features as further images would have them (see
  defenses/hallucination.py);
- none of these labels to images that changes lead there: ones close to random changes that do, and
  ones pursued along the slope (see defenses/pursuit.py).

All this is convex in the rows: a quasi-Newton method comes to the one best answer within a second,
and can be asked again. So each clean image of these labels is left out in turn, with all features
that it had part in. How many of those that stand for further images like it are lost then tells
what it costs to press. Each label is pressed until next to none of the images led there get it, or
as hard as costs few of its own, and fewer where nothing points to the label. At last the labels'
logits are lowered, by half of the least margin that an image left out has.

Sources: Hinton et al. 2015 (answers kept by distillation); Wei et al. 2023, Shared Adversarial
Unlearning (-log(1 - p) of the label the old network is misled to); Stone 1974, Cross-Validatory
Choice (each left out in turn); Menon et al. 2021, Logit Adjustment (after training). Rows fitted
anew, and how hard by what images left out bear: this project.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.defenses.changes import Evidence
from goodnet.defenses.convex import least
from goodnet.defenses.hallucination import hallucinated
from goodnet.defenses.pursuit import Pursuit
from goodnet.last_layer import has_bias, last_linear, logits_by, put_rows, rows_of
from goodnet.probes import Suspect
from goodnet.training import Precision, Progress

_PRESSED = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Weights of not giving changed images a label, the hardest first."""
_LEFT = 0.02
"""How likely images led to a label may still get it where it is pressed hard enough."""
_LOST, _LOST_AS_PRECAUTION = 0.4, 0.2
"""Share of the features that stand for a label's further images that may be lost where it is
suspicious, and where nothing points to it."""
_HALLUCINATED = 6000
_TEMPERATURE = 2.0
_STAY = 1e-3
"""Weight of the squared distance from the BadNet's rows, which decides where nothing else does."""
_ITERATIONS = 60
_ASKED = 1000
"""Changes of each kind that are close to such as led astray."""
_PURSUED, _SHOWN_ON = 300, 36
"""Steps for which changes are pursued, and images at each."""
_NO_ROW = -1
_SELDOM = 0.01
"""How often a label of no score is pursued; one of a score of 1 or more is with 1."""


@dataclass(frozen=True, eq=False)
class Refitted:
    """A network of which some rows were fitted anew.

    Attributes:
        network: New, with the BadNet's layers below the last.
        labels: Those that the rows tell of, int64 (row,).
        pressed: How hard each was, float64 (row,).
        lost: Of the features that stand for further images like one left out, the share that was
            lost, float64 (row,); NaN where the label has no image.
        bearable: Whether that is little enough, bool (row,); false where the label has no image.
    """

    network: nn.Module
    labels: Tensor
    pressed: Tensor
    lost: Tensor
    bearable: Tensor

    def told(self) -> str:
        """For people."""
        rows = zip(self.labels.tolist(), self.pressed.tolist(), self.lost.tolist(), strict=True)
        parts = []
        for label, pressed, lost in rows:
            cost = f"{lost:.0%} of its further images, as imagined, are lost"
            cost = "nothing tells what that costs" if isnan(lost) else cost
            parts.append(f"that of {label} pressed with {pressed:g} ({cost})")
        return f"rows of the last layer are fitted anew: {', '.join(parts)}"


def refitted(
    badnet: nn.Module,
    clean: CleanData,
    evidence: Evidence,
    *,
    precision: Precision,
    generator: torch.Generator,
    progress: Progress,
) -> Refitted:
    """A copy of the BadNet that leads nothing to the labels `evidence` has as unlearned.

    Args:
        badnet: B, left bit-identical.
        clean: Clean images with their labels.
        evidence: Against it.
        precision: Of the numbers inside.
        generator: Draws changes and features.
        progress: Told while changes are pursued.

    Raises:
        SurgeryError: No linear layer gives the logits, or it does not run once for each image.
        NotTraceableError: The network has no graph.
    """
    rows = _Rows(badnet, clean, evidence, precision, generator, progress)
    labels = evidence.unlearned.nonzero().flatten()
    most = torch.where(evidence.suspicious[labels], _LOST, _LOST_AS_PRECAUTION)
    pressed, lost, margins = rows.weights(most)
    lowered = rows.fitted(pressed)
    lowered[:, -1] -= margins / 2
    repaired = copy.deepcopy(badnet).eval()
    put_rows(repaired, rows.layer, lowered, labels)
    return Refitted(repaired, labels, pressed, lost, lost <= most)


class _Rows:
    """The rows of the last layer that tell of unlearned labels, and what they are fitted to.

    Logits of other labels stay as they are; all that matters of them is their sum of exponentials,
    or the largest.
    """

    def __init__(
        self,
        badnet: nn.Module,
        clean: CleanData,
        evidence: Evidence,
        precision: Precision,
        generator: torch.Generator,
        progress: Progress,
    ) -> None:
        self.layer = last_linear(badnet)
        suspect = Suspect(badnet, clean.specification, precision)
        features = suspect.features()
        before = rows_of(badnet, self.layer)
        unlearned = evidence.unlearned
        self._before = before[unlearned]
        self._moved = torch.ones_like(self._before, dtype=torch.bool)
        self._moved[:, -1] = has_bias(badnet, self.layer)
        given, labels = features.of_every(clean).double(), clean.labels
        further = hallucinated(given, labels, unlearned, count=_HALLUCINATED, generator=generator)
        every = torch.arange(len(clean))
        varied, lent = torch.cat([every, further.varied]), torch.cat([every, further.lent])
        kept = torch.cat([given, further.features])
        logits = logits_by(before, kept)
        # What the BadNet says of the others is no clean image's answer.
        right = logits.argmax(1) == labels[varied]
        self._kept, logits = kept[right], logits[right]
        self._varied, self._lent = varied[right], lent[right]
        rows = (unlearned.cumsum(0) - 1).where(unlearned, _NO_ROW)
        self._images = every[right[: len(every)]]
        self._rows = rows[labels[self._images]]
        self._largest_other = logits.masked_fill(unlearned, -torch.inf).amax(1)
        taught = logits / _TEMPERATURE
        self._taught = taught.softmax(1)[:, unlearned]
        self._others = taught.masked_fill(unlearned, -torch.inf).logsumexp(1)
        led_to, led = _led(suspect, features, clean, evidence, generator, progress)
        self._led, self._led_rows = led.double(), rows[led_to]
        self._led_counts = self._led_rows.bincount(minlength=len(self._before))
        logits = logits_by(before, self._led)
        self._led_others = logits.masked_fill(unlearned, -torch.inf).logsumexp(1)

    def fitted(self, pressed: Tensor, left_out: int | None = None) -> Tensor:
        """Rows as `rows_of` has them, (row, feature + 1); without what an image had part in.

        Args:
            pressed: How hard each row is, (row,).
            left_out: The image's place among the clean ones.
        """
        kept, taught, others = self._kept, self._taught, self._others
        if left_out is not None:
            counted = (self._varied != left_out) & (self._lent != left_out)
            kept, taught, others = kept[counted], taught[counted], others[counted]
        # Each label counts alike, however many images are led there.
        weights = (pressed / self._led_counts)[self._led_rows]

        def loss(rows: Tensor) -> Tensor:
            logits = logits_by(rows, kept) / _TEMPERATURE
            every = torch.logaddexp(others, logits.logsumexp(1))
            away = _TEMPERATURE**2 * (every - (taught * logits).sum(1))
            total = away.sum() / max(len(kept), 1)
            led = logits_by(rows, self._led).logsumexp(1)
            unlike = F.softplus(led - self._led_others)
            total = total + (unlike * weights).sum()
            return total + _STAY * (rows - self._before)[:, :-1].square().sum()

        return least(loss, self._before, moved=self._moved, iterations=_ITERATIONS)

    def weights(self, most: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How hard each row is pressed, the share lost then, and the least margin, all (row,).

        Of the weights that are not harder than needed the hardest by which at most a share `most`
        of the features is lost that stand for further images like one left out; the gentlest where
        none is. Margins are of the images left out, the least that is positive; 0 of none. Of a
        label without an image, of which nothing tells what it costs, the hardest, NaN and 0.
        """
        pressed = torch.full(most.shape, _PRESSED[0], dtype=torch.float64)
        lost, smallest = torch.full_like(pressed, torch.nan), torch.zeros_like(pressed)
        needed = self._needed()
        for row in range(len(most)):
            images = self._images[self._rows == row].tolist()
            if not images:
                continue
            for weight in [each for each in _PRESSED if each <= needed[row]]:
                alike = torch.full_like(pressed, weight)
                margins = [self._margins_left_out(alike, row, each) for each in images]
                pressed[row] = weight
                lost[row] = torch.stack([(each <= 0).double().mean() for each in margins]).mean()
                own = torch.stack([each[0] for each in margins])
                smallest[row] = own[own > 0].min() if (own > 0).any() else 0.0
                if lost[row] <= most[row]:
                    break
        return pressed, lost, smallest

    def _needed(self) -> Tensor:
        """The gentlest weight by which the images led to each label hardly get it, (row,).

        The hardest where none is.
        """
        needed = torch.full(self._led_counts.shape, _PRESSED[0], dtype=torch.float64)
        for pressed in _PRESSED:
            logits = logits_by(self.fitted(torch.full_like(needed, pressed)), self._led)
            every = torch.logaddexp(logits.logsumexp(1), self._led_others)
            own = logits.gather(1, self._led_rows.unsqueeze(1)).squeeze(1)
            sums = torch.zeros_like(needed).index_add(0, self._led_rows, (own - every).exp())
            needed[sums <= _LEFT * self._led_counts] = pressed
        return needed

    def _margins_left_out(self, pressed: Tensor, row: int, image: int) -> Tensor:
        """Of the image's features, its own first, fitted without it; (feature,)."""
        own = self._varied == image
        logits = logits_by(self.fitted(pressed, image), self._kept[own])
        others = logits.index_fill(1, torch.tensor(row), -torch.inf).amax(1)
        return logits[:, row] - torch.maximum(others, self._largest_other[own])


def _led(
    suspect: Suspect,
    features: Suspect,
    clean: CleanData,
    evidence: Evidence,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Unlearned labels that changed images get wrongly, (led,); their features, (led, feature).

    Images of labels that are unlearned themselves are left out.
    """
    pixels, labels = clean.pixels(), clean.labels
    unlearned = evidence.unlearned
    led_to = [torch.zeros(0, dtype=torch.int64)]
    found = [torch.zeros(0, features(as_float(pixels[:1])).shape[1])]

    @torch.no_grad()
    def keep(changed: Tensor, right: Tensor) -> None:
        said = suspect(changed).argmax(1).cpu()
        led = unlearned[said] & ~unlearned[right]
        if led.any():
            led_to.append(said[led])
            found.append(features(changed[led]).cpu())

    for changed, right in evidence.close_to_leading(clean, count=_ASKED, generator=generator):
        keep(changed, right)
    weights = evidence.pursued.clamp(_SELDOM, 1.0) * unlearned
    pursuit = Pursuit(clean.specification.size, weights, generator)
    for step in range(_PURSUED):
        chosen = torch.randint(len(labels), (_SHOWN_ON,), generator=generator)
        changed, _ = pursuit.of(suspect, as_float(pixels[chosen]))
        keep(changed, labels[chosen])
        progress("pursuing changes", step + 1, _PURSUED)
    return torch.cat(led_to), torch.cat(found)
