"""Adversarial neuron pruning: the channels that adversarial changes of the network speak through.

A small adversarial change of each channel's scale and shift makes a BadNet, and hardly a clean
network, say the target label, even on clean images. Masks that are learned to withstand such a
change go to zero where the backdoor sits; the channels are pruned by their masks.

Source: Wu, Wang 2021, Adversarial Neuron Pruning Purifies Backdoored Deep Models: minimise
alpha L(m) + (1 - alpha) max L(m + delta, xi) over masks m in [0, 1].
Departure: the inner step starts at no change; where to stop is read on held-out images; in a
network without norms the masks stand behind its ReLUs and there is no shift to change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from goodnet.answers import accuracy_of, device_of
from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.errors import SurgeryError
from goodnet.graph import layer_node, layer_of, module_of, node_shapes, trace, without_softmax
from goodnet.modes import evaluating
from goodnet.results import LayerChannels, Rate
from goodnet.surgery import prune_channels
from goodnet.training import Progress

_STEPS = 300
_BATCH = 128
# Of the masks, as in the source; masks start at 1.
_RATE, _MOMENTUM = 0.2, 0.9
_THRESHOLDS = tuple(place / 20 for place in range(20))
_NOTHING = -1.0
"""A threshold below every mask."""


@dataclass(frozen=True)
class _Site:
    """Channels that are masked: of a norm, or of a ReLU in a network without norms.

    Attributes:
        layer: What ends in it.
        module: Its own name, which of a ReLU inside a Keras layer is another.
        channels: How many it has.
    """

    layer: str
    module: str
    channels: int


def anp(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network without the channels of the smallest masks, as many as the drop allows.

    Raises:
        NotTraceableError: The network's graph cannot be read.
        SurgeryError: It has neither a norm nor a ReLU of feature maps.
    """
    require_clean(held_out)
    traced = trace(copy.deepcopy(network)).requires_grad_(False)
    sites = _sites(traced, require_clean(tuning).specification.size)
    masks = _learn_masks(
        without_softmax(traced), sites, tuning, settings, generator=generator, progress=progress
    )
    before = accuracy_of(traced, held_out)
    chosen, after = _NOTHING, before
    for threshold in _THRESHOLDS:
        hard = [(mask > threshold).to(mask.dtype) for mask in masks]
        with _masked(traced, sites, hard):
            accuracy = accuracy_of(traced, held_out)
        if 100 * (before.value - accuracy.value) > settings.drop + 1e-9:
            break
        chosen, after = threshold, accuracy
    pruned = tuple(
        LayerChannels(site.layer, tuple((mask <= chosen).nonzero().flatten().tolist()))
        for site, mask in zip(sites, masks, strict=True)
        if (mask <= chosen).any()
    )
    return Repaired(_without(network, pruned), stopped=_told(chosen, before, after), pruned=pruned)


def _told(threshold: float, before: Rate, after: Rate) -> str:
    if threshold == _NOTHING:
        return "no channel was pruned: those with a mask of 0 alone would cost too much"
    return (
        f"channels with a mask of at most {threshold:g} were pruned; held-out accuracy went from "
        f"{before.value:.1%} to {after.value:.1%}, and a higher threshold would cost too much"
    )


def _sites(network: fx.GraphModule, size: tuple[int, int, int]) -> list[_Site]:
    """The layers to mask, each called once."""
    shapes = node_shapes(network, size)
    for kind in (nn.BatchNorm2d, nn.ReLU):
        nodes = [
            node
            for node in network.graph.nodes
            if isinstance(module := module_of(network, node), kind)
            and getattr(module, "affine", True)
            and len(shapes.get(node, ())) == 3
        ]
        calls = [str(node.target) for node in nodes]
        found = [
            _Site(layer_of(node), str(node.target), shapes[node][0])
            for node in nodes
            if calls.count(str(node.target)) == 1
            and layer_node(network, layer_of(node)) is node
            # A norm is found again by its layer's name.
            and (kind is nn.ReLU or layer_of(node) == str(node.target))
        ]
        if found:
            return found
    raise SurgeryError(
        "the network has neither a norm nor a ReLU of feature maps at the end of a layer; "
        "choose another method"
    )


