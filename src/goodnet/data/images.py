"""A set of labelled images, in memory or streamed from its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from goodnet.errors import DataError

_READ_IMAGES = 256


class Pixels(Protocol):
    """Images of a set, read on demand; a plain tensor is one too.

    Slicing gives uint8 in 0..255 or float32 in [0, 1], (batch, channel, height, width).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Tensor: ...


class Origin(Protocol):
    """What images were drawn from, e.g. the sounds behind spectrograms, in their order.

    A trigger of that kind is stamped there, before the images are drawn.
    """

    def __len__(self) -> int: ...

    @property
    def takes(self) -> str:
        """The kind of trigger that is stamped on it, e.g. "sound"."""
        ...

    @property
    def size(self) -> tuple[int, ...]:
        """Of one of them, as triggers take it: (samples,) of sound."""
        ...

    def select(self, indices: Tensor) -> Origin:
        """What the images at `indices` (int64) were drawn from."""
        ...

    def images(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The images drawn anew from what `change` makes of the batch they were drawn from."""
        ...


class Task(Protocol):
    """What a network is to say of images, where that is not one label an image.

    It is of the images of one set, in their order; a detector's are objects with their boxes.
    """

    def select(self, indices: Tensor) -> Task:
        """That of the images at `indices` (int64)."""
        ...

    def loss(self, network: nn.Module, inputs: Tensor, chosen: Tensor) -> Tensor:
        """What is made small, of `inputs`, the images at `chosen` (int64, (batch,))."""
        ...

    def right(self, network: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
        """Of all things to be named, in order, whether they are named rightly, bool (things,).

        The network is in evaluation mode; `inputs` are all images, batch by batch.
        """
        ...

    def changed(self, images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The images with each thing in them changed by itself.

        Args:
            images: Those at `chosen`, float32 in [0, 1], (batch, channel, height, width).
            chosen: int64 (batch,).
            change: Of pictures of `thing_size`, float32 in [0, 1].
        """
        ...

    @property
    def thing_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the pictures that `changed` hands to `change`."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, read in order.

    Attributes:
        source: The file or folder it came from, for messages.
        size: (channels, height, width).
        pixels: The images, uint8 0..255 or float32 [0, 1], (n, channel, height, width).
        labels: int64 (n,), as in the file. In a poisoned set, the attacker's target.
        true_labels: int64 (n,), the right class of a poisoned image, where known.
        groups: int64 (n,), which images belong together, where known.
        class_names: Name of each label, where known.
        origin: What the images were drawn from, where a trigger may lie before them.
        task: What is to be said of them, where that is more than `labels`, which are all 0 then.
    """

    source: str
    size: tuple[int, int, int]
    pixels: Pixels
    labels: Tensor
    true_labels: Tensor | None = None
    groups: Tensor | None = None
    class_names: tuple[str, ...] = ()
    origin: Origin | None = None
    task: Task | None = None

    def __post_init__(self) -> None:
        count = len(self.pixels)
        if count == 0:
            raise DataError(self.source, "holds no images", "give a set with at least one image")
        for name in ("labels", "true_labels", "groups"):
            values = getattr(self, name)
            if values is not None and values.shape != (count,):
                raise DataError(
                    self.source,
                    f"{name} has shape {tuple(values.shape)} beside {count} images",
                    "give one number an image",
                )
        if self.origin is not None and len(self.origin) != count:
            raise DataError(
                self.source,
                f"was drawn from {len(self.origin)} originals and has {count} images",
                "give one original an image",
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The set in order, as (images float32 [0, 1], labels int64)."""
        for start in range(0, len(self), batch_size):
            chosen = slice(start, start + batch_size)
            yield as_float(self.pixels[chosen]), self.labels[chosen]

    def in_memory(self) -> ImageSet:
        """The same set with its pixels held as one tensor."""
        if isinstance(self.pixels, Tensor):
            return self
        return replace(self, pixels=self.pixels[0 : len(self)])

    def select(self, indices: Tensor) -> ImageSet:
        """The images at `indices` (int64), in that order, in memory."""
        pixels = self.pixels
        return replace(
            self,
            pixels=pixels[indices] if isinstance(pixels, Tensor) else _gather(pixels, indices),
            labels=self.labels[indices],
            true_labels=None if self.true_labels is None else self.true_labels[indices],
            groups=None if self.groups is None else self.groups[indices],
            origin=None if self.origin is None else self.origin.select(indices),
            task=None if self.task is None else self.task.select(indices),
        )


def _gather(pixels: Pixels, indices: Tensor) -> Tensor:
    """The images at `indices`, reading forwards and never the whole set at once."""
    count = len(pixels)
    indices = torch.arange(count)[indices]
    chosen = pixels[0:0].new_empty((len(indices), *pixels[0:0].shape[1:]))
    for start in range(0, count, _READ_IMAGES):
        places = ((indices >= start) & (indices < start + _READ_IMAGES)).nonzero().flatten()
        if len(places):
            read = pixels[start : start + _READ_IMAGES]
            chosen[places] = read[indices[places] - start]
    return chosen


def as_float(pixels: Tensor) -> Tensor:
    """Images as float32 in [0, 1]; uint8 is divided by 255."""
    if pixels.dtype == torch.uint8:
        return pixels.to(torch.float32).div_(255.0)
    return pixels
