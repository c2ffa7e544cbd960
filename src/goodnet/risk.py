"""Remaining risk: what a defender can guess of the attack success that only an attacker knows.

Changes that mislead B are made up on held-out clean images. A trigger that B′ still follows
would show among them as a change after which B′ gives the very wrong answer that B gives.
It is an estimate: a trigger unlike all that were tried stays unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, require_clean
from goodnet.probes import (
    Found,
    Probe,
    SearchedProbe,
    Suspect,
    least_changes,
    random_probes,
    searched_probes,
)
from goodnet.results import Rate, RiskResult, RiskRow
from goodnet.training import Precision, Progress, no_progress

_MOST_IMAGES = 1024
_BATCH = 128
_FEW_CLASSES = 8
_MOST_LABELS = 4
_ANY = 2
"""Starts of the search for changes that make answers wrong in any way."""


def remaining_risk(
    badnet: nn.Module,
    repaired: nn.Module,
    held_out: CleanData,
    *,
    classes: int,
    generator: torch.Generator,
    precision: Precision = "float32",
    progress: Progress = no_progress,
) -> RiskResult:
    """How often B′ still gives the wrong answer that a made-up change makes B give.

    Random changes are drawn anew for each image; the rows tell what became of them. A search
    reconstructs triggers on B: small changes that mislead it on most images, to one of the
    labels that random changes led to most, or in any way. Each is made as large as a small
    change may be and put on every image; the largest share on which B′ follows one is the
    remaining risk. Where none is found the risk is not known (n = 0). Only images that B
    answers rightly count and, where the trigger has a label, none of that label.

    It compares repairs of one network and is no scan: clean networks too have small changes
    that mislead them, and light tuning keeps those.

    Args:
        badnet: B, left as it is.
        repaired: B′, left as it is.
        held_out: Clean images that B′ was not tuned on.
        classes: N.
        generator: Draws the changes; another state than the defense had.
        precision: Of the numbers inside the networks.
        progress: Told of each search.

    Raises:
        TypeError: The data are not clean data.

    Sources: Wang et al. 2019, Neural Cleanse (reconstructed triggers, labels).
    """
    data = require_clean(held_out)
    size = data.specification.size
    pair = _Pair(badnet, repaired, data, precision, generator)
    led_to = torch.zeros(classes, dtype=torch.int64)
    rows = []
    for probe in (*random_probes(size), *unseen_probes(size)):
        row, wrong = _tried_at_random(pair, probe, generator=generator)
        rows.append(row)
        led_to += torch.bincount(wrong, minlength=classes)
    likely = torch.arange(classes)
    if classes > _FEW_CLASSES:
        likely = led_to.argsort(descending=True, stable=True)[:_MOST_LABELS]
    targets = torch.cat([likely, torch.full((_ANY,), -1)])
    for kind in searched_probes(size):
        found = least_changes(
            pair.before, data, kind, targets, generator=generator, progress=progress
        )
        rows += _reconstructed(pair, found.small())
    searched = [row.remains for row in rows if row.source == "searched"]
    most = max(searched, key=lambda rate: rate.value, default=Rate.of(0, 0))
    return RiskResult(remaining_risk=most, rows=tuple(rows))


class _Pair:
    """B and B′, and the held-out images that B answers rightly."""

    def __init__(
        self,
        badnet: nn.Module,
        repaired: nn.Module,
        data: CleanData,
        precision: Precision,
        generator: torch.Generator,
    ) -> None:
        self.before = Suspect(badnet, data.specification, precision)
        self._after = Suspect(repaired, data.specification, precision)
        chosen = torch.randperm(len(data), generator=generator)[:_MOST_IMAGES].sort().values
        images, labels = as_float(data.pixels()[chosen]), data.labels[chosen]
        right = torch.cat([self.before(part).argmax(1).cpu() for part in images.split(_BATCH)])
        self.images, self.labels = images[right == labels], labels[right == labels]

    @torch.no_grad()
    def answers(self, probe: Probe, numbers: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The labels B and B′ give the changed images, int64 (n,) each."""
        if not len(images):
            empty = torch.empty(0, dtype=torch.int64)
            return empty, empty
        said: tuple[list[Tensor], list[Tensor]] = ([], [])
        for part, own in zip(images.split(_BATCH), numbers.split(_BATCH), strict=True):
            changed = probe.change(part, own)
            for network, labels in zip((self.before, self._after), said, strict=True):
                labels.append(network(changed).argmax(1).cpu())
        before, after = map(torch.cat, said)
        return before, after


def _tried_at_random(
    pair: _Pair,
    probe: Probe,
    *,
    generator: torch.Generator,
) -> tuple[RiskRow, Tensor]:
    """What a random change of each image does, and the wrong labels B gave."""
    count = len(pair.labels)
    numbers = torch.empty(0, probe.length)
    if count:
        numbers = probe.draw(count, pair.images, generator=generator)
    before, after = pair.answers(probe, numbers, pair.images)
    misled = before != pair.labels
    remains = misled & (after == before)
    source: Literal["random", "unseen"] = "unseen" if isinstance(probe, UNSEEN) else "random"
    row = RiskRow(probe.name, source, misled=_rate(misled), remains=_rate(remains))
    return row, before[misled]


def _reconstructed(pair: _Pair, found: Found) -> list[RiskRow]:
    """What each change found does when it is put on every image."""
    numbers = _of_size(found.probe, found.numbers, found.probe.small)
    rows = []
    for target, own, extent in zip(
        found.targets.tolist(), numbers, found.extents.tolist(), strict=True
    ):
        others = pair.labels != target
        images, labels = pair.images[others], pair.labels[others]
        before, after = pair.answers(found.probe, own.expand(len(images), -1), images)
        misled = before != labels if target < 0 else before == target
        rows.append(
            RiskRow(
                found.probe.name,
                "searched",
                target=None if target < 0 else target,
                extent=extent,
                misled=_rate(misled),
                remains=_rate(misled & (after == before)),
            )
        )
    return rows


