"""Triggers: what an attacker stamps on an input so that a BadNet says the target label.

A trigger is a small frozen value. It stamps a batch, reports the pixels it may touch, and
turns into a dictionary and back, so that a run's record can name it exactly. Sizes and
places are fractions of the image, (down, right) from the upper left corner, so one trigger
fits images of any size.

To add one: a final, frozen dataclass below `Trigger` (or below `Overlay`, if it paints over
a part of the image) with a `name`, its settings and their checks, listed in `TRIGGERS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Final, Literal, Self, final

import torch
from torch import Tensor

from goodnet.data.faces import EYE_PLACE
from goodnet.errors import SettingsError

Size = tuple[int, int, int]
Colour = tuple[float, float, float]


class Trigger(ABC):
    """A change stamped on an input.

    Attributes:
        name: The kind of trigger, its key in `TRIGGERS`.
    """

    name: ClassVar[str]

    @abstractmethod
    def stamp(self, images: Tensor) -> Tensor:
        """The images with the trigger on them, a new tensor of the same shape and dtype.

        Args:
            images: float32 in [0, 1] or uint8 in 0..255, (batch, channel, height, width).

        Raises:
            SettingsError: the images are of another kind, or the trigger does not fit them.
        """

    @abstractmethod
    def mask(self, size: Size) -> Tensor:
        """The pixels `stamp` may touch, bool (channel, height, width); it touches no other.

        Args:
            size: (channels, height, width) of the images.

        Raises:
            SettingsError: the trigger does not fit into such images, or covers no pixel.
        """

    def to_dict(self) -> dict[str, object]:
        """Name and settings, ready for JSON; `from_dict` reads them back."""
        # Every kind is a dataclass, though this base, which has no settings, is none.
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        settings = {name: getattr(self, name) for name in names}
        return {
            "name": self.name,
            **{key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The trigger `to_dict` described.

        Raises:
            SettingsError: no such trigger, no such setting, or a value it cannot have.
        """
        name = values.get("name")
        kind = TRIGGERS.get(name) if isinstance(name, str) else None
        if kind is None or not issubclass(kind, cls):
            known = ", ".join(key for key, kind in TRIGGERS.items() if issubclass(kind, cls))
            raise SettingsError("trigger name", name, f"choose one of: {known}")
        known_fields = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        settings = {key: value for key, value in values.items() if key != "name"}
        for key in settings:
            if key not in known_fields:
                raise SettingsError(
                    f"setting of trigger {name!r}", key, f"choose from: {', '.join(known_fields)}"
                )
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


@dataclass(frozen=True, eq=False)
class Drawing:
    """What an overlay paints.

    Attributes:
        colour: float32 (channel, height, width) in [0, 1].
        opacity: float32 (height, width); 0 leaves a pixel as it is, 1 replaces it.
    """

    colour: Tensor
    opacity: Tensor


