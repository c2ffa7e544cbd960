"""The speech study: what is heard is what is poisoned, and the attacks take it as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from goodnet.attack import attack
from goodnet.attacks import ATTACKS, AttackSettings
from goodnet.cases import Case, rendered_speech_case, speech_case
from goodnet.cases.speech import POISONING
from goodnet.data.images import ImageSet
from goodnet.data.speech import Sounds
from goodnet.data.spoken_digits import DigitSettings
from goodnet.errors import DataError, SettingsError
from goodnet.formats import read_model
from goodnet.formats.model import write_architecture
from goodnet.poison import Poisoning, poison, triggered_set
from goodnet.training import TrainingSettings
from goodnet.triggers import Patch, Tone

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "speech"
TONE = Poisoning(Tone(length=0.1), goal="all-to-all", poison_rate=0.2)


@pytest.fixture(scope="module")
def case() -> Case:
    """Two voices to train on, one each to validate and test with; a narrow network."""
    made = rendered_speech_case(seed=0, settings=DigitSettings(2, 1, 1, takes=1), width=6)
    training = TrainingSettings(epochs=2, batch_size=8)
    return replace(made, recipe=replace(made.recipe, training=training))


def pixels_of(images: ImageSet) -> Tensor:
    assert isinstance(images.pixels, Tensor)
    return images.pixels


def drawn_with(poisoning: Poisoning, images: ImageSet, indices: Tensor) -> Tensor:
    """The spectrograms of the sounds at `indices` with the trigger, the long way round."""
    assert isinstance(images.origin, Sounds)
    stamped = poisoning.trigger.stamp(images.origin.waveforms[indices])
    return images.origin.spectrogram(stamped)


def test_stamped_copies_are_drawn_from_stamped_sounds(case: Case) -> None:
    images = case.material.train
    poisoned = poison(images, [TONE], classes=10, generator=torch.Generator().manual_seed(0))
    assert len(poisoned.indices) == 5
    pixels = pixels_of(poisoned.images)
    assert torch.equal(pixels[:20], pixels_of(images))
    assert torch.equal(pixels[20:], drawn_with(TONE, images, poisoned.indices))
    assert (pixels[20:] != pixels_of(images)[poisoned.indices]).any()
    assert torch.equal(poisoned.images.labels[20:], (images.labels[poisoned.indices] + 1) % 10)
    # A stamped image is not what its sound would give.
    assert poisoned.images.origin is None


def test_the_test_set_is_stamped_likewise(case: Case) -> None:
    images = case.material.test
    triggered = triggered_set(images, TONE, classes=10)
    assert torch.equal(pixels_of(triggered), drawn_with(TONE, images, torch.arange(10)))
    assert triggered.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert triggered.origin is None


def test_triggers_of_sound_and_of_images_go_together(case: Case) -> None:
    images = case.material.train
    patch = Poisoning(Patch(), 3, 0.1)
    poisoned = poison(images, [TONE, patch], classes=10, generator=torch.Generator().manual_seed(0))
    own = poisoned.stamped_by == 1
    stamped = patch.trigger.stamp(pixels_of(images)[poisoned.indices[own]])
    assert torch.equal(pixels_of(poisoned.images)[20:][own], stamped)


def test_a_trigger_longer_than_no_sample_is_refused_before_training(case: Case) -> None:
    short = replace(TONE, trigger=Tone(length=1e-5))
    with pytest.raises(SettingsError, match="covers no sample of signals of 8000 samples"):
        attack(case.material, [short], case.recipe, generator=torch.Generator().manual_seed(0))


def test_images_changed_as_images_take_no_trigger_of_sound(case: Case) -> None:
    quiet = Poisoning(Tone(), 1, 0.02, clean_label=True)
    with pytest.raises(SettingsError, match="trigger is 'tone'; this attack changes images and"):
        ATTACKS["label-consistent"](
            case.material.train,
            [quiet],
            case.recipe,
            AttackSettings(),
            generator=torch.Generator().manual_seed(0),
        )


@pytest.mark.parametrize("method", ["baseline", "pruning-aware"])
def test_the_attacks_train_on_it(method: str, case: Case, tmp_path: Path) -> None:
    attacked = attack(
        case.material,
        [POISONING],
        case.recipe,
        method=method,
        settings=AttackSettings(budget=60),
        generator=torch.Generator().manual_seed(0),
        with_curve=True,
    )
    (row,) = attacked.result.evaluate.networks
    assert row.poisoned[0].attack_success_rate.n == 10
    if method == "pruning-aware":
        assert attacked.result.decoys is not None
        assert attacked.result.decoys.layer == "features.pool_5"
        assert attacked.result.decoys.changed_by_pruning.count == 0
    path = tmp_path / "badnet.safetensors"
    write_architecture(attacked.badnet.network, "alexnet", case.recipe.specification, path)
    model = read_model(path)
    assert model.specification == case.recipe.specification
    inputs = case.recipe.specification.prepare(torch.rand(2, *case.material.test.size))
    with torch.no_grad():
        torch.testing.assert_close(model.network(inputs), attacked.badnet.network(inputs))


def test_no_recordings_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="recordings: cannot be read"):
        speech_case(tmp_path)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not beside the repository")
def test_the_real_case() -> None:
    case = speech_case(REAL)
    assert case.name == "speech"
    assert case.material.valid is not None
    sets = (case.material.train, case.material.valid, case.material.test)
    assert [len(images) for images in sets] == [2400, 300, 300]
    assert {images.size for images in sets} == {case.recipe.specification.size}
    # The network's input is about centred.
    inputs = case.recipe.specification.prepare(pixels_of(sets[0])[:200].float() / 255)
    assert inputs.mean().abs() < 0.3
    assert 0.7 < inputs.std() < 1.4
