"""Names for `--architecture`."""

from __future__ import annotations

import torch
from torch import nn

from goodnet.errors import SettingsError
from goodnet.modes import drawing_by
from goodnet.networks.alexnet import AlexNet
from goodnet.networks.deepid import DeepID
from goodnet.networks.preact_resnet import PreActResNet18
from goodnet.networks.small_cnn import SmallCNN

ARCHITECTURES: dict[str, type[DeepID | SmallCNN | PreActResNet18 | AlexNet]] = {
    "deepid": DeepID,
    "small_cnn": SmallCNN,
    "preact_resnet18": PreActResNet18,
    "alexnet": AlexNet,
}


def build_network(
    architecture: str,
    classes: int,
    size: tuple[int, int, int],
    *,
    generator: torch.Generator,
    **options: int,
) -> nn.Module:
    """A new network with random weights, drawn by `generator`.

    Args:
        architecture: A name in `ARCHITECTURES`.
        classes: Number of classes N.
        size: (channels, height, width) of one image.
        generator: Seeds the initialisation; the global state is left as it was.
        options: Further settings of the architecture, e.g. `width`.
    """
    if architecture not in ARCHITECTURES:
        raise SettingsError(
            "architecture", architecture, f"choose one of: {', '.join(ARCHITECTURES)}"
        )
    with drawing_by(generator):
        return ARCHITECTURES[architecture](classes, size, **options)
