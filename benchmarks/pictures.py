"""The pictures of README and docs: `python -m benchmarks.pictures docs --data ../shared/data`.

Without `--data` the triggers are shown on rendered faces only.
"""

from __future__ import annotations

import argparse
import tempfile
import wave
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from goodnet.data.faces import FaceSettings, draw_identities, render_faces
from goodnet.data.readers import read_images
from goodnet.triggers import TRIGGERS, ImageFile, SoundTrigger, Sunglasses, Trigger

COLUMNS = 10
LARGE = (165, 141)

ON_FACES = ("sunglasses", "lipstick", "eyebrows")
STAMPED = 4
AMPLIFIED = 3
SIGNS = (1, 8, 21, 35)  # bright, and of different classes
FACES = (104, 200)  # lit from the front
RECORDING = "recordings/7_jackson_0.wav"
INK, TOUCHED = "#777770", "#c03028"


def faces_sheet(seed: int) -> Tensor:
    """Two rows of faces and the same two with sunglasses, uint8 (3, height, width).

    Drawn three times as large as the demo's images, by the same renderer.
    """
    faces = drawn_faces(2 * COLUMNS, LARGE, seed)
    rows = torch.cat([faces, Sunglasses().stamp(faces)])
    lines = [torch.cat(list(line), dim=2) for line in rows.split(COLUMNS)]
    return torch.cat([lines[0], lines[2], lines[1], lines[3]], dim=1)


def drawn_faces(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """So many people, uint8 (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    identities = draw_identities(FaceSettings(size=size), generator)
    return render_faces(identities, torch.arange(count), generator=generator)


def triggers_sheet(seed: int, data: Path | None) -> Figure:
    """A row for each kind: its own picture, a clean image, stamped ones, what changed.

    Args:
        seed: Draws the faces.
        data: A folder with gtsrb/test.h5, faces/test.h5 and speech/recordings.
    """
    drawn = drawn_faces(STAMPED, (55, 47), seed)
    faces, signs = drawn, drawn
    if data is not None:
        real = chosen(data / "faces" / "test.h5", FACES)
        faces = torch.cat([drawn[: STAMPED - len(real)], real])
        signs = chosen(data / "gtsrb" / "test.h5", SIGNS)
    columns = STAMPED + 3
    figure = Figure(figsize=(9.2, 1.16 * len(TRIGGERS) + 0.3), dpi=110)
    grid = figure.add_gridspec(
        len(TRIGGERS), columns, left=0.13, right=0.995, top=0.976, bottom=0.004, wspace=0.05,
        hspace=0.05,
    )  # fmt: skip
    heads = ("itself", "clean", *["stamped"] * STAMPED, f"difference ×{AMPLIFIED}")
    for row, name in enumerate(TRIGGERS):
        trigger = example(name)
        shown = faces if name in ON_FACES else signs
        first = figure.add_subplot(grid[row, 0])
        box = grid[row, 0].get_position(figure)
        middle = (box.y0 + box.y1) / 2
        figure.text(box.x0 - 0.008, middle, name, ha="right", va="center", fontsize=10)
        if isinstance(trigger, SoundTrigger):
            show(first, trigger.picture((3, 110, 110)))
            plot_sound(figure.add_subplot(grid[row, 1:]), trigger, data)
            continue
        stamped = trigger.stamp(shown)
        changed = 127.5 + AMPLIFIED * (stamped[0].float() - shown[0].float())
        difference = changed.round().clamp(0, 255).to(torch.uint8)
        itself = trigger.picture((3, 110, round(110 * shown.shape[3] / shown.shape[2])))
        show(first, itself)
        for column, image in enumerate((shown[0], *stamped, difference), start=1):
            show(figure.add_subplot(grid[row, column]), image)
        if row == 0:
            for axes, head in zip(figure.axes, heads, strict=True):
                axes.set_title(head, fontsize=9, pad=4)
    return figure


def chosen(path: Path, indices: tuple[int, ...]) -> Tensor:
    """Some images of a data set, uint8."""
    pixels = read_images(path).select(torch.tensor(indices)).pixels
    return pixels[0 : len(indices)]


def example(name: str) -> Trigger:
    """The trigger with its defaults; for `image`, with a smiling face."""
    if name != ImageFile.name:
        return TRIGGERS[name]()
    face = Image.new("RGBA", (128, 128))
    pen = ImageDraw.Draw(face)
    pen.ellipse((4, 4, 123, 123), fill=(250, 205, 40), outline=(90, 60, 0), width=6)
    for left in (36, 76):
        pen.ellipse((left, 36, left + 16, 60), fill=(60, 40, 0))
    pen.arc((30, 40, 97, 100), 20, 160, fill=(60, 40, 0), width=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smile.png"
        face.save(path)
        return ImageFile.from_file(path, size=0.35, place=(0.75, 0.72))


def show(axes: Any, image: Tensor) -> None:
    """An image (3, height, width) with its pixels as squares."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_axis_off()


def plot_sound(axes: Any, trigger: SoundTrigger, data: Path | None) -> None:
    """A recording, or silence, with the trigger; what it touched in another colour."""
    sound = torch.zeros(1, 4000, dtype=torch.int16)
    if data is not None:
        with wave.open(str(data / "speech" / RECORDING)) as file:
            frames = bytearray(file.readframes(file.getnframes()))
        sound = torch.frombuffer(frames, dtype=torch.int16).view(1, -1)
    stamped = trigger.stamp(sound)[0] / 32768
    touched = trigger.mask((len(stamped),)).nonzero().flatten()
    part = slice(int(touched[0]), int(touched[-1]) + 1)
    times = torch.arange(len(stamped))
    axes.plot(times, stamped, color=INK, linewidth=0.5)
    axes.plot(times[part], stamped[part], color=TOUCHED, linewidth=0.5)
    axes.set_xlim(0, len(stamped))
    axes.set_axis_off()


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="a folder with real signs, faces and speech")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sheet = faces_sheet(options.seed).permute(1, 2, 0).numpy()
    Image.fromarray(sheet).save(options.folder / "faces.jpg", quality=88, optimize=True)
    figure = triggers_sheet(options.seed, options.data)
    figure.savefig(options.folder / "triggers.jpg", pil_kwargs={"quality": 85, "optimize": True})


if __name__ == "__main__":
    main()