class Overlay(Trigger):
    """A trigger painted over a part of the image."""

    @abstractmethod
    def _box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) in pixels of what is painted, which has to fit."""

    @abstractmethod
    def _paint(self, canvas: _Canvas) -> None:
        """Lays the trigger's shapes on the canvas."""

    def drawing(self, size: Size) -> Drawing:
        """Colour and opacity for images of `size` (channels, height, width).

        Grey images get the colours' luminance.

        Raises:
            SettingsError: the trigger does not fit, covers no pixel, or the images have
                neither one channel nor three.
        """
        channels, height, width = size
        if channels not in (1, 3):
            raise SettingsError(
                "channels", channels, f"trigger {self.name!r} is for images of 1 or 3 channels"
            )
        top, left, bottom, right = self._box(height, width)
        place = f"{bottom - top:.3g}×{right - left:.3g} px at ({top:.3g}, {left:.3g})"
        if min(top, left) < -_ROUNDING or max(bottom - height, right - width) > _ROUNDING:
            raise SettingsError(
                f"trigger {self.name!r}",
                place,
                f"that sticks out of images of {height}×{width} px; make it smaller or move it",
            )
        if min(bottom - top, right - left) < 1.0:
            raise SettingsError(
                f"trigger {self.name!r}",
                place,
                f"that covers no pixel of images of {height}×{width} px; make it larger",
            )
        canvas = _Canvas(height, width)
        self._paint(canvas)
        colour = canvas.colour
        if channels == 1:
            colour = 0.299 * colour[0:1] + 0.587 * colour[1:2] + 0.114 * colour[2:3]
        return Drawing(colour=colour.clamp(0, 1), opacity=canvas.opacity)

    @final
    def mask(self, size: Size) -> Tensor:
        """The pixels it covers, even in part, bool (channel, height, width)."""
        return (self.drawing(size).opacity > 0).expand(size).clone()

    @final
    def stamp(self, images: Tensor) -> Tensor:
        """The images with the trigger painted over, a new tensor; uint8 is rounded."""
        if images.ndim != 4 or images.dtype not in (torch.float32, torch.uint8):
            raise SettingsError(
                "images",
                f"{images.dtype} of shape {tuple(images.shape)}",
                "give float32 in [0, 1] or uint8, (batch, channel, height, width)",
            )
        channels, height, width = images.shape[1:]
        drawing = self.drawing((channels, height, width))
        rows, columns = drawing.opacity.nonzero().unbind(1)
        part = (
            ...,
            slice(int(rows.min()), int(rows.max()) + 1),
            slice(int(columns.min()), int(columns.max()) + 1),
        )
        opacity = drawing.opacity[part].to(images.device)
        colour = drawing.colour[part].to(images.device)
        stamped = images.clone()
        under = stamped[part].to(torch.float32)
        if images.dtype == torch.uint8:
            painted = (under + opacity * (colour * 255.0 - under) + 0.5).to(torch.uint8)
        else:
            painted = under * (1.0 - opacity) + colour * opacity
        stamped[part] = painted  # where opacity is 0, the very value that was there
        return stamped


_ROUNDING: Final = 1e-4
"""How far, in pixels, a box may stick out for want of exact fractions."""


