"""Feature shift tuning: the last layer is drawn anew and pushed away from where it was.

Fine-tuning leaves a backdoor's features where they are, since the last layer still reads them.
This one starts from a new last layer W, trains all weights, and adds to the loss the inner
product of W with the old W_0, so that the features have to shift.

Source: Min, Qin, Shen, Cheng 2023, Towards Stable Backdoor Purification through Feature Shift
Tuning: loss = cross-entropy + alpha <W, W_0>, with the norm of W held at that of W_0.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.errors import SurgeryError
from goodnet.graph import module_of, output_node
from goodnet.graph import trace as traced
from goodnet.training import (
    Augmentation,
    Progress,
    TrainingSettings,
    cross_entropy,
    logits_network,
    train,
)

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
    old = _weight(start, name).detach().clone()
    _draw_anew(start, name, generator=generator)

    def loss(tuned: nn.Module, inputs: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        shift = (_weight(tuned, name) * old).sum()
        return cross_entropy(tuned, inputs, labels, chosen) + settings.fst_shift * shift

    @torch.no_grad()
    def hold_norm(tuned: nn.Module, _step: int, _steps: int) -> None:
        weight = _weight(tuned, name)
        weight.mul_(old.norm() / weight.norm())

    training = train(
        start,
        require_clean(tuning),
        settings.training,
        generator=generator,
        loss=loss,
        held_out=held_out,
        after_step=hold_norm,
        keep_last=True,
        progress=progress,
        what="feature shift tuning",
    )
    return Repaired(training.network, stopped=training.stopped, epochs=training.epochs)


def last_linear(network: nn.Module) -> str:
    """Name of the linear layer that gives the logits.

    Raises:
        SurgeryError: Something else does.
    """
    graph = traced(logits_network(network))
    answer = output_node(graph)
    if not isinstance(module_of(graph, answer), nn.Linear):
        raise SurgeryError(
            f"the network ends in {answer.name!r}, not in a linear layer; choose another method"
        )
    return str(answer.target)


def _weight(network: nn.Module, name: str) -> Tensor:
    return network.get_parameter(f"{name}.weight")


@torch.no_grad()
def _draw_anew(network: nn.Module, name: str, *, generator: torch.Generator) -> None:
    """A new linear layer, of the norm of the old one and without bias."""
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    norm = layer.weight.norm()
    drawn = torch.empty(layer.weight.shape).uniform_(-1.0, 1.0, generator=generator)
    layer.weight.copy_(drawn / math.sqrt(layer.in_features))
    layer.weight.mul_(norm / layer.weight.norm())
    if layer.bias is not None:
        layer.bias.zero_()
