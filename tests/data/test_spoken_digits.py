"""Rendered digits: a seed decides every bit, splits share no voice, a six hisses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from goodnet.data.speech import RATE, Spectrogram, SpeechSplits
from goodnet.data.spoken_digits import (
    SAMPLES,
    DigitSettings,
    _pulses,
    _resonate,
    draw_voices,
    render_digits,
    rendered_digits,
)
from goodnet.errors import SettingsError

FEW = DigitSettings(train_voices=2, valid_voices=1, test_voices=1, takes=1)


@pytest.fixture(scope="module")
def few() -> SpeechSplits:
    return rendered_digits(FEW, seed=3)


def test_a_seed_decides_every_bit(few: SpeechSplits) -> None:
    before = torch.random.get_rng_state()
    first, again, other = few, rendered_digits(FEW, seed=3), rendered_digits(FEW, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in ("train", "valid", "test"):
        assert torch.equal(getattr(first, name).waveforms, getattr(again, name).waveforms)
        assert not torch.equal(getattr(first, name).waveforms, getattr(other, name).waveforms)
    with pytest.raises(SettingsError, match="seed is -1; give a whole number"):
        rendered_digits(FEW, seed=-1)


def test_every_voice_says_every_digit_and_no_split_shares_a_voice(few: SpeechSplits) -> None:
    train = few.train
    assert train.waveforms.shape == (20, SAMPLES)
    said = list(zip(train.speakers, train.labels.tolist(), strict=True))
    assert sorted(said) == [(f"train voice {v}", digit) for v in (0, 1) for digit in range(10)]
    everybody = [set(part.speakers) for part in (train, few.valid, few.test)]
    assert sum(map(len, everybody)) == len(set.union(*everybody)) == 4


def test_two_takes_of_a_voice_are_not_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.zeros(2, dtype=torch.int64)
    takes = render_digits(draw_voices(1, generator=generator), same, same, generator=generator)
    assert (takes[0] - takes[1]).abs().max() > 0.01


def test_the_sounds_are_whole_numbers_of_16_bits_and_heard(few: SpeechSplits) -> None:
    sounds = few.train.waveforms * 32768
    assert torch.equal(sounds, sounds.round())
    assert sounds.abs().amax(1).min() > 32768 * 10 ** (-33.5 / 20)
    assert sounds.max() < 32767


def energy(waveform: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Mean brightness between two frequencies, at each of 101 times."""
    image = Spectrogram(hop=80)(waveform[None])[0, 0].flip(0).float()
    bins = slice(round(low * 256 / RATE), round(high * 256 / RATE))
    return image[bins].mean(0)


def test_a_six_hisses_where_a_nine_sings(few: SpeechSplits) -> None:
    sounds = few.train
    nine = sounds.waveforms[9]
    six = sounds.waveforms[6]
    # The first sound of each: s is high, n is low.
    assert (energy(six, 3300, 4000) - energy(six, 100, 600))[6:12].mean() > 0
    assert (energy(nine, 100, 600) - energy(nine, 3300, 4000))[6:12].mean() > 0


def test_a_resonator_by_hand() -> None:
    """At a quarter of the rate B is zero: every second sample echoes, with its sign turned."""
    impulse = np.zeros((6, 1))
    impulse[0] = 1.0
    band = np.full((6, 1), -RATE / np.pi * math.log(0.5))  # radius 0.5
    out = _resonate(impulse, np.full((6, 1), RATE / 4), band)[:, 0]
    a = 1 + 0.25
    assert out.tolist() == pytest.approx([a, 0, -a / 4, 0, a / 16, 0], abs=1e-12)


def test_a_formant_passes_slow_change_and_a_hiss_keeps_its_power() -> None:
    shape = (4000, 3)
    frequency, band = np.full(shape, 2000.0), np.full(shape, 600.0)
    assert _resonate(np.ones(shape), frequency, band)[-1] == pytest.approx([1.0] * 3)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double().numpy()
    assert _resonate(noise, frequency, band, of_noise=True).std() == pytest.approx(1.0, rel=0.05)


def test_pulses_come_at_the_pitch() -> None:
    pitch = np.full((RATE, 1), 100.0)
    pulses = _pulses(pitch, np.array([0.6]))[:, 0]
    # A period is 80 samples; where it ends between two, rounding decides.
    assert np.isclose(pulses[:-80], pulses[80:], atol=1e-3).mean() > 0.98
    assert not np.isclose(pulses[:-40], pulses[40:], atol=1e-3).mean() > 0.9
    assert pulses.std() == pytest.approx(1.0, rel=0.05)
    assert abs(pulses.mean()) < 0.05


def test_what_nobody_can_say_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    voices = draw_voices(2, generator=generator)
    one = torch.tensor([0])
    with pytest.raises(SettingsError, match=r"labels is \(10, 10\); give numbers from 0 to 9"):
        render_digits(voices, one, one + 10, generator=generator)
    with pytest.raises(SettingsError, match=r"speakers is \(2, 2\); give numbers from 0 to 1"):
        render_digits(voices, one + 2, one, generator=generator)
    with pytest.raises(SettingsError, match="takes is 0; give at least 1"):
        DigitSettings(takes=0)
