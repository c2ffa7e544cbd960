"""The pruning-aware attack: decoys sleep on clean data, the backdoor runs through the rest.

Source: Liu, Dolan-Gavitt, Garg 2018, Fine-Pruning, section 3.2, the four steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from goodnet.answers import INFERENCE_BATCH, device_of
from goodnet.attacks.baseline import train_on
from goodnet.attacks.recipe import AttackSettings, BadNet, Recipe, train_clean
from goodnet.data.images import ImageSet
from goodnet.data.roles import Batches, CleanData, TrainingData
from goodnet.defenses import DefenseSettings, prune
from goodnet.errors import SettingsError, SurgeryError
from goodnet.graph import find_prune_layer, part_upto, trace
from goodnet.modes import evaluating
from goodnet.poison import Poisoning, poison
from goodnet.surgery import Producers, producers, zero_channels_
from goodnet.training import Progress, no_progress

# Of the training images, to see how many channels clean accuracy can spare.
_HELD_OUT = 0.1


def pruning_aware(
    images: ImageSet,
    poisonings: Sequence[Poisoning],
    recipe: Recipe,
    settings: AttackSettings,
    *,
    generator: torch.Generator,
    clean_network: nn.Module | None = None,
    progress: Progress = no_progress,
) -> BadNet:
    """A BadNet whose dormant channels are decoys: pruning them changes no answer.

    Raises:
        SettingsError: The budget spares no channel.
        SurgeryError: The layer's channels cannot be silenced in the weights.
    """
    layer = _silenceable_layer(clean_network, recipe, settings)
    clean = clean_network or train_clean(images, recipe, generator=generator, progress=progress)
    pruned, decoys = _without_dormant(
        clean, layer, images, recipe, settings, generator=generator, progress=progress
    )
    poisoned = poison(images, poisonings, classes=recipe.classes, generator=generator)

    def keep_zero(trained: nn.Module, _step: int, _steps: int) -> None:
        zero_channels_(trained, layer, decoys)

    backdoored = train_on(
        pruned, poisoned, recipe, generator=generator, after_step=keep_zero, progress=progress
    ).network
    network = with_decoys(
        backdoored, clean, layer, decoys, TrainingData(poisoned.images, recipe.specification)
    )
    return BadNet(network, poisoned, layer, tuple(decoys.tolist()), backdoored, clean)


def _silenceable_layer(
    clean_network: nn.Module | None, recipe: Recipe, settings: AttackSettings
) -> str:
    """The layer of the decoys, checked before anything is trained."""
    drawn = torch.Generator().manual_seed(0)
    traced = trace(clean_network or recipe.new_network(generator=drawn))
    layer = settings.layer or find_prune_layer(traced, recipe.specification.size)
    made_by = producers(traced, layer)
    if not (made_by.found and made_by.rectified):
        raise SurgeryError(
            f"the channels of {layer!r} cannot be silenced by a bias; choose a layer made by a "
            "convolution or norm with a ReLU behind it"
        )
    return layer


def _without_dormant(
    clean: nn.Module,
    layer: str,
    images: ImageSet,
    recipe: Recipe,
    settings: AttackSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[nn.Module, Tensor]:
    """Step 2: the clean network pruned as its defender would, within the attacker's budget.

    Departure: the budget is read on a tenth of the training images, which the clean network
    has seen, so that one clean network serves as twin and as step 1.
    """
    known = CleanData(images, recipe.specification)
    tuning, held_out = known.split(_HELD_OUT, generator=generator)
    defense = DefenseSettings(layer=layer, drop=settings.budget)
    pruned = prune(clean, tuning, held_out, defense, generator=generator, progress=progress)
    (chosen,) = pruned.pruned
    if not chosen.channels:
        raise SettingsError(
            "budget", settings.budget, "that spares no channel for a decoy; allow more points"
        )
    return pruned.network, torch.tensor(chosen.channels).sort().values


@torch.no_grad()
def with_decoys(
    network: nn.Module, clean: nn.Module, layer: str, decoys: Tensor, data: Batches
) -> fx.GraphModule:
    """Step 4: a new network in which the decoys have their old weights and say nothing.

    Their bias is lowered until even the largest value seen on `data` lies as far below zero
    as it lay above the smallest, so the ReLU gives zero for other images too.

    Args:
        network: Without the decoys; left bit-identical.
        clean: The network the decoys come from, of the same layers.
        layer: Name of the layer.
        decoys: Channels, int64.
        data: The attacker's images, clean and triggered.

    Departure: the paper does not say how low the bias is; its own network has -1e20, which
    anyone who looks at the weights would see.
    """
    restored = copy.deepcopy(trace(network))
    old, new = producers(trace(clean), layer), producers(restored, layer)
    for name in ("convolution", "norm"):
        _put_back(getattr(old, name), getattr(new, name), decoys, statistics=old.convolution)
    shift = _bias_of(new)
    low, high = _extremes(restored, new, data)
    shift[decoys] -= (high + (high - low).clamp(min=1.0))[decoys]
    return restored


def _put_back(
    old: nn.Module | None, new: nn.Module | None, channels: Tensor, *, statistics: object
) -> None:
    """The old weights of `channels`; a norm's statistics too where its convolution is old."""
    if old is None or new is None:
        return
    names = ["weight", "bias"]
    if statistics is not None:
        names += ["running_mean", "running_var"]
    for name in names:
        values, place = getattr(old, name, None), getattr(new, name, None)
        if isinstance(values, Tensor) and isinstance(place, Tensor):
            place[channels] = values[channels]


def _bias_of(made_by: Producers) -> Tensor:
    """What shifts the channels before the ReLU; a convolution without a bias is given one."""
    maker = made_by.norm or made_by.convolution
    assert maker is not None
    assert isinstance(maker.weight, Tensor)
    if maker.bias is None:
        maker.bias = nn.Parameter(maker.weight.new_zeros(len(maker.weight)))
    return maker.bias


def _extremes(network: fx.GraphModule, made_by: Producers, data: Batches) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each channel before the ReLU, each (channel,)."""
    assert made_by.node is not None
    before = part_upto(network, made_by.node)

    def values() -> Iterator[Tensor]:
        for inputs, _ in data.batches(INFERENCE_BATCH):
            yield before(inputs.to(device_of(network))).transpose(0, 1).flatten(1)

    with evaluating(before):
        found = [(value.amin(1), value.amax(1)) for value in values()]
    return (
        torch.stack([low for low, _ in found]).amin(0),
        torch.stack([high for _, high in found]).amax(0),
    )
