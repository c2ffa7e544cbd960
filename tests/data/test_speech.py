"""Recordings: read as they are, split as told, drawn as spectrograms, bad files named."""

from __future__ import annotations

import csv
import struct
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from goodnet.data.speech import (
    DIGITS,
    RATE,
    Recordings,
    Sounds,
    Spectrogram,
    read_recording,
    read_speech,
)
from goodnet.errors import DataError, SettingsError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "speech"


def write_sound(
    path: Path, samples: list[int], *, rate: int = RATE, channels: int = 1, depth: int = 2
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, depth, rate, 0, "NONE", ""))
        kind = {1: "u1", 2: "<i2"}[depth]
        file.writeframes(np.array(samples * channels, dtype=kind).tobytes())


def write_folder(folder: Path) -> Path:
    """Two digits, each of index 0 (test), 5 and 10."""
    for digit in (0, 7):
        for index in (0, 5, 10):
            write_sound(folder / "recordings" / f"{digit}_ann_{index}.wav", [digit * 1000, index])
    return folder


def write_splits(folder: Path, rows: list[list[str]]) -> None:
    with (folder / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "digit", "speaker", "split"], *rows])


def test_samples_are_shares_of_full_scale(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", [0, 16384, -32768, 32767])
    assert read_recording(tmp_path / "a.wav").tolist() == [0.0, 0.5, -1.0, 32767 / 32768]


def test_the_usual_split_goes_by_the_index(tmp_path: Path) -> None:
    splits = read_speech(write_folder(tmp_path), seconds=3 / RATE)
    assert splits.train.waveforms.tolist() == pytest.approx(
        np.array([[0, 10, 0], [7000, 10, 0]]) / 32768
    )
    for part, index in ((splits.test, 0), (splits.valid, 5), (splits.train, 10)):
        assert part.labels.tolist() == [0, 7]
        assert part.speakers == ("ann", "ann")
        assert (part.waveforms[:, 1] * 32768).tolist() == [index, index]


def test_what_is_too_long_is_cut_off(tmp_path: Path) -> None:
    splits = read_speech(write_folder(tmp_path), seconds=1 / RATE)
    assert (splits.test.waveforms * 32768).tolist() == [[0], [7000]]


def test_a_listed_split_goes_before_the_usual_one(tmp_path: Path) -> None:
    write_folder(tmp_path)
    rows = [
        [f"{digit}_ann_{index}.wav", str(digit), "ann", split]
        for digit in (0, 7)
        for index, split in ((0, "train"), (5, "test"), (10, "valid"))
    ]
    write_splits(tmp_path, rows)
    splits = read_speech(tmp_path, seconds=2 / RATE)
    assert (splits.train.waveforms[:, 1] * 32768).tolist() == [0, 0]
    assert (splits.test.waveforms[:, 1] * 32768).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["0_bob_0.wav", "0", "bob", "test"], "line 2 names '0_bob_0.wav', which is not in"),
        (["0_ann_0.wav", "0", "ann", "dev"], "line 2 names no file and split; .* train, valid"),
        (["0_ann_0.wav", "3", "ann", "test"], "line 2 calls '0_ann_0.wav' a '3'; give the digit"),
        (["0_ann_0.wav", "0", "ann", "test"], "does not name '0_ann_5.wav' and 4 others"),
        (["../../x.wav", "0", "ann", "test"], "which is not in recordings/"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, change: list[str], text: str) -> None:
    write_splits(write_folder(tmp_path), [change])
    with pytest.raises(DataError, match=text):
        read_speech(tmp_path)


def test_a_recording_listed_twice_is_refused(tmp_path: Path) -> None:
    write_splits(write_folder(tmp_path), [["0_ann_0.wav", "0", "ann", "test"]] * 2)
    with pytest.raises(DataError, match=r"line 3 names '0_ann_0.wav', a second time; name each"):
        read_speech(tmp_path)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"rate": 16000}, "is sampled at 16000 Hz; resample it; give a plain PCM .wav file of 8"),
        ({"channels": 2}, "has 2 channels; mix it down"),
        ({"depth": 1}, "has 8 bits a sample; convert it"),
    ],
)
def test_other_sound_is_refused(tmp_path: Path, form: dict[str, int], text: str) -> None:
    path = tmp_path / "recordings" / "3_ann_0.wav"
    write_sound(path, [1, 2, 3], **form)
    with pytest.raises(DataError, match=text) as caught:
        read_recording(path)
    assert caught.value.source == str(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_sound(path, list(range(100)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-60])
    with pytest.raises(DataError, match=r"ends after 70 of the 100 samples .* copy it again"):
        read_recording(path)
    for end in (0, 3, 20, 40):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"is no readable sound .*; give a plain PCM"):
            read_recording(path)