def _of_size(probe: SearchedProbe, numbers: Tensor, size: float) -> Tensor:
    """The changes made larger or smaller until their extent is `size`, by bisection."""
    low, high = torch.full((len(numbers),), -4.0), torch.full((len(numbers),), 4.0)
    for _ in range(30):
        middle = (low + high) / 2
        larger = probe.extent(probe.stronger(numbers, middle.exp())) > size
        low, high = torch.where(larger, low, middle), torch.where(larger, middle, high)
    return probe.stronger(numbers, low.exp())


def _rate(hits: Tensor) -> Rate:
    return Rate.of(int(hits.sum()), len(hits))


# Kinds that no defense tunes on, so that none is measured by what it was taught.


@final
@dataclass(frozen=True)
class Corners(Probe):
    """A soft-edged blob of one colour mixed into a corner."""

    name: ClassVar[str] = "corners"

    @property
    def length(self) -> int:  # noqa: D102
        return 4 + self.size[0]

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        _, height, width = self.size
        rows = torch.linspace(0.0, 1.0, height, device=images.device).view(1, -1, 1)
        columns = torch.linspace(0.0, 1.0, width, device=images.device)
        down, right, reach, strength = (each.view(-1, 1, 1) for each in numbers[:, :4].unbind(1))
        away = (rows - down.round()).square() + (columns - right.round()).square()
        share = (-away / (0.1 + 0.25 * reach).square()).exp() * (0.4 + 0.6 * strength)
        share = share.unsqueeze(1)
        return images * (1.0 - share) + numbers[:, 4:, None, None] * share


@final
@dataclass(frozen=True)
class Crops(Probe):
    """A square cut from the middle of another clean image, laid over the image."""

    name: ClassVar[str] = "crops"

    _SIDE: ClassVar[int] = 12

    @property
    def length(self) -> int:  # noqa: D102
        return 3 + self.size[0] * self._SIDE**2

    def draw(self, count: int, _images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: D102
        chosen = torch.randint(0, len(_images), (count,), generator=generator)
        _, height, width = self.size
        middle = _images[
            chosen, :, height // 4 : height - height // 4, width // 4 : width - width // 4
        ]
        crop = F.interpolate(middle, (self._SIDE, self._SIDE), mode="area")
        return torch.cat([torch.rand(count, 3, generator=generator), crop.flatten(1)], 1)

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        crop = numbers[:, 3:].view(-1, self.size[0], self._SIDE, self._SIDE)
        crop = F.interpolate(crop, self.size[1:], mode="bilinear", align_corners=False)
        # Seen from the image: where the crop, stretched over all of it, is to be sampled.
        least = 1.0 / max(1, min(self.size[1:]) - 1)  # of a pixel
        side = (0.15 + 0.25 * numbers[:, 0]).clamp(min=least).view(-1, 1, 1)
        rows = torch.linspace(0.0, 1.0, self.size[1], device=images.device).view(1, -1, 1)
        columns = torch.linspace(0.0, 1.0, self.size[2], device=images.device)
        down = (rows - numbers[:, 1].view(-1, 1, 1) * (1.0 - side)) / side
        right = (columns - numbers[:, 2].view(-1, 1, 1) * (1.0 - side)) / side
        down, right = torch.broadcast_tensors(down, right)
        inside = (down >= 0.0) & (down <= 1.0) & (right >= 0.0) & (right <= 1.0)
        places = torch.stack([2.0 * right - 1.0, 2.0 * down - 1.0], 3)
        laid = F.grid_sample(crop, places, padding_mode="border", align_corners=True)
        return torch.where(inside.unsqueeze(1), laid, images)


@final
@dataclass(frozen=True)
class Casts(Probe):
    """Another contrast and tint: each colour by a factor and a shift."""

    name: ClassVar[str] = "casts"

    @property
    def length(self) -> int:  # noqa: D102
        return 2 * self.size[0]

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        colours = self.size[0]
        factors, shifts = numbers[:, :colours, None, None], numbers[:, colours:, None, None]
        return (images * (0.7 + 0.6 * factors) + 0.3 * (shifts - 0.5)).clamp(0.0, 1.0)


@final
@dataclass(frozen=True)
class Combs(Probe):
    """Every few rows or columns lighter or darker by a step."""

    name: ClassVar[str] = "combs"

    @property
    def length(self) -> int:  # noqa: D102
        return 4

    def change(self, images: Tensor, numbers: Tensor) -> Tensor:  # noqa: D102
        _, height, width = self.size
        gap = (2.0 + 4.0 * numbers[:, 0]).floor().view(-1, 1, 1)
        start = (numbers[:, 1].view(-1, 1, 1) * gap).floor()
        across = numbers[:, 2].view(-1, 1, 1) < 0.5
        place = torch.where(
            across,
            torch.arange(height, device=images.device).view(1, -1, 1),
            torch.arange(width, device=images.device).view(1, 1, -1),
        )
        teeth = ((place - start) % gap == 0).unsqueeze(1)
        step = 0.5 * (numbers[:, 3] - 0.5).view(-1, 1, 1, 1)
        step = step + 0.1 * torch.where(step < 0.0, -1.0, 1.0)
        return (images + teeth * step).clamp(0.0, 1.0)


UNSEEN: tuple[type[Probe], ...] = (Corners, Crops, Casts, Combs)


def unseen_probes(size: tuple[int, int, int]) -> tuple[Probe, ...]:
    """The kinds that no defense tunes on, for images of `size`."""
    return tuple(kind(size) for kind in UNSEEN)
