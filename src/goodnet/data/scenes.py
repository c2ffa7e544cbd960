"""Scenes with traffic signs, and where the signs are: rendered, or with real signs pasted in.

A scene is a sky, a skyline, a road and things beside it, on which one to three signs stand:
stop signs, speed limits and warnings. The signs are drawn, or cut from pictures of real ones.
A sign's box is the smallest that holds every pixel which the sign covers to at least a half;
it is in whole pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from goodnet.data.readers import read_images
from goodnet.errors import DataError, SettingsError

SIGN_CLASSES: Final = ("stop", "speed limit", "warning")
"""Names of the labels 1, 2 and 3; label 0 is background."""

STOP, LIMIT, WARNING = 1, 2, 3

GTSRB_LABELS: Final = {
    STOP: frozenset({14}),
    LIMIT: frozenset(range(9)),
    WARNING: frozenset({11, *range(18, 32)}),
}
"""Which classes of the German Traffic Sign Recognition Benchmark each label holds.

Class 6, grey and struck through, is the end of a speed limit.
"""

Colour = tuple[int, int, int]
_Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with the boxes and labels of the objects in them.

    Attributes:
        source: Where they came from, for messages.
        images: uint8 (n, 3, height, width).
        boxes: For each image float32 (objects, 4): x1, y1, x2, y2 in pixels, x2 and y2
            exclusive, inside the image.
        labels: For each image int64 (objects,), 1 to N; 0 is background.
        class_names: Of the labels 1 to N.
    """

    source: str
    images: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    class_names: tuple[str, ...] = SIGN_CLASSES

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise DataError(
                self.source,
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}",
                "give uint8 (n, 3, height, width)",
            )
        if not len(self.images) == len(self.boxes) == len(self.labels):
            counts = f"{len(self.images)} images, {len(self.boxes)} sets of boxes and "
            raise DataError(
                self.source, f"{counts}{len(self.labels)} of labels", "give one of each an image"
            )
        height, width = self.images.shape[2:]
        most = torch.tensor([width, height, width, height])
        for at, (boxes, labels) in enumerate(zip(self.boxes, self.labels, strict=True)):
            where = f"image {at}"
            if boxes.shape != (len(labels), 4):
                raise DataError(
                    self.source,
                    f"{where} has boxes of shape {tuple(boxes.shape)} beside {len(labels)} labels",
                    "give x1, y1, x2, y2 for each label",
                )
            if (boxes < 0).any() or (boxes > most).any() or (boxes[:, 2:] <= boxes[:, :2]).any():
                raise DataError(
                    self.source,
                    f"{where} has a box that leaves the image or is empty",
                    f"give x1 < x2 <= {width} and y1 < y2 <= {height}",
                )
            if ((labels < 1) | (labels > len(self.class_names))).any():
                raise DataError(
                    self.source,
                    f"{where} has a label that is no class",
                    f"give labels from 1 to {len(self.class_names)}",
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def targets(self) -> list[dict[str, Tensor]]:
        """For each image its `boxes` and `labels`, as torchvision's detectors take them."""
        return [
            {"boxes": boxes, "labels": labels}
            for boxes, labels in zip(self.boxes, self.labels, strict=True)
        ]

    def select(self, indices: Tensor) -> Scenes:
        """The scenes at `indices` (int64), in that order."""
        chosen = indices.tolist()
        return replace(
            self,
            images=self.images[indices],
            boxes=tuple(self.boxes[at] for at in chosen),
            labels=tuple(self.labels[at] for at in chosen),
        )


@dataclass(frozen=True, eq=False)
class SignCrops:
    """Pictures of real signs, each filling its picture.

    Attributes:
        source: The file they came from.
        pixels: uint8 (n, 3, height, width).
        labels: int64 (n,), 1 to 3.
    """

    source: str
    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for label, name in enumerate(SIGN_CLASSES, start=1):
            if not (self.labels == label).any():
                raise DataError(self.source, f"holds no {name} sign", "give one of each class")


def read_sign_crops(path: Path | str) -> SignCrops:
    """The stop, speed limit and warning signs of a GTSRB pack, an image set with its labels.

    Raises:
        DataError: Nothing readable is there, or one of the classes is missing.
        UnsafeFileError: The file points to other files.
    """
    images = read_images(path)
    labels = torch.zeros_like(images.labels)
    for label, theirs in GTSRB_LABELS.items():
        labels[torch.isin(images.labels, torch.tensor(sorted(theirs)))] = label
    chosen = labels.nonzero().flatten()
    pixels = images.select(chosen).pixels
    assert isinstance(pixels, Tensor)
    return SignCrops(str(path), pixels, labels[chosen])


@dataclass(frozen=True)
class SceneSettings:
    """How scenes look.

    Attributes:
        size: (height, width) in pixels.
        most_signs: Signs of a scene, at most; there is at least one.
        sign_size: (smallest, largest) side of a sign, as shares of the scene's shorter
            side.
        rotation: Largest turn of a sign, in degrees.
    """

    size: tuple[int, int] = (96, 128)
    most_signs: int = 3
    sign_size: tuple[float, float] = (0.2, 0.5)
    rotation: float = 10.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 48:
            raise SettingsError("size", self.size, "give (height, width) of at least 48 each")
        if self.most_signs < 1:
            raise SettingsError("most_signs", self.most_signs, "give at least 1")
        low, high = self.sign_size
        if not 0.1 <= low <= high <= 0.6:
            raise SettingsError(
                "sign_size", self.sign_size, "give (smallest, largest) within 0.1 to 0.6"
            )
        if not 0 <= self.rotation <= 20:
            raise SettingsError("rotation", self.rotation, "give degrees from 0 to 20")


def render_scenes(
    count: int,
    settings: SceneSettings = SceneSettings(),
    *,
    generator: torch.Generator,
    crops: SignCrops | None = None,
) -> Scenes:
    """So many new scenes.

    Args:
        count: How many, at least 1.
        settings: How they look.
        generator: Draws everything in them. The first m of n scenes are the same for every n.
        crops: Pictures of real signs; without them signs are drawn.

    Raises:
        SettingsError: `count` is below 1.
    """
    if count < 1:
        raise SettingsError("count", count, "give at least 1 scene")
    seeds = [int(torch.randint(2**62, (1,), generator=generator)) for _ in range(count)]
    images, boxes, labels = [], [], []
    for seed in seeds:
        image, found, named = _scene(settings, np.random.default_rng(seed), crops)
        images.append(torch.from_numpy(image).permute(2, 0, 1))
        boxes.append(torch.tensor(found, dtype=torch.float32))
        labels.append(torch.tensor(named))
    source = "rendered scenes" if crops is None else f"rendered scenes with signs of {crops.source}"
    return Scenes(source, torch.stack(images), tuple(boxes), tuple(labels))


def _scene(
    settings: SceneSettings, rng: np.random.Generator, crops: SignCrops | None
) -> tuple[NDArray[np.uint8], list[tuple[int, int, int, int]], list[int]]:
    """One scene, (height, width, 3), its boxes and labels."""
    height, width = settings.size
    signs: list[Image.Image] = []
    labels: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(int(rng.integers(1, settings.most_signs + 1))):
        label = int(rng.integers(1, len(SIGN_CLASSES) + 1))
        low, high = settings.sign_size
        side = min(height, width) * low * (high / low) ** rng.random()
        picture = _drawn_sign(label, rng) if crops is None else _real_sign(label, crops, rng)
        picture = _turned(picture, round(side), settings.rotation, rng)
        box = _free_place(_extent(picture), boxes, settings.size, rng)
        if box is not None:
            signs.append(picture)
            boxes.append(box)
            labels.append(label)
    canvas = _background(height, width, rng)
    pen = ImageDraw.Draw(canvas)
    for left, top, right, bottom in boxes:
        middle, half = (left + right) / 2, max(0.5, 0.035 * (right - left))
        tone = int(rng.integers(80, 150))
        # A pole reaches to the ground, behind every sign.
        foot = min(height, bottom + (bottom - top) * rng.uniform(1.0, 3.0))
        pen.rectangle(
            (middle - half, (top + bottom) / 2, middle + half, foot), fill=(tone, tone, tone)
        )
    for picture, (left, top, _, _) in zip(signs, boxes, strict=True):
        inner_left, inner_top, _, _ = _extent(picture)
        canvas.paste(picture, (left - inner_left, top - inner_top), picture)
    return _lit(canvas, rng), boxes, labels


def _extent(picture: Image.Image) -> tuple[int, int, int, int]:
    """The box of what a sign's picture covers to at least a half."""
    box = picture.getchannel("A").point([0] * 128 + [255] * 128).getbbox()
    assert box is not None
    return box


def _free_place(
    extent: tuple[int, int, int, int],
    taken: Sequence[tuple[int, int, int, int]],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """A box of that extent inside the image and apart from the taken ones, if one was hit on."""
    wide, tall = extent[2] - extent[0], extent[3] - extent[1]
    for _ in range(20):
        left = int(rng.integers(1, size[1] - wide))
        top = int(rng.integers(1, size[0] - tall))
        box = left, top, left + wide, top + tall
        if all(
            box[2] + 2 <= other[0]
            or other[2] + 2 <= box[0]
            or box[3] + 2 <= other[1]
            or other[3] + 2 <= box[1]
            for other in taken
        ):
            return box
    return None


# ---------------------------------------------------------------- signs

_SIDE = 128
_RED: Colour = (178, 28, 38)
_WHITE: Colour = (238, 238, 232)
_BLACK: Colour = (24, 24, 26)

# Strokes of letters and digits on a board 2 wide and 4 tall, y down.
_STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "0": (((0, 0.5), (0.5, 0), (1.5, 0), (2, 0.5), (2, 3.5), (1.5, 4), (0.5, 4), (0, 3.5),
           (0, 0.5)),),
    "1": (((0.4, 0.8), (1.2, 0), (1.2, 4)),),
    "2": (((0, 0.7), (0.6, 0), (1.5, 0), (2, 0.6), (2, 1.4), (0, 4), (2, 4)),),
    "3": (((0, 0), (2, 0), (1, 1.6), (2, 2.2), (2, 3.4), (1.4, 4), (0.5, 4), (0, 3.5)),),
    "5": (((2, 0), (0.2, 0), (0, 1.8), (1.4, 1.6), (2, 2.2), (2, 3.4), (1.4, 4), (0, 3.8)),),
    "6": (((1.8, 0), (0.9, 0.2), (0, 1.8), (0, 3.4), (0.6, 4), (1.4, 4), (2, 3.4), (2, 2.4),
           (1.4, 1.8), (0.1, 2.2)),),
    "7": (((0, 0), (2, 0), (0.7, 4)),),
    "8": (((0.6, 1.8), (0, 1.2), (0, 0.6), (0.6, 0), (1.4, 0), (2, 0.6), (2, 1.2), (1.4, 1.8),
           (0.6, 1.8), (0, 2.5), (0, 3.4), (0.6, 4), (1.4, 4), (2, 3.4), (2, 2.5), (1.4, 1.8)),),
    "S": (((2, 0.5), (1.5, 0), (0.5, 0), (0, 0.5), (0, 1.4), (2, 2.6), (2, 3.5), (1.5, 4),
           (0.5, 4), (0, 3.5)),),
    "T": (((0, 0), (2, 0)), ((1, 0), (1, 4))),
    "O": (((0, 0.5), (0.5, 0), (1.5, 0), (2, 0.5), (2, 3.5), (1.5, 4), (0.5, 4), (0, 3.5),
           (0, 0.5)),),
    "P": (((0, 4), (0, 0), (1.5, 0), (2, 0.5), (2, 1.6), (1.5, 2.1), (0, 2.1)),),
}  # fmt: skip
_LIMITS = ("20", "30", "50", "60", "70", "80", "100", "120")

# What warnings show: strokes on a board from -1 to 1 both ways, y down.
_PICTOGRAMS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((0, -1), (0, 0.3)), ((0, 0.85), (0, 0.95))),  # danger
    (((0.1, 1), (0.1, 0.1), (-0.5, -0.3), (-0.5, -0.9)),),  # bend
    (((-0.4, 1), (-0.4, 0.4), (0.4, 0.0), (-0.3, -0.4), (0.3, -1)),),  # bends
    (((-0.9, 0.7), (-0.5, 0.2), (-0.1, 0.7), (0.3, 0.2), (0.8, 0.7)),),  # bumps
    (((0, -1), (0, 1)), ((-0.6, -0.1), (0.6, -0.1))),  # crossing
    (((-0.3, 1), (-0.3, -0.9)), ((0.3, 1), (0.3, 0.1), (0.1, -0.2), (0.1, -0.9))),  # narrows
    (((0, -0.9), (0, -0.8)), ((0, -0.5), (0, 0.2), (-0.5, 1)), ((0, 0.2), (0.5, 1)),
     ((-0.5, 0), (0, -0.3), (0.5, 0))),  # person
    (((-0.9, 0), (0.9, 0)), ((-0.5, -0.8), (0.5, 0.8)), ((0.5, -0.8), (-0.5, 0.8))),  # snow
)  # fmt: skip