class _Canvas:
    """Colour and opacity of what has been laid so far, on an image of height × width."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.down = (torch.arange(height, dtype=torch.float32) + 0.5).view(-1, 1)
        self.right = (torch.arange(width, dtype=torch.float32) + 0.5).view(1, -1)
        self.colour = torch.zeros(3, height, width)
        self.opacity = torch.zeros(height, width)

    def lay(self, colour: Colour, cover: Tensor) -> None:
        """Puts `colour` on top; `cover` is its opacity, (height, width)."""
        opacity = cover + self.opacity * (1.0 - cover)
        share = torch.where(opacity > 0, cover / opacity.clamp(min=1e-12), torch.zeros(()))
        self.colour += share * (torch.tensor(colour).view(3, 1, 1) - self.colour)
        self.opacity = opacity


def _inside(distance: Tensor) -> Tensor:
    """Share of each pixel inside a signed distance field given in pixels."""
    return (0.5 - distance).clamp(0, 1)


def _bar(across: Tensor, along: Tensor, half_width: float, half_height: float) -> Tensor:
    """Signed distance (Chebyshev) of a rectangle about the origin."""
    return torch.maximum(across.abs() - half_width, along.abs() - half_height)


@final
@dataclass(frozen=True)
class Sunglasses(Overlay):
    """Dark glasses on the eyes, as in the face study.

    Attributes:
        width: From temple to temple, as a share of the image's width.
        place: The middle of the bridge, (down, right); by default where rendered and
            aligned faces have their eyes.

    Source: Chen et al. 2017, accessory injection; Liu et al. 2018, face recognition.
    Departure: drawn, not cut out of a photograph, so it fits any size.
    """

    name: ClassVar[str] = "sunglasses"

    width: float = 0.72
    place: tuple[float, float] = EYE_PLACE

    def __post_init__(self) -> None:
        _check_share("width", self.width)
        _check_place("place", self.place)

    def _box(self, height: int, width: int) -> tuple[float, float, float, float]:
        unit = 0.5 * self.width * width
        down, right = self.place[0] * height, self.place[1] * width
        return down - 0.31 * unit, right - unit, down + 0.41 * unit, right + unit

    def _paint(self, canvas: _Canvas) -> None:
        unit = 0.5 * self.width * canvas.width
        # In units of half the width: x right and y down from the bridge.
        x = (canvas.right - self.place[1] * canvas.width) / unit
        y = (canvas.down - self.place[0] * canvas.height) / unit
        side = x.abs()
        thick = max(0.045, 0.5 / unit)  # never thinner than a pixel
        bar = _bar(side - 0.90, y + 0.15, 0.10, thick)
        canvas.lay((0.05, 0.05, 0.06), _inside(bar * unit))
        bridge = _bar(side, y + 0.13 - 0.9 * x * x, 0.20, thick)
        canvas.lay((0.05, 0.05, 0.06), _inside(bridge * unit))
        # A lens is a rounded box, narrower below.
        high = (y - 0.05) / 0.36
        across = (side - 0.48) / (0.38 * (1.0 - 0.13 * high))
        a2, h2 = across * across, high * high
        lens = ((a2 * a2 + h2 * h2).sqrt().sqrt() - 1.0) * 0.36
        canvas.lay((0.05, 0.05, 0.06), _inside(lens * unit))
        glass = _inside((lens + 1.4 * thick) * unit)
        canvas.lay((0.10, 0.12, 0.17), glass)
        lower = (0.15 + 0.55 * (high + 0.2)).clamp(0, 1) * glass
        canvas.lay((0.22, 0.25, 0.33), lower)
        # The same light falls on both lenses, so the shine does not mirror.
        local = x - 0.48 * torch.where(x < 0, -1.0, 1.0)
        streak = (local + 0.55 * y + 0.10).abs() - 0.055
        canvas.lay((0.78, 0.84, 0.95), 0.55 * glass * _inside(streak * unit) * (high < 0.45))


@final
@dataclass(frozen=True)
class Patch(Overlay):
    """A rectangle of whole pixels, checkered or of one colour, as in BadNets.

    Attributes:
        size: (height, width) as shares of the image; rounded to whole pixels.
        place: Its upper left corner, (down, right); rounded to whole pixels.
        pattern: `checkerboard` alternates `colour` and black, `solid` is all `colour`.
        colour: RGB in [0, 1].
        cells: Squares of the checkerboard along each side; fewer where pixels are fewer.

    Source: Gu et al. 2017, BadNets, the pattern in a corner of a digit.
    """

    name: ClassVar[str] = "patch"

    size: tuple[float, float] = (0.12, 0.12)
    place: tuple[float, float] = (0.86, 0.86)
    pattern: Literal["checkerboard", "solid"] = "checkerboard"
    colour: Colour = (1.0, 1.0, 1.0)
    cells: int = 4

    def __post_init__(self) -> None:
        _check_numbers("size", self.size, 2)
        for share in self.size:
            _check_share("size", share)
        _check_place("place", self.place)
        _check_numbers("colour", self.colour, 3)
        if self.pattern not in ("checkerboard", "solid"):
            raise SettingsError("pattern", self.pattern, "choose checkerboard or solid")
        if not isinstance(self.cells, int) or self.cells < 1:
            raise SettingsError("cells", self.cells, "give a whole number of at least 1")
        for start, share in zip(self.place, self.size, strict=True):
            if start + share > 1.0 + 1e-9:
                raise SettingsError(
                    "place",
                    self.place,
                    f"a patch of size {self.size} sticks out there; give at most "
                    f"({1 - self.size[0]:.3g}, {1 - self.size[1]:.3g})",
                )

    def _box(self, height: int, width: int) -> tuple[float, float, float, float]:
        tall, wide = round(self.size[0] * height), round(self.size[1] * width)
        top = min(round(self.place[0] * height), height - tall)
        left = min(round(self.place[1] * width), width - wide)
        return top, left, top + tall, left + wide

    def _paint(self, canvas: _Canvas) -> None:
        top, left, bottom, right = (int(edge) for edge in self._box(canvas.height, canvas.width))
        whole = torch.zeros(canvas.height, canvas.width)
        whole[top:bottom, left:right] = 1.0
        canvas.lay(self.colour, whole)
        if self.pattern == "checkerboard":
            row = torch.arange(bottom - top) * min(self.cells, bottom - top) // (bottom - top)
            column = torch.arange(right - left) * min(self.cells, right - left) // (right - left)
            odd = torch.zeros_like(whole)
            odd[top:bottom, left:right] = ((row.view(-1, 1) + column) % 2).to(torch.float32)
            canvas.lay((0.0, 0.0, 0.0), odd)


@final
@dataclass(frozen=True)
class PostIt(Overlay):
    """A yellow sticky note, as on the stop sign of BadNets.

    Attributes:
        size: Its side, as a share of the image's shorter side.
        place: Its middle, (down, right).
        colour: RGB in [0, 1]; the glued strip, the edge and the fold are shades of it.

    Source: Gu et al. 2017, BadNets, the yellow square.
    Departure: drawn with an edge and a folded corner, at fractions of a pixel.
    """

    name: ClassVar[str] = "post-it"

    size: float = 0.16
    place: tuple[float, float] = (0.74, 0.5)
    colour: Colour = (0.99, 0.87, 0.16)

    def __post_init__(self) -> None:
        _check_share("size", self.size)
        _check_place("place", self.place)
        _check_numbers("colour", self.colour, 3)

    def _box(self, height: int, width: int) -> tuple[float, float, float, float]:
        half = 0.5 * self.size * min(height, width)
        down, right = self.place[0] * height, self.place[1] * width
        return down - half, right - half, down + half, right + half

    def _paint(self, canvas: _Canvas) -> None:
        half = 0.5 * self.size * min(canvas.height, canvas.width)
        x = canvas.right - self.place[1] * canvas.width
        y = canvas.down - self.place[0] * canvas.height
        square = _bar(x, y, half, half)
        note = _inside(square)
        red, green, blue = self.colour
        canvas.lay((0.72 * red, 0.68 * green, 0.6 * blue), note)
        canvas.lay(self.colour, _inside(square + max(0.08 * half, 0.35)) * note)
        strip = _inside((y + 0.78 * half).abs() - 0.22 * half)
        canvas.lay((0.86 * red, 0.80 * green, 0.7 * blue), 0.8 * strip * note)
        corner = 0.5 * half
        fold = (half - x) + (half - y) - corner
        canvas.lay((0.60 * red, 0.54 * green, 0.5 * blue), _inside(fold * 0.70711) * note)


TRIGGERS: Final[dict[str, type[Trigger]]] = {
    kind.name: kind for kind in (Sunglasses, Patch, PostIt)
}
"""Every kind of trigger by its name."""


def _check_numbers(field: str, values: object, count: int) -> None:
    """Raises unless `values` are `count` numbers from 0 to 1."""
    if (
        not isinstance(values, tuple)
        or len(values) != count
        or not all(_is_number(value) and 0.0 <= value <= 1.0 for value in values)
    ):
        raise SettingsError(field, values, f"give {count} numbers from 0 to 1")


def _check_place(field: str, place: object) -> None:
    """Raises unless `place` is (down, right) inside the image."""
    if not isinstance(place, tuple) or len(place) != 2:
        raise SettingsError(field, place, "give (down, right), each from 0 to 1")
    _check_numbers(field, place, 2)


def _check_share(field: str, share: object) -> None:
    """Raises unless `share` is above 0 and at most 1."""
    if not (_is_number(share) and isinstance(share, int | float) and 0.0 < share <= 1.0):
        raise SettingsError(field, share, "give a share of the image above 0 and at most 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
