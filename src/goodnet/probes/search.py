"""Search for changes that mislead a network on most images: universal, as triggers are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from goodnet.answers import device_of
from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.formats.specification import InputSpecification
from goodnet.last_layer import features_network, last_linear
from goodnet.probes.probe import Probe, SearchedProbe
from goodnet.probes.registry import random_probes
from goodnet.training import Precision, Progress, layout_of, logits_network, no_progress

_STEPS = 80
_FEWEST, _MOST = 4, 16
"""Images a step for each change; more where few changes are searched for at once."""
_IMAGES_A_STEP = 256
_HIT = 0.75
"""A change counts as found when it misleads this share of the images."""
_SURE = 0.9
_CHANGED = 512
"""Images changed at random, for each kind."""
MOST_LABELS = 64
"""Of more labels, not each is searched for."""


class Suspect:
    """A network that is only asked: it takes images in [0, 1] and gives logits.

    What it asks is a copy.

    Args:
        network: Left as it is.
        specification: How it wants its inputs.
        precision: Of the numbers inside.
    """

    def __init__(
        self,
        network: nn.Module,
        specification: InputSpecification,
        precision: Precision = "float32",
    ) -> None:
        self._network = logits_network(copy.deepcopy(network)).eval().requires_grad_(False)
        self._layout = layout_of(network)
        self._network.to(memory_format=self._layout)  # type: ignore[call-overload]
        self._specification = specification
        self._precision = precision
        self.size = specification.size
        self.device = device_of(network)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits, float32 (batch, N), of images float32 in [0, 1]."""
        inputs = self._specification.prepare(images.to(self.device))
        inputs = inputs.contiguous(memory_format=self._layout)
        if self._precision == "bfloat16":
            with torch.autocast(self.device.type, torch.bfloat16):
                return self._network(inputs).float()  # type: ignore[no-any-return]
        return self._network(inputs).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def of_every(self, clean: CleanData) -> Tensor:
        """What it gives for each of the clean images, float32 (images, ...), on the processor."""
        parts = clean.pixels().split(_IMAGES_A_STEP)
        return torch.cat([self(as_float(part)).cpu() for part in parts])

    def features(self) -> Suspect:
        """Asked likewise: what gives the last linear layer its input, (batch, features).

        Raises:
            SurgeryError: No linear layer gives the logits.
            NotTraceableError: The network has no graph.
        """
        network = features_network(self._network, last_linear(self._network))
        return Suspect(network, self._specification, self._precision)

    @torch.no_grad()
    def follow(self, network: nn.Module, share: float) -> None:
        """Moves the weights this share of the way to those of a network of the same structure."""
        for own, other in zip(self._network.parameters(), network.parameters(), strict=True):
            own.lerp_(other, share)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        probe: The kind of change.
        targets: The label each makes the network say, int64 (count,); -1 for any wrong one.
        numbers: The smallest change for each, float32 (count, length).
        extents: How large each is; infinite where none misled enough images.
    """

    probe: SearchedProbe
    targets: Tensor
    numbers: Tensor
    extents: Tensor

    def small(self) -> Found:
        """Those too small to change what an image shows, as `probe.small` has it."""
        chosen = self.extents <= self.probe.small
        return Found(self.probe, self.targets[chosen], self.numbers[chosen], self.extents[chosen])

    def __len__(self) -> int:
        return len(self.targets)


class Disturbance(Protocol):
    """What happens to changed images before the network sees them."""

    def __call__(self, images: Tensor, changed: Tensor, *, generator: torch.Generator) -> Tensor:
        """The changed images disturbed, (batch, channel, height, width), as they all are."""


def least_changes(
    suspect: Suspect,
    clean: CleanData,
    probe: SearchedProbe,
    targets: Tensor,
    *,
    steps: int = _STEPS,
    disturb: Disturbance | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Found:
    """For each label, the smallest change that makes the network say it of most images.

    What is made small is the cross-entropy plus a weight times the extent. The weight grows
    while the change misleads most images and falls while it does not.

    Args:
        suspect: The network asked.
        clean: Clean images with their labels.
        probe: The kind of change.
        targets: Labels, int64 (count,); -1 searches for changes that make answers wrong in
            any way, and may stand there several times for several starts.
        steps: Of the search.
        disturb: What happens to changed images each time before they are shown, if anything.
        generator: Draws images and starts, and disturbances.
        progress: Told after each step.

    Source: Wang et al. 2019, Neural Cleanse. Departure: other kinds of changes beside masks.
    """
    pixels, labels = clean.pixels(), clean.labels
    count = len(targets)
    each = max(_FEWEST, min(_MOST, _IMAGES_A_STEP // count))
    wanted, anything = targets.view(-1, 1).expand(count, each), (targets < 0).view(-1, 1)
    numbers = probe.start(count, generator=generator).requires_grad_(True)
    optimizer = torch.optim.Adam([numbers], lr=probe.rate, betas=(0.5, 0.9))
    weight, hits = torch.full((count,), 0.5), torch.zeros(count)
    least, best = torch.full((count,), torch.inf), numbers.detach().clone()
    for step in range(steps):
        chosen = torch.randint(0, len(labels), (count, each), generator=generator)
        images, right = as_float(pixels[chosen.flatten()]), labels[chosen]
        changed = probe.change(images, numbers.repeat_interleave(each, 0))
        if disturb:
            changed = disturb(images, changed, generator=generator)
        logits = suspect(changed).cpu().view(count, each, -1)
        said = logits.argmax(2)
        logs = logits.log_softmax(2)
        said_right = logs.gather(2, right.unsqueeze(2)).squeeze(2).exp()
        said_wanted = logs.gather(2, wanted.clamp(min=0).unsqueeze(2)).squeeze(2)
        wrong = torch.where(anything, -torch.log1p(-said_right.clamp(max=1 - 1e-5)), -said_wanted)
        misled = torch.where(anything, said != right, said == wanted)
        counted = right != wanted
        shares = counted.sum(1).clamp(min=1)
        hits = 0.8 * hits + 0.2 * (misled & counted).sum(1) / shares
        extents = probe.extent(numbers)
        # The running share needs a few steps before it says anything.
        better = (hits > _HIT) & (extents.detach() < least) & (step >= 10)
        least = torch.where(better, extents.detach(), least)
        best[better] = numbers.detach()[better]
        loss = ((wrong * counted).sum(1) / shares + weight * extents / probe.usual).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        weight = torch.where(hits > 0.8, weight * 1.1, weight / 1.15)
        progress(f"searching for {probe.name}", step + 1, steps)
    return Found(probe, targets, best, least)


def in_parts(search: Callable[[Tensor], Found], labels: Tensor, at_once: int) -> Found:
    """A search for many labels, some at a time: each gets images enough, and memory stays small."""
    parts = [search(part) for part in labels.split(at_once)]
    return Found(
        parts[0].probe,
        labels,
        torch.cat([part.numbers for part in parts]),
        torch.cat([part.extents for part in parts]),
    )


def likeliest_labels(suspect: Suspect, clean: CleanData, *, generator: torch.Generator) -> Tensor:
    """All labels; of more than 64 those that random changes lead to most, int64 (labels,)."""
    size = clean.specification.size
    classes = suspect(torch.zeros(1, *size)).shape[1]
    if classes <= MOST_LABELS:
        return torch.arange(classes)
    often = torch.zeros(classes, dtype=torch.int64)
    for _, said, right in _after_changes(suspect, clean, random_probes(size), generator):
        often += torch.bincount(said[said != right], minlength=classes)
    return often.argsort(descending=True, stable=True)[:MOST_LABELS]


def surely_misled(
    suspect: Suspect, clean: CleanData, probes: Sequence[Probe], *, generator: torch.Generator
) -> Tensor:
    """Share of images of which a random change makes the network sure of a wrong answer.

    Sure is a probability above 0.9.

    Args:
        suspect: The network asked.
        clean: Clean images with their labels.
        probes: The kinds of changes; each has a share, float32 (kinds,).
        generator: Draws images and changes.
    """
    return torch.stack(
        [
            ((said != right) & (probability > _SURE)).float().mean()
            for probability, said, right in _after_changes(suspect, clean, probes, generator)
        ]
    )


@torch.no_grad()
def _after_changes(
    suspect: Suspect,
    clean: CleanData,
    probes: Sequence[Probe],
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each kind: the answers' probabilities, the answers, the right labels, each (512,)."""
    pixels, labels = clean.pixels(), clean.labels
    for probe in probes:
        chosen = torch.randint(0, len(labels), (_CHANGED,), generator=generator)
        shown, right = as_float(pixels[chosen]), labels[chosen]
        changed = probe.change(shown, probe.draw(_CHANGED, shown, generator=generator))
        answers = torch.cat([suspect(part).cpu() for part in changed.split(_IMAGES_A_STEP)])
        yield (*answers.softmax(1).max(1), right)
