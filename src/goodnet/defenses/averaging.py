"""Weights averaged along the way.

Source: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """The mean of the weights over the second half of the steps; called after each step."""

    def __init__(self) -> None:
        self._mean: dict[str, Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def __call__(self, network: nn.Module, step: int, steps: int) -> None:
        """Takes the weights after `step` of `steps` steps in."""
        if step <= steps // 2:
            return
        self._count += 1
        for name, weights in network.named_parameters():
            if self._count == 1:
                self._mean[name] = weights.detach().clone()
            else:
                self._mean[name].lerp_(weights, 1 / self._count)

    @torch.no_grad()
    def of(self, network: nn.Module) -> nn.Module:
        """`network` with these weights."""
        for name, weights in network.named_parameters():
            weights.copy_(self._mean[name])
        return network
