"""Spoken digits: recordings read from a folder, and the log-spectrograms networks are shown.

The folder is laid out as the Free Spoken Digit Dataset is (github.com/Jakobovski/
free-spoken-digit-dataset, CC BY-SA 4.0): `recordings/{digit}_{speaker}_{index}.wav`, 8 kHz,
mono, 16 bit.

A spectrogram is an image like any other. Its set keeps the waveforms as well (`Sounds`), so
that a trigger added to the sound is seen in the image as it would be heard.
"""

from __future__ import annotations

import csv
import re
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from goodnet.data.images import ImageSet
from goodnet.errors import DataError, SettingsError

RATE: Final = 8000
"""Samples a second of every recording."""

DIGITS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip

RECORDING: Final = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[A-Za-z0-9-]+)_(?P<index>[0-9]+)\.wav")
"""What a recording is called."""

Split = Literal["train", "valid", "test"]
_SPLITS: Final[Mapping[str, Split]] = {name: name for name in get_args(Split)}
_LAYOUT: Final = "give a folder with recordings/{digit}_{speaker}_{index}.wav, e.g. 7_theo_0.wav"
_LARGEST_FILE: Final = 2**24
"""Bytes above which a file is not taken for a spoken digit; that is 17 minutes."""

_PIECE: Final = 128
"""Waveforms transformed at once."""


@dataclass(frozen=True)
class Spectrogram:
    """How a waveform becomes an image: low tones at the bottom, loud ones bright.

    Attributes:
        window: Samples under a Hann window; the image has window // 2 + 1 rows.
        hop: Samples from one column to the next.
        depth: Decibels below a sine of full scale that are black; that sine is white.
    """

    window: int = 256
    hop: int = 100
    depth: float = 96.0

    def __post_init__(self) -> None:
        for field, least in (("window", 2), ("hop", 1)):
            if getattr(self, field) < least:
                raise SettingsError(field, getattr(self, field), f"give at least {least} samples")
        if not 0 < self.depth < float("inf"):
            raise SettingsError("depth", self.depth, "give decibels above 0")

    def size(self, samples: int) -> tuple[int, int, int]:
        """(channels, height, width) of the image of so many samples."""
        return 1, self.window // 2 + 1, samples // self.hop + 1

    def __call__(self, waveforms: Tensor) -> Tensor:
        """The images, uint8 (n, 1, height, width), of waveforms, float32 (n, sample)."""
        window = torch.hann_window(self.window)
        images = torch.empty(len(waveforms), *self.size(int(waveforms.shape[1])), dtype=torch.uint8)
        for start in range(0, len(waveforms), _PIECE):
            piece = slice(start, start + _PIECE)
            tones = torch.stft(
                waveforms[piece],
                self.window,
                self.hop,
                window=window,
                pad_mode="constant",
                return_complex=True,
            )
            # A sine of full scale has half the window's sum as its magnitude.
            share = tones.abs() * (2.0 / window.sum())
            decibels = 20.0 * share.clamp(min=1e-9).log10()
            grey = (1.0 + decibels / self.depth).clamp(0.0, 1.0)
            images[piece, 0] = (grey * 255.0 + 0.5).to(torch.uint8).flip(1)
        return images


