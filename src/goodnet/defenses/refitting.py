"""What tells of some labels fitted anew, in the last layer alone, to a handful of images.

From few images the layers below would learn by heart. So they stay, and with them the features that
they make of an image; of the last layer the rows that tell of labels a backdoor may lead to are
fitted anew, so that no two others can be mistaken for each other. They are to give

- the BadNet's answers to clean images, and to features as further images would have them (see
  defenses/hallucination.py);
- none of these labels to images that changes lead there: ones close to random changes that do, and
  ones pursued along the slope (see defenses/pursuit.py).

All this is convex in the rows: a quasi-Newton method comes to the one best answer within a second,
and can be asked again. So each clean image of these labels is left out in turn, and how many of
them are lost then tells what it costs to press: the hardest is taken that costs few. At last the
labels' logits are lowered, by half of the least margin that an image left out has.

Sources: Hinton et al. 2015 (answers kept by distillation); Wei et al. 2023, Shared Adversarial
Unlearning (-log(1 - p) of the label the old network is misled to); Stone 1974, Cross-Validatory
Choice (each left out in turn); Menon et al. 2021, Logit Adjustment (after training). Rows fitted
anew, and how hard by what images left out bear: this project.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.defenses.changes import Evidence
from goodnet.defenses.hallucination import hallucinated
from goodnet.defenses.pursuit import Pursuit
from goodnet.last_layer import last_linear
from goodnet.modes import threads
from goodnet.probes import Suspect
from goodnet.results import Rate
from goodnet.training import Precision, Progress

HARDEST = 3.0
"""What a label bears that clean images have not made likely."""
_PRESSED = (HARDEST, 1.0, 0.3, 0.1, 0.03)
"""Weights of not giving changed images these labels, the hardest first."""
_LOST = 0.2
"""Share of the labels' own images, each left out in turn, that may be lost."""
_HALLUCINATED = 6000
_TEMPERATURE = 2.0
_STAY = 1e-3
"""Weight of the squared distance from the BadNet's rows, which decides where nothing else does."""
_ITERATIONS = 60
_ASKED = 1000
"""Changes of each kind that are close to such as led astray."""
_PURSUED, _SHOWN_ON = 300, 36
"""Steps for which changes are pursued, and images at each."""
_SELDOM = 0.01
"""How often a label of no score is pursued; one of a score of 1 or more is with 1."""


