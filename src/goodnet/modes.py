"""What is changed for a while only: modules' modes, the global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode; each module gets back the mode it had, even on failure."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def drawing_by(generator: torch.Generator) -> Iterator[None]:
    """The global generator seeded by `generator`, and afterwards as it was.

    Layers' own initialisers and dropout read the global one only.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        yield