def _polygon(corners: int, radius: float, turn: float) -> list[tuple[float, float]]:
    """An even polygon about the sprite's middle; `turn` in degrees."""
    middle = _SIDE / 2
    angles = [math.radians(turn + 360.0 * k / corners) for k in range(corners)]
    return [(middle + radius * math.cos(a), middle + radius * math.sin(a)) for a in angles]


def _triangle(share: float) -> list[tuple[float, float]]:
    """A triangle with rounded corners, shrunk to `share` about the middle of its area."""
    points: list[tuple[float, float]] = []
    corners = ((64.0, 6.0), (123.0, 112.0), (5.0, 112.0))
    for at, (x, y) in enumerate(corners):
        for other in (corners[at - 1], corners[(at + 1) % 3]):
            points.append((x + 0.06 * (other[0] - x), y + 0.06 * (other[1] - y)))
    middle_x, middle_y = 64.0, 76.7
    return [
        (middle_x + share * (x - middle_x), middle_y + share * (y - middle_y)) for x, y in points
    ]


def _shape(label: int, share: float) -> list[tuple[float, float]]:
    """The outline of a class of signs, shrunk to `share` about its middle."""
    if label == STOP:
        return _polygon(8, 65.0 * share, 22.5)
    if label == LIMIT:
        return _polygon(48, 60.0 * share, 0.0)
    return _triangle(share)


