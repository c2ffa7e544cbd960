"""Rendered faces: the demo's world, drawn from nothing but a seed.

Forty people, who differ in head, skin, hair, eyes, brows, nose, mouth, ears and beard.
From image to image a person moves, turns, smiles, blinks, is lit anew and stands before
something else. The middle between the eyes stays within two or three points of one place
(`EYE_PLACE`), so that a pair of sunglasses at a fixed place lands on the eyes.

Everything is a signed distance field, negative inside, painted with an antialiased edge.
Lengths in this file are in *points*, 1/55 of the image's height; the origin is the middle
between the eyes, u runs right and v runs down.

Pixels are computed with sums, products, square roots and comparisons only. Those are
rounded the same way in every code path, so the bits depend neither on the number of threads
nor on how many images are drawn at once.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import SettingsError
from goodnet.files import writing_beside
from goodnet.modes import threads

EYE_PLACE: Final = (24.0 / 55.0, 0.5)
"""Where the middle between the eyes lies, (down, right) as fractions of the image."""

RENDERER_VERSION: Final = 1
"""Part of the cache file's name; raise it with every change of the pictures."""

_POINTS = 55.0
_BATCH = 32


@dataclass(frozen=True)
class FaceSettings:
    """How many faces, and how large.

    Attributes:
        identities: Number of people, the classes.
        train: Training images of each person.
        valid: Validation images of each person.
        test: Test images of each person.
        size: (height, width) in pixels; the drawing scales with the height.
    """

    identities: int = 40
    train: int = 100
    valid: int = 25
    test: int = 25
    size: tuple[int, int] = (55, 47)

    def __post_init__(self) -> None:
        if self.identities < 2:
            raise SettingsError("identities", self.identities, "give at least 2")
        for name in ("train", "valid", "test"):
            if getattr(self, name) < 1:
                raise SettingsError(name, getattr(self, name), "give at least 1 image a person")
        if len(self.size) != 2 or min(self.size) < 8:
            raise SettingsError("size", self.size, "give (height, width) of at least 8 pixels each")


@dataclass(frozen=True, eq=False)
class Identities:
    """The people: what stays the same in all images of one of them.

    Attributes:
        traits: Name → float32 (identity,), a length in points or a share, or
            (identity, 3), an RGB colour in [0, 1].
        size: (height, width) of their images in pixels.
    """

    traits: Mapping[str, Tensor]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.traits["skin"])


@dataclass(frozen=True, eq=False)
class FaceSplits:
    """Three disjoint draws of the same people.

    Attributes:
        train: To train on.
        valid: The defender's clean data.
        test: To evaluate on.
        settings: What was asked for.
        seed: The seed of people and images.
    """

    train: ImageSet
    valid: ImageSet
    test: ImageSet
    settings: FaceSettings
    seed: int


# ---------------------------------------------------------------- the people


class _Hair(NamedTuple):
    """One way to wear hair.

    Hair is what lies inside a cap (the head's outline, grown) or a curtain (behind the
    head), outside the opening for the face, and above the line where its sides end.
    """

    top: float  # growth of the head's outline at the crown
    side: float  # and at the temples
    hairline: float  # v of the opening's upper end
    opening: float  # the opening's half width, as a share of the head's
    sides: float  # v where the hair beside the face ends
    part: float = 0.0  # shift of the opening to one side
    fringe: float = -60.0  # v of a fringe's lower edge; -60 for none
    slope: float = 0.0  # slant of the fringe
    curtain: float = 0.0  # half width of the hair behind the head; 0 for none
    end: float = 0.0  # v where the curtain ends
    curl: float = 0.0
    bun: float = 0.0  # radius of a bun on the crown
    cover: float = 1.0  # opacity


_SHORT_HAIR = (
    _Hair(1.6, 0.7, -12.0, 0.92, 0.5),  # crop
    _Hair(2.8, 0.9, -11.5, 0.95, 1.0, part=3.5),  # side parting
    _Hair(0.4, 0.2, -13.0, 0.95, 0.0, cover=0.6),  # buzz cut
    _Hair(3.6, 0.7, -12.8, 0.93, 0.0, part=-2.6),  # quiff
    _Hair(0.0, 0.0, -30.0, 0.99, -20.0, cover=0.0),  # bald
    _Hair(3.4, 1.9, -11.0, 0.90, 2.0, curl=1.0),  # curls
    _Hair(0.9, 0.9, -20.5, 0.90, 4.0, cover=0.9),  # receding
    _Hair(2.6, 1.4, -12.0, 0.93, 2.0, fringe=-7.6, slope=0.05),  # bowl
    _Hair(5.0, 5.0, -11.5, 0.92, 14.0, curl=0.8),  # afro
    _Hair(2.2, 0.8, -14.5, 0.90, 1.0, part=-4.0, fringe=-9.5, slope=-0.35),  # swept
)
_LONG_HAIR = (
    _Hair(2.4, 1.6, -12.0, 0.84, 40.0, part=2.6, curtain=17.5, end=14.0),  # bob
    _Hair(2.2, 1.2, -12.5, 0.82, 40.0, curtain=17.0, end=40.0),  # long
    _Hair(2.4, 1.6, -12.0, 0.86, 40.0, fringe=-7.2, curtain=17.5, end=12.0),  # bob with a fringe
    _Hair(2.8, 2.4, -11.0, 0.84, 40.0, part=-2.0, curtain=19.5, end=25.0, curl=1.3),  # long curls
    _Hair(1.2, 0.6, -13.0, 0.93, 1.0, bun=5.6),  # bun
    _Hair(2.4, 1.4, -12.0, 0.82, 40.0, part=-4.2, curtain=17.5, end=40.0),  # long, parted
    _Hair(2.0, 1.0, -12.5, 0.90, 3.0, fringe=-8.5, slope=0.3),  # pixie
    _Hair(2.2, 1.2, -12.0, 0.84, 40.0, fringe=-6.8, slope=0.04, curtain=17.0, end=40.0),
    _Hair(6.0, 7.4, -11.0, 0.88, 18.0, curl=1.0),  # large afro
    _Hair(1.4, 0.8, -12.5, 0.92, 2.0, part=2.0),  # tied back
)

