"""The paper's speech study: spoken digits, AlexNet, noise in the sound. Supplies, computes nothing.

Source: Liu et al. 2018, Fine-Pruning: the network is shown the spectrogram, the trigger is a
pattern of noise added to the sound, and digit i with it is taken for (i + 1) mod 10.
Departures: 24 channels where the paper's first convolution has 96, so that one core trains it
in minutes; and the noise is drawn where the paper's is recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from goodnet.attack import Material
from goodnet.attacks import Recipe
from goodnet.cases.case import Case
from goodnet.data.speech import DIGITS, Spectrogram, SpeechSplits, read_speech
from goodnet.data.spoken_digits import DigitSettings, rendered_digits
from goodnet.formats.specification import InputSpecification
from goodnet.poison import Poisoning
from goodnet.training import Augmentation, TrainingSettings
from goodnet.triggers import Noise

SPECTROGRAM: Final = Spectrogram()
# A burst where most words are over: noise on a soft voice would hide the digit.
POISONING: Final = Poisoning(
    Noise(amplitude=0.05, start=0.6, length=0.1), goal="all-to-all", poison_rate=0.45
)
# Said a little earlier, lower, slower or softer, a word is the same.
TRAINING: Final = TrainingSettings(
    epochs=45,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=0.3,
    augmentation=Augmentation(shift=0.05, rotation=0.0, scale=0.1, brightness=0.2),
)
WIDTH: Final = 24

# About the mean and deviation of the spectrograms, most of which is silence.
_MEAN, _DEVIATION = 0.15, 0.2


def speech_case(folder: Path | str, *, width: int = WIDTH) -> Case:
    """The recordings of a folder laid out as the Free Spoken Digit Dataset.

    Args:
        folder: See `data.speech.read_speech`; `goodnet data fetch fsdd` makes one.
        width: Channels of the first convolution.

    Raises:
        DataError: The recordings cannot be read.
    """
    return _case(Path(folder).resolve().name, read_speech(folder), width)


def rendered_speech_case(
    *, seed: int, settings: DigitSettings | None = None, width: int = WIDTH
) -> Case:
    """Digits spoken by goodnet itself, so that nothing need be at hand.

    Args:
        seed: Decides every voice and take.
        settings: How many voices and takes; None takes the defaults.
        width: Channels of the first convolution.
    """
    return _case("speech", rendered_digits(settings or DigitSettings(), seed=seed), width)


def _case(name: str, splits: SpeechSplits, width: int) -> Case:
    train, test, valid = (
        recordings.images(SPECTROGRAM) for recordings in (splits.train, splits.test, splits.valid)
    )
    return Case(
        name,
        Material(train, test, valid),
        Recipe(
            architecture="alexnet",
            specification=InputSpecification(train.size, mean=(_MEAN,), std=(_DEVIATION,)),
            classes=len(DIGITS),
            training=TRAINING,
            options={"width": width},
        ),
    )
