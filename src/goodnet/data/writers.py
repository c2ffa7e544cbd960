"""Image sets written as the course's HDF5 files."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import h5py
import torch
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.data.readers import HDF5_SUFFIXES
from goodnet.errors import DataError

_CHUNK_IMAGES = 64
_CHUNK_BYTES = 2**22


def write_images(images: ImageSet, path: Path) -> None:
    """Nothing; writes the set to `path`, where `read_images` finds it again.

    `data` is uint8 n x channels x height x width, compressed; `label`, `true_label` and
    `group` are int64 (n,); the attribute `classes` is a JSON list of the class names.
    Images are read and written a chunk at a time. The file appears under its name only
    when it is whole, and the same set gives the same bytes.

    Departure: pixels held as float32 are rounded to the nearest of 256 levels.

    Raises:
        DataError: The file cannot be written, or a pixel is outside [0, 1].
    """
    path = Path(path)
    if path.suffix.lower() not in HDF5_SUFFIXES:
        raise DataError(
            path, "an image set is written as HDF5", f"name it {path.stem}{HDF5_SUFFIXES[0]}"
        )
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        _write(images, beside)
        beside.replace(path)
    except OSError as error:
        raise DataError(
            path,
            f"cannot be written ({error.strerror or error})",
            "give a path in a folder that exists, where you may write, with room on the disk",
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _write(images: ImageSet, path: Path) -> None:
    image_bytes = images.size[0] * images.size[1] * images.size[2]
    length = max(1, min(_CHUNK_IMAGES, len(images), _CHUNK_BYTES // image_bytes))
    with h5py.File(path, "x") as file:
        data = file.create_dataset(
            "data",
            shape=(len(images), *images.size),
            dtype="uint8",
            chunks=(length, *images.size),
            compression="gzip",
        )
        for start in range(0, len(images), length):
            pixels = images.pixels[start : start + length]
            data[start : start + length] = _as_bytes(pixels, images.source, start).numpy()
        for name, values in (
            ("label", images.labels),
            ("true_label", images.true_labels),
            ("group", images.groups),
        ):
            if values is not None:
                file.create_dataset(name, data=values.to("cpu", torch.int64).numpy())
        if images.class_names:
            file.attrs["classes"] = json.dumps(list(images.class_names))


def _as_bytes(pixels: Tensor, source: str, start: int) -> Tensor:
    pixels = pixels.detach().cpu()
    if pixels.dtype == torch.uint8:
        return pixels
    within = ((pixels >= 0.0) & (pixels <= 1.0)).flatten(1).all(1)
    if not within.all():
        raise DataError(
            source,
            f"image {start + int((~within).nonzero()[0])} holds a pixel outside 0..1",
            "scale the images to [0, 1] before writing them",
        )
    return pixels.mul(255.0).round_().to(torch.uint8)
