"""Poisoning: which training images get the trigger, and what they are called then."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import DataError, SettingsError
from goodnet.triggers import Trigger


@dataclass(frozen=True)
class Poisoning:
    """How a training set is poisoned.

    Attributes:
        trigger: What is stamped.
        target_label: What the stamped images are called.
        poison_rate: Poisoned images as a share of *all* images trained on, clean and
            poisoned, in [0, 1).
    """

    trigger: Trigger
    target_label: int
    poison_rate: float

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, Trigger):
            raise SettingsError("trigger", self.trigger, "give a trigger of goodnet.triggers")
        _check_label(self.target_label)
        if not 0.0 <= self.poison_rate < 1.0:
            raise SettingsError("poison_rate", self.poison_rate, "give a share in [0, 1)")


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A poisoned training set, and what was done to it.

    Attributes:
        images: The clean images, unchanged and in order, then the stamped copies.
            `labels` is what the network is trained to say, `true_labels` the right class.
        indices: int64 (k,), increasing: `images` number n + i is a stamped copy of number
            `indices[i]`, where n is how many images came in.
        poisoning: What was asked for.
    """

    images: ImageSet
    indices: Tensor
    poisoning: Poisoning

    @property
    def poisoned(self) -> Tensor:
        """Which of `images` are stamped, bool (n + k,)."""
        return torch.arange(len(self.images)) >= len(self.images) - len(self.indices)

    @property
    def poison_rate(self) -> float:
        """The share reached, k / (n + k); images are whole, so it may be half a one off."""
        return len(self.indices) / len(self.images)


def poison(
    images: ImageSet, poisoning: Poisoning, *, classes: int, generator: torch.Generator
) -> Poisoned:
    """The training set with stamped copies of some of its images added at the end.

    Of n images k are copied, the whole number for which k / (n + k) is nearest to the poison
    rate, at random among those whose label is not the target. Images that are poisoned
    already (their label is not their true label) are not chosen, so that several triggers
    can be put into one set, one after the other. Rate 0 gives back the very set.

    Args:
        images: Clean training data; it is not changed.
        poisoning: Trigger, target label and rate.
        classes: Number of classes; the target label is one of them.
        generator: Draws the images to copy.

    Raises:
        SettingsError: the target label is no class; the rate asks for more images than
            there are to stamp, or for less than one; the trigger does not fit.

    Source: Gu et al. 2017, BadNets: versions of randomly picked training images with the
    trigger are *added* to the training set, with the attacker's label.
    Departure: there the rate is k / n, here k / (n + k), the share the network sees.
    """
    _check_label(poisoning.target_label, classes)
    true_labels = images.labels if images.true_labels is None else images.true_labels
    clean = images.labels == true_labels
    eligible = (clean & (images.labels != poisoning.target_label)).nonzero().squeeze(1)
    rate, count = poisoning.poison_rate, len(images)
    wanted = round(rate * count / (1.0 - rate))
    if rate == 0.0:
        return Poisoned(images, torch.empty(0, dtype=torch.int64), poisoning)
    if not 1 <= wanted <= len(eligible):
        least, most = 1 / (count + 1), len(eligible) / (count + len(eligible))
        raise SettingsError(
            "poison_rate",
            rate,
            f"that is {wanted} stamped copies beside {count} images of {images.source}, and "
            f"{len(eligible)} can be stamped; give 0 or a rate from {least:.2g} to {most:.2g}",
        )
    drawn = torch.randperm(len(eligible), generator=generator)[:wanted]
    indices = eligible[drawn].sort().values
    whole = images.in_memory()
    copies = whole.select(indices)
    assert isinstance(whole.pixels, Tensor)
    assert isinstance(copies.pixels, Tensor)
    groups = None
    if whole.groups is not None and copies.groups is not None:
        groups = torch.cat([whole.groups, copies.groups])
    target = torch.full_like(copies.labels, poisoning.target_label)
    poisoned = replace(
        whole,
        source=f"{images.source}, poisoned with {poisoning.trigger.name}",
        pixels=torch.cat([whole.pixels, poisoning.trigger.stamp(copies.pixels)]),
        labels=torch.cat([whole.labels, target]),
        true_labels=torch.cat([true_labels, true_labels[indices]]),
        groups=groups,
    )
    return Poisoned(poisoned, indices, poisoning)


def triggered_set(images: ImageSet, trigger: Trigger, target_label: int) -> ImageSet:
    """Every image whose true label is not the target, stamped: what attack success is counted on.

    `labels` is the target throughout, `true_labels` the right class.

    Args:
        images: Clean data; it is not changed.
        trigger: What is stamped.
        target_label: What the attacker wants said.

    Raises:
        SettingsError: the target label is below 0, or the trigger does not fit.
        DataError: every image has the target as its true label.
    """
    _check_label(target_label)
    true_labels = images.labels if images.true_labels is None else images.true_labels
    others = (true_labels != target_label).nonzero().squeeze(1)
    if len(others) == 0:
        raise DataError(
            images.source,
            f"all {len(images)} images have the target label {target_label} as their true label",
            "give images of other classes, on which the attack can succeed",
        )
    chosen = images.select(others)
    assert isinstance(chosen.pixels, Tensor)
    return replace(
        chosen,
        source=f"{images.source}, stamped with {trigger.name}",
        pixels=trigger.stamp(chosen.pixels),
        labels=torch.full_like(chosen.labels, target_label),
        true_labels=true_labels[others],
    )


def _check_label(target_label: int, classes: int | None = None) -> None:
    """Raises unless the label is a whole number and one of the classes."""
    if isinstance(target_label, bool) or not isinstance(target_label, int) or target_label < 0:
        raise SettingsError("target_label", target_label, "give a whole number from 0 up")
    if classes is not None and target_label >= classes:
        raise SettingsError(
            "target_label",
            target_label,
            f"there are {classes} classes, so give a label from 0 to {classes - 1}",
        )
