"""Where a convex loss is least, by a quasi-Newton method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from goodnet.modes import threads


def least(
    loss: Callable[[Tensor], Tensor], start: Tensor, *, moved: Tensor, iterations: int
) -> Tensor:
    """Of `start`'s shape, float64: where `loss`, which can be derived, is least, or near it.

    Args:
        loss: Of numbers as `start`, a scalar.
        start: Where the search begins, float64.
        moved: Which numbers may change, bool, of `start`'s shape or one that is made so.
        iterations: At most.

    Source: Zhu, Byrd, Lu, Nocedal 1997, L-BFGS-B.
    """

    def with_slope(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = torch.from_numpy(numbers).view(start.shape).requires_grad_(True)
        value = loss(at)
        (slope,) = torch.autograd.grad(value, at)
        return float(value.detach()), (slope * moved).flatten().numpy()

    options = {"maxiter": iterations}
    with threads(1):
        best = minimize(
            with_slope, start.flatten().numpy(), jac=True, method="L-BFGS-B", options=options
        )
    return torch.from_numpy(best.x).view(start.shape)
