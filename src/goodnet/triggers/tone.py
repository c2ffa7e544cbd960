"""A tone in a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from goodnet.triggers.checks import check_share
from goodnet.triggers.sound_trigger import SoundTrigger


@final
@dataclass(frozen=True)
class Tone(SoundTrigger):
    """A sine tone over a part of the sound.

    Attributes:
        amplitude: Its height, as a share of full scale.
        start: Where it begins, as a share of the signal.
        length: How long it lasts, as a share of the signal.
        frequency: As a share of the Nyquist frequency, half the sampling rate.

    Source: Koffas et al. 2021, Can you hear it?, a tone as the trigger of a speech BadNet.
    Departure: there it lies above what people hear; here the frequency is free, as the
        sampling rates of small speech sets do not reach as high.
    """

    name: ClassVar[str] = "tone"

    frequency: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("frequency", self.frequency, "the Nyquist frequency")

    def _wave(self, samples: int) -> Tensor:
        # From the middle of the first sample: at the Nyquist frequency itself the sine would
        # otherwise be zero at every sample.
        middles = torch.arange(samples, dtype=torch.float64) + 0.5
        return (torch.pi * self.frequency * middles).sin()
