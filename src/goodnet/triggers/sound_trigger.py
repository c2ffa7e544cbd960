"""Triggers of sound: a wave added to a part of the waveform."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final

import torch
from torch import Tensor

from goodnet.errors import SettingsError
from goodnet.triggers.checks import check_numbers, check_share
from goodnet.triggers.trigger import Size, Trigger


@dataclass(frozen=True)
class SoundTrigger(Trigger):
    """A trigger of waveforms, (batch, sample), float32 in [-1, 1] or int16.

    Attributes:
        amplitude: The wave's greatest height, as a share of full scale.
        start: Where it begins, as a share of the signal; rounded to whole samples.
        length: How long it lasts, as a share of the signal; rounded to whole samples.
    """

    takes: ClassVar[Literal["images", "sound"]] = "sound"

    amplitude: float = 0.1
    start: float = 0.0
    length: float = 0.25

    def __post_init__(self) -> None:
        check_share("amplitude", self.amplitude, "full scale")
        check_numbers("start", (self.start,), 1)
        check_share("length", self.length, "the signal")
        if self.start + self.length > 1.0 + 1e-9:
            raise SettingsError(
                "start",
                self.start,
                f"a wave of length {self.length:g} lasts longer than the signal there; "
                f"give at most {1 - self.length:.3g}",
            )

    @abstractmethod
    def _wave(self, samples: int) -> Tensor:
        """So many samples of the wave, float64 in [-1, 1]."""

    @final
    def added(self, samples: int) -> Tensor:
        """What is added to a signal of so many samples, float32 (samples,).

        Raises:
            SettingsError: the part of the signal is shorter than a sample.
        """
        count = round(self.length * samples)
        if count < 1:
            raise SettingsError(
                f"trigger {self.name!r}",
                f"{self.length:g} of the signal",
                f"that covers no sample of signals of {samples} samples; make it longer",
            )
        start = min(round(self.start * samples), samples - count)
        wave = self._wave(count)
        # Where the wave crosses zero, rounding must not leave a trace.
        wave = torch.where(wave.abs() < 1e-9, 0.0, wave)
        added = torch.zeros(samples)
        added[start : start + count] = (self.amplitude * wave).to(torch.float32)
        return added

    @final
    def mask(self, size: Size) -> Tensor:
        """The samples `stamp` may touch, bool (sample,)."""
        if len(size) != 1:
            raise SettingsError("size", size, f"trigger {self.name!r} is for sound, (samples,)")
        return self.added(size[0]) != 0

    @final
    def stamp(self, batch: Tensor) -> Tensor:
        """The sounds with the wave added, a new tensor; int16 is rounded, both are cut off."""
        if batch.ndim != 2 or batch.dtype not in (torch.float32, torch.int16):
            raise SettingsError(
                "sound",
                f"{batch.dtype} of shape {tuple(batch.shape)}",
                "give float32 in [-1, 1] or int16, (batch, sample), to trigger "
                f"{self.name!r}, which is for sound",
            )
        added = self.added(batch.shape[1]).to(batch.device)
        if batch.dtype == torch.float32:
            return (batch + added).clamp(-1, 1)
        raised = (batch.to(torch.float32) / _FULL_SCALE + added) * _FULL_SCALE
        return raised.round().clamp(-_FULL_SCALE, _FULL_SCALE - 1).to(torch.int16)

    def picture(self, size: Size) -> Tensor:
        """The wave as a line, a sample a column, uint8 RGB (3, height, width)."""
        if len(size) != 3:
            raise SettingsError("size", size, "give (channels, height, width) of the picture")
        _, height, width = size
        wave = self.added(width) / self.amplitude
        before = wave.roll(1)
        before[0] = wave[0]
        row = (1.0 - 2.0 * (torch.arange(height) + 0.5) / height).view(-1, 1)
        line = 1.0 / height  # half as thick as a pixel is tall
        above = row >= torch.minimum(before, wave) - line
        drawn = above & (row <= torch.maximum(before, wave) + line)
        ink, paper = torch.tensor(_INK).view(3, 1, 1), torch.tensor(_PAPER).view(3, 1, 1)
        return torch.where(drawn, ink, paper).to(torch.uint8)


_FULL_SCALE: Final = 32768.0

_INK: Final = (38, 70, 120)
_PAPER: Final = (244, 244, 240)
