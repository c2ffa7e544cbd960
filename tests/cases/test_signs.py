"""The traffic sign study's data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from goodnet.cases import signs
from goodnet.cases.signs import SignsSettings, signs_case
from goodnet.data.scenes import SIGN_CLASSES, SignCrops, read_sign_crops
from goodnet.errors import DataError, SettingsError

PACKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "gtsrb"
FEW = SignsSettings(train=3, valid=2, test=2)


def test_parts_are_different_draws_of_the_seed() -> None:
    first, again, other = (signs_case(FEW, seed=seed) for seed in (0, 0, 1))
    assert (len(first.train), len(first.valid), len(first.test)) == (3, 2, 2)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert not torch.equal(first.valid.images, first.test.images)
    assert first.detector.classes == len(SIGN_CLASSES)


def test_the_first_scenes_stay_where_other_parts_are_larger() -> None:
    more = signs_case(SignsSettings(train=5, valid=2, test=2), seed=0)
    few = signs_case(FEW, seed=0)
    assert torch.equal(more.train.images[:3], few.train.images)
    assert torch.equal(more.test.images, few.test.images)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="valid is 0; give at least 1 scene"):
        SignsSettings(valid=0)
    with pytest.raises(SettingsError, match="seed is -1"):
        signs_case(FEW, seed=-1)
    with pytest.raises(DataError, match=r"train\.h5"):
        signs_case(FEW, seed=0, crops=tmp_path)


@pytest.mark.realdata
@pytest.mark.skipif(not PACKS.is_dir(), reason=f"the GTSRB packs are not at {PACKS}")
def test_each_part_shows_signs_of_its_own_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def remembered(path: Path) -> SignCrops:
        read.append(path.name)
        return read_sign_crops(path)

    monkeypatch.setattr(signs, "read_sign_crops", remembered)
    case = signs_case(FEW, seed=0, crops=PACKS)
    assert read == ["train.h5", "valid.h5", "test.h5"]
    for part, pack in ((case.train, "train"), (case.valid, "valid"), (case.test, "test")):
        assert part.source.endswith(f"{pack}.h5")