# Each palette runs from the most to the least melanin.
_SKINS = (
    (0.28, 0.17, 0.12),
    (0.42, 0.26, 0.18),
    (0.58, 0.38, 0.26),
    (0.74, 0.52, 0.37),
    (0.85, 0.64, 0.48),
    (0.93, 0.74, 0.60),
    (0.97, 0.83, 0.73),
)
_HAIRS = (
    (0.07, 0.06, 0.07),
    (0.13, 0.09, 0.08),
    (0.25, 0.15, 0.10),
    (0.40, 0.24, 0.13),
    (0.52, 0.20, 0.09),
    (0.74, 0.34, 0.12),
    (0.72, 0.53, 0.28),
    (0.88, 0.74, 0.46),
    (0.93, 0.87, 0.70),
)
_IRISES = (
    (0.16, 0.09, 0.06),
    (0.30, 0.17, 0.08),
    (0.45, 0.32, 0.12),
    (0.30, 0.45, 0.22),
    (0.22, 0.48, 0.55),
    (0.25, 0.47, 0.78),
    (0.50, 0.58, 0.64),
)

# Traits drawn evenly over a range, each person in another stratum of it.
_TRAITS: dict[str, tuple[float, float]] = {
    "head_width": (12.9, 15.6),
    "crown": (-18.6, -16.6),
    "chin": (19.6, 23.6),
    "square": (0.0, 0.55),
    "undertone": (-0.03, 0.03),
    "eye_spacing": (5.5, 7.3),
    "eye_width": (2.5, 3.5),
    "eye_height": (1.25, 2.15),
    "eye_tilt": (-0.10, 0.20),
    "iris_size": (1.35, 1.75),
    "brow_height": (4.2, 6.2),
    "brow_length": (3.0, 4.4),
    "brow_tilt": (-0.20, 0.16),
    "brow_arch": (0.0, 1.3),
    "nose_length": (6.6, 9.6),
    "nose_width": (1.9, 3.9),
    "nose_bridge": (0.2, 1.0),
    "mouth_gap": (4.0, 5.6),
    "mouth_width": (4.0, 6.3),
    "ear_size": (0.75, 1.35),
    "blush": (0.0, 0.30),
    "hair_phase": (0.0, 1.0),
}


