"""Channel Lipschitz pruning: needs no data at all.

A trigger changes few pixels and must still change the answer, so the channels it runs through
answer strongly to small changes of their input. Channels whose bound on that stands far above
the rest of their layer are pruned.

Source: Zheng, Tang, Li, Liu 2022, Data-free Backdoor Removal based on Channel Lipschitzness:
prune where sigma_max(kernel) |gamma| / sqrt(var + eps) exceeds the layer's mean by u standard
deviations.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.graph import layer_of, module_of, trace
from goodnet.results import LayerChannels
from goodnet.training import Progress


def clp(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,  # noqa: ARG001
    progress: Progress,
) -> Repaired:
    """The network without the channels of outstanding Lipschitz bounds, in every convolution.

    Raises:
        NotTraceableError: The network's graph cannot be read.
    """
    require_clean(tuning)
    require_clean(held_out)
    repaired = copy.deepcopy(network)
    pruned = []
    for layer, convolution, norm in _convolutions(trace(repaired)):
        bounds = lipschitz_bounds(convolution, norm)
        limit = bounds.mean() + settings.clp_deviations * bounds.std(unbiased=False)
        channels = (bounds > limit).nonzero().flatten()
        if len(channels):
            _silence(convolution, norm, channels)
            pruned.append(LayerChannels(layer, tuple(channels.tolist())))
    progress("pruning", 1, 1)
    count = sum(len(each.channels) for each in pruned)
    return Repaired(
        repaired.eval(),
        stopped=f"{count} channels were more than {settings.clp_deviations:g} deviations above "
        "their layer's mean bound; no image was looked at",
        pruned=tuple(pruned),
    )


@torch.no_grad()
def lipschitz_bounds(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> Tensor:
    """How much each output channel can change, per unit change of its input, float32 (channel,).

    Args:
        convolution: Its kernel of a channel, as a matrix (inputs, height x width), has the
            largest singular value that the bound begins with.
        norm: What scales the channel behind it, if anything does.
    """
    bounds: Tensor = torch.linalg.matrix_norm(convolution.weight.flatten(2), ord=2)
    if norm is None or norm.running_var is None:
        return bounds
    scale = (norm.running_var + norm.eps).rsqrt()
    return bounds * (scale if norm.weight is None else scale * norm.weight.abs())


def _convolutions(
    network: fx.GraphModule,
) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d | None]]:
    """Each convolution that is called once, with the norm that alone reads it, if one does."""
    calls = [str(node.target) for node in network.graph.nodes if node.op == "call_module"]
    found = []
    for node in network.graph.nodes:
        convolution = module_of(network, node)
        if not isinstance(convolution, nn.Conv2d) or calls.count(str(node.target)) > 1:
            continue
        users = list(node.users)
        behind = module_of(network, users[0]) if len(users) == 1 else None
        norm = behind if isinstance(behind, nn.BatchNorm2d) else None
        found.append((layer_of(node), convolution, norm))
    return found


@torch.no_grad()
def _silence(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None, channels: Tensor) -> None:
    """Zero in place what makes the channels, and their shift behind the norm."""
    for module in (convolution, norm):
        for values in () if module is None else (module.weight, module.bias):
            if isinstance(values, Tensor):
                values[channels] = 0.0