@dataclass(frozen=True, eq=False)
class Refitted:
    """A network of which some rows were fitted anew.

    Attributes:
        network: New, with the BadNet's layers below the last.
        pressed: How hard.
        lost: Of the labels' clean images those lost when left out.
        lowered: By how much logits were lowered, float64 (label,).
    """

    network: nn.Module
    pressed: float
    lost: Rate
    lowered: Tensor


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
    for pressed in _PRESSED:
        margins = rows.margins_left_out(pressed)
        lost = int((margins <= 0).sum())
        if lost <= _LOST * len(margins):
            break
    weight, bias = rows.fitted(pressed)
    lowered = rows.half_of_the_least(margins)
    repaired = copy.deepcopy(badnet).eval()
    rows.put(repaired, weight, bias - lowered[evidence.unlearned])
    return Refitted(repaired, pressed, Rate.of(lost, len(margins)), lowered)


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
        self._layer = last_linear(badnet)
        suspect = Suspect(badnet, clean.specification, precision)
        features = suspect.features()
        layer = badnet.get_submodule(self._layer)
        assert isinstance(layer, nn.Linear)
        weight = layer.weight.detach().cpu().double()
        self._has_bias = layer.bias is not None
        bias = (
            layer.bias.detach().cpu().double() if self._has_bias else weight.new_zeros(len(weight))
        )
        self._unlearned = unlearned = evidence.unlearned
        self._weight, self._bias = weight[unlearned], bias[unlearned]
        self._clean, self._labels = features.of_every(clean).double(), clean.labels
        logits = F.linear(self._clean, weight, bias)
        right = logits.argmax(1) == self._labels
        self._own = (right & unlearned[self._labels]).nonzero().flatten()
        self._largest_other = logits.masked_fill(unlearned, -torch.inf).amax(1)
        further = hallucinated(
            self._clean, self._labels, unlearned, count=_HALLUCINATED, generator=generator
        )
        every = torch.arange(len(clean))
        self._varied = torch.cat([every, further.varied])
        self._lent = torch.cat([every, further.lent])
        self._kept = torch.cat([self._clean, further.features])
        taught = F.linear(self._kept, weight, bias)
        # What the BadNet says of the others is no clean image's answer.
        right = taught.argmax(1) == self._labels[self._varied]
        self._varied, self._lent = self._varied[right], self._lent[right]
        self._kept, taught = self._kept[right], taught[right] / _TEMPERATURE
        self._taught = taught.softmax(1)[:, unlearned]
        self._others = taught.masked_fill(unlearned, -torch.inf).logsumexp(1)
        led_to, self._led = _led(suspect, features, clean, evidence, generator, progress)
        self._led = self._led.double()
        # Each label counts alike, however many images are led there.
        self._led_counts = led_to.bincount(minlength=len(weight))[led_to]
        led = F.linear(self._led, weight, bias)
        self._led_others = led.masked_fill(unlearned, -torch.inf).logsumexp(1)

    def fitted(self, pressed: float, left_out: int | None = None) -> tuple[Tensor, Tensor]:
        """Weights and biases, (rows, feature) and (rows,); without what an image had part in."""
        kept, taught, others = self._kept, self._taught, self._others
        if left_out is not None:
            counted = (self._varied != left_out) & (self._lent != left_out)
            kept, taught, others = kept[counted], taught[counted], others[counted]
        count, width = self._weight.shape

        def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            rows = torch.from_numpy(numbers).view(count, width + 1).requires_grad_(True)
            weight, bias = rows[:, :width], rows[:, width] * self._has_bias
            logits = F.linear(kept, weight, bias) / _TEMPERATURE
            every = torch.logaddexp(others, logits.logsumexp(1))
            away = _TEMPERATURE**2 * (every - (taught * logits).sum(1))
            total = away.sum() / max(len(kept), 1)
            led = F.linear(self._led, weight, bias).logsumexp(1)
            unlike = F.softplus(led - self._led_others)
            total = total + pressed * (unlike / self._led_counts).sum()
            total = total + _STAY * (weight - self._weight).square().sum()
            (slope,) = torch.autograd.grad(total, rows)
            return float(total.detach()), slope.flatten().numpy()

        start = torch.cat([self._weight, self._bias.unsqueeze(1)], 1).flatten().numpy()
        options = {"maxiter": _ITERATIONS}
        with threads(1):
            best = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        rows = torch.from_numpy(best.x).view(count, width + 1)
        return rows[:, :width], rows[:, width]

    def margins_left_out(self, pressed: float) -> Tensor:
        """By how much each own clean image is named rightly that was left out, (own,)."""
        margins = [self._margin(own, *self.fitted(pressed, own)) for own in self._own.tolist()]
        return torch.tensor(margins, dtype=torch.float64)

    def half_of_the_least(self, margins: Tensor) -> Tensor:
        """Of each label the least positive of its own images, halved; 0 of none, (label,)."""
        least = torch.full(self._unlearned.shape, torch.inf, dtype=torch.float64)
        if self._has_bias:
            counted = margins > 0
            own = self._labels[self._own[counted]]
            least.scatter_reduce_(0, own, margins[counted], "amin")
        return torch.where(least < torch.inf, least / 2, 0.0)

    @torch.no_grad()
    def put(self, network: nn.Module, weight: Tensor, bias: Tensor) -> None:
        """The rows into `network`, in place."""
        rows = self._unlearned.nonzero().flatten()
        for name, fitted in {"weight": weight, "bias": bias}.items():
            if name == "weight" or self._has_bias:
                own = network.get_parameter(f"{self._layer}.{name}")
                own[rows.to(own.device)] = fitted.to(own)

    def _margin(self, own: int, weight: Tensor, bias: Tensor) -> float:
        logits = F.linear(self._clean[own], weight, bias)
        place = int(self._unlearned[: self._labels[own]].sum())
        others = logits.index_fill(0, torch.tensor(place), -torch.inf)
        return float(logits[place] - torch.maximum(others.max(), self._largest_other[own]))


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
