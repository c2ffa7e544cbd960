"""What is changed for a while only: modules' modes, the global generator, torch's threads."""

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


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on so many threads, afterwards as many as before.

    On one, small operations by the hundred are no slower: threads wait for each other after every
    one, on a busy machine, or beside those of other libraries, many times longer than it takes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