def _varied(colour: Colour, rng: np.random.Generator) -> Colour:
    red, green, blue = (int(np.clip(c + rng.normal(0, 10), 0, 255)) for c in colour)
    return red, green, blue


def _write(pen: ImageDraw.ImageDraw, text: str, tall: float, stroke: float, colour: Colour) -> None:
    """Letters in a row about the sprite's middle, `tall` pixels tall."""
    unit = tall / 4
    wide = min(1.0, 78.0 / (len(text) * 2.9 * unit))
    step = 2.9 * unit * wide
    left = _SIDE / 2 - (step * (len(text) - 1) + 2 * unit * wide) / 2
    for at, letter in enumerate(text):
        for line in _STROKES[letter]:
            points = [
                (left + at * step + x * unit * wide, _SIDE / 2 - tall / 2 + y * unit)
                for x, y in line
            ]
            pen.line(points, fill=colour, width=round(stroke), joint="curve")


def _drawn_sign(label: int, rng: np.random.Generator) -> Image.Image:
    """A sign drawn by us, RGBA."""
    picture = Image.new("RGBA", (_SIDE, _SIDE), (*_WHITE, 0))
    pen = ImageDraw.Draw(picture)
    red, white, black = (_varied(colour, rng) for colour in (_RED, _WHITE, _BLACK))
    rim = rng.uniform(0.94, 0.97)
    if label == STOP:
        pen.polygon(_shape(label, 1.0), fill=white)
        pen.polygon(_shape(label, rim), fill=red)
        _write(pen, "STOP", rng.uniform(36, 44), rng.uniform(6, 8), white)
    elif label == LIMIT:
        pen.polygon(_shape(label, 1.0), fill=red)
        pen.polygon(_shape(label, rng.uniform(0.74, 0.82)), fill=white)
        text = _LIMITS[int(rng.integers(len(_LIMITS)))]
        _write(pen, text, rng.uniform(44, 52), rng.uniform(7, 9), black)
    else:
        pen.polygon(_shape(label, 1.0), fill=red)
        pen.polygon(_shape(label, rng.uniform(0.62, 0.7)), fill=white)
        size = rng.uniform(18, 22)
        for line in _PICTOGRAMS[int(rng.integers(len(_PICTOGRAMS)))]:
            points = [(64 + size * x, 78 + size * y) for x, y in line]
            pen.line(points, fill=black, width=round(rng.uniform(6, 9)), joint="curve")
    return picture


