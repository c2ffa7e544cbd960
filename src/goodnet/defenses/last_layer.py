"""The linear layer that gives the logits: found, drawn anew, held at its norm; its inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from goodnet.answers import device_of
from goodnet.data.roles import PreparedImages
from goodnet.errors import SurgeryError
from goodnet.graph import module_of, output_node, trace
from goodnet.modes import evaluating
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


@torch.no_grad()
def features_of(network: nn.Module, name: str, images: PreparedImages) -> Tensor:
    """What the linear layer is given for each image, float32 (images, features).

    Raises:
        SurgeryError: It does not run once for each image.
    """
    seen: list[Tensor] = []
    hook = network.get_submodule(name).register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].float().cpu())
    )
    try:
        with evaluating(network):
            for inputs, _ in images.batches(256):
                network(inputs.to(device_of(network)))
    finally:
        hook.remove()
    features = torch.cat(seen)
    if features.shape[0] != len(images):
        raise SurgeryError(f"layer {name!r} does not run once for an image; choose another method")
    return features


def weight_of(network: nn.Module, name: str) -> Tensor:
    """W of the layer, (classes, features)."""
    return network.get_parameter(f"{name}.weight")


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
