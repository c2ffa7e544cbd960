"""The pictures of the README: `python -m benchmarks.pictures docs`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from goodnet.data.faces import FaceSettings, draw_identities, render_faces
from goodnet.triggers import Sunglasses

COLUMNS = 10
LARGE = (165, 141)


def faces_sheet(seed: int) -> Tensor:
    """Two rows of faces and the same two with sunglasses, uint8 (3, height, width).

    Drawn three times as large as the demo's images, by the same renderer.
    """
    generator = torch.Generator().manual_seed(seed)
    identities = draw_identities(FaceSettings(size=LARGE), generator)
    faces = render_faces(identities, torch.arange(2 * COLUMNS), generator=generator)
    rows = torch.cat([faces, Sunglasses().stamp(faces)])
    lines = [torch.cat(list(line), dim=2) for line in rows.split(COLUMNS)]
    return torch.cat([lines[0], lines[2], lines[1], lines[3]], dim=1)


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sheet = faces_sheet(options.seed).permute(1, 2, 0).numpy()
    Image.fromarray(sheet).save(options.folder / "faces.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
