"""Changes that are pursued: pushed to where they lead a network.

A random change seldom resembles a trigger, and what chance does not show is not unlearned. Where it
is known which labels a backdoor leads to, a change can be moved along the slope, step by step, so
that more images get such a label; after a while it is given up for a new one. Stickers, blends and
waves are pursued: their numbers bound how large they become.

Source: Moosavi-Dezfooli et al. 2017, Universal Adversarial Perturbations (one change for many
images). Departure: many changes at once, told by few numbers, each to one of the labels that clean
images point to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from goodnet.data.pixels import Size
from goodnet.probes import Probe, SearchedProbe, random_probes

Answers = Callable[[Tensor], Tensor]
"""From images in [0, 1] to logits, float32 (batch, label)."""

_EACH = 3
"""Changes of each kind that are pursued at a time."""
_LASTING = 25
"""Steps after which a change is given up, on average."""
_STEP = 0.08
_CANDIDATES, _SHOWN_ON = 8, 4
"""Random changes of which the one that leads most is pursued, and images each is shown on."""


class Pursuit:
    """Pursues changes that lead to some labels.

    Args:
        size: (channels, height, width) of the images.
        weights: How often each label is pursued, float32 (label,).
        generator: Draws labels and changes.
    """

    def __init__(self, size: Size, weights: Tensor, generator: torch.Generator) -> None:
        # Of those that can be searched for, numbers do not bound the size.
        kinds = [each for each in random_probes(size) if not isinstance(each, SearchedProbe)]
        self._kinds = [_Kind(each, weights, generator) for each in kinds]

    def of(self, answers: Answers, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images, each changed in one of the ways pursued, which go on by a step.

        Args:
            answers: Of the network as it is now.
            images: float32 in [0, 1], (batch, channel, height, width).

        Returns:
            The changed images, and the label that each was changed towards, int64 (batch,).
        """
        dealt = torch.arange(len(images)) % len(self._kinds)
        changed, targets = images.clone(), torch.zeros(len(images), dtype=torch.int64)
        for place, kind in enumerate(self._kinds):
            own = (dealt == place).nonzero().flatten()
            if len(own):
                changed[own], targets[own] = kind.of(answers, images[own])
        return changed, targets.to(images.device)


class _Kind:
    """The changes of one kind that are pursued."""

    def __init__(self, probe: Probe, weights: Tensor, generator: torch.Generator) -> None:
        self._probe, self._weights, self._generator = probe, weights, generator
        self._numbers = torch.zeros(_EACH, probe.length)
        self._targets = torch.zeros(_EACH, dtype=torch.int64)
        self._steps_left = torch.zeros(_EACH, dtype=torch.int64)

    def of(self, answers: Answers, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images after a step of the changes, and the label of each."""
        for place in (self._steps_left == 0).nonzero().flatten().tolist():
            self._begin(place, answers, images)
        self._steps_left -= 1
        dealt = torch.arange(len(images)) % _EACH
        targets = self._targets[dealt]
        numbers = self._numbers.clone().requires_grad_(True)
        changed = self._probe.change(images, numbers[dealt].to(images.device))
        (slope,) = torch.autograd.grad(_margins(answers(changed), targets).sum(), numbers)
        self._numbers = (self._numbers + _STEP * slope.sign()).clamp(0.0, 1.0)
        return self._probe.change(images, self._numbers[dealt].to(images.device)), targets

    @torch.no_grad()
    def _begin(self, place: int, answers: Answers, images: Tensor) -> None:
        """Takes the best of some random changes to a label that is drawn."""
        target = torch.multinomial(self._weights, 1, generator=self._generator)
        numbers = self._probe.draw(_CANDIDATES, images.cpu(), generator=self._generator)
        count = _CANDIDATES * _SHOWN_ON
        chosen = torch.randint(len(images), (count,), generator=self._generator)
        shown = numbers.repeat_interleave(_SHOWN_ON, 0).to(images.device)
        led = _margins(answers(self._probe.change(images[chosen], shown)), target.expand(count))
        best = led.view(_CANDIDATES, _SHOWN_ON).mean(1).argmax()
        self._numbers[place], self._targets[place] = numbers[best], target[0]
        self._steps_left[place] = torch.randint(1, 2 * _LASTING, (), generator=self._generator)


def _margins(logits: Tensor, targets: Tensor) -> Tensor:
    """How much likelier a label is than all others together, logarithms, float32 (batch,)."""
    wanted = targets.to(logits.device).unsqueeze(1)
    others = logits.scatter(1, wanted, -torch.inf).logsumexp(1)
    return logits.gather(1, wanted).squeeze(1) - others
