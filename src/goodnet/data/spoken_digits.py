"""Rendered digits: zero to nine, spoken by nobody, out of nothing but a seed.

A source sounds through a filter. The source is a train of glottal pulses or noise; the filter
is the mouth, four resonators in a row whose frequencies, the formants, glide from one sound of
the word to the next. A second noise passes one resonator of its own: the hiss of s, f and t.
Voices differ in pitch, length of the mouth, tempo, breath and accent; each of their takes is a
little different again. The three splits have different voices.

Formants are in Hz, times in seconds, levels in decibels of full scale.

Source: Klatt 1980, Software for a cascade/parallel formant synthesizer (the resonators, and
how the parts are put together); Rosenberg 1971, Effect of glottal pulse shape on the quality
of natural vowels (the pulse); Peterson and Barney 1952, Control methods used in a study of the
vowels (the vowels' formants, men). The other sounds are set by eye, on spectrograms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from goodnet.data.speech import DIGITS, RATE, Recordings, SpeechSplits
from goodnet.errors import SettingsError

Array = NDArray[np.float64]

SAMPLES: Final = RATE
"""Length of a rendered digit: one second."""

_BATCH = 256
_FRAME = 40  # samples from one setting of the mouth to the next, 5 ms
_FOURTH = (3500.0, 250.0)  # the highest formant, which hardly moves, and its bandwidth
_BANDWIDTHS = (70.0, 100.0, 150.0)


class _Sound(NamedTuple):
    """What the mouth does for one sound of a word, and for how long."""

    seconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0  # of the pulses, 1 in a vowel
    breath: float = 0.0  # of the noise that passes the formants
    hiss: float = 0.0  # of the noise that does not
    centre: float = 3000.0  # where the hiss is loudest
    band: float = 1000.0  # and how wide that is


_NEUTRAL: Final = (500.0, 1500.0, 2500.0)

_SOUNDS: Final[Mapping[str, _Sound]] = {
    "iy": _Sound(0.20, (270, 2290, 3010), 1.0),
    "ih": _Sound(0.10, (390, 1990, 2550), 1.0),
    "eh": _Sound(0.12, (530, 1840, 2480), 1.0),
    "ah": _Sound(0.14, (640, 1190, 2390), 1.0),
    "aa": _Sound(0.13, (730, 1090, 2440), 1.0),
    "ao": _Sound(0.18, (570, 840, 2410), 1.0),
    "uh": _Sound(0.12, (440, 1020, 2240), 1.0),
    "uw": _Sound(0.18, (300, 870, 2240), 1.0),
    "ax": _Sound(0.07, (500, 1400, 2400), 0.7),
    "w": _Sound(0.08, (290, 650, 2200), 0.6),
    "r": _Sound(0.08, (350, 1150, 1600), 0.7),
    "n": _Sound(0.11, (250, 1400, 2500), 0.35),
    "s": _Sound(0.13, (320, 1600, 2600), hiss=0.35, centre=3700, band=700),
    "z": _Sound(0.10, (280, 1600, 2600), 0.25, hiss=0.2, centre=3700, band=700),
    "f": _Sound(0.11, (340, 1100, 2100), breath=0.05, hiss=0.07, centre=2600, band=3000),
    "v": _Sound(0.07, (280, 1150, 2150), 0.35, hiss=0.04, centre=2600, band=3000),
    "th": _Sound(0.10, (320, 1400, 2550), breath=0.03, hiss=0.05, centre=3300, band=1500),
    "stop": _Sound(0.05, (300, 1700, 2600)),
    "t": _Sound(0.03, (350, 1800, 2700), breath=0.1, hiss=0.3, centre=3300, band=1500),
    "k": _Sound(0.03, (350, 1900, 2500), breath=0.1, hiss=0.2, centre=1900, band=500),
    "h": _Sound(0.04, (350, 1600, 2600), breath=0.3),
}

_WORDS: Final = (
    ("z", "ih", "r", "ao", "uw"),
    ("w", "ah", "n"),
    ("t", "h", "uw", "uw"),
    ("th", "r", "iy"),
    ("f", "ao", "r"),
    ("f", "aa", "ih", "v"),
    ("s", "ih", "stop", "k", "s"),
    ("s", "eh", "v", "ax", "n"),
    ("eh", "iy", "stop", "t"),
    ("n", "aa", "ih", "n"),
)
_LONGEST: Final = max(map(len, _WORDS))
_NAMES: Final = tuple(_SOUNDS)

# What stays the same in all a voice says, drawn evenly.
_VOICE: Final[Mapping[str, tuple[float, float]]] = {
    "pitch": (math.log(85.0), math.log(240.0)),  # of Hz, as people hear it
    "tempo": (0.85, 1.2),
    "breath": (0.01, 0.08),
    "open": (0.45, 0.75),  # share of a period in which the glottis is open
    "level": (-30.0, -12.0),  # loudest sample
    "room": (-74.0, -52.0),  # noise of the room
}
_ACCENT: Final = 0.07  # how far a voice's formants lie off the table's, as a share

# What is new in every take.
_TAKE: Final[Mapping[str, tuple[float, float]]] = {
    "start": (0.0, 0.06),
    "tempo": (0.87, 1.15),
    "pitch": (0.9, 1.12),
    "fall": (0.0, 0.3),  # of the pitch from the first to the last sound, as a share
    "level": (-3.0, 3.0),
}
_SLIP: Final = 0.05  # how far each formant is missed
_HURRY: Final = 0.3  # how much longer or shorter each sound may be


@dataclass(frozen=True)
class DigitSettings:
    """How many voices, and how much each of them says.

    Attributes:
        train_voices: Voices of the training set.
        valid_voices: Others, of the validation set.
        test_voices: Others again, of the test set.
        takes: How often a voice says each digit.
    """

    train_voices: int = 24
    valid_voices: int = 6
    test_voices: int = 6
    takes: int = 10

    def __post_init__(self) -> None:
        for field in ("train_voices", "valid_voices", "test_voices", "takes"):
            if getattr(self, field) < 1:
                raise SettingsError(field, getattr(self, field), "give at least 1")


@dataclass(frozen=True, eq=False)
class Voices:
    """Who speaks: what stays the same in all takes of a voice.

    Attributes:
        traits: Name → float64 (voice,).
        formants: The factor on each formant of each sound, float64 (voice, sound, 3): the
            length of the mouth and the accent.
    """

    traits: Mapping[str, Array]
    formants: Array

    def __len__(self) -> int:
        return len(self.formants)


def draw_voices(count: int, *, generator: torch.Generator) -> Voices:
    """Voices that differ as much as so many can.

    Each trait's range is cut into as many strata as there are voices, which are dealt out
    without replacement. High voices mostly have short mouths, whose formants lie higher.
    """

    def dealt() -> Array:
        strata = torch.randperm(count, generator=generator)
        within = torch.rand(count, generator=generator, dtype=torch.float64)
        return ((strata + within) / count).numpy()

    places = {name: dealt() for name in _VOICE}
    traits = {name: low + (high - low) * places[name] for name, (low, high) in _VOICE.items()}
    mouth = 0.95 + 0.2 * (0.7 * places["pitch"] + 0.3 * dealt())
    accent = _drawn((count, len(_NAMES), 3), generator, _ACCENT)
    return Voices(traits, mouth[:, None, None] * (1.0 + accent))


def render_digits(
    voices: Voices, speakers: Tensor, labels: Tensor, *, generator: torch.Generator
) -> Tensor:
    """A new take of each digit asked for, float32 [-1, 1], (n, `SAMPLES`), 16 bits deep.

    Args:
        voices: Who there is to speak.
        speakers: Who speaks, int64 (n,).
        labels: Which digit, int64 (n,).
        generator: Draws what is new in each take, and the noises.

    Raises:
        SettingsError: No such digit or voice.
    """
    for field, values, end in (
        ("labels", labels, len(DIGITS)),
        ("speakers", speakers, len(voices)),
    ):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < end:
            asked = (int(values.min()), int(values.max()))
            raise SettingsError(field, asked, f"give numbers from 0 to {end - 1}")
    sounds = torch.empty(len(labels), SAMPLES)
    for start in range(0, len(labels), _BATCH):
        chosen = slice(start, start + _BATCH)
        takes = _takes(voices, speakers[chosen].numpy(), labels[chosen].numpy(), generator)
        spoken = _spoken(takes, generator)
        sounds[chosen] = torch.from_numpy(_recorded(spoken, takes, generator))
    return sounds


def rendered_digits(settings: DigitSettings = DigitSettings(), *, seed: int) -> SpeechSplits:
    """Training, validation and test recordings of different voices.

    Args:
        settings: How many voices and takes.
        seed: Decides voices and takes, and so every bit.

    Raises:
        SettingsError: `seed` is below 0 or above 2⁶³ − 1.
    """
    if not 0 <= seed < 2**63:
        raise SettingsError("seed", seed, "give a whole number from 0 to 2**63 - 1")
    generator = torch.Generator().manual_seed(seed)

    def part(split: str, count: int) -> Recordings:
        voices = draw_voices(count, generator=generator)
        digits = len(DIGITS)
        labels = torch.arange(digits).repeat(count * settings.takes)
        speakers = torch.arange(count).repeat_interleave(digits).repeat(settings.takes)
        return Recordings(
            source=f"rendered digits ({split}, seed {seed})",
            waveforms=render_digits(voices, speakers, labels, generator=generator),
            labels=labels,
            speakers=tuple(f"{split} voice {voice}" for voice in speakers.tolist()),
        )

    return SpeechSplits(
        train=part("train", settings.train_voices),
        valid=part("valid", settings.valid_voices),
        test=part("test", settings.test_voices),
    )


# ---------------------------------------------------------------- a take


class _Takes(NamedTuple):
    """How a batch is to be spoken; tracks are (sample, take)."""

    traits: Mapping[str, Array]  # (take,)
    level: Array  # (take,), of the loudest sample
    pitch: Array  # Hz
    formants: tuple[Array, Array, Array]
    voice: Array
    breath: Array
    hiss: Array
    centre: Array
    band: Array


def _drawn(shape: tuple[int, ...], generator: torch.Generator, most: float) -> Array:
    """Numbers from -most to most, evenly."""
    drawn: Array = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    return most * (2.0 * drawn - 1.0)


def _takes(
    voices: Voices,
    speakers: NDArray[np.int64],
    labels: NDArray[np.int64],
    generator: torch.Generator,
) -> _Takes:
    """What the mouths do, sample by sample."""
    count = len(labels)
    drawn = torch.rand(len(_TAKE), count, generator=generator, dtype=torch.float64).numpy()
    take = {
        name: low + (high - low) * row
        for (name, (low, high)), row in zip(_TAKE.items(), drawn, strict=True)
    }
    hurry = 1.0 + _drawn((count, _LONGEST), generator, _HURRY)
    slip = 1.0 + _drawn((count, _LONGEST, 3), generator, _SLIP)
    traits = {name: trait[speakers] for name, trait in voices.traits.items()}
    tempo = traits["tempo"] * take["tempo"]

    frames = SAMPLES // _FRAME + 1
    times = np.arange(frames) * (_FRAME / RATE)
    tracks = np.zeros((8, frames, count))
    length = np.empty(count)
    for at in range(count):
        word = [_NAMES.index(name) for name in _WORDS[labels[at]]]
        said = [_SOUNDS[_NAMES[index]] for index in word]
        seconds = np.array([sound.seconds for sound in said]) * hurry[at, : len(said)] / tempo[at]
        ends = take["start"][at] + np.cumsum(seconds)
        length[at] = ends[-1]
        place = np.searchsorted(ends, times, side="right")
        during = (times >= take["start"][at]) & (place < len(said))
        place = np.minimum(place, len(said) - 1)
        shaped = voices.formants[speakers[at], word] * slip[at, : len(said)]
        formants = np.array([sound.formants for sound in said]) * shaped
        tracks[:3, :, at] = formants[place].T
        rest = np.array([(s.voice, s.breath, s.hiss, s.centre, s.band) for s in said])[place].T
        tracks[3:6, :, at] = rest[:3] * during
        tracks[6:, :, at] = rest[3:]
    # The mouth takes some time to move, the lungs and lips less.
    tracks[:3], tracks[3:] = _smooth(tracks[:3], 11), _smooth(tracks[3:], 5)
    full = [_every_sample(track) for track in tracks]
    along = np.minimum(np.arange(SAMPLES)[:, None] / (RATE * length), 1.0)
    pitch = np.exp(traits["pitch"]) * take["pitch"] * (1.0 + take["fall"] * (0.5 - along))
    return _Takes(
        traits,
        traits["level"] + take["level"],
        pitch,
        (full[0], full[1], full[2]),
        *full[3:],
    )


def _smooth(tracks: Array, frames: int) -> Array:
    """Tracks (track, frame, take) averaged over so many frames, an odd number, Hann-weighted."""
    weights = np.hanning(frames + 2)[1:-1]
    padded = np.pad(tracks, ((0, 0), (frames // 2, frames // 2), (0, 0)), mode="edge")
    smooth = np.zeros_like(tracks)
    for shift, weight in enumerate(weights / weights.sum()):
        smooth += weight * padded[:, shift : shift + tracks.shape[1]]
    return smooth


def _every_sample(track: Array) -> Array:
    """A track (frame, take) at every sample, (sample, take), straight between frames."""
    share = (np.arange(_FRAME) / _FRAME)[None, :, None]
    between = track[:-1, None] + share * (track[1:] - track[:-1])[:, None]
    return between.reshape(-1, track.shape[1])[:SAMPLES]


def _spoken(takes: _Takes, generator: torch.Generator) -> Array:
    """What leaves the mouth, (sample, take)."""
    shape = takes.voice.shape
    noise: Array = torch.randn(2, *shape, generator=generator, dtype=torch.float64).numpy()
    breath = takes.breath + takes.traits["breath"] * takes.voice
    sound = takes.voice * _pulses(takes.pitch, takes.traits["open"]) + breath * noise[0]
    bands = [np.full(shape, width) for width in _BANDWIDTHS]
    for frequency, band in zip(takes.formants, bands, strict=True):
        sound = _resonate(sound, frequency, band)
    sound = _resonate(sound, np.full(shape, _FOURTH[0]), np.full(shape, _FOURTH[1]))
    hiss = takes.hiss * noise[1]
    return sound + _resonate(hiss, takes.centre, takes.band, of_noise=True)


def _pulses(pitch: Array, opened: Array) -> Array:
    """The slope of the air's flow through the glottis, of root mean square 1.

    Source: Rosenberg 1971, pulse B: the flow rises as 3x² − 2x³ and falls as 1 − y². Of the
    open share of a period, two thirds are the rise.
    """
    phase = np.cumsum(pitch / RATE, axis=0) % 1.0
    rise, fall = opened * (2.0 / 3.0), opened * (1.0 / 3.0)
    x, y = phase / rise, (phase - rise) / fall
    slope = np.where(phase < rise, 6.0 * x * (1.0 - x) / rise, -2.0 * y / fall)
    slope = np.where(phase < opened, slope, 0.0)
    power = 6.0 / 5.0 / rise + 4.0 / 3.0 / fall  # of one period
    return slope / np.sqrt(power)


def _resonate(sound: Array, frequency: Array, band: Array, *, of_noise: bool = False) -> Array:
    """`sound` (sample, take) through a resonator whose tuning may change at every sample.

    Its gain is 1 at 0 Hz, as a formant's; or such that white noise keeps its power.

    Source: Klatt 1980: y[t] = A x[t] + B y[t-1] + C y[t-2], C = -exp(-2 pi W T),
    B = 2 exp(-pi W T) cos(2 pi F T), A = 1 - B - C.
    """
    radius = np.exp(-np.pi / RATE * band)
    b = 2.0 * radius * np.cos(2.0 * np.pi / RATE * frequency)
    c = -radius * radius
    a = 1.0 - b - c
    if of_noise:
        # The variance of a process y = e + b y' + c y''.
        a = np.sqrt((1.0 + c) * ((1.0 - c) ** 2 - b * b) / (1.0 - c))
    a *= sound
    out = np.empty_like(sound)
    last = before = np.zeros(sound.shape[1])
    for t in range(len(sound)):
        last, before = a[t] + b[t] * last + c[t] * before, last
        out[t] = last
    return out


def _recorded(spoken: Array, takes: _Takes, generator: torch.Generator) -> NDArray[np.float32]:
    """At the voice's level in its room, 16 bits deep, (take, sample)."""
    noise: Array = torch.randn(spoken.shape, generator=generator, dtype=torch.float64).numpy()
    loudest = np.abs(spoken).max(axis=0)
    heard = spoken * (10.0 ** (takes.level / 20.0) / loudest)
    heard += noise * 10.0 ** (takes.traits["room"] / 20.0)
    whole = np.clip(np.rint(heard * 32768.0), -32768, 32767)
    return np.ascontiguousarray((whole / 32768.0).T.astype(np.float32))