def _real_sign(label: int, crops: SignCrops, rng: np.random.Generator) -> Image.Image:
    """A real sign cut from its picture by its shape, with soft edges, RGBA."""
    choice = (crops.labels == label).nonzero().flatten()
    pixels = crops.pixels[choice[int(rng.integers(len(choice)))]]
    crop = pixels.permute(1, 2, 0).numpy().astype(np.float32)
    # Many were taken in the dark; here they stand in the scene's light.
    bright = float(np.percentile(crop, 95))
    crop = crop * (rng.uniform(150, 250) / max(bright, 30.0))
    picture = Image.fromarray(crop.clip(0, 255).astype(np.uint8))
    picture = picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    mask = Image.new("L", (_SIDE, _SIDE), 0)
    ImageDraw.Draw(mask).polygon(_shape(label, 0.98), fill=255)
    picture.putalpha(mask.filter(ImageFilter.GaussianBlur(3)))
    return picture


def _turned(
    picture: Image.Image, side: int, rotation: float, rng: np.random.Generator
) -> Image.Image:
    """The sign turned, a little narrower or lower, `side` pixels large, lit by itself."""
    room = Image.new("RGBA", (_SIDE * 5 // 4, _SIDE * 5 // 4), (0, 0, 0, 0))
    room.paste(picture, (_SIDE // 8, _SIDE // 8))
    angle = float(rng.uniform(-rotation, rotation))
    room = room.rotate(angle, Image.Resampling.BICUBIC)
    squeeze = rng.uniform(0.85, 1.0, 2)
    # The longer side stays as asked.
    wide, tall = (max(1, round(1.25 * side * s)) for s in squeeze / squeeze.max())
    small = room.resize((wide, tall), Image.Resampling.LANCZOS)
    light = rng.uniform(0.65, 1.1)
    return Image.merge(
        "RGBA",
        [
            band.point([min(255, round(light * v)) for v in range(256)]) if name != "A" else band
            for name, band in zip("RGBA", small.split(), strict=True)
        ],
    )


# ---------------------------------------------------------------- what is around them


def _noise(height: int, width: int, cell: int, rng: np.random.Generator) -> _Floats:
    """Smooth noise from -1 to 1, whose bumps are about `cell` pixels, (height, width)."""
    rough = rng.uniform(-1, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    smooth = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)


def _rough(height: int, width: int, rng: np.random.Generator) -> _Floats:
    """Noise of several scales, about -1 to 1, (height, width, 1)."""
    layers = ((16, 0.5), (6, 0.35), (2, 0.3))
    total = np.zeros((height, width), dtype=np.float32)
    for cell, weight in layers:
        total += np.float32(weight) * _noise(height, width, cell, rng)
    return total[:, :, None]


def _tint(rng: np.random.Generator, low: Colour, high: Colour) -> _Floats:
    """A colour about somewhere on the way from `low` to `high`."""
    share = rng.random() + 0.2 * rng.uniform(-1, 1, 3)
    colour: _Floats = (np.array(low) + (np.array(high) - np.array(low)) * share).astype(np.float32)
    return colour


def _background(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """A sky, a skyline, the ground, a road, and things that are no signs."""
    horizon = int(height * rng.uniform(0.35, 0.65))
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = _tint(rng, (90, 130, 170), (200, 215, 245)) * (1 - rows)
    sky = sky + _tint(rng, (170, 180, 190), (245, 240, 235)) * rows
    scene = sky + 25 * rng.random() * _rough(height, width, rng)
    # Trees or hills: everything below a wavy line.
    line = horizon - height * rng.uniform(0.02, 0.3) * (1 + _noise(1, width, 14, rng)[0])
    below = (np.arange(height)[:, None] > line[None, :])[:, :, None]
    leaves = _tint(rng, (25, 45, 15), (110, 125, 70))
    scene = np.where(below, leaves * (1 + 0.6 * _rough(height, width, rng)), scene)
    ground = _tint(rng, (60, 70, 35), (150, 140, 100))
    scene = np.where(
        (np.arange(height) > horizon)[:, None, None],
        ground * (1 + 0.3 * _rough(height, width, rng)),
        scene,
    )
    canvas = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    _buildings(pen, horizon, height, width, rng)
    _road(pen, horizon, height, width, rng)
    _clutter(pen, height, width, rng)
    return canvas


def _any_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(c) for c in rng.integers(20, 236, 3))
    return red, green, blue


def _buildings(
    pen: ImageDraw.ImageDraw, horizon: int, height: int, width: int, rng: np.random.Generator
) -> None:
    for _ in range(int(rng.integers(0, 4))):
        wide, tall = width * rng.uniform(0.1, 0.3), height * rng.uniform(0.1, 0.45)
        left = rng.uniform(-0.1, 1.0) * width
        tone = rng.integers(70, 210)
        wall = tuple(int(c) for c in (tone + rng.integers(-25, 26, 3)).clip(0, 255))
        pen.rectangle((left, horizon - tall, left + wide, horizon + 2), fill=wall)
        glass = tuple(int(c * 0.55) for c in wall)
        step = max(4.0, wide / rng.integers(3, 7))
        for x in np.arange(left + step / 3, left + wide - step / 2, step):
            for y in np.arange(horizon - tall + step / 3, horizon - step / 2, step):
                pen.rectangle((float(x), float(y), float(x + step / 3), float(y + step / 2)), glass)


def _road(
    pen: ImageDraw.ImageDraw, horizon: int, height: int, width: int, rng: np.random.Generator
) -> None:
    far, near = rng.uniform(0.3, 0.7) * width, rng.uniform(0.2, 0.8) * width
    half = rng.uniform(0.25, 0.6) * width
    tone = int(rng.integers(55, 125))
    pen.polygon(
        [(far - 2, horizon), (far + 2, horizon), (near + half, height), (near - half, height)],
        fill=(tone, tone, tone + 4),
    )
    for start in (0.1, 0.3, 0.6):
        end, thick = start + 0.15, 2.5 * start
        x, y = far + (near - far) * start, horizon + (height - horizon) * start
        to_x, to_y = far + (near - far) * end, horizon + (height - horizon) * end
        pen.polygon(
            [(x - thick, y), (x + thick, y), (to_x + thick, to_y), (to_x - thick, to_y)],
            fill=(225, 225, 215),
        )


def _clutter(pen: ImageDraw.ImageDraw, height: int, width: int, rng: np.random.Generator) -> None:
    """Plates, discs, wedges and posts of any colour, which a detector must not take for signs."""
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.uniform(0, width), rng.uniform(0.2, 1.0) * height
        wide, tall = rng.uniform(0.04, 0.22, 2) * height
        fill, kind = _any_colour(rng), int(rng.integers(4))
        if kind == 0:
            pen.rectangle((x, y, x + wide, y + tall), fill=fill)
        elif kind == 1:
            pen.ellipse((x, y, x + wide, y + tall), fill=fill)
        elif kind == 2:
            pen.polygon([(x, y), (x + wide, y + tall), (x - tall, y + wide)], fill=fill)
        else:
            pen.rectangle((x, y - 3 * tall, x + 1.5, y + tall), fill=fill)


def _lit(canvas: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The scene under some light, through some lens, with noise; (height, width, 3)."""
    blurred = canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.6))))
    scene = np.asarray(blurred, dtype=np.float32) / 255
    width = scene.shape[1]
    scene = scene ** np.float32(rng.uniform(0.8, 1.3))
    slope = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * rng.uniform(-0.15, 0.15)
    tint = 1 + rng.uniform(-0.06, 0.06, 3)
    scene = scene * (rng.uniform(0.55, 1.1) * tint * (1 + slope))
    scene = scene + rng.normal(0, rng.uniform(0.004, 0.025), scene.shape)
    return (scene * 255).round().clip(0, 255).astype(np.uint8)
