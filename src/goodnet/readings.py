"""Is the network being fed as it was trained? Clean accuracy under the likely readings.

A network that expects 0…255 and gets 0…1 answers without a complaint, and wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from goodnet.answers import device_of
from goodnet.data.images import ImageSet, as_float
from goodnet.errors import InputSpecificationError
from goodnet.formats.model import Model
from goodnet.formats.specification import ChannelOrder, InputSpecification
from goodnet.results import Rate

RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
LABEL_OFFSETS = (0, 1)
SAMPLE = 1000
# A reading is clearly better when chance alone would show it this rarely, and when it
# rights at least this share of the images.
_CHANCE = 1e-3
_GAIN = 0.05


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to feed the network, with the images it then labels rightly."""

    specification: InputSpecification
    right: Tensor

    @property
    def accuracy(self) -> Rate:
        """Clean accuracy under this reading."""
        return Rate.of(int(self.right.sum()), len(self.right))

    @property
    def name(self) -> str:
        """How it differs from the other readings, e.g. `0..255, RGB`."""
        shown = self.specification
        parts = [f"{shown.range[0]:g}..{shown.range[1]:g}"]
        if shown.mean or shown.std:
            parts.append("mean/std")
        if shown.size[0] == 3:
            parts.append(shown.channel_order)
        if shown.label_offset:
            parts.append(f"labels from {shown.label_offset}")
        return ", ".join(parts)

    def clearly_beats(self, other: Reading) -> bool:
        """Whether it labels more images rightly than chance would explain (McNemar)."""
        won = int((self.right & ~other.right).sum())
        lost = int((~self.right & other.right).sum())
        if won - lost < _GAIN * len(self.right) or won <= lost:
            return False
        return bool(binomtest(won, won + lost, 0.5, alternative="greater").pvalue < _CHANCE)


@torch.no_grad()
def likely_readings(
    network: nn.Module, given: InputSpecification, images: ImageSet, *, classes: int
) -> tuple[Reading, ...]:
    """The given reading first, then the other likely ones, each tried on clean images.

    Args:
        network: (batch, channel, height, width) to scores (batch, N).
        given: The reading to start from.
        images: Clean labelled images; up to 1,000 of them, evenly spread, are used.
        classes: N.
    """
    count = min(len(images), SAMPLE)
    sample = images.select(torch.arange(count) * len(images) // count)
    pixels = sample.pixels
    assert isinstance(pixels, Tensor)
    orders: tuple[ChannelOrder, ...] = ("RGB", "BGR") if given.size[0] == 3 else ("RGB",)
    tried = [given] + [
        replace(given, range=scale, channel_order=order, mean=(), std=(), label_offset=offset)
        for scale, order, offset in product(RANGES, orders, LABEL_OFFSETS)
    ]
    fed: dict[InputSpecification, Tensor] = {}
    readings: dict[InputSpecification, Reading] = {}
    network.eval()
    for specification in tried:
        same_input = replace(specification, label_offset=0)
        if same_input not in fed:
            fed[same_input] = torch.cat(
                [
                    network(specification.prepare(as_float(part)).to(device_of(network)))
                    .argmax(1)
                    .cpu()
                    for part in pixels.split(256)
                ]
            )
        labels = sample.labels - specification.label_offset
        if specification is given or (labels.min() >= 0 and labels.max() < classes):
            right = fed[same_input] == labels
            readings.setdefault(specification, Reading(specification, right))
    return tuple(readings.values())


def settle_reading(readings: tuple[Reading, ...], *, stated: bool, source: str) -> Reading:
    """The reading to use.

    Args:
        readings: From `likely_readings`, the given one first.
        stated: Whether the user or the file said so; otherwise the given reading is
            only a default, and one that is clearly right replaces it.
        source: The model file, for the message.

    Raises:
        InputSpecificationError: The stated reading is wrong and another clearly right.
    """
    given = readings[0]
    best = given
    for reading in readings[1:]:
        if reading.accuracy.count > best.accuracy.count and reading.clearly_beats(given):
            best = reading
    if best is not given and stated:
        left_out = given.specification.mean or given.specification.std
        raise InputSpecificationError(
            f"{source}: read as {given.name} it labels {_shown(given)} of the clean images "
            f"rightly, read as {best.name} {_shown(best)}; "
            f"give --input-range {best.specification.range[0]:g}..{best.specification.range[1]:g}"
            f" --channel-order {best.specification.channel_order}"
            f" --label-offset {best.specification.label_offset}"
            + " without --mean and --std"
            * bool(left_out)
        )
    return best


def with_likely_reading(model: Model, images: ImageSet) -> Model:
    """The model with the reading under which it works on these clean images.

    Raises:
        InputSpecificationError: Its own reading is wrong and another clearly right.
    """
    readings = likely_readings(model.network, model.specification, images, classes=model.classes)
    reading = settle_reading(readings, stated=model.specified, source=str(model.path))
    return replace(model, specification=reading.specification, specified=True)


def _shown(reading: Reading) -> str:
    return f"{reading.accuracy.count} of {reading.accuracy.n}"
