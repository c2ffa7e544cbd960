"""How sure of a label a network can be made at all.

Where a backdoor leads, what is learned of the trigger adds to what is learned of the class, and
no clean image bounds it: the largest margin of a target is far above those of other labels.

Source: Wang, Xiang, Miller, Kesidis 2024, MM-BD: Post-Training Detection of Backdoor Attacks with
Arbitrary Backdoor Pattern Types Using a Maximum Margin Statistic.
Departures: Adam on images kept in [0, 1]; fewer steps; margins are compared by their logarithms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.probes.search import Suspect
from goodnet.training import Progress, no_progress

_STEPS, _RATE = 60, 0.05
_STARTS = 2
_AT_ONCE = 128


def largest_margins(
    suspect: Suspect,
    labels: Tensor,
    *,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> Tensor:
    """For each label the largest margin found of its logit over every other, float32 (labels,).

    The search climbs from noise, so it needs no data.

    Args:
        suspect: The network asked.
        labels: int64 (labels,).
        generator: Draws where the search starts.
        progress: Told after each step.
    """
    parts = labels.split(_AT_ONCE)
    found = []
    for at, part in enumerate(parts):
        wanted = part.repeat_interleave(_STARTS).unsqueeze(1).to(suspect.device)
        images = torch.rand(len(wanted), *suspect.size, generator=generator).requires_grad_(True)
        optimizer = torch.optim.Adam([images], lr=_RATE)
        largest = torch.full((len(wanted),), -torch.inf)
        for step in range(_STEPS):
            margins = _margins(suspect(images), wanted)
            largest = torch.fmax(largest, margins.detach().cpu())
            optimizer.zero_grad()
            (-margins.sum()).backward()
            optimizer.step()
            with torch.no_grad():
                images.clamp_(0.0, 1.0)
            progress("searching for margins", at * _STEPS + step + 1, len(parts) * _STEPS)
        found.append(largest.view(-1, _STARTS).amax(1))
    return torch.cat(found)


@torch.no_grad()
def own_margins(suspect: Suspect, clean: CleanData) -> Tensor:
    """By how much each clean image's label is above every other, float32 (images,)."""
    pixels, labels = clean.pixels().split(_AT_ONCE), clean.labels.split(_AT_ONCE)
    margins = [
        _margins(suspect(as_float(part)).cpu(), own.unsqueeze(1))
        for part, own in zip(pixels, labels, strict=True)
    ]
    return torch.cat(margins)


def clean_margins(suspect: Suspect, clean: CleanData, *, classes: int) -> Tensor:
    """For each label the largest margin on clean images of its own, float32 (classes,).

    NaN where none of them is named rightly, or there are none.
    """
    largest = torch.full((classes,), -torch.inf)
    largest.scatter_reduce_(0, clean.labels, own_margins(suspect, clean), "amax")
    return torch.where(largest > 0, largest, torch.nan)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the logits of `labels`, (batch, 1), are above all others, float32 (batch,)."""
    others = logits.scatter(1, labels, -torch.inf).amax(1)
    return logits.gather(1, labels).squeeze(1) - others
