"""Work for tests, in a module that other processes can import."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from goodnet.bench.work import Figures, Work, WorkSettings
from goodnet.errors import GoodnetError


class ToySettings(WorkSettings):
    number: int
    word: str = "x"
    share: float | None = None
    text: Path | None = None
    seconds: float = 0.0
    trouble: str | None = None
    notes: str | None = None


def measure(settings: ToySettings) -> Sequence[Figures]:
    """The square of the number; what else it does is written into the settings."""
    times = note(settings)
    time.sleep(settings.seconds)
    if settings.trouble == "raises":
        raise GoodnetError(f"{settings.number} is no number for me; give another")
    if settings.trouble == "breaks":
        raise KeyError(settings.number)
    if settings.trouble == "dies" or (settings.trouble == "dies once" and times == 1):
        os._exit(3)
    draws = torch.rand(1000, generator=torch.Generator().manual_seed(settings.number))
    content = None if settings.text is None else settings.text.read_text("utf-8")
    return [
        Figures("square", {"value": settings.number**2, "sum": float(draws.sum())}),
        Figures("text", {"content": content}),
    ]


def note(settings: ToySettings) -> int:
    """How often this cell has begun, noted in a folder."""
    if settings.notes is None:
        return 1
    notes = Path(settings.notes)
    (notes / f"{settings.number}-{time.monotonic_ns()}-{os.getppid()}-{os.getpid()}").touch()
    return len(list(notes.glob(f"{settings.number}-*")))


TOY = Work("toy", ToySettings, measure)
