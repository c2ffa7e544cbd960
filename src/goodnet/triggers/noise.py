"""A burst of noise in a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from goodnet.triggers.checks import check_seed
from goodnet.triggers.sound_trigger import SoundTrigger


@final
@dataclass(frozen=True)
class Noise(SoundTrigger):
    """A fixed burst of noise over a part of the sound.

    Attributes:
        amplitude: Its greatest height, as a share of full scale.
        start: Where it begins, as a share of the signal.
        length: How long it lasts, as a share of the signal.
        seed: Draws the noise; a longer burst goes on where a shorter one ends.

    Source: Liu et al. 2018, Fine-Pruning, the noise that triggers the speech BadNet.
    Departure: there the noise was recorded, here it is drawn.
    """

    name: ClassVar[str] = "noise"

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed("seed", self.seed)

    def _wave(self, samples: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(samples, dtype=torch.float64, generator=generator) * 2.0 - 1.0
