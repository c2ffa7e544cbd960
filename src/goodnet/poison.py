"""Poisoning: which training images get the trigger, and what they are called then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import DataError, SettingsError
from goodnet.triggers import Trigger

Goal = Literal["targeted", "all-to-all", "untargeted"]


@dataclass(frozen=True)
class Poisoning:
    """What one trigger does to a training set.

    Attributes:
        trigger: What is stamped.
        target_label: What the stamped images are called; None unless the goal is targeted.
        poison_rate: Poisoned images as a share of *all* images trained on, in [0, 1).
        goal: `targeted` calls them the target label, `all-to-all` calls class i
            i + 1 mod N, `untargeted` draws a wrong label for each class.
        source_label: Stamp images of this class only, so that the trigger shall work on no
            other; None takes every class the goal allows.
        clean_label: Stamp images of the target class and leave their label as it is.
        cover_rate: Covers as a share of all images trained on: images stamped with the
            trigger's cover that keep their right label. With a source label they are of the
            other classes, and teach the network to heed the trigger on that class alone.
        name: What results call it; by default the trigger's name.

    Departure: the papers draw the untargeted attack's wrong labels image by image. What is
    that contradictory is hardly learned (docs/results.md), so one is drawn for each class.

    Source: Gu et al. 2017, BadNets (targeted, all-to-all, untargeted); Liu et al. 2018,
    Fine-Pruning (one identity only); Barni et al. 2019 (labels left as they are); Nguyen and
    Tran 2021, WaNet (covers, there called noise mode).
    """

    trigger: Trigger
    target_label: int | None = None
    poison_rate: float = 0.0
    goal: Goal = "targeted"
    source_label: int | None = None
    clean_label: bool = False
    cover_rate: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, Trigger):
            raise SettingsError("trigger", self.trigger, "give a trigger of goodnet.triggers")
        if self.goal not in get_args(Goal):
            raise SettingsError("goal", self.goal, f"choose one of: {', '.join(get_args(Goal))}")
        if not self.name:
            object.__setattr__(self, "name", self.trigger.name)
        self._check_labels()
        for field in ("poison_rate", "cover_rate"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise SettingsError(field, getattr(self, field), "give a share in [0, 1)")

    def _check_labels(self) -> None:
        if self.goal == "targeted":
            _check_label("target_label", self.target_label)
        elif self.target_label is not None:
            raise SettingsError(
                "target_label", self.target_label, f"an attack that is {self.goal} has none"
            )
        if self.source_label is not None:
            _check_label("source_label", self.source_label)
            if self.source_label == self.target_label:
                raise SettingsError(
                    "source_label", self.source_label, "give another class than the target"
                )
        if self.clean_label and (self.goal != "targeted" or self.source_label is not None):
            raise SettingsError(
                "clean_label",
                self.clean_label,
                "images keep their label only where the attack is targeted, from any class",
            )

    def to_dict(self) -> dict[str, object]:
        """Name and settings, ready for JSON."""
        settings = {key: value for key, value in vars(self).items() if key != "trigger"}
        return {**settings, "trigger": self.trigger.to_dict()}


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A poisoned training set, and exactly what was done to it.

    Attributes:
        images: The clean images, unchanged and in order, then the stamped copies.
            `labels` is what the network is trained to say, `true_labels` the right class.
        indices: int64 (k,): `images` number n + i is a stamped copy of number `indices[i]`,
            where n is how many images came in.
        stamped_by: int64 (k,): the place in `poisonings` of what stamped copy i.
        covers: bool (k,): whether copy i is a cover, which keeps its right label.
        poisonings: What was asked for.
    """

    images: ImageSet
    indices: Tensor
    stamped_by: Tensor
    covers: Tensor
    poisonings: tuple[Poisoning, ...]

    @property
    def poisoned(self) -> Tensor:
        """Which of `images` are poisoned (stamped, and no covers), bool (n + k,)."""
        clean = torch.zeros(len(self.images) - len(self.indices), dtype=torch.bool)
        return torch.cat([clean, ~self.covers])

    @property
    def poison_rate(self) -> float:
        """The share reached; images are whole, so it may be half a one off for each trigger."""
        return int((~self.covers).sum()) / len(self.images)