def _learn_masks(
    network: fx.GraphModule,
    sites: list[_Site],
    tuning: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> list[Tensor]:
    """A mask in [0, 1] for each channel of each site, float32 (channel,)."""
    device = device_of(network)
    pixels, labels = tuning.pixels(), tuning.labels
    masks = [torch.ones(site.channels, device=device, requires_grad=True) for site in sites]
    optimizer = torch.optim.SGD(masks, _RATE, momentum=_MOMENTUM)
    share = settings.anp_trade_off
    with evaluating(network):
        for step in range(_STEPS):
            drawn = torch.randint(len(tuning), (min(_BATCH, len(tuning)),), generator=generator)
            inputs = tuning.specification.prepare(as_float(pixels[drawn])).to(device)
            right = labels[drawn].to(device)

            def loss(
                scales: list[Tensor],
                shifts: list[Tensor] | None = None,
                inputs: Tensor = inputs,
                right: Tensor = right,
            ) -> Tensor:
                with _masked(network, sites, scales, shifts):
                    return F.cross_entropy(network(inputs), right)

            scale_changes, shift_changes = _worst_changes(loss, masks, settings.anp_perturbation)
            changed = [mask + change for mask, change in zip(masks, scale_changes, strict=True)]
            optimizer.zero_grad()
            total = share * loss(masks) + (1 - share) * loss(changed, shift_changes)
            total.backward()
            optimizer.step()
            with torch.no_grad():
                for mask in masks:
                    mask.clamp_(0.0, 1.0)
            progress("learning masks", step + 1, _STEPS)
    return [mask.detach().cpu() for mask in masks]


def _worst_changes(
    loss: Callable[[list[Tensor], list[Tensor]], Tensor], masks: list[Tensor], size: float
) -> tuple[list[Tensor], list[Tensor]]:
    """One sign step of `size` up the loss, in the scale and in the shift of each channel."""
    scales = [torch.zeros_like(mask).requires_grad_(True) for mask in masks]
    shifts = [torch.zeros_like(mask).requires_grad_(True) for mask in masks]
    changed = [mask.detach() + scale for mask, scale in zip(masks, scales, strict=True)]
    # A ReLU has no shift, so its slope is none.
    slopes = torch.autograd.grad(
        loss(changed, shifts), [*scales, *shifts], allow_unused=True, materialize_grads=True
    )
    steps = [size * slope.sign() for slope in slopes]
    return steps[: len(masks)], steps[len(masks) :]


@contextmanager
def _masked(
    network: fx.GraphModule,
    sites: list[_Site],
    scales: Sequence[Tensor],
    shifts: Sequence[Tensor] | None = None,
) -> Iterator[None]:
    """The network with each site's channels scaled and its shift changed, for a while.

    A norm's output g x + b becomes s g x + (1 + d) b; a ReLU's y becomes s y.
    """

    def change(place: int) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def changed(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            scale = scales[place].to(output.device).view(1, -1, 1, 1)
            if not isinstance(module, nn.BatchNorm2d):
                return scale * output
            shift = module.bias.view(1, -1, 1, 1)
            kept = shift if shifts is None else (1 + shifts[place].view(1, -1, 1, 1)) * shift
            return scale * (output - shift) + kept

        return changed

    hooks = [
        network.get_submodule(site.module).register_forward_hook(change(place))
        for place, site in enumerate(sites)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _without(network: nn.Module, pruned: tuple[LayerChannels, ...]) -> nn.Module:
    """A new network in which the masks are zero: a norm keeps its shift, as in the source."""
    repaired = copy.deepcopy(network)
    for each in pruned:
        channels = torch.tensor(each.channels, dtype=torch.int64)
        norm = repaired.get_submodule(each.layer)
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight[channels] = 0.0
        else:
            repaired = prune_channels(repaired, each.layer, channels)
    return repaired.eval()
