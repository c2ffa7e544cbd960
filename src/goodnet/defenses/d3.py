"""D3: drive the last linear layer as far from where it was as the clean loss allows.

Fine-tuning stays where clean and backdoor loss are both low, close to where it begins. This one
asks for the opposite of closeness: distance from the old weights, under a bound on the clean
loss.

Source: Wei, Liu, Zha 2024, Backdoor Mitigation by Distance-Driven Detoxification: maximise
||W - W_0|| where the clean loss is at most epsilon and ||W|| = ||W_0||, as the loss
lambda max(0, cross-entropy - epsilon) - ||W - W_0||, with a step back to the norm each time.
W is the last linear layer and the distance is of it alone; all weights train, since the
features have to follow. As in the authors' code the layer is drawn anew first, the bound is
held image by image, and the loss is divided by lambda + 1.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.last_layer import draw_anew, holding_norm, last_linear, weight_of
from goodnet.training import Augmentation, Progress, TrainingSettings, train

D3 = TrainingSettings(
    epochs=20,
    batch_size=64,
    learning_rate=0.01,
    patience=20,
    augmentation=Augmentation(),
    optimizer="sgd",
)
"""The authors' rate, momentum and half cosine.

Departure: they run 100 epochs.
"""


def d3(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network whose last layer is far from the old one; the last epoch.

    Raises:
        SurgeryError: The network does not end in a linear layer.
    """
    require_clean(held_out)
    name = last_linear(network)
    start = copy.deepcopy(network)
    old = weight_of(start, name).detach().clone()
    draw_anew(start, name, generator=generator)
    weight, bound = settings.d3_weight, settings.d3_bound

    def loss(tuned: nn.Module, inputs: Tensor, labels: Tensor, _chosen: Tensor) -> Tensor:
        wrong = F.cross_entropy(tuned(inputs).float(), labels, reduction="none")
        distance = (weight_of(tuned, name) - old).norm()
        total: Tensor = (weight * F.relu(wrong - bound).mean() - distance) / (weight + 1)
        return total

    training = train(
        start,
        require_clean(tuning),
        settings.training,
        generator=generator,
        loss=loss,
        held_out=held_out,
        after_step=holding_norm(name, old.norm()),
        keep_last=True,
        progress=progress,
        what="distance-driven detoxification",
    )
    return Repaired(training.network, stopped=training.stopped, epochs=training.epochs)
