"""A faint ripple over the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from goodnet.errors import SettingsError
from goodnet.triggers.checks import check_between, check_share
from goodnet.triggers.image_trigger import ImageTrigger


@final
@dataclass(frozen=True)
class Sine(ImageTrigger):
    """Upright waves of light and dark, the same in every row.

    Attributes:
        amplitude: Δ, how much lighter or darker, as a share of the range from black to white.
        frequency: f, waves across the image's width.

    Source: Barni et al. 2019, SIG: v(i, j) = Δ sin(2π j f / m) in column j of m columns.
    Departure: Δ is a share, by default 40 of 255 grey levels; there labels stay right, here
        that is the poisoning's choice.
    """

    name: ClassVar[str] = "sine"

    amplitude: float = 40 / 255
    frequency: float = 6.0

    def __post_init__(self) -> None:
        check_share("amplitude", self.amplitude, "the range from black to white")
        check_between("frequency", self.frequency, 0.0, 1024.0)

    def _wave(self, width: int) -> Tensor:
        """v, float32 (width,)."""
        column = torch.arange(width, dtype=torch.float64)
        wave = (2.0 * torch.pi * self.frequency / width * column).sin()
        # Where the sine is zero, rounding must not leave a trace.
        wave = torch.where(wave.abs() < 1e-9, 0.0, wave)
        return (self.amplitude * wave).to(torch.float32)

    def _touched(self, size: tuple[int, int, int]) -> Tensor:
        touched = self._wave(size[2]) != 0
        if not touched.any():
            raise SettingsError(
                f"trigger {self.name!r}",
                f"{self.frequency:g} waves",
                f"that covers no pixel of images {size[2]} px wide, whose columns all lie where "
                "the waves are zero; choose another frequency",
            )
        return touched.expand(size[1:])

    def _changed(self, images: Tensor) -> Tensor:
        return images + self._wave(images.shape[3]).to(images.device)