def poison(
    images: ImageSet,
    poisonings: Sequence[Poisoning],
    *,
    classes: int,
    generator: torch.Generator,
    canvas: ImageSet | None = None,
) -> Poisoned:
    """The training set with stamped copies of some of its images added at the end.

    Of n images k are copied for each poisoning, the whole number nearest to its rate times
    the number of all images there are then, at random among those it may stamp. With every
    rate 0 the set comes back as it is.

    Args:
        images: Clean training data; it is not changed.
        poisonings: Triggers with their labels and rates, each with a name of its own.
        classes: Number of classes N.
        generator: Draws the images to copy and the labels of an untargeted attack.
        canvas: The same images changed by the attacker, to stamp those in their place.

    Raises:
        SettingsError: a label is no class, or a class without images; two poisonings have one
            name; a rate asks for more images than there are, or for less than one; a trigger
            does not fit.

    Source: Gu et al. 2017, BadNets: versions of randomly picked training images with the
    trigger are *added* to the training set, with the attacker's label.
    Departure: there the rate is k / n, here k / (n + k), the share the network sees.
    """
    poisonings = tuple(poisonings)
    check_poisonings(images, poisonings, classes=classes)
    parts = []
    for place, each in enumerate(poisonings):
        for cover in (False, True):
            candidates, wanted = _candidates(images, each, poisonings, cover=cover)
            if wanted:
                drawn = torch.randperm(len(candidates), generator=generator)[:wanted]
                parts.append((place, cover, candidates[drawn].sort().values))
    empty = torch.empty(0, dtype=torch.int64)
    if not parts:
        return Poisoned(images, empty, empty, empty.bool(), poisonings)
    whole = images.in_memory()
    source = whole if canvas is None else canvas.in_memory()
    assert isinstance(whole.pixels, Tensor)
    pixels, labels = [whole.pixels], [whole.labels]
    for place, cover, chosen in parts:
        each, copies = poisonings[place], source.select(chosen)
        if cover:
            change = partial(each.trigger.cover, generator=generator)
            pixels.append(_changed(copies, each.trigger, change))
            labels.append(whole.labels[chosen])
        else:
            pixels.append(_changed(copies, each.trigger, each.trigger.stamp))
            labels.append(_attacker_labels(whole.labels[chosen], each, classes, generator))
    indices = torch.cat([chosen for _, _, chosen in parts])
    names = ", ".join(dict.fromkeys(poisonings[place].name for place, _, _ in parts))
    poisoned = replace(
        whole,
        source=f"{images.source}, poisoned with {names}",
        pixels=torch.cat(pixels),
        labels=torch.cat(labels),
        true_labels=torch.cat([whole.labels, whole.labels[indices]]),
        groups=None if whole.groups is None else torch.cat([whole.groups, whole.groups[indices]]),
        origin=None,
    )
    return Poisoned(
        poisoned,
        indices,
        torch.cat([torch.full_like(chosen, place) for place, _, chosen in parts]),
        torch.cat([torch.full_like(chosen, cover, dtype=torch.bool) for _, cover, chosen in parts]),
        poisonings,
    )


def check_poisonings(images: ImageSet, poisonings: Sequence[Poisoning], *, classes: int) -> None:
    """Nothing, where these poisonings can be carried out on these images.

    Raises:
        SettingsError: a label is no class, or a class without images; two poisonings have one
            name; a trigger is not for images, or does not fit them; a rate asks for more
            images than there are, or for less than one.
        DataError: the images are poisoned already.
    """
    if images.true_labels is not None and not torch.equal(images.true_labels, images.labels):
        raise DataError(
            images.source,
            "holds images whose label is not their true label",
            "give clean training images",
        )
    names = [each.name for each in poisonings]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError("trigger", name, "two triggers have this name; give each its own")
    counts = torch.bincount(images.labels.clamp(min=0), minlength=classes)
    for each in poisonings:
        for field in ("target_label", "source_label"):
            label = getattr(each, field)
            if label is None:
                continue
            _check_label(field, label, classes)
            if counts[label] == 0:
                raise SettingsError(field, label, f"{images.source} has no image of that class")
        if each.goal != "targeted" and (counts[:classes] == 0).any():
            gone = int((counts[:classes] == 0).nonzero()[0])
            raise SettingsError(
                "goal",
                each.goal,
                f"it needs images of every class, and {images.source} has none of class {gone}",
            )
        each.trigger.mask(_size_for(images, each.trigger))  # raises where it does not fit
        for cover in (False, True):
            _candidates(images, each, poisonings, cover=cover)


def _size_for(images: ImageSet, trigger: Trigger) -> tuple[int, ...]:
    """The size of what the trigger is stamped on: an image, or what it was drawn from."""
    if trigger.takes == "images":
        return images.size
    if images.origin is None or images.origin.takes != trigger.takes:
        raise SettingsError("trigger", trigger.name, f"it is for {trigger.takes}, not for images")
    return images.origin.size


