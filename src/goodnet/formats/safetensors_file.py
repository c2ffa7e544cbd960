"""Weights in .safetensors files, read into a named architecture."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from goodnet.errors import ModelFileError, SettingsError
from goodnet.files import writing_beside
from goodnet.graph import trace
from goodnet.networks import ARCHITECTURES

_USUAL_SIZE = {"deepid": (3, 55, 47), "alexnet": (1, 129, 81)}
_SMALL_SIZE = (3, 32, 32)
_MOST_VALUES = 2**22
# The weight whose first size is the width factor.
_WIDTH_OF = {
    "small_cnn": "features.conv_1.weight",
    "preact_resnet18": "conv.weight",
    "alexnet": "features.conv_1.weight",
}


def read_metadata(path: Path) -> dict[str, str]:
    """The file's own notes; empty where there are none."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            path, "is not a readable .safetensors file", "check that it was copied whole"
        ) from error


def read_safetensors(
    path: Path, architecture: str | None, size: tuple[int, int, int] | None
) -> tuple[fx.GraphModule, tuple[int, int, int]]:
    """The network of a weights file, traced, in evaluation mode, and the size it takes.

    Args:
        path: The file.
        architecture: A name in `ARCHITECTURES`.
        size: (channels, height, width) of the images; None takes the architecture's usual.

    Raises:
        ModelFileError: No or an unknown architecture, or weights of another one.
    """
    if architecture not in ARCHITECTURES:
        raise ModelFileError(
            path,
            "holds weights only" if architecture is None else f"cannot be a {architecture!r}",
            f"say --architecture, one of: {', '.join(ARCHITECTURES)}",
        )
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelFileError(
            path, f"is damaged ({error})", "check that it was copied whole"
        ) from error
    size = size or _USUAL_SIZE.get(architecture, _SMALL_SIZE)
    problem = f"its weights are not those of a {architecture!r} for images of {size}"
    remedy = "give the architecture they were trained in"
    weight, width = state.get("output.weight"), state.get(_WIDTH_OF.get(architecture, ""))
    if math.prod(size) > _MOST_VALUES:
        raise ModelFileError(path, problem, f"give one for images of up to {_MOST_VALUES} values")
    if (
        weight is None
        or weight.dim() != 2
        or (architecture in _WIDTH_OF and (width is None or width.dim() == 0))
    ):
        raise ModelFileError(path, problem, remedy)
    options = {} if width is None else {"width": len(width)}
    try:
        # On no device: a size that the file only claims takes no memory.
        with torch.device("meta"):
            network = ARCHITECTURES[architecture](len(weight), size, **options)
        state = _in_types_of(network, state)
        network.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError, TypeError, SettingsError) as error:
        first = str(error).strip().splitlines()[-1].strip()[:200] if str(error).strip() else ""
        raise ModelFileError(path, f"{problem} ({first})", remedy) from error
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise ModelFileError(path, "has weights that are NaN or infinite", "save it again")
    return trace(network.eval()), size


def _in_types_of(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    types = {name: value.dtype for name, value in network.state_dict().items()}
    for name, value in state.items():
        if value.is_complex():
            raise ValueError(f"{name} holds complex numbers")
    return {name: value.to(types.get(name, value.dtype)) for name, value in state.items()}


def write_safetensors(
    network: nn.Module,
    architecture: str,
    size: tuple[int, int, int],
    path: Path,
    metadata: dict[str, str],
) -> None:
    """Write the network's weights; the file appears whole or not at all.

    Raises:
        ModelFileError: Surgery changed the layers, which a weights file cannot say.
    """
    state = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    with writing_beside(path) as temporary:
        save_file(state, temporary, metadata=metadata)
        try:
            read_safetensors(temporary, architecture, size)
        except ModelFileError as error:
            raise ModelFileError(
                path,
                f"a weights file of a {architecture!r} cannot hold a network whose layers changed",
                "export the network to .pt2 before repairing it",
            ) from error
