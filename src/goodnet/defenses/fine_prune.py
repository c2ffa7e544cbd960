"""Fine-pruning: prune, then fine-tune with the pruned channels kept at zero.

Source: Liu, Dolan-Gavitt, Garg 2018, Fine-Pruning, section 3.3.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from goodnet.answers import accuracy_of
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.prune import prune
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.surgery import zero_channels_
from goodnet.training import Progress, train


def fine_prune(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network pruned, then trained on with clean images."""
    pruned = prune(network, tuning, held_out, settings, generator=generator, progress=progress)
    (chosen,) = pruned.pruned
    channels = torch.tensor(chosen.channels, dtype=torch.int64)

    def keep_zero(trained: nn.Module, _step: int, _steps: int) -> None:
        zero_channels_(trained, chosen.layer, channels)

    after = accuracy_of(pruned.network, held_out)
    training = train(
        pruned.network,
        require_clean(tuning),
        settings.training,
        generator=generator,
        held_out=require_clean(held_out),
        after_step=keep_zero,
        progress=progress,
        what="fine-tuning",
    )
    return replace(
        pruned,
        network=training.network,
        epochs=training.epochs,
        stopped=f"pruning: {pruned.stopped} ({after.value:.1%} of held-out images right then); "
        f"tuning: {training.stopped}",
    )