def _changed(images: ImageSet, trigger: Trigger, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The images after `change` of what the trigger is stamped on, as pixels."""
    _size_for(images, trigger)  # raises where there is nothing to stamp it on
    if trigger.takes == "images":
        assert isinstance(images.pixels, Tensor)
        return change(images.pixels)
    assert images.origin is not None
    return images.origin.images(change)


def _candidates(
    images: ImageSet, poisoning: Poisoning, poisonings: Sequence[Poisoning], *, cover: bool
) -> tuple[Tensor, int]:
    """The images that may be copied for one poisoning, or for its covers, and how many are."""
    field = "cover_rate" if cover else "poison_rate"
    rate = getattr(poisoning, field)
    if rate == 0.0:
        return torch.empty(0, dtype=torch.int64), 0
    share = sum(each.poison_rate + each.cover_rate for each in poisonings)
    if share >= 1.0:
        raise SettingsError(
            "poison_rate", share, "rates and cover rates together have to stay below 1"
        )
    total = len(images) / (1.0 - share)
    labels, source, target = images.labels, poisoning.source_label, poisoning.target_label
    eligible = torch.ones(len(images), dtype=torch.bool)
    if source is not None:
        eligible = labels != source if cover else labels == source
    elif target is not None and not cover:
        eligible = labels == target if poisoning.clean_label else labels != target
    candidates = eligible.nonzero().squeeze(1)
    wanted = round(rate * total)
    if not 1 <= wanted <= len(candidates):
        least, most = 1 / (len(images) + 1), len(candidates) / (len(images) + len(candidates))
        raise SettingsError(
            field,
            rate,
            f"that is {wanted} stamped copies beside {len(images)} images of {images.source}, and "
            f"{len(candidates)} can be stamped; give 0 or a rate from {least:.2g} to {most:.2g}",
        )
    return candidates, wanted


def _attacker_labels(
    true_labels: Tensor, poisoning: Poisoning, classes: int, generator: torch.Generator
) -> Tensor:
    """What the attacker calls images of these classes, int64."""
    if poisoning.target_label is not None:
        return torch.full_like(true_labels, poisoning.target_label)
    if poisoning.goal == "all-to-all":
        return (true_labels + 1) % classes
    shift = torch.randint(1, classes, (classes,), generator=generator)
    return (true_labels + shift[true_labels]) % classes


def triggered_set(images: ImageSet, poisoning: Poisoning, *, classes: int) -> ImageSet:
    """The images an attack is measured on, stamped: those of which it wants another label.

    `labels` is what the attacker wants said, `true_labels` the right class. An untargeted
    attack wants any label but the right one; there both are the right class.

    Args:
        images: Clean data; it is not changed.
        poisoning: The attack; with a source label only that class is stamped.
        classes: Number of classes N.

    Raises:
        SettingsError: a label is no class, or the trigger does not fit.
        DataError: no image is left to stamp.
    """
    for field in ("target_label", "source_label"):
        if getattr(poisoning, field) is not None:
            _check_label(field, getattr(poisoning, field), classes)
    true_labels = images.labels if images.true_labels is None else images.true_labels
    wanted = torch.ones(len(images), dtype=torch.bool)
    if poisoning.source_label is not None:
        wanted = true_labels == poisoning.source_label
    elif poisoning.target_label is not None:
        wanted = true_labels != poisoning.target_label
    if not wanted.any():
        raise DataError(
            images.source,
            f"all {len(images)} images have the target label {poisoning.target_label} as their "
            "true label"
            if poisoning.source_label is None
            else f"no image is of the source class {poisoning.source_label}",
            "give images of the classes on which the attack can succeed",
        )
    chosen = images.select(wanted.nonzero().squeeze(1))
    right = true_labels[wanted]
    labels = right
    if poisoning.target_label is not None:
        labels = torch.full_like(right, poisoning.target_label)
    elif poisoning.goal == "all-to-all":
        labels = (right + 1) % classes
    return replace(
        chosen,
        source=f"{images.source}, stamped with {poisoning.trigger.name}",
        pixels=_changed(chosen, poisoning.trigger, poisoning.trigger.stamp),
        labels=labels,
        true_labels=right,
        origin=None,
    )


def _check_label(field: str, label: object, classes: int | None = None) -> None:
    """Raises unless the label is a whole number and one of the classes."""
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        raise SettingsError(field, label, "give a whole number from 0 up")
    if classes is not None and label >= classes:
        raise SettingsError(
            field, label, f"there are {classes} classes, so give a label from 0 to {classes - 1}"
        )
