"""Magnitude pruning: small weights go to zero over the whole network while it is tuned.

Source: Zhu, Gupta 2017, To Prune, or Not to Prune; the schedule the course's own repair
script uses (0.50 to 0.70, polynomial decay of power 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.results import LayerSparsity, Rate
from goodnet.training import Progress, train

INITIAL_SPARSITY = 0.50
FINAL_SPARSITY = 0.70
POWER = 3


def sparsity_at(step: int, steps: int) -> float:
    """The share of weights that are zero after `step` of `steps` steps."""
    left = 1.0 - step / steps
    return FINAL_SPARSITY + (INITIAL_SPARSITY - FINAL_SPARSITY) * left**POWER


def magnitude(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network tuned while its smallest weights, layer by layer, go to zero.

    The last epoch is kept, since only it has the final sparsity.
    """

    def make_sparser(trained: nn.Module, step: int, steps: int) -> None:
        for _, weight in weights(trained):
            zero_smallest_(weight, sparsity_at(step, steps))

    training = train(
        network,
        require_clean(tuning),
        settings.training,
        generator=generator,
        held_out=require_clean(held_out),
        after_step=make_sparser,
        keep_last=True,
        progress=progress,
        what="magnitude pruning",
    )
    return Repaired(
        training.network,
        stopped=training.stopped,
        epochs=training.epochs,
        sparsity=sparsity_of(training.network),
    )


def weights(network: nn.Module) -> list[tuple[str, Tensor]]:
    """The weight of each convolution and dense layer, with the layer's name."""
    return [
        (name, module.weight)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]


@torch.no_grad()
def zero_smallest_(weight: Tensor, sparsity: float) -> None:
    """Zero in place the `sparsity` share of entries smallest in size, rounded up."""
    count = -int(-sparsity * weight.numel() // 1)
    if count:
        smallest = weight.abs().flatten().topk(count, largest=False, sorted=False).indices
        keep = torch.ones(weight.numel(), device=weight.device)
        keep[smallest] = 0.0
        weight.mul_(keep.view(weight.shape))


def sparsity_of(network: nn.Module) -> tuple[LayerSparsity, ...]:
    """Share of each layer's weights that are exactly zero."""
    return tuple(
        LayerSparsity(name, Rate.of(int((weight == 0).sum()), weight.numel()))
        for name, weight in weights(network)
    )