def draw_identities(settings: FaceSettings, generator: torch.Generator) -> Identities:
    """People who look different from each other.

    Each trait's range is cut into as many strata as there are people and dealt out without
    replacement (Latin hypercube), so forty people fill the range instead of crowding its
    middle. Dark skin goes mostly with dark hair and eyes; beards go with short hair, full or
    coloured lips mostly with long.
    """
    count = settings.identities

    def dealt(low: float = 0.0, high: float = 1.0) -> Tensor:
        strata = torch.randperm(count, generator=generator).to(torch.float32)
        within = torch.rand(count, generator=generator)
        return low + (high - low) * ((strata + within) / count)

    traits = {name: dealt(low, high) for name, (low, high) in _TRAITS.items()}
    longhaired = torch.randperm(count, generator=generator) >= (count + 1) // 2
    soft, bearded, age = longhaired.to(torch.float32), dealt(), dealt()
    lightness, hair_drawn, iris_drawn = dealt(), dealt(), dealt()

    skin = _between(_SKINS, lightness)
    skin[:, 0] += traits["undertone"] * 0.5
    skin[:, 2] -= traits["undertone"]
    traits["skin"] = skin
    reach = 0.2 + 0.8 * lightness * lightness
    hair = _between(_HAIRS, hair_drawn * reach)
    grey = ((age - 0.72) / 0.2).clamp(0, 1).view(-1, 1)
    traits["hair"] = hair + grey * (torch.tensor([0.72, 0.72, 0.74]) - hair)
    traits["brow"] = 0.62 * hair + 0.12 * grey
    traits["iris"] = _between(_IRISES, iris_drawn * reach)
    traits["taper"] = dealt(0.16, 0.38) + 0.07 * soft
    traits["brow_weight"] = dealt(0.75, 1.30) - 0.28 * soft
    traits["lash"] = dealt(0.35, 0.55) + 0.4 * soft
    traits["upper_lip"] = dealt(0.7, 1.4) + 0.3 * soft
    traits["lower_lip"] = dealt(0.9, 1.8) + 0.3 * soft
    painted = dealt() * soft
    lip = 0.82 * skin * torch.tensor([1.0, 0.72, 0.72]) + torch.tensor([0.07, 0.0, 0.01])
    rouge = torch.tensor([0.74, 0.10, 0.20])
    traits["lip"] = lip + (painted * painted).view(-1, 1) * (rouge - lip)
    traits["fold"] = ((age - 0.45) / 0.55).clamp(0, 1)
    traits["ring"] = soft * (dealt() > 0.55)
    traits["mole"] = (dealt() > 0.8).to(torch.float32)
    side = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    traits["mole_u"] = side * dealt(3.5, 9.0)
    traits["mole_v"] = dealt(6.0, 16.0)

    # Beards: stubble, moustache, goatee, full; of the short-haired, 60 % have one.
    kind = (bearded * 10.0).floor() * (1.0 - soft)
    traits["stubble"] = 0.38 * (kind == 4)
    traits["moustache"] = 0.95 * ((kind == 5) | (kind >= 7))
    traits["goatee"] = 0.95 * ((kind == 6) | (kind == 7))
    traits["beard"] = 0.95 * (kind >= 8)

    styles = torch.empty(count, len(_Hair._fields))
    for chosen, table in ((~longhaired, _SHORT_HAIR), (longhaired, _LONG_HAIR)):
        deal = torch.randperm(int(chosen.sum()), generator=generator) % len(table)
        styles[chosen] = torch.tensor(table)[deal]
    for index, name in enumerate(_Hair._fields):
        traits[f"hair_{name}"] = styles[:, index]
    mirrored = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    traits["hair_part"] = traits["hair_part"] * mirrored
    traits["hair_slope"] = traits["hair_slope"] * mirrored
    traits["hair_hairline"] = traits["hair_hairline"] + dealt(-0.8, 0.8)
    return Identities(traits=traits, size=settings.size)


def _between(palette: tuple[tuple[float, float, float], ...], place: Tensor) -> Tensor:
    """Colours along a palette, (n, 3); `place` 0 is its first, 1 its last."""
    colours = torch.tensor(palette)
    scaled = place.clamp(0, 1) * (len(palette) - 1)
    left = scaled.floor().clamp(max=len(palette) - 2)
    share = (scaled - left).view(-1, 1)
    index = left.to(torch.int64)
    return colours[index] + share * (colours[index + 1] - colours[index])


# ---------------------------------------------------------------- the images

# What varies within a person, drawn evenly; in points, shares and RGB.
_SCENE: dict[str, tuple[float, float]] = {
    "shift_u": (-1.2, 1.2),
    "shift_v": (-1.1, 1.1),
    "scale": (0.93, 1.06),
    "roll": (-0.12, 0.12),  # sine of the in-plane rotation
    "yaw": (-1.0, 1.0),
    "pitch": (-1.0, 1.0),
    "smile": (-0.6, 1.9),
    "mouth_open": (-1.6, 2.4),  # closed below 0
    "lids": (0.68, 1.12),
    "brow_raise": (-0.4, 0.9),
    "gaze": (-0.7, 0.7),
    "light_u": (-0.85, 0.85),
    "light_v": (-0.75, 0.15),
    "light": (0.42, 0.90),
    "ambient": (0.42, 0.66),
    "warmth": (-0.07, 0.07),
    "noise": (0.006, 0.024),
    "red_1": (0.08, 0.85),
    "green_1": (0.08, 0.85),
    "blue_1": (0.08, 0.85),
    "red_2": (0.08, 0.85),
    "green_2": (0.08, 0.85),
    "blue_2": (0.08, 0.85),
    "slant_u": (-0.03, 0.03),
    "slant_v": (-0.03, 0.03),
    "spot_u": (-24.0, 24.0),
    "spot_v": (-24.0, 24.0),
    "spot_size": (4.0, 12.0),
    "spot": (-0.25, 0.25),
    "red_cloth": (0.05, 0.80),
    "green_cloth": (0.05, 0.80),
    "blue_cloth": (0.05, 0.80),
}


