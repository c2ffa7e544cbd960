"""Feature shift tuning: the last layer is drawn anew and pushed away from where it was.

Fine-tuning leaves a backdoor's features where they are, since the last layer still reads them.
This one starts from a new last layer W, trains all weights, and adds to the loss the inner
product of W with the old W_0, so that the features have to shift.

Source: Min, Qin, Shen, Cheng 2023, Towards Stable Backdoor Purification through Feature Shift
Tuning: loss = cross-entropy + alpha <W, W_0>, with the norm of W held at that of W_0.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.last_layer import draw_anew, holding_norm, last_linear, weight_of
from goodnet.training import Augmentation, Progress, TrainingSettings, cross_entropy, train

FST = TrainingSettings(
    epochs=10,
    batch_size=64,
    learning_rate=0.01,
    patience=10,
    augmentation=Augmentation(),
    optimizer="sgd",
)
"""The paper's rate, momentum and epochs.

Departure: the rate falls to zero along a half cosine; there it is constant.
"""


def fst(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network with a new last layer, tuned; the last epoch, since early ones are unlearned.

    Raises:
        SurgeryError: The network does not end in a linear layer.
    """
    require_clean(held_out)
    name = last_linear(network)
    start = copy.deepcopy(network)
    old = weight_of(start, name).detach().clone()
    draw_anew(start, name, generator=generator)

    def loss(tuned: nn.Module, inputs: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        shift = (weight_of(tuned, name) * old).sum()
        return cross_entropy(tuned, inputs, labels, chosen) + settings.fst_shift * shift

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
        what="feature shift tuning",
    )
    return Repaired(training.network, stopped=training.stopped, epochs=training.epochs)
