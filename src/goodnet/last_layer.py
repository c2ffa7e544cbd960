"""The linear layer that gives the logits: found, drawn anew, held at its norm; its inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.activations import layer_outputs
from goodnet.data.roles import PreparedImages
from goodnet.errors import SurgeryError
from goodnet.graph import module_of, output_node, part_upto, trace
from goodnet.training import AfterStep, logits_network


def last_linear(network: nn.Module) -> str:
    """Name of the linear layer that gives the logits.

    Raises:
        SurgeryError: Something else does.
    """
    graph = trace(logits_network(network))
    answer = output_node(graph)
    if not isinstance(module_of(graph, answer), nn.Linear):
        raise SurgeryError(
            f"the network ends in {answer.name!r}, not in a linear layer; choose another method"
        )
    return str(answer.target)


def features_of(network: nn.Module, name: str, images: PreparedImages) -> Tensor:
    """What the linear layer is given for each image, float32 (images, features).

    Raises:
        SurgeryError: It does not run once for each image.
    """
    return layer_outputs(features_network(network, name), images).values


def features_network(network: nn.Module, name: str) -> nn.Module:
    """What of the network gives the linear layer its input, (batch, features).

    Raises:
        SurgeryError: The layer does not run once for each image.
    """
    graph = trace(logits_network(network))
    calls = graph.graph.find_nodes(op="call_module", target=name)
    if len(calls) != 1:
        raise SurgeryError(f"layer {name!r} does not run once for an image; choose another method")
    (given,) = calls[0].all_input_nodes
    return part_upto(graph, given)


def weight_of(network: nn.Module, name: str) -> Tensor:
    """W of the layer, (classes, features)."""
    return network.get_parameter(f"{name}.weight")


def has_bias(network: nn.Module, name: str) -> bool:
    """Whether the layer has biases."""
    return network.get_submodule(name).bias is not None


@torch.no_grad()
def rows_of(network: nn.Module, name: str) -> Tensor:
    """The layer's weights and behind them its biases, float64 (classes, features + 1), a copy.

    A layer without biases has 0 for them. On the processor.
    """
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return torch.cat([layer.weight, bias.unsqueeze(1)], 1).detach().cpu().double()


def logits_by(rows: Tensor, features: Tensor) -> Tensor:
    """What rows as `rows_of` has them make of features, (..., features) to (..., row)."""
    return F.linear(features, rows[:, :-1], rows[:, -1])


@torch.no_grad()
def put_rows(network: nn.Module, name: str, rows: Tensor, labels: Tensor) -> None:
    """Rows as `rows_of` has them into the layer, in place; biases only where it has some.

    Args:
        network: Is changed.
        name: Of the layer.
        rows: (row, features + 1).
        labels: Which each is of, int64 (row,).
    """
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    for own, fitted in ((layer.weight, rows[:, :-1]), (layer.bias, rows[:, -1])):
        if own is not None:
            own[labels.to(own.device)] = fitted.to(own)


@torch.no_grad()
def draw_anew(network: nn.Module, name: str, *, generator: torch.Generator) -> None:
    """In place, a new linear layer, of the norm of the old one and without bias."""
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    norm = layer.weight.norm()
    drawn = torch.empty(layer.weight.shape).uniform_(-1.0, 1.0, generator=generator)
    layer.weight.copy_(drawn / math.sqrt(layer.in_features))
    layer.weight.mul_(norm / layer.weight.norm())
    if layer.bias is not None:
        layer.bias.zero_()


def holding_norm(name: str, norm: Tensor) -> AfterStep:
    """What brings the layer's weight back to `norm` after every step."""

    @torch.no_grad()
    def hold_norm(network: nn.Module, _step: int, _steps: int) -> None:
        weight = weight_of(network, name)
        weight.mul_(norm / weight.norm())

    return hold_norm