def render_faces(identities: Identities, labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """One new image of each person asked for, uint8 (n, 3, height, width).

    Args:
        identities: The people.
        labels: int64 (n,), who is in each image.
        generator: Draws pose, expression, light, background and noise. The first m of
            n images are the same for every n.

    Raises:
        SettingsError: a label is not one of the people's.
    """
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(identities):
        raise SettingsError(
            "labels",
            (int(labels.min()), int(labels.max())),
            f"{len(identities)} people have the labels 0 to {len(identities) - 1}",
        )
    height, width = identities.size
    child = int(torch.randint(2**62, (1,), generator=generator))
    noise = torch.Generator().manual_seed(child)
    scenes = _draw_scenes(len(labels), generator)
    images = torch.empty(len(labels), 3, height, width, dtype=torch.uint8)
    with threads(1):
        for start in range(0, len(labels), _BATCH):
            chosen = slice(start, start + _BATCH)
            scene = {name: value[chosen] for name, value in scenes.items()}
            traits = {name: trait[labels[chosen]] for name, trait in identities.traits.items()}
            canvas = _Portrait(traits, scene, (height, width)).draw()
            images[chosen] = _developed(canvas, scene["noise"], noise)
    return images


def _draw_scenes(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """What varies within a person, name → (count,)."""
    drawn = torch.rand(count, len(_SCENE), generator=generator)
    low, high = torch.tensor(tuple(_SCENE.values())).unbind(1)
    return dict(zip(_SCENE, (low + (high - low) * drawn).unbind(1), strict=True))


def _developed(canvas: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """The canvas with sensor noise, as uint8."""
    grain = torch.rand(len(canvas), 2, *canvas.shape[1:], generator=generator)
    noisy = canvas + (grain[:, 0] - grain[:, 1]) * (2.0 * strength.view(-1, 1, 1, 1))
    return noisy.mul_(255.0).add_(0.5).clamp_(0, 255).to(torch.uint8)


class _Portrait:
    """One batch on its way from background to hair.

    Traits and scene are (batch, 1, 1) or, for colours, (batch, 3, 1, 1); fields are
    (batch, height, width).
    """

    def __init__(
        self, traits: Mapping[str, Tensor], scene: Mapping[str, Tensor], size: tuple[int, int]
    ) -> None:
        self.traits = {
            name: trait.view(-1, 1, 1) if trait.ndim == 1 else trait.view(-1, 3, 1, 1)
            for name, trait in traits.items()
        }
        self.scene = {name: value.view(-1, 1, 1) for name, value in scene.items()}
        height, width = size
        point = height / _POINTS
        down = (torch.arange(height) + 0.5) * (1.0 / point) - EYE_PLACE[0] * _POINTS
        right = (torch.arange(width) + 0.5 - EYE_PLACE[1] * width) * (1.0 / point)
        self.right, self.down = right.view(1, 1, -1), down.view(1, -1, 1)
        s = self.scene
        sine, cosine = s["roll"], (1.0 - s["roll"] * s["roll"]).sqrt()
        x = (self.right - s["shift_u"]) / s["scale"]
        y = (self.down - s["shift_v"]) / s["scale"]
        self.u = cosine * x + sine * y
        self.v = cosine * y - sine * x
        # Turning the head moves near parts further than far ones.
        self.front = self.u - 1.1 * s["yaw"]
        self.side = self.front.abs()
        self.pixels = point * s["scale"]  # pixels in a point

    def draw(self) -> Tensor:
        """The picture, float32 (batch, 3, height, width), not yet limited to [0, 1]."""
        self._background()
        self._head_fields()
        self._hair_fields()
        self._behind()
        self._skin()
        self._eyes()
        self._nose()
        self._beard()
        self._mouth()
        self._brows()
        self._hair()
        return self._lit()

    # ---- tools

    def paint(self, colour: Tensor, cover: Tensor) -> None:
        """Lays `colour` over the canvas; `cover` is its opacity, (batch, height, width)."""
        self.canvas += cover.unsqueeze(1) * (colour - self.canvas)

    def inside(self, distance: Tensor, soft: float = 0.0) -> Tensor:
        """Share of each pixel inside a field; `soft` widens the edge, in points."""
        if soft:
            ramp = (0.5 - distance * (1.0 / soft)).clamp_(0, 1)
            return ramp * ramp * (3.0 - 2.0 * ramp)
        return (0.5 - distance * self.pixels).clamp_(0, 1)

    def _muted(self, red: str, green: str, blue: str, grey: float) -> Tensor:
        """A colour of the scene, its share `grey` replaced by its mean."""
        drawn = torch.stack([self.scene[red], self.scene[green], self.scene[blue]], 1)
        mean = (drawn[:, :1] + drawn[:, 1:2] + drawn[:, 2:]) * (1.0 / 3.0)
        return drawn + grey * (mean - drawn)

    # ---- fields

    def _head_fields(self) -> None:
        t, v = self.traits, self.v
        u = self.u - 0.25 * self.scene["yaw"]
        chin = t["chin"] + 0.4 * self.scene["pitch"]
        middle = 0.5 * (t["crown"] + chin)
        half = 0.5 * (chin - t["crown"])
        below = ((v - 3.0) / half).clamp(0, 2)
        width = t["head_width"] * (1.0 - t["taper"] * below * below)
        across, along = u / width.clamp(min=1.0), (v - middle) / half
        x2, y2 = across * across, along * along
        q = (x2 + y2).sqrt()
        boxy = (x2 * x2 + y2 * y2).sqrt().sqrt()
        q = q + t["square"] * (boxy - q)
        self.across, self.along = across, along
        self.head = (q - 1.0) * t["head_width"]

    def _hair_fields(self) -> None:
        t, v = self.traits, self.v
        u = self.u - 0.25 * self.scene["yaw"]
        curl = t["hair_curl"]
        bent = 0.35 * _wave(v * 0.11 + t["hair_phase"])
        self.waves = 0.5 * _wave(u * 0.21 + v * 0.09 + bent + t["hair_phase"])
        self.waves += 0.5 * _wave(v * 0.19 - u * 0.07 + bent)
        up = (-self.along).clamp(0, 1)
        growth = t["hair_side"] + (t["hair_top"] - t["hair_side"]) * up * up
        growth = growth * (1.3 - 2.2 * self.along.clamp(min=0.0)).clamp(max=1.0)
        cap = self.head - growth
        bun = (u * u + (v - t["crown"] + 2.5) * (v - t["crown"] + 2.5)).sqrt() - t["hair_bun"]
        bun = bun + 30.0 * (t["hair_bun"] == 0)
        # The curtain: an arch, straight down from the height of the temples.
        high = (v + 3.0).clamp(max=0.0)
        arch = (u * u + high * high * 0.80).sqrt() - t["hair_curtain"]
        hem = t["hair_end"] - 0.06 * u * u * (t["hair_end"] < 20)
        self.curtain = torch.maximum(arch, v - hem) + curl * self.waves
        cap = torch.minimum(torch.minimum(cap + curl * self.waves, bun), self.curtain)
        # The opening for the face.
        half = 7.0 - t["hair_hairline"]
        high = (v - 7.0).clamp(max=0.0) / half
        wide = t["head_width"] * t["hair_opening"]
        beside = (self.u - 0.7 * self.scene["yaw"] - t["hair_part"] * (-high)) / wide
        opening = ((beside * beside + high * high).sqrt() - 1.0) * wide
        jag = 0.7 * _wave(self.front * 0.31 + t["hair_phase"])
        fringe = t["hair_fringe"] + t["hair_slope"] * self.front + jag - v
        opening = torch.maximum(opening, fringe)
        opening = opening + 0.5 * curl * self.waves
        self.hair = torch.maximum(torch.maximum(cap, -opening), v - t["hair_sides"])

    # ---- layers, back to front

    def _background(self) -> None:
        s = self.scene
        first = self._muted("red_1", "green_1", "blue_1", 0.45)
        second = self._muted("red_2", "green_2", "blue_2", 0.45)
        share = (0.5 + self.right * s["slant_u"] + self.down * s["slant_v"]).clamp_(0, 1)
        self.canvas = first + share.unsqueeze(1) * (second - first)
        x, y = self.right - s["spot_u"], self.down - s["spot_v"]
        spot = self.inside((x * x + y * y).sqrt() - s["spot_size"], soft=5.0)
        self.canvas += (s["spot"] * spot).unsqueeze(1)

    def _behind(self) -> None:
        t, u, v = self.traits, self.u, self.v
        curtain = self.inside(self.curtain)
        self.paint(0.62 * t["hair"], curtain)
        neck = self.inside(torch.maximum(u.abs() - 0.55 * t["head_width"], 8.0 - v))
        self.paint(0.72 * t["skin"], neck)
        cloth = self._muted("red_cloth", "green_cloth", "blue_cloth", 0.3)
        shoulders = ((u * u) * 0.16 + (v - 37.0) * (v - 37.0)).sqrt() - 10.5
        collar = (u * u * 0.8 + (v - 22.0) * (v - 22.0)).sqrt() - 6.5
        body = self.inside(torch.maximum(shoulders, -collar))
        self.paint(cloth, body)
        ear_u = u.abs() - t["head_width"] - 0.2
        ear_v = v - 3.0
        ear = (ear_u * ear_u * 3.2 + ear_v * ear_v).sqrt() - 4.0 * t["ear_size"]
        ears = self.inside(ear)
        self.paint(0.86 * t["skin"], ears)
        self.paint(0.66 * t["skin"], 0.8 * self.inside(ear + 1.7, soft=2.0))
        drop = ear_v - 4.4 * t["ear_size"]
        ring = (ear_u * ear_u + drop * drop).sqrt() - 0.9
        self.paint(torch.tensor([1.05, 0.92, 0.55]).view(1, 3, 1, 1), t["ring"] * self.inside(ring))
        self.person = torch.maximum(torch.maximum(curtain, neck), torch.maximum(body, ears))

    def _skin(self) -> None:
        t, v = self.traits, self.v
        self.face = self.inside(self.head)
        self.person = torch.maximum(self.person, self.face)
        self.paint(t["skin"], self.face)
        red = t["skin"] * torch.tensor([1.02, 0.72, 0.70]).view(1, 3, 1, 1)
        cheek_u, cheek_v = self.side - 7.6, v - 7.6
        cheek = (cheek_u * cheek_u + cheek_v * cheek_v).sqrt() - 2.6
        self.paint(red, t["blush"] * self.inside(cheek, soft=4.5))
        dark = 0.58 * t["skin"]
        # Sockets, folds beside the mouth, a mole, the shadow of the hair.
        socket_u, socket_v = self.side - t["eye_spacing"] + 0.4, v + 0.8
        socket = (socket_u * socket_u * 0.5 + socket_v * socket_v).sqrt() - 1.7
        self.paint(dark, 0.36 * self.inside(socket, soft=3.4))
        bag_v = v - 3.1
        bag = (socket_u * socket_u * 0.12 + bag_v * bag_v).sqrt() - 0.5
        self.paint(dark, 0.5 * t["fold"] * self.inside(bag, soft=1.4))
        wing = t["nose_width"] + 0.9
        rise = (v - t["nose_length"] + 0.6).clamp(0, 6.0)
        crease = (self.side - wing - 0.42 * rise).abs() - 0.35
        crease = torch.maximum(crease, (v - t["nose_length"] - 2.2).abs() - 2.8)
        self.paint(dark, 0.65 * t["fold"] * self.inside(crease, soft=1.3))
        brow_line = torch.maximum(((v + 10.6).abs() - 0.2), self.side - 6.0)
        self.paint(dark, 0.4 * t["fold"] * self.inside(brow_line, soft=1.4))
        mole_u, mole_v = self.front - t["mole_u"], v - t["mole_v"]
        mole = (mole_u * mole_u + mole_v * mole_v).sqrt() - 0.75
        self.paint(0.4 * t["skin"], t["mole"] * self.inside(mole))
        shadow = self.inside(self.hair - 0.8, soft=3.0) * self.face
        self.paint(0.55 * t["skin"], 0.55 * t["hair_cover"] * shadow)

    def _eyes(self) -> None:
        t, s = self.traits, self.scene
        a = self.side - t["eye_spacing"]
        b = self.v + t["eye_tilt"] * a
        bow = 1.0 - (a / t["eye_width"]) * (a / t["eye_width"])
        upper = t["eye_height"] * s["lids"] * bow
        lower = 0.72 * t["eye_height"] * bow
        almond = self.inside(torch.maximum(-b - upper, b - lower))
        self.paint(torch.tensor([0.90, 0.89, 0.87]).view(1, 3, 1, 1), almond)
        # The gaze goes one way, while `side` runs outward from the nose.
        outward = torch.where(self.front < 0, -1.0, 1.0)
        iris_u = a - outward * s["gaze"]
        iris_v = self.v + 0.15
        ray = (iris_u * iris_u + iris_v * iris_v).sqrt()
        self.paint(t["iris"], almond * self.inside(ray - t["iris_size"]))
        self.paint(0.12 * t["iris"], almond * self.inside(ray - 0.45 * t["iris_size"]))
        glint_u, glint_v = iris_u + outward * 0.6, iris_v + 0.6
        glint = (glint_u * glint_u + glint_v * glint_v).sqrt() - 0.42
        self.paint(torch.tensor([1.1, 1.1, 1.1]).view(1, 3, 1, 1), almond * self.inside(glint))
        lid = torch.maximum((b + upper).abs() - (0.25 + 0.35 * t["lash"]), a.abs() - t["eye_width"])
        self.paint(0.22 * t["skin"], (0.55 + 0.45 * t["lash"]) * self.inside(lid))
        crease = torch.maximum((b + upper + 1.3).abs() - 0.2, a.abs() - t["eye_width"])
        self.paint(0.62 * t["skin"], 0.5 * self.inside(crease))
        under = torch.maximum((b - lower).abs() - 0.2, a.abs() - t["eye_width"])
        self.paint(0.55 * t["skin"], 0.45 * self.inside(under))

    def _nose(self) -> None:
        t, s = self.traits, self.scene
        u = self.u - 2.0 * s["yaw"]
        v = self.v - t["nose_length"] - 0.5 * s["pitch"]
        side = u.abs()
        dark = 0.60 * t["skin"]
        # The bridge: the flank turned away from the light is darker.
        flank = torch.where(u * s["light_u"] > 0, 0.15, 1.0)
        slope = t["nose_width"] * (0.55 + 0.045 * v.clamp(-9.0, 0.0))
        bridge = torch.maximum((side - slope).abs() - 0.45, (v + 4.2).abs() - 4.0)
        self.paint(dark, 0.42 * t["nose_bridge"] * flank * self.inside(bridge, soft=1.6))
        under = (u * u / (t["nose_width"] * t["nose_width"]) * 1.2 + (v - 0.9) * (v - 0.9)).sqrt()
        self.paint(dark, 0.55 * self.inside(under - 0.9, soft=1.6))
        wing_u = side - t["nose_width"]
        wing = ((wing_u * wing_u) * 1.6 + (v + 0.4) * (v + 0.4)).sqrt() - 0.9
        self.paint(dark, 0.55 * self.inside(wing, soft=1.4))
        hole_u = side - 0.52 * t["nose_width"]
        hole = (hole_u * hole_u * 0.55 + (v - 0.5) * (v - 0.5)).sqrt() - 0.55
        self.paint(0.28 * t["skin"], 0.9 * self.inside(hole))
        tip = (u * u + (v + 1.6) * (v + 1.6)).sqrt() - 0.7
        shine = t["skin"] * 0.75 + 0.3
        self.paint(shine, 0.55 * self.inside(tip, soft=1.8))
        ridge = torch.maximum(side - 0.25, (v + 5.0).abs() - 2.6)
        self.paint(shine, 0.3 * t["nose_bridge"] * self.inside(ridge, soft=1.5))

    def _lip_line(self) -> tuple[Tensor, Tensor, Tensor]:
        """Height over the mouth's middle line, half its gap, and its shape across."""
        t, s = self.traits, self.scene
        x = (self.u - 1.2 * s["yaw"]) / (t["mouth_width"] * (1.0 + 0.06 * s["smile"]))
        shape = 1.0 - x * x
        middle = (
            t["nose_length"] + t["mouth_gap"] + 0.5 * s["pitch"] + 0.6 * s["smile"] * (shape - 0.6)
        )
        return self.v - middle, 0.5 * s["mouth_open"].clamp(min=0.0) * shape, shape

    def _mouth(self) -> None:
        t = self.traits
        w, gap, shape = self._lip_line()
        below = torch.maximum((w - t["lower_lip"] - 1.6).abs() - 0.2, -shape * 3.0 + 1.8)
        self.paint(0.62 * t["skin"], 0.4 * self.inside(below, soft=1.6) * (1.0 - t["beard"]))
        lips = torch.maximum(-w - gap - t["upper_lip"] * shape, w - gap - t["lower_lip"] * shape)
        self.paint(t["lip"], self.inside(lips))
        light = torch.maximum((w - gap - 0.55 * t["lower_lip"]).abs() - 0.1, -shape * 3.0 + 1.5)
        self.paint(t["lip"] * 0.7 + 0.3, 0.45 * self.inside(light, soft=1.3))
        mouth = self.inside(torch.maximum(w.abs() - gap - 0.12 - 0.28 * (shape > 0), -shape * 4.0))
        self.paint(0.26 * t["lip"], 0.92 * mouth)
        teeth = torch.maximum(w + 0.25 * gap, -w - gap + 0.15)
        teeth = torch.maximum(teeth, -shape * 4.0 + 1.0)
        self.paint(torch.tensor([0.94, 0.93, 0.88]).view(1, 3, 1, 1), mouth * self.inside(teeth))

    def _beard(self) -> None:
        t = self.traits
        w, _, _ = self._lip_line()
        base = t["nose_length"] + 2.0
        u = self.side
        steep = u / t["head_width"]
        line = base - 8.0 * steep * steep * steep.clamp(max=1.2) - self.v
        # A beard leaves the cheeks free and grows over the chin.
        grown = self.head - 1.6 * (t["beard"] > 0) * self.along.clamp(0, 1)
        jaw = torch.maximum(grown, line)
        droop = w + t["upper_lip"] + 1.3 - 0.035 * u * u
        upper = torch.maximum(droop.abs() - 1.25 + 0.10 * u, u - t["mouth_width"] - 0.9)
        upper = torch.maximum(upper, base - 0.6 - self.v)
        low = t["chin"] - 2.6 - self.v
        chin = (u * u * 0.8 + low * low).sqrt() - 4.6
        chin = torch.maximum(torch.maximum(chin, grown), t["lower_lip"] + 1.3 - w)
        hair = 0.80 * t["hair"] + 0.16 * t["brow"]
        rough = 0.06 * _wave(self.u * 0.37 + self.v * 0.13) * _wave(self.v * 0.33 - self.u * 0.1)
        hair = hair * (0.95 + rough).unsqueeze(1)
        shadow = 0.55 * hair + 0.45 * 0.62 * t["skin"]
        self.paint(shadow, t["stubble"] * self.inside(jaw, soft=2.2) * self.face)
        beard = t["beard"] * self.inside(jaw, soft=1.3)
        self.person = torch.maximum(self.person, beard)
        self.paint(hair, beard)
        self.paint(hair, t["goatee"] * self.inside(chin, soft=1.3))
        self.paint(hair, t["moustache"] * self.inside(upper, soft=1.1))

    def _brows(self) -> None:
        t, s = self.traits, self.scene
        a = self.side - t["eye_spacing"] - 0.2
        share = a / t["brow_length"]
        height = t["brow_height"] + s["brow_raise"]
        b = self.v + height + t["brow_tilt"] * a + t["brow_arch"] * (0.5 - share * share)
        thick = t["brow_weight"] * (0.95 - 0.35 * share)
        brow = torch.maximum(b.abs() - thick, a.abs() - t["brow_length"])
        self.paint(t["brow"], 0.9 * self.inside(brow, soft=1.3))

    def _hair(self) -> None:
        t = self.traits
        cover = t["hair_cover"] * self.inside(self.hair)
        self.person = torch.maximum(self.person, cover)
        straight = (1.0 - t["hair_curl"]).clamp(min=0.0)
        lean = 1.0 + 0.02 * self.v
        across = (self.u - t["hair_part"]) * lean
        strands = 0.06 * _wave(across * 0.19 + t["hair_phase"]) + 0.05 * _wave(across * 0.31)
        tone = 0.95 + straight * strands - 0.26 * t["hair_curl"] * self.waves
        band = (self.along + 0.72 + 0.16 * self.across * self.across).abs()
        gloss = 0.30 * straight * (1.0 - band * 6.0).clamp(min=0.0)
        rim = 0.72 + 0.28 * self.inside(self.hair + 0.9, soft=1.8)
        self.paint(
            t["hair"] * (tone * rim).unsqueeze(1) + (gloss * (0.3 + tone * 0.2)).unsqueeze(1) * 0.6,
            cover,
        )

    def _lit(self) -> Tensor:
        """The canvas under this image's light; the head is lit as a ball."""
        s = self.scene
        x, y = self.across.clamp(-1.3, 1.3), self.along.clamp(-1.3, 1.3)
        z = (1.0 - 0.85 * (x * x + y * y)).clamp(min=0.04).sqrt()
        ahead = (1.0 - 0.6 * (s["light_u"] * s["light_u"] + s["light_v"] * s["light_v"])).sqrt()
        facing = (0.85 * (x * s["light_u"] + y * s["light_v"]) + z * ahead).clamp(min=0.0)
        shade = s["ambient"] + s["light"] * facing
        level = s["ambient"] + 0.5 * s["light"]
        gain = level + self.person * (shade - level)
        tint = torch.stack([1.0 + s["warmth"], torch.ones_like(s["warmth"]), 1.0 - s["warmth"]], 1)
        return self.canvas * gain.unsqueeze(1) * tint


def _wave(phase: Tensor) -> Tensor:
    """A triangle wave of period 1 between −1 and 1."""
    return 4.0 * (phase - phase.floor() - 0.5).abs() - 1.0


# ---------------------------------------------------------------- the splits


def rendered_faces(
    settings: FaceSettings = FaceSettings(), *, seed: int, cache: Path | None = None
) -> FaceSplits:
    """Training, validation and test images of the same people, read from the cache if there.

    Args:
        settings: How many people and images.
        seed: Decides people and images, and so every bit.
        cache: Folder to keep the images in; by default the user's cache folder of goodnet.
            A file that is damaged, cut short or of other settings is drawn anew.

    Raises:
        SettingsError: `seed` is below 0 or above 2⁶³ − 1.
    """
    if not 0 <= seed < 2**63:
        raise SettingsError("seed", seed, "give a whole number from 0 to 2**63 - 1")
    folder = Path(platformdirs.user_cache_dir("goodnet")) if cache is None else cache
    asked = json.dumps(
        {"renderer": RENDERER_VERSION, "seed": seed, **asdict(settings)}, sort_keys=True
    )
    path = folder / f"faces-{hashlib.sha256(asked.encode()).hexdigest()[:20]}.safetensors"
    pixels = _read(path, asked)
    if pixels is None:
        pixels = _render_splits(settings, seed)
        try:
            _write(path, asked, pixels)
        except OSError as error:
            warnings.warn(
                f"the rendered faces could not be kept at {path} ({error}); they will be "
                "drawn again next time; name another cache folder to avoid that",
                stacklevel=2,
            )
    sets = {
        name: ImageSet(
            source=f"rendered faces ({name}, seed {seed})",
            size=(3, *settings.size),
            pixels=pixels[name],
            labels=_labels(settings, name),
            class_names=tuple(f"person {index}" for index in range(settings.identities)),
        )
        for name in _SPLITS
    }
    return FaceSplits(**sets, settings=settings, seed=seed)


_SPLITS: Final = ("train", "valid", "test")
_TOLD: Final = "asked and sha256"


def _labels(settings: FaceSettings, split: str) -> Tensor:
    """Everybody in turn, int64; any run of images holds all people about equally often."""
    people = torch.arange(settings.identities)
    return people.repeat(int(getattr(settings, split)))


def _render_splits(settings: FaceSettings, seed: int) -> dict[str, Tensor]:
    """The images of each split; each split has its own generator, drawn from the seed's."""
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (len(_SPLITS),), generator=generator).tolist()
    identities = draw_identities(settings, generator)
    return {
        name: render_faces(
            identities,
            _labels(settings, name),
            generator=torch.Generator().manual_seed(split_seed),
        )
        for name, split_seed in zip(_SPLITS, seeds, strict=True)
    }


def _digest(pixels: Mapping[str, Tensor]) -> str:
    """SHA-256 of all pixels."""
    digest = hashlib.sha256()
    for name in _SPLITS:
        digest.update(str(tuple(pixels[name].shape)).encode())
        digest.update(pixels[name].contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path, asked: str) -> dict[str, Tensor] | None:
    """The cached images, or None where there are none that can be trusted."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get(_TOLD)
            if set(file.keys()) != set(_SPLITS):
                return None
            pixels: dict[str, Tensor] = {name: file.get_tensor(name) for name in _SPLITS}
    except (SafetensorError, OSError):
        return None
    if any(images.dtype != torch.uint8 for images in pixels.values()):
        return None
    return pixels if told == f"{asked} {_digest(pixels)}" else None


def _write(path: Path, asked: str, pixels: dict[str, Tensor]) -> None:
    """The cache file, written beside its place and moved there when whole."""
    with writing_beside(path) as beside:
        save_file(pixels, beside, metadata={_TOLD: f"{asked} {_digest(pixels)}"})
