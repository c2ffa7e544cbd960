"""What a network answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodnet.data.roles import Batches, PreparedImages
from goodnet.modes import evaluating
from goodnet.results import Rate

# Small enough that a layer's output stays in the processor's cache.
INFERENCE_BATCH = 64


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next(network.parameters(), torch.empty(0)).device


def probabilities_of(labels: Tensor, logits: Tensor) -> Tensor:
    """How likely each row of logits (batch, N) makes its label, float32 (batch,)."""
    return logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)


@torch.no_grad()
def answers(
    network: nn.Module, data: Batches, *, batch_size: int = INFERENCE_BATCH
) -> tuple[Tensor, Tensor]:
    """The class the network gives each input, and the class it is; both int64 (n,).

    The network is asked in evaluation mode and left in the mode it was in.
    """
    device = device_of(network)
    given, right = [], []
    with evaluating(network):
        for inputs, classes in data.batches(batch_size):
            given.append(network(inputs.to(device)).argmax(1).cpu())
            right.append(classes)
    return torch.cat(given), torch.cat(right)


def accuracy_of(network: nn.Module, data: PreparedImages) -> Rate:
    """Share of the images, or of the things in them, that the network names rightly."""
    right = rightly_named(network, data)
    return Rate.of(int(right.sum()), len(right))


@torch.no_grad()
def rightly_named(network: nn.Module, data: PreparedImages) -> Tensor:
    """Whether each image, or each thing in one, gets its right name; bool (things,)."""
    task = data.images.task
    if task is None:
        given, right = answers(network, data)
        return given == right
    device = device_of(network)
    with evaluating(network):
        inputs = (inputs.to(device) for inputs, _ in data.batches(INFERENCE_BATCH))
        return task.right(network, inputs)