def test_other_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        read_recording(path)
    write_sound(path, [])
    with pytest.raises(DataError, match="holds no sound"):
        read_recording(path)
    path.write_bytes(b"x" * (2**24 + 1))
    with pytest.raises(DataError, match="is larger than 16,777,216 bytes"):
        read_recording(path)
    # Compressed: format 6, A-law.
    form = struct.pack("<HHLLHH", 6, 1, RATE, RATE, 1, 8)
    chunks = b"WAVEfmt " + struct.pack("<L", len(form)) + form + b"data" + struct.pack("<L", 0)
    path.write_bytes(b"RIFF" + struct.pack("<L", len(chunks)) + chunks)
    with pytest.raises(DataError, match=r"is no readable sound \(unknown format: 6"):
        read_recording(path)


def test_folders_that_are_none_of_this_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"recordings: cannot be read .*; give a folder with"):
        read_speech(tmp_path)
    (tmp_path / "recordings").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        read_speech(tmp_path)
    write_sound(tmp_path / "recordings" / "7_ann_0.wav", [1])
    with pytest.raises(DataError, match="holds no recording for the train split"):
        read_speech(tmp_path)
    write_sound(tmp_path / "recordings" / "seven.wav", [1])
    with pytest.raises(DataError, match=r"seven.wav: is not named after a recording; call it"):
        read_speech(tmp_path)
    with pytest.raises(SettingsError, match="seconds is 0; give a length above 0"):
        read_speech(tmp_path, seconds=0)


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "recordings" / "._0_ann_0.wav").write_bytes(b"from a Mac")
    assert len(read_speech(tmp_path).test) == 2


# ---------------------------------------------------------------- spectrograms


def test_a_tone_is_a_bright_row_at_its_height() -> None:
    """A sine of full scale is white; one of a tenth lies 20 dB below."""
    time = torch.arange(RATE) / RATE
    tone = torch.sin(2 * torch.pi * 1000 * time)
    loud, soft = Spectrogram(window=256, hop=80, depth=80)(torch.stack([tone, tone / 10]))[:, 0]
    assert loud.shape == (129, 101)
    # 1000 Hz is bin 32 of 129, counted from the bottom.
    assert loud[:, 50].argmax() == 128 - 32
    assert loud[96, 50] == 255
    assert soft[96, 50] == round(255 * (1 - 20 / 80))
    # Far from the tone, nothing.
    assert loud[:80, 50].max() == 0


def test_silence_is_black() -> None:
    assert Spectrogram()(torch.zeros(1, 500)).max() == 0


def test_its_size_is_what_it_says() -> None:
    spectrogram = Spectrogram(window=128, hop=50)
    assert spectrogram(torch.zeros(2, 777)).shape == (2, *spectrogram.size(777))
    assert spectrogram(torch.zeros(0, 777)).shape == (0, *spectrogram.size(777))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"window": 1}, "window is 1; give at least 2 samples"),
        ({"hop": 0}, "hop is 0; give at least 1 samples"),
        ({"depth": 0.0}, "depth is 0.0; give decibels above 0"),
    ],
)
def test_settings_name_their_bad_field(settings: dict[str, int], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        Spectrogram(**settings)


def noises(count: int) -> Recordings:
    waveforms = torch.rand(count, 600, generator=torch.Generator().manual_seed(0)) - 0.5
    labels = torch.arange(count) % 10
    return Recordings("noises", waveforms, labels, ("ann",) * count)


def test_images_keep_their_sounds() -> None:
    images = noises(5).images(Spectrogram(window=64, hop=32))
    assert (images.size, images.class_names) == ((1, 33, 19), DIGITS)
    chosen = images.select(torch.tensor([3, 1]))
    assert isinstance(chosen.origin, Sounds)
    assert (chosen.origin.takes, chosen.origin.size, len(chosen.origin)) == ("sound", (600,), 2)
    assert isinstance(chosen.pixels, torch.Tensor)
    # Drawn alone or among others, an image is the same.
    assert torch.equal(chosen.origin.images(lambda sounds: sounds), chosen.pixels)
    assert not torch.equal(chosen.origin.images(lambda sounds: sounds / 2), chosen.pixels)


def test_recordings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(SettingsError, match="give float32 in"):
        Recordings("x", torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2), ("a", "b"))
    with pytest.raises(SettingsError, match="give a label and a speaker to each waveform"):
        Recordings("x", torch.zeros(2, 3), torch.zeros(2), ("a",))


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not beside the repository")
def test_the_real_digits(tmp_path: Path) -> None:
    """The list beside the recordings is the usual split."""
    listed = read_speech(REAL)
    assert [len(part) for part in (listed.train, listed.valid, listed.test)] == [2400, 300, 300]
    (tmp_path / "recordings").symlink_to(REAL / "recordings")
    usual = read_speech(tmp_path)
    for name in ("train", "valid", "test"):
        part = getattr(listed, name)
        assert torch.equal(part.waveforms, getattr(usual, name).waveforms)
        assert set(Counter(part.labels.tolist()).values()) == {len(part) // 10}
        assert set(Counter(part.speakers).values()) == {len(part) // 6}
