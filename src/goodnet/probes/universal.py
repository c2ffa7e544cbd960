"""Random changes that work as triggers do: one wrong answer for images of many kinds.

Where a change spoils an image the network guesses, and what it guesses depends on the image. A
trigger gives every image the same label; so does much that merely resembles it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.probes.probe import Probe
from goodnet.probes.search import Suspect
from goodnet.probes.shifts import Shifts
from goodnet.training import Progress, no_progress

TRIED = 500
"""Changes of each kind."""
_SHOWN_ON = 16
_UNIVERSAL = 0.4
"""Share of the images a change is shown on that must get one wrong label."""
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Universal:
    """The changes of one kind that give many images one wrong label.

    Attributes:
        probe: The kind of change.
        targets: The wrong label of each, int64 (count,).
        numbers: The changes, float32 (count, length).
        shares: Of the images each was shown on, those that got the label, float32 (count,).
        tried: How many changes were drawn.
        led: How many images all that were drawn gave each label wrongly, int64 (classes,).
    """

    probe: Probe
    targets: Tensor
    numbers: Tensor
    shares: Tensor
    tried: int
    led: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def counts(self, classes: int) -> Tensor:
        """How many of the changes lead to each label, int64 (classes,)."""
        return torch.bincount(self.targets, minlength=classes)

    def leading_to(self, labels: Tensor) -> Universal:
        """Those that lead to one of `labels`, bool (classes,)."""
        chosen = labels[self.targets]
        return replace(
            self,
            targets=self.targets[chosen],
            numbers=self.numbers[chosen],
            shares=self.shares[chosen],
        )


@torch.no_grad()
def universal_changes(
    suspect: Suspect,
    clean: CleanData,
    probes: Sequence[Probe],
    *,
    tried: int = TRIED,
    shifts: Shifts | None = None,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> tuple[Universal, ...]:
    """Of random changes those that give many images one wrong label, kind by kind.

    Args:
        suspect: The network asked.
        clean: Clean images with their labels.
        probes: The kinds of changes.
        tried: Changes of each kind, each shown on 16 images.
        shifts: Shown all of these, if given.
        generator: Draws images and changes.
        progress: Told after each kind.
    """
    found = []
    for kind, probe in enumerate(probes, start=1):
        found.append(_of_kind(suspect, clean, probe, tried, shifts, generator))
        progress("trying random changes", kind, len(probes))
    return tuple(found)


def _of_kind(
    suspect: Suspect,
    clean: CleanData,
    probe: Probe,
    tried: int,
    shifts: Shifts | None,
    generator: torch.Generator,
) -> Universal:
    pixels, labels = clean.pixels(), clean.labels
    numbers = probe.draw(tried, as_float(pixels), generator=generator)
    targets, shares, led = [], [], []
    for part in numbers.split(_BATCH // _SHOWN_ON):
        chosen = torch.randint(len(labels), (len(part), _SHOWN_ON), generator=generator)
        changed = probe.change(
            as_float(pixels[chosen.flatten()]), part.repeat_interleave(_SHOWN_ON, 0)
        )
        logits = suspect(changed).cpu()
        said = logits.argmax(1).view(chosen.shape)
        wrong = said != labels[chosen]
        if shifts is not None:
            shifts.add(changed, said.flatten(), wrong.flatten())
        votes = torch.zeros(len(part), logits.shape[1]).scatter_add_(1, said, wrong.float())
        count, target = votes.max(1)
        led.append(votes.sum(0))
        targets.append(target)
        shares.append(count / _SHOWN_ON)
    target, share = torch.cat(targets), torch.cat(shares)
    chosen = share >= _UNIVERSAL
    every = torch.stack(led).sum(0).long()
    return Universal(probe, target[chosen], numbers[chosen], share[chosen], tried, every)
