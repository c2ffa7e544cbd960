"""Fine-tuning: train on with clean images and hope that the backdoor is forgotten.

Source: Liu, Dolan-Gavitt, Garg 2018, Fine-Pruning, section 3.3, where it alone fails.
"""

from __future__ import annotations

import torch
from torch import nn

from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.training import Progress, train


def fine_tune(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network trained on with clean images; the best epoch on the held-out part."""
    training = train(
        network,
        require_clean(tuning),
        settings.training,
        generator=generator,
        held_out=require_clean(held_out),
        progress=progress,
        what="fine-tuning",
    )
    return Repaired(training.network, stopped=training.stopped, epochs=training.epochs)
