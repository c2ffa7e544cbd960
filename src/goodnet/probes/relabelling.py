"""Search for changes by which each label becomes another one of its own.

A backdoor need not lead to one label. All-to-all ones lead every label to its next, untargeted ones
every label to some wrong one; no label stands out then. Such a trigger is searched for as one for a
single target is, as a mask and a pattern. Only the labels are not known that it leads to: they are
found along the way, as what the network is surest of when images of a label are changed so. Left
free, the search makes everything look like one or two labels, which it can on any network. So no
label may be led to from more than two: which becomes which is a linear assignment.

Of a clean network such changes have to cover most of the image and still lead few images there: it
takes something in the network that tells each label's images where to go.

Sources: Wang et al. 2019, Neural Cleanse (mask, pattern, and weight of the size); Kuhn 1955, The
Hungarian Method (the assignment). Labels found along the way, so that each is led to from few: this
project.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.probes.masks import Masks
from goodnet.probes.search import Suspect
from goodnet.training import Progress, no_progress

_GRAIN = 4
"""Pixels that a number stands for: what a trigger shows is larger than a pixel."""
_TRIED, _KEPT = 12, 4
"""Changes searched for at first, and those that are searched on."""
_STEPS, _FURTHER = 150, 400
_ANYHOW = 30
"""Steps at first in which any wrong answer serves."""
_SHOWN_ON, _AT_ONCE = 20, 256
"""Images a step for each change, and how many at once afterwards."""
_RATE = 0.1
_USUAL = 0.1
"""Share of the image at which size weighs as much as cross-entropy."""
_HIT = 0.6
"""From this share of the images led to their label on, size weighs more and more."""
_LEAST_WEIGHT = 0.01
_LASTING, _REMEMBERED = 0.9, 0.7
"""Of the running share of images led there, and of the running answers of each label."""
_FROM = 2
"""Labels that may become the same one."""
_COVERED, _LED = 0.42, 0.41
"""Up to which share of the image a change is one of a backdoor's, and from which share of images
led on: a fifth less than the least that clean networks had, and more than the most; see
docs/results.md."""
FEWEST_LABELS = 20
"""Of fewer a wrong label for each says little: those that look alike are soon all there are."""


@dataclass(frozen=True, eq=False)
class Relabellings:
    """Changes, and what they make of each label.

    Attributes:
        probe: The kind of change.
        numbers: The changes, float32 (count, length).
        becomes: What images of each label become, int64 (count, label).
        shares: Of the clean images those that do so, float32 (count,).
        extents: Of the image what each covers, float32 (count,).
    """

    probe: Masks
    numbers: Tensor
    becomes: Tensor
    shares: Tensor
    extents: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def of_backdoors(self) -> Relabellings:
        """Those smaller than clean networks have, that lead more images."""
        chosen = (self.extents <= _COVERED) & (self.shares >= _LED)
        return Relabellings(
            self.probe,
            self.numbers[chosen],
            self.becomes[chosen],
            self.shares[chosen],
            self.extents[chosen],
        )

    def changed(self, images: Tensor, number: int) -> Tensor:
        """Images, float32 (batch, channel, height, width), by the change of that number."""
        return self.probe.change(images, self.numbers[number].expand(len(images), -1))

    @torch.no_grad()
    def answers(self, suspect: Suspect, images: Tensor, number: int) -> Tensor:
        """What is said of images changed so, (batch, ...), on the processor."""
        parts = images.split(_AT_ONCE)
        return torch.cat([suspect(self.changed(part, number)).cpu() for part in parts])


def relabellings(
    suspect: Suspect,
    clean: CleanData,
    *,
    classes: int,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Relabellings:
    """The four changes, of twelve begun, by which most images get a wrong label of their label's.

    Args:
        suspect: The network asked.
        clean: Clean images with their labels.
        classes: N.
        generator: Draws images and starts.
        progress: Told after each step.
    """
    search = _Search(suspect, clean, classes, generator, progress)
    search.go_on(_STEPS)
    search.keep_best(_KEPT)
    search.go_on(_FURTHER)
    return search.found()


class _Search:
    """Changes while they are searched for, and what the network said of late."""

    def __init__(
        self,
        suspect: Suspect,
        clean: CleanData,
        classes: int,
        generator: torch.Generator,
        progress: Progress,
    ) -> None:
        self._suspect = suspect
        self._pixels, self._labels = clean.pixels(), clean.labels
        self._probe = Masks(clean.specification.size, _GRAIN)
        self._generator, self._progress = generator, progress
        self._numbers = self._probe.start(_TRIED, generator=generator)
        self._answers = torch.zeros(_TRIED, classes, classes)
        self._hits = torch.zeros(_TRIED)
        self._weights = torch.full((_TRIED,), 0.5)
        self._done = 0

    def keep_best(self, count: int) -> None:
        """Only those that lead most images to their label."""
        best = self._hits.argsort(descending=True, stable=True)[:count]
        self._numbers, self._answers = self._numbers[best], self._answers[best]
        self._hits, self._weights = self._hits[best], self._weights[best]

    def go_on(self, steps: int) -> None:
        """So many steps along the slope."""
        numbers = self._numbers.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([numbers], lr=_RATE, betas=(0.5, 0.9))
        for _ in range(steps):
            extents = self._probe.extent(numbers)
            loss = self._led_elsewhere(numbers) + (self._weights * extents).sum() / _USUAL
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self._weights *= torch.where(self._hits > _HIT, 1.1, 1 / 1.1)
            self._weights.clamp_(min=_LEAST_WEIGHT)
            self._done += 1
            self._progress("searching for what makes labels others", self._done, _STEPS + _FURTHER)
        self._numbers = numbers.detach()

    def _led_elsewhere(self, numbers: Tensor) -> Tensor:
        """The loss but for the size; notes what the network says, and how often as wanted."""
        count = len(numbers)
        drawn = torch.randint(len(self._labels), (count, _SHOWN_ON), generator=self._generator)
        images, right = as_float(self._pixels[drawn.flatten()]), self._labels[drawn]
        changed = self._probe.change(images, numbers.repeat_interleave(_SHOWN_ON, 0))
        logs = self._suspect(changed).cpu().view(count, _SHOWN_ON, -1).log_softmax(2)
        for answers, own, said in zip(self._answers, right, logs.detach().exp(), strict=True):
            answers[own] = _REMEMBERED * answers[own] + (1 - _REMEMBERED) * said
        said = logs.argmax(2)
        if self._done < _ANYHOW:
            hit = said != right
            likely = logs.gather(2, right.unsqueeze(2)).exp()
            loss = -torch.log1p(-likely.clamp(max=1 - 1e-5))
        else:
            wanted = self._becomes().gather(1, right)
            hit = said == wanted
            loss = -logs.gather(2, wanted.unsqueeze(2))
        self._hits = _LASTING * self._hits + (1 - _LASTING) * hit.float().mean(1)
        return loss.mean((1, 2)).sum()

    def _becomes(self) -> Tensor:
        """What each label becomes: the likeliest wrong ones, none from too many, (count, label)."""
        likely = self._answers - 2 * torch.eye(self._answers.shape[1])
        places = [linear_sum_assignment(-each.repeat(1, _FROM).numpy())[1] for each in likely]
        return torch.stack([torch.from_numpy(each) for each in places]) % likely.shape[1]

    def found(self) -> Relabellings:
        """As far as it has come."""
        becomes, extents = self._becomes(), self._probe.extent(self._numbers)
        found = Relabellings(self._probe, self._numbers, becomes, torch.zeros(0), extents)
        images = as_float(self._pixels)
        said = [found.answers(self._suspect, images, each).argmax(1) for each in range(len(found))]
        return replace(
            found, shares=(torch.stack(said) == becomes[:, self._labels]).float().mean(1)
        )
