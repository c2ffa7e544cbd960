"""The label-consistent attacker: every poisoned image is labelled rightly.

A trigger on images of the target class that keep their label teaches little, as long as the
class can be told by what it shows. So the attacker first makes these images hard to tell, by
a small change that misleads a clean network, and then stamps them: the trigger is what is
left to learn from.

Source: Turner, Tsipras, Madry 2019, Label-Consistent Backdoor Attacks, the adversarial
variant.
Departure: theirs mislead a network hardened against such changes; here it is the clean twin,
which the attacker has anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import device_of
from goodnet.attacks.baseline import train_on
from goodnet.attacks.recipe import AttackSettings, BadNet, Recipe, train_clean
from goodnet.data.images import ImageSet, as_float
from goodnet.errors import SettingsError
from goodnet.modes import evaluating
from goodnet.poison import Poisoning, poison
from goodnet.training import Progress, logits_network, no_progress

_STEPS = 20
_BATCH = 128


def label_consistent(
    images: ImageSet,
    poisonings: Sequence[Poisoning],
    recipe: Recipe,
    settings: AttackSettings,
    *,
    generator: torch.Generator,
    clean_network: nn.Module | None = None,
    progress: Progress = no_progress,
) -> BadNet:
    """A BadNet trained on rightly labelled images alone.

    Raises:
        SettingsError: A poisoning changes labels.
    """
    for each in poisonings:
        if not each.clean_label:
            raise SettingsError("clean_label", False, "this attack leaves every label as it is")
        if each.trigger.takes != "images":
            raise SettingsError(
                "trigger", each.trigger.name, "this attack changes images and stamps those"
            )
    clean = clean_network or train_clean(images, recipe, generator=generator, progress=progress)
    canvas = misleading(
        images,
        {each.target_label for each in poisonings if each.target_label is not None},
        clean,
        recipe,
        limit=settings.perturbation,
    )
    network = recipe.new_network(generator=generator)
    poisoned = poison(
        images, poisonings, classes=recipe.classes, generator=generator, canvas=canvas
    )
    badnet = train_on(network, poisoned, recipe, generator=generator, progress=progress)
    return replace(badnet, clean_network=clean)


def misleading(
    images: ImageSet, labels: set[int], network: nn.Module, recipe: Recipe, *, limit: float
) -> ImageSet:
    """The images, those of the given labels changed so that the network misses their class.

    Args:
        images: Clean images; not changed.
        labels: The classes to change.
        network: A clean network.
        recipe: How it wants its images.
        limit: Largest change of a pixel, in [0, 1].

    Source: Kurakin, Goodfellow, Bengio 2017, the basic iterative method: steps along the sign
    of the cross-entropy's gradient, kept within the limit.
    """
    whole = images.in_memory()
    assert isinstance(whole.pixels, Tensor)
    pixels = whole.pixels.clone()
    chosen = torch.isin(whole.labels, torch.tensor(sorted(labels))).nonzero().squeeze(1)
    # Behind a softmax the loss of a sure answer has no slope.
    logits_of = logits_network(network)
    with evaluating(network):
        for part in chosen.split(_BATCH):
            start = as_float(pixels[part])
            changed = _ascend(logits_of, start, whole.labels[part], recipe, limit)
            pixels[part] = (
                (changed * 255.0).round().to(torch.uint8)
                if pixels.dtype == torch.uint8
                else changed
            )
    # They are no longer what their origin would give.
    return replace(whole, pixels=pixels, origin=None)


def _ascend(
    network: nn.Module, start: Tensor, right: Tensor, recipe: Recipe, limit: float
) -> Tensor:
    """Images within `limit` of `start` on which the loss is high, float32 in [0, 1]."""
    device = device_of(network)
    changed = start.clone()
    for _ in range(_STEPS):
        changed.requires_grad_(True)
        scores = network(recipe.specification.prepare(changed).to(device))
        loss = F.cross_entropy(scores, right.to(device))
        (slope,) = torch.autograd.grad(loss, changed)
        stepped = changed.detach() + 2.5 * limit / _STEPS * slope.sign()
        changed = torch.minimum(torch.maximum(stepped, start - limit), start + limit).clamp(0, 1)
    return changed
