"""Changes of images as triggers may be, drawn the more often the more they mislead.

Drawing begins with what clean images have shown of the BadNet and goes on with what still misleads
the network that is tuned: kinds of changes, classes of images, single changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.probes import Found, Probe, Universal

_OFF, _AT_ONCE = 0.05, 256
"""How far changes are from such as led astray, further off than in tuning, and how many at once."""
_SEARCHED = 0.3
"""Share of the changed images whose change was searched for, where any was found."""
_REMEMBERED = 256
_CLOSE = 0.01
"""How far from one that misled a change is drawn."""
_OTHER_LABEL = 0.1
"""How likely a change that misled images of one label is tried again on one of another."""
_RARELY = 0.03
"""Added to how much a kind misleads images of a label, for how often it is drawn for them."""
_LASTING = 0.95
_WEAKER, _STRONGER = 0.6, 3.0
"""Factors of a change that was found, since the attacker's need not be the smallest."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What points to a backdoor.

    Attributes:
        universal: Random changes that work as triggers do, kind by kind.
        weights: How often images are surely misled by each kind, float32 (kind,).
        pursued: How often changes are pursued to each label, float32 (label,): its score, as
            `suspicion` has it, from 1 on alike; where none is suspicious, how likely each is.
        suspicious: The labels that a backdoor may lead to, bool (label,).
        next_likely: Labels that are unlearned beside them, or, without any, of which one may be,
            bool (label,).
    """

    universal: tuple[Universal, ...]
    weights: Tensor
    pursued: Tensor
    suspicious: Tensor
    next_likely: Tensor

    @property
    def unlearned(self) -> Tensor:
        """The labels that are, bool (label,)."""
        return self.suspicious | self.next_likely

    def close_to_leading(
        self, clean: CleanData, *, count: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images changed in ways close to those that led to an unlearned label, part by part.

        Args:
            clean: The images.
            count: How many of each kind that led there at all.
            generator: Draws images and changes.

        Yields:
            Images, float32 in [0, 1] (part, channel, height, width), and their right labels.
        """
        pixels, labels = clean.pixels(), clean.labels
        for universal in self.universal:
            leading = universal.leading_to(self.unlearned)
            if not len(leading):
                continue
            drawn = torch.randint(len(leading), (count,), generator=generator)
            numbers = around(leading.numbers[drawn], _OFF, generator)
            chosen = torch.randint(len(labels), (count,), generator=generator)
            for part, own in zip(numbers.split(_AT_ONCE), chosen.split(_AT_ONCE), strict=True):
                yield universal.probe.change(as_float(pixels[own]), part), labels[own]

    def told(self) -> str:
        """For people."""
        told = f"random changes and margins point to {_listed(self.suspicious) or 'no label'}"
        if not self.next_likely.any():
            return told
        how = "next to" if self.suspicious.any() else "most wrong answers are"
        return f"{told}, {how} {_listed(self.next_likely)}"


@dataclass(frozen=True, eq=False)
class Changed:
    """Changed images.

    Attributes:
        images: float32 in [0, 1], (batch, channel, height, width).
        searched: Whether the change of each was searched for, bool (batch,).
        drawn: Of random changes: the kind, the places in the batch, the numbers.
    """

    images: Tensor
    searched: Tensor
    drawn: list[tuple[int, Tensor, Tensor]]


class Changes:
    """Draws changes, the more often the more they misled.

    Args:
        evidence: Which kinds misled the BadNet, and universal changes to try again.
        replayed: Share of the random changes that are close to such as misled before.
        found: Changes that a search found.
        generator: Draws them.
    """

    def __init__(
        self,
        evidence: Evidence,
        replayed: float,
        found: Sequence[Found],
        generator: torch.Generator,
    ) -> None:
        self._found = found
        unlearned = evidence.unlearned
        self._memories = [_Memory(each.probe, replayed, generator) for each in evidence.universal]
        for memory, universal in zip(self._memories, evidence.universal, strict=True):
            memory.begin(universal.leading_to(unlearned))
        self._misled = evidence.weights.expand(len(unlearned), -1).clone()
        """How much each kind misleads images of each label, running means, (label, kind)."""
        self._generator = generator

    def of(self, images: Tensor, labels: Tensor) -> Changed:
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
        return Changed(changed, searched.to(images.device), drawn)

    def learn(self, changed: Changed, labels: Tensor, said: Tensor) -> None:
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
            numbers[:again] = around(self._numbers[chosen], _CLOSE, self._generator)
        return numbers

    def keep(self, numbers: Tensor, labels: Tensor, marks: Tensor) -> None:
        """Keeps the changes that misled most; `marks` tell how much, in [0, 1]."""
        numbers = torch.cat([self._numbers, numbers])
        labels = torch.cat([self._labels, labels])
        marks = torch.cat([0.99 * self._marks, marks])
        best = marks.argsort(descending=True, stable=True)[:_REMEMBERED]
        self._numbers, self._labels, self._marks = numbers[best], labels[best], marks[best]


def _listed(labels: Tensor) -> str:
    return ", ".join(map(str, labels.nonzero().flatten().tolist()))


def around(numbers: Tensor, distance: float, generator: torch.Generator) -> Tensor:
    """Changes close to those told by `numbers`, one for each."""
    noise = distance * torch.randn(numbers.shape, generator=generator)
    return (numbers + noise).clamp(0.0, 1.0)
