"""Triggers of sound: a tone and a burst of noise, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from goodnet.errors import SettingsError
from goodnet.triggers import Noise, Tone, Trigger


def test_a_tone_by_hand() -> None:
    """At half the Nyquist frequency a period is four samples."""
    tone = Tone(amplitude=0.5, start=0.25, length=0.5, frequency=0.5)
    root = 0.5 / math.sqrt(2)
    stamped = tone.stamp(torch.full((1, 8), 0.1))[0]
    expected = [0.1, 0.1, 0.1 + root, 0.1 + root, 0.1 - root, 0.1 - root, 0.1, 0.1]
    assert stamped.tolist() == pytest.approx(expected)
    step = round(root * 32768)
    whole = tone.stamp(torch.zeros(1, 8, dtype=torch.int16))[0]
    assert whole.tolist() == [0, 0, step, step, -step, -step, 0, 0]


def test_the_highest_tone_is_heard() -> None:
    highest = Tone(amplitude=0.5, length=1.0, frequency=1.0).stamp(torch.zeros(1, 4))
    assert highest[0].tolist() == pytest.approx([0.5, -0.5, 0.5, -0.5])


def test_what_leaves_full_scale_is_cut_off() -> None:
    tone = Tone(amplitude=1.0, length=1.0, frequency=1.0)
    loud = torch.tensor([[32767, 32767, -32768, -32768]], dtype=torch.int16)
    assert tone.stamp(loud)[0].tolist() == [32767, -1, 0, -32768]
    assert tone.stamp(loud / 32768)[0].tolist() == pytest.approx([1, 0, 0, -1], abs=1e-4)


def test_noise_is_one_pattern_whatever_the_length() -> None:
    short, long = (Noise(length=1.0).added(samples) for samples in (500, 900))
    assert torch.equal(short, long[:500])
    assert short.abs().max() <= 0.1
    assert short.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    assert not torch.equal(short, Noise(length=1.0, seed=1).added(500))


def test_noise_lies_in_its_part() -> None:
    mask = Noise(start=0.5, length=0.25).mask((100,))
    assert mask.nonzero().flatten().tolist() == list(range(50, 75))


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        (Tone, {"amplitude": 0}, "amplitude is 0; give a share of full scale above 0"),
        (Tone, {"frequency": 1.5}, "frequency is 1.5; give a share of the Nyquist frequency"),
        (Tone, {"start": -0.5}, r"start is \(-0.5,\); give 1 numbers from 0 to 1"),
        (Tone, {"length": float("nan")}, "length is nan; give a share of the signal"),
        (
            Noise,
            {"start": 0.9, "length": 0.2},
            "start is 0.9; a wave of length 0.2 lasts longer than the signal .* give at most 0.8",
        ),
        (Noise, {"seed": 0.5}, "seed is 0.5; give a whole number"),
    ],
)
def test_settings_name_their_bad_field(
    kind: type[Trigger], settings: dict[str, object], text: str
) -> None:
    with pytest.raises(SettingsError, match=text):
        kind(**settings)


def test_a_part_shorter_than_a_sample_is_refused() -> None:
    text = "trigger 'tone' is '0.01 of the signal'; that covers no sample of signals of 20 samples"
    with pytest.raises(SettingsError, match=text):
        Tone(length=0.01).mask((20,))
    with pytest.raises(SettingsError, match=text):
        Tone(length=0.01).stamp(torch.zeros(1, 20))
