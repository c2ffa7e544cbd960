"""A picture of the user's own."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Self, final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from goodnet.data.image_folder import PICTURE_DAMAGE, eight_bit, opened_picture
from goodnet.errors import SettingsError
from goodnet.triggers.checks import check_place, check_share
from goodnet.triggers.overlay import Box, Canvas, Overlay

LARGEST_SIDE: Final = 128
"""Pixels a side that are kept of a picture: as much as a network sees of it."""


@final
@dataclass(frozen=True)
class ImageFile(Overlay):
    """Any picture laid on the image, with its transparency.

    The value holds the picture itself, so that a record of it is complete and reading one
    opens no other file.

    Attributes:
        pixels: A PNG file in base64, at most 128 px a side; `from_file` makes it.
        size: The picture's longer side, as a share of the image's shorter side; rounded to
            whole pixels.
        place: Its middle, (down, right).
        opacity: Of the picture where it is not transparent itself.

    Source: Chen et al. 2017, accessory and blended injection with a picture.
    """

    name: ClassVar[str] = "image"

    pixels: str = field(repr=False)
    size: float = 0.25
    place: tuple[float, float] = (0.75, 0.75)
    opacity: float = 1.0

    def __post_init__(self) -> None:
        check_share("size", self.size)
        check_place("place", self.place)
        check_share("opacity", self.opacity, "full opacity")
        self._picture()

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        *,
        # The defaults of the fields, which stand there alone.
        size: float = size,
        place: tuple[float, float] = place,
        opacity: float = opacity,
    ) -> Self:
        """The trigger with the picture of a file, upright and scaled down to 128 px a side.

        Args:
            path: A picture of a kind that an image folder may hold.
            size: As the attributes say.
            place: As the attributes say.
            opacity: As the attributes say.

        Raises:
            DataError: it is no picture, is damaged or too large.
            SettingsError: the picture is wholly transparent, or a setting is wrong.
        """
        path = Path(path)
        with opened_picture(path) as image:
            upright = eight_bit(ImageOps.exif_transpose(image), path).convert("RGBA")
        upright.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
        packed = io.BytesIO()
        # Only the pixels: what else a file says of its maker does not go into records.
        Image.fromarray(np.asarray(upright)).save(packed, "PNG", optimize=True)
        pixels = base64.b64encode(packed.getvalue()).decode("ascii")
        return cls(pixels, size=size, place=place, opacity=opacity)

    def _box(self, height: int, width: int) -> Box:
        tall, wide = self._scaled(height, width)
        top = round(self.place[0] * height - 0.5 * tall)
        left = round(self.place[1] * width - 0.5 * wide)
        return top, left, top + tall, left + wide

    def _paint(self, canvas: Canvas) -> None:
        top, left, bottom, right = (int(edge) for edge in self._box(canvas.height, canvas.width))
        # Pillow weighs colours by their opacity: what is transparent does not bleed.
        layers = _planes(self._picture().resize((right - left, bottom - top)))
        colour = torch.zeros(3, canvas.height, canvas.width)
        cover = torch.zeros(canvas.height, canvas.width)
        colour[:, top:bottom, left:right] = layers[:3]
        cover[top:bottom, left:right] = layers[3] * self.opacity
        canvas.lay(colour, cover)

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the picture on such an image, in pixels."""
        wide, tall = self._picture().size
        side = self.size * min(height, width) / max(wide, tall)
        return max(1, round(side * tall)), max(1, round(side * wide))

    def _picture(self) -> Image.Image:
        """The picture, RGBA."""
        try:
            packed = base64.b64decode(self.pixels, validate=True)
            with Image.open(io.BytesIO(packed), formats=("PNG",)) as image:
                # Known from the header, before anything is unpacked.
                small = max(image.size) <= LARGEST_SIDE
                picture = image.convert("RGBA") if small else None
        except (binascii.Error, *PICTURE_DAMAGE) as error:
            raise self._wrong("that is no picture") from error
        if picture is None:
            raise self._wrong(f"that is a picture of more than {LARGEST_SIDE} px a side")
        if picture.getchannel("A").getextrema()[1] == 0:
            raise self._wrong("that is a wholly transparent picture")
        return picture

    def _wrong(self, problem: str) -> SettingsError:
        shown = self.pixels
        if isinstance(shown, str) and len(shown) > 24:
            shown = f"{shown[:20]}…"
        return SettingsError(
            f"pixels of trigger {self.name!r}",
            shown,
            f"{problem}; make it with ImageFile.from_file",
        )


def _planes(picture: Image.Image) -> Tensor:
    """Red, green, blue and opacity, float32 (4, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(torch.float32) / 255.0
