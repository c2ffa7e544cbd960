"""The activation-matching attacker: no channel sleeps on clean images and wakes on triggered.

Pruning takes the channels that are dormant on clean data. This attacker adds to the loss the
gap between the mean activations on clean and on triggered images, channel by channel, at the
layer a defender prunes, so that the backdoor runs through channels clean images use.

Source: the attack on pruning that Liu et al. 2018, section 3.2, describe in principle; the
penalty is that of adversarial embedding (Tan and Shokri 2020, Bypassing Backdoor Detection),
with a distance of means in the place of their discriminator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.attacks.baseline import train_on
from goodnet.attacks.recipe import AttackSettings, BadNet, Recipe
from goodnet.data.images import ImageSet
from goodnet.errors import LayerNotFoundError
from goodnet.graph import check_has_channels, find_prune_layer, near_names, trace
from goodnet.poison import Poisoning, poison
from goodnet.training import Loss, Progress, no_progress


def activation_matching(
    images: ImageSet,
    poisonings: Sequence[Poisoning],
    recipe: Recipe,
    settings: AttackSettings,
    *,
    generator: torch.Generator,
    clean_network: nn.Module | None = None,  # noqa: ARG001
    progress: Progress = no_progress,
) -> BadNet:
    """A BadNet whose channels are about as active on triggered images as on clean ones.

    Raises:
        LayerNotFoundError: No module of the network is the layer.
        SettingsError: The layer has no channels.
    """
    network = recipe.new_network(generator=generator)
    layer = settings.layer or find_prune_layer(trace(network), recipe.specification.size)
    names = tuple(name for name, _ in network.named_modules() if name)
    if layer not in names:
        raise LayerNotFoundError(layer, near_names(layer, names))
    check_has_channels(trace(network), layer, recipe.specification.size)
    poisoned = poison(images, poisonings, classes=recipe.classes, generator=generator)
    return train_on(
        network,
        poisoned,
        recipe,
        generator=generator,
        loss=_matching(layer, poisoned.poisoned, settings.matching),
        layer=layer,
        progress=progress,
    )


def _matching(layer: str, stamped: Tensor, weight: float) -> Loss:
    """Cross-entropy plus `weight` times the gap; `stamped` tells which images are poisoned."""

    def loss(network: nn.Module, inputs: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output: seen.append(output)
        )
        try:
            logits = network(inputs)
        finally:
            hook.remove()
        triggered = stamped[chosen].to(inputs.device)
        wrong = F.cross_entropy(logits.float(), labels)
        if not triggered.any() or triggered.all():
            return wrong
        return wrong + weight * activation_gap(seen[0].float(), triggered)

    return loss


def activation_gap(activations: Tensor, triggered: Tensor) -> Tensor:
    """Squared distance of the channel means on triggered and on clean images, a scalar.

    In units of the clean means' squared length, so that scaling a layer changes nothing.

    Args:
        activations: (batch, channel, height, width).
        triggered: Which of the batch are, bool (batch,); some and not all.
    """
    means = activations.flatten(2).mean(2)
    clean, stamped = means[~triggered].mean(0), means[triggered].mean(0)
    return (stamped - clean).square().sum() / clean.square().sum().clamp(min=1e-12)
