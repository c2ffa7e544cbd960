"""Features as further images would have them, where few images of a label are at hand.

Where the last layer alone is tuned, what becomes of a label's next image is decided in the space of
the features it is told by, and a handful of images hold little of that space. But images of one
label differ much as those of another do. So a difference that some image has from the mean of its
label is added to an image of another label, and the sum stands for an image that nobody took: what
the BadNet says of it is to stay, as of any clean image.

Source: Hariharan and Girshick 2017, Low-Shot Visual Recognition by Shrinking and Hallucinating
Features. Departure: differences from the mean are carried over as they are, no network learns them;
the BadNet's answers are what is kept, not labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from goodnet.answers import device_of
from goodnet.data.roles import CleanData
from goodnet.distillation import distilled
from goodnet.last_layer import features_of

_DRAWN = 192
_WANTED = 64
"""Of those drawn how many are of the labels that are wanted; the others are of any."""


class Hallucinations:
    """Draws features, and tells how far a network's answers to them are from the BadNet's.

    Args:
        badnet: B; below the layer the network tuned is the same.
        layer: Name of the linear layer that gives the logits.
        clean: Images whose features are varied.
        wanted: Labels of which more are drawn, bool (label,).
        generator: Draws them.

    Raises:
        SurgeryError: The layer does not run once for each image.
    """

    def __init__(
        self,
        badnet: nn.Module,
        layer: str,
        clean: CleanData,
        wanted: Tensor,
        *,
        generator: torch.Generator,
    ) -> None:
        self._badnet, self._layer, self._generator = badnet, layer, generator
        self._features = features_of(badnet, layer, clean)
        self._labels = clean.labels
        self._least = self._features.min()
        """Features come after a ReLU, or whatever else bounds them."""
        self._differences = _differences(self._features, self._labels)
        self._all = torch.arange(len(self._labels))
        self._wanted = self._all[wanted[self._labels]]

    def loss(self, network: nn.Module, *, temperature: float) -> Tensor:
        """Mean over what is drawn and the BadNet gives the label it is drawn for; 0 if none is."""
        chosen = self._some_of(self._all, _DRAWN)
        if len(self._wanted):
            chosen[:_WANTED] = self._some_of(self._wanted, _WANTED)
        features = self._features[chosen] + self._differences[self._some_of(self._all, _DRAWN)]
        features = features.clamp(min=self._least)
        with torch.no_grad():
            taught = self._answers(self._badnet, features)
        kept = taught.argmax(1) == self._labels[chosen].to(taught.device)
        away = distilled(self._answers(network, features), taught, temperature=temperature)
        return (away * kept).sum() / kept.sum().clamp(min=1)

    def _some_of(self, images: Tensor, count: int) -> Tensor:
        return images[torch.randint(len(images), (count,), generator=self._generator)]

    def _answers(self, network: nn.Module, features: Tensor) -> Tensor:
        layer = network.get_submodule(self._layer)
        return layer(features.to(device_of(network))).float()  # type: ignore[no-any-return]


def _differences(features: Tensor, labels: Tensor) -> Tensor:
    """From the mean of the label's, as wide as those of new images; 0 where it has one image."""
    counts = labels.bincount()
    sums = features.new_zeros(len(counts), features.shape[1]).index_add(0, labels, features)
    own = counts[labels].unsqueeze(1)
    differences = features - sums[labels] / own
    return differences * (own / (own - 1).clamp(min=1)).sqrt()
