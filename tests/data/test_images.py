"""`ImageSet`, in memory and streamed."""

from __future__ import annotations

import pytest
import torch

from goodnet.data import images as module
from goodnet.data.images import ImageSet, as_float
from goodnet.errors import DataError


class Streamed:
    """A tensor that is only given out in slices; remembers them."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice, /) -> torch.Tensor:
        start, stop, _ = index.indices(len(self))
        self.asked.append((start, stop))
        return self.pixels[start:stop].clone()


def numbered(count: int = 10) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 2, 2)


def test_select_reads_only_the_slices_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_IMAGES", 3)
    streamed = Streamed(numbered())
    labels = torch.arange(10) * 10
    indices = torch.tensor([8, 0, 8, -9])
    chosen = ImageSet("made", (1, 2, 2), streamed, labels).select(indices)
    assert (3, 6) not in streamed.asked
    assert max(stop - start for start, stop in streamed.asked) == 3
    kept = ImageSet("made", (1, 2, 2), numbered(), labels).select(indices)
    for selected in (chosen, kept):
        assert isinstance(selected.pixels, torch.Tensor)
        assert selected.pixels[:, 0, 0, 0].tolist() == [8, 0, 8, 1]
        assert selected.pixels.shape == (4, 1, 2, 2)
        assert selected.labels.tolist() == [80, 0, 80, 10]


def test_select_outside_the_set() -> None:
    streamed = ImageSet("made", (1, 2, 2), Streamed(numbered()), torch.arange(10))
    with pytest.raises(IndexError):
        streamed.select(torch.tensor([10]))


def test_batches_are_the_set_in_order() -> None:
    images = ImageSet("made", (1, 2, 2), Streamed(numbered()), torch.arange(10))
    batches = list(images.batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), as_float(numbered()))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(10))


def test_numbers_must_match_the_images() -> None:
    with pytest.raises(
        DataError, match=r"made: labels has shape \(9,\) beside 10 images; give one"
    ):
        ImageSet("made", (1, 2, 2), numbered(), torch.arange(9))
    with pytest.raises(DataError, match="made: holds no images; give a set with at least one"):
        ImageSet("made", (1, 2, 2), numbered(0), torch.arange(0))