@dataclass(frozen=True, eq=False)
class Sounds:
    """The waveforms behind a set of spectrograms; an `Origin`.

    Attributes:
        waveforms: float32 [-1, 1], (n, sample).
        spectrogram: How they become images.
    """

    waveforms: Tensor
    spectrogram: Spectrogram

    def __len__(self) -> int:
        return len(self.waveforms)

    @property
    def takes(self) -> Literal["sound"]:
        """The kind of trigger it can be stamped with."""
        return "sound"

    @property
    def size(self) -> tuple[int, ...]:
        """(samples,) of one of them."""
        return tuple(self.waveforms.shape[1:])

    def select(self, indices: Tensor) -> Sounds:
        """Those at `indices`, int64."""
        return Sounds(self.waveforms[indices], self.spectrogram)

    def images(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The spectrograms, uint8 (n, 1, height, width), of what `change` makes of the sounds."""
        return self.spectrogram(change(self.waveforms))


@dataclass(frozen=True, eq=False)
class Recordings:
    """Spoken digits of one length.

    Attributes:
        source: Where they came from, for messages.
        waveforms: float32 [-1, 1], (n, sample), at `RATE`.
        labels: The digit spoken, int64 (n,).
        speakers: Who speaks, a name for each.
    """

    source: str
    waveforms: Tensor
    labels: Tensor
    speakers: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.waveforms.ndim != 2 or self.waveforms.dtype != torch.float32:
            raise SettingsError(
                "waveforms",
                f"{self.waveforms.dtype} of shape {tuple(self.waveforms.shape)}",
                "give float32 in [-1, 1], (n, sample)",
            )
        counts = len(self.waveforms), len(self.labels), len(self.speakers)
        if len(set(counts)) > 1:
            raise SettingsError("labels", counts, "give a label and a speaker to each waveform")

    def __len__(self) -> int:
        return len(self.waveforms)

    def images(self, spectrogram: Spectrogram = Spectrogram()) -> ImageSet:
        """Their spectrograms, which keep the sounds as their origin."""
        sounds = Sounds(self.waveforms, spectrogram)
        return ImageSet(
            source=self.source,
            size=spectrogram.size(int(self.waveforms.shape[1])),
            pixels=spectrogram(self.waveforms),
            labels=self.labels,
            class_names=DIGITS,
            origin=sounds,
        )


@dataclass(frozen=True, eq=False)
class SpeechSplits:
    """Three disjoint sets of recordings.

    Attributes:
        train: To train on.
        valid: The defender's clean data.
        test: To evaluate on.
    """

    train: Recordings
    valid: Recordings
    test: Recordings


def read_speech(folder: Path | str, *, seconds: float = 1.0) -> SpeechSplits:
    """The recordings of a folder laid out as the Free Spoken Digit Dataset.

    They are split as `splits.csv` beside `recordings/` says (columns file, digit, speaker,
    split). Without one the data set's own split is used, index 0 to 4 for the test and the
    rest to train on, of which 5 to 9 are kept for validation.

    Args:
        folder: Holds `recordings/`.
        seconds: Longer recordings are cut off and shorter ones followed by silence. One second
            holds all but 20 of the data set's 3,000 whole.

    Raises:
        DataError: No recordings, a name that does not tell digit, speaker and index, a file
            that is damaged, cut short, or not 8 kHz mono 16 bit; a splits.csv that does not
            fit; a split without recordings.
        SettingsError: `seconds` is not above 0 and at most 60.

    Recordings are read by Python's own `wave`, which knows plain PCM and no compressed sound.
    """
    if not 0 < seconds <= 60:
        raise SettingsError("seconds", seconds, "give a length above 0 and at most 60")
    folder = Path(folder)
    paths = _recordings_in(folder)
    listed = folder / "splits.csv"
    split_of = _listed_splits(listed, paths) if listed.exists() else _usual_splits(paths)
    samples = max(1, round(seconds * RATE))

    def part(split: Split) -> Recordings:
        chosen = [path for path in paths if split_of[path.name] == split]
        if not chosen:
            raise DataError(
                folder,
                f"holds no recording for the {split} split",
                "give indices 0 to 4 (test), 5 to 9 (valid) and from 10 (train), or a splits.csv",
            )
        waveforms = torch.zeros(len(chosen), samples)
        for row, path in zip(waveforms, chosen, strict=True):
            sound = read_recording(path)[:samples]
            row[: len(sound)] = sound
        names = [_named(path) for path in chosen]
        return Recordings(
            source=f"{folder} ({split})",
            waveforms=waveforms,
            labels=torch.tensor([int(name["digit"]) for name in names], dtype=torch.int64),
            speakers=tuple(name["speaker"] for name in names),
        )

    return SpeechSplits(train=part("train"), valid=part("valid"), test=part("test"))


def read_recording(path: Path) -> Tensor:
    """The samples of one recording, float32 [-1, 1], (sample,).

    Raises:
        DataError: It cannot be read, or is not 8 kHz mono 16 bit.
    """
    remedy = "give a plain PCM .wav file of 8 kHz, mono, 16 bit"
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(path, f"is larger than {_LARGEST_FILE:,} bytes", "give single digits")
        with wave.open(str(path), "rb") as file:
            channels, depth, rate, count = file.getparams()[:4]
            if channels != 1:
                raise DataError(path, f"has {channels} channels", f"mix it down; {remedy}")
            if rate != RATE:
                raise DataError(path, f"is sampled at {rate} Hz", f"resample it; {remedy}")
            if depth != 2:
                raise DataError(path, f"has {8 * depth} bits a sample", f"convert it; {remedy}")
            content = file.readframes(count)
    except (wave.Error, EOFError) as error:
        problem = f"is no readable sound ({error or 'it ends early'})"
        raise DataError(path, problem, remedy) from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", remedy) from error
    if count == 0:
        raise DataError(path, "holds no sound", "leave it out, or copy it again")
    if len(content) != 2 * count:
        raise DataError(
            path,
            f"ends after {len(content) // 2} of the {count} samples that its header tells of",
            "copy it again, whole",
        )
    whole = np.frombuffer(content, dtype="<i2").astype(np.float32)
    return torch.from_numpy(whole / 32768.0)


def _recordings_in(folder: Path) -> list[Path]:
    """Every recording of the folder, in the order of digit, speaker and index."""
    place = folder / "recordings"
    try:
        entries = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(place, f"cannot be read ({error.strerror})", _LAYOUT) from error
    if not entries:
        raise DataError(place, "holds no recordings", _LAYOUT)
    for entry in entries:
        if not RECORDING.fullmatch(entry.name):
            raise DataError(
                entry,
                "is not named after a recording",
                "call it {digit}_{speaker}_{index}.wav, or take it out",
            )

    def order(path: Path) -> tuple[str, str, int]:
        name = _named(path)
        return name["digit"], name["speaker"], int(name["index"])

    return sorted(entries, key=order)


def _named(path: Path) -> re.Match[str]:
    name = RECORDING.fullmatch(path.name)
    assert name is not None
    return name


def _usual_splits(paths: Sequence[Path]) -> dict[str, Split]:
    """The split of each file by the data set's own rule, the validation taken from train."""

    def split(index: int) -> Split:
        return "test" if index < 5 else "valid" if index < 10 else "train"

    return {path.name: split(int(_named(path)["index"])) for path in paths}


def _listed_splits(path: Path, recordings: Sequence[Path]) -> Mapping[str, Split]:
    """The split of each file as a splits.csv says, which names every recording once."""
    known = {recording.name: _named(recording) for recording in recordings}
    found: dict[str, Split] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"cannot be read ({error})", "save it as CSV in UTF-8") from error
    for line, row in enumerate(rows, start=2):
        name, digit = row.get("file"), row.get("digit")
        split = _SPLITS.get(row.get("split") or "")
        if name is None or split is None:
            raise DataError(
                path,
                f"line {line} names no file and split",
                f"give columns file, digit, speaker, split; a split is {', '.join(_SPLITS)}",
            )
        if name not in known or name in found:
            problem = "a second time" if name in found else "which is not in recordings/"
            raise DataError(
                path, f"line {line} names {name!r}, {problem}", "name each recording once"
            )
        if digit is not None and digit != known[name]["digit"]:
            raise DataError(
                path,
                f"line {line} calls {name!r} a {digit!r}",
                "give the digit of the file's name",
            )
        found[name] = split
    missing = [name for name in known if name not in found]
    if missing:
        raise DataError(
            path,
            f"does not name {missing[0]!r} and {len(missing) - 1} others of recordings/",
            "give every recording a row, or delete the file to use the usual split",
        )
    return found
